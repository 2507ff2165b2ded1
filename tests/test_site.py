"""What the site's build makes of code and results, and what it refuses."""

import importlib.util
import sys
from pathlib import Path

import pytest

import subquad as sq

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / "docs" / "tools"


def tool(name: str):
    """A module of docs/tools, which mkdocs finds by its path."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def hooks(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tool("hooks")


def test_every_directive_of_a_page_is_known(hooks):
    found = {
        name
        for path in (ROOT / "docs").rglob("*.md")
        for name, _ in hooks.LINE.findall(path.read_text())
    }
    assert found <= set(hooks.DIRECTIVES)
    assert {"card", "results", "break-even", "every-command"} <= found
    with pytest.raises(ValueError, match="no directive 'crad'; known: file, section"):
        hooks.filled("<!-- crad: performer -->")
    with pytest.raises(ValueError, match=r"CONTRIBUTING\.md has no section 'The Words'"):
        hooks.filled("<!-- section: CONTRIBUTING.md | The Words -->")


def test_break_even_is_where_a_mechanism_stays_ahead():
    first = tool("results")._first
    assert first({512: 0.8, 1024: 1.2, 2048: 0.9, 4096: 1.1, 8192: 2.0}) == "4,096"
    assert first({512: 1.1, 1024: 1.2}) == "at or below 512"
    assert first({512: 0.5, 1024: 0.9}) == "beyond 1,024"


def test_a_row_of_the_table_is_what_was_measured():
    rows = {what: ratios for what, _, ratios in tool("results")._steps()}
    # benchmarks/results/step_time/table.md: 1.81 s and 0.89 s at 2,048
    assert rows["`perceiver_ar`"][2048] == pytest.approx(1.81 / 0.89, rel=0.01)


def test_speeds_of_the_readme_are_those_of_the_results():
    text, spreads = (ROOT / "README.md").read_text(), tool("results").spreads
    for what, peer, row in (
        ("kernel", "performer-pytorch", "performer-pytorch 1.1.4"),
        ("kernel", "exact", "torch's causal attention"),
        ("window", "longformer", "Longformer of transformers"),
    ):
        said = spreads(what, peer)[4096]
        assert f"| {row} | {said['forward']} | {said['forward+backward']} |" in text


def test_names_in_docstrings_become_a_list():
    pytest.importorskip("griffe")
    text = "Attend.\n\nq: (B, H, N, D).\nvalid: (B, M), True\n    where real.\nNote: a colon."
    made = tool("docstrings").listed(text, {"q", "valid"})
    items = "- **q**: (B, H, N, D).\n- **valid**: (B, M), True\n  where real."
    assert made == f"Attend.\n\n{items}\n  Note: a colon."


def test_every_architecture_has_a_page_with_its_parts():
    menu = (ROOT / "mkdocs.yml").read_text()
    for name in (*sq.ARCHS, *sq.PAIRS):
        page = (ROOT / "docs" / "papers" / f"{name}.md").read_text()
        assert f"papers/{name}.md" in menu
        heads = [line for line in page.splitlines() if line.startswith("## ")]
        assert heads[0].startswith("## What the paper")
        assert heads[1:] == [
            "## What we measured",
            "## What ours does differently",
            "## When not to use it",
        ]
        assert f"<!-- card: {name} -->" in page
        assert name in sq.PAIRS or f"../maps/{name}.png" in page
