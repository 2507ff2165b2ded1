"""The README is true: its Python runs, its commands parse, its table names what there is."""

import re
from pathlib import Path

import pytest

import subquad as sq
from subquad.cli import main

TEXT = (Path(__file__).resolve().parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block_runs(block):
    names: dict = {}
    # a README's own code, from this repository
    exec(compile(block, "README.md", "exec"), names)
    assert names["y"].shape == (1, 8, 4096, 64)
    assert names["tokens"].shape == (1, 52)


def test_every_architecture_has_a_row():
    rows = re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.MULTILINE)
    assert rows == list(sq.ARCHS)


def test_commands_are_those_of_the_command_line(capsys):
    verbs = {
        line.split()[1]
        for block in blocks("bash")
        for line in block.splitlines()
        if line.startswith("subquad ")
    }
    assert main(["--help"]) == 0
    known = capsys.readouterr().out
    assert verbs
    assert all(re.search(rf"^  {verb} ", known, flags=re.MULTILINE) for verb in verbs)


def test_links_lead_somewhere():
    root = Path(__file__).resolve().parent.parent
    links = [x for x in re.findall(r"\]\(([^)]+)\)", TEXT) if not x.startswith("http")]
    assert links
    assert all((root / link).exists() for link in links), links
