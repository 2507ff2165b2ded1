"""The README is true: its Python runs, its commands parse, its table names what there is."""

import re
from pathlib import Path

import pytest

import fenced
import subquad as sq
from subquad.cli import VERBS, main
from subquad.cli.train import check

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text()


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


COMMANDS = [
    words
    for code in fenced.blocks(TEXT, "bash")
    for program, *words in fenced.commands(code)
    if program == "subquad"
]
# what a command says once all its words are understood: no book and no run is here
UNDERSTOOD = {
    "train": r"there is nothing at (book\.txt|reviews\.csv|recordings|sales\.csv|train\.en)",
    "compare": r"there is nothing at book\.txt",
    "eval": "there is no run folder runs/book",
    "generate": "there is no run folder runs/book",
    "export": "there is no run folder runs/book",
    "serve": "there is no run folder runs/book",
    "convert": "there is nothing at models/gpt2",
    "swap": "models/(bert|gpt2) holds no model of transformers",
    "show": "there is no run folder runs/book",
    "predict": "there is no run folder runs/(reviews|heard|sales|en-fr)",
}


def test_commands_are_of_every_kind():
    assert {verb for verb, *_ in COMMANDS} == set(VERBS)


@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_command_is_understood(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verb, *words = line
    if verb in ("list", "bench") or words[0] == "--pattern":  # these need nothing
        assert main([verb, *words]) == 0
        return
    if words[0] == "synthetic":  # needs nothing and would train
        assert check(words[0], words[1:]).name == "synthetic"
        return
    with pytest.raises(ValueError, match=UNDERSTOOD[verb]):
        main([verb, *words, "--debug"])


def test_links_lead_somewhere():
    root = Path(__file__).resolve().parent.parent
    links = [x for x in re.findall(r"\]\(([^)]+)\)", TEXT) if not x.startswith("http")]
    assert links
    assert all((root / link).exists() for link in links), links
