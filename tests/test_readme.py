"""The README is true: its Python runs, its commands parse, its table names what there is."""

import re
from pathlib import Path

import pytest

import fenced
import subquad as sq
from subquad.cli import VERBS, main
from subquad.cli.train import check
from subquad.convert import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("block", fenced.blocks(TEXT, "python"))
def test_python_block_runs(block):
    names: dict = {}
    # a README's own code, from this repository
    exec(compile(block, "README.md", "exec"), names)
    assert names["y"].shape == (1, 8, 4096, 64)
    assert names["tokens"].shape == (1, 52)


def test_every_architecture_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert rows == list(sq.ARCHS)


def families(text: str) -> list[str]:
    """The names in the first cells of the table whose head speaks of `model_type`."""
    table = re.search(r"^\|[^|]*`model_type`.*\n((?:\|.*\n)+)", text, re.MULTILINE)[1]
    cells = (row.split("|")[1] for row in table.splitlines()[1:])
    return [name for cell in cells for name in re.findall(r"`([\w-]+)`", cell)]


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/convert.md"])
def test_every_converter_has_a_row(page):
    found = families((ROOT / page).read_text())
    assert sorted(found) == sorted(FAMILIES)


def test_a_newcomer_needs_nothing_that_is_not_made_before():
    first, *_ = fenced.blocks(TEXT, "bash")
    made, verbs = {"book.txt"}, set()
    assert "> book.txt" in first
    for program, verb, *words in fenced.commands(first):
        if program == "subquad":
            data = words[words.index("--data") + 1] if "--data" in words else "book.txt"
            runs = {word for word in words if word.startswith("runs/")}
            out = {words[words.index("--out") + 1]} if "--out" in words else set()
            assert {data, *runs - out} <= made, (verb, words)
            made |= out
            verbs.add(verb)
    assert {"train", "eval", "generate", "predict", "show", "compare"} <= verbs
    assert first.rstrip().splitlines()[-1].startswith("make test")


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 120


COMMANDS = [
    words
    for code in fenced.blocks(TEXT, "bash")
    for program, *words in fenced.commands(code)
    if program == "subquad"
]
# what a command says once all its words are understood: no book and no run is here
UNDERSTOOD = {
    "train": r"there is nothing at book\.txt",
    "compare": r"there is nothing at book\.txt",
    "eval": "there is no run folder runs/book",
    "generate": "there is no run folder runs/book",
    "export": "there is no run folder runs/book",
    "serve": "there is no run folder runs/book",
    "convert": "there is nothing at models/gpt2",
    "swap": "models/(bert|gpt2) holds no model of transformers",
    "show": "there is no run folder runs/book",
    "predict": "there is no run folder runs/labels",
}


def test_commands_are_of_every_kind():
    assert {verb for verb, *_ in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_command_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *words = line
    if verb in ("list", "bench"):  # these need nothing
        assert main([verb, *words]) == 0
        return
    if verb == "train" and "--data" not in words:  # needs nothing and would train
        assert check(words[0], words[1:]).name == words[0]
        return
    with pytest.raises(ValueError, match=UNDERSTOOD[verb]):
        main([verb, *words, "--debug"])


def test_links_lead_somewhere():
    links = [x for x in re.findall(r"\]\(([^)]+)\)", TEXT) if not x.startswith("http")]
    assert links
    assert all((ROOT / link).exists() for link in links), links
