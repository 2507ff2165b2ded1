"""The report of a comparison: one table, and one page that needs nothing else.

A row is what `subquad.bench.compare.rows` gives: numbers of an arm, facts of its run, its course.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from subquad.viz.curves import Chart, Line
from subquad.viz.html import document, facts, figure
from subquad.viz.html import table as html_table

__all__ = ["page", "table"]

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def table(rows: Sequence[Row], metric: str) -> str:
    """All arms as Markdown, missing ones by name."""
    columns = _columns(rows, metric)
    lines = ["| " + " | ".join(name for name, _ in columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(_cells(row, columns)) + " |")
    return "\n".join(lines)


def page(rows: Sequence[Row], metric: str, settings: dict[str, str]) -> str:
    """The report as one HTML file: table, curves, settings. Light and dark, wide and narrow."""
    here = [row for row in rows if not row["missing"]]
    pictures = "\n".join(figure(chart) for chart in _charts(here, metric) if chart.lines)
    run = here[0]["facts"] if here else {}
    said = {
        **settings,
        "data": run.get("data", {}).get("source", ""),
        "versions": ", ".join(f"{k} {v}" for k, v in run.get("versions", {}).items()),
        "validation, during training": run.get("protocol", ""),
    }
    for row in here:
        said[f"{row['name']}: trained by"] = row["facts"]["command"]
    columns = _columns(rows, metric)
    head, cells = [name for name, _ in columns], [_cells(row, columns) for row in rows]
    body = _BODY.format(
        table=html_table(head, cells, "Results"),
        protocols=_protocols(here),
        pictures=pictures,
        settings=facts(said),
    )
    return document("Comparison: " + ", ".join(row["name"] for row in rows), body)


def _columns(rows: Sequence[Row], metric: str) -> list[Column]:
    multiples = sorted({int(m) for row in rows for m in row.get("scores", {})})
    says = metric.replace("_", " ")
    columns: list[Column] = [
        ("architecture", lambda r: r["name"]),
        ("parameters", lambda r: f"{r['facts']['parameters']:,}"),
        ("tokens seen", lambda r: f"{r['facts']['tokens']:,}"),
        ("tokens/s", lambda r: f"{r['facts']['tokens'] / max(r['facts']['seconds'], 1e-9):,.0f}"),
        ("peak MB", _peak),
    ]
    columns += [(f"{says}, {m}x", lambda r, m=m: _number(r, m, metric)) for m in multiples]
    columns.append(("state bytes, 1x / 8x", _state))
    return columns


def _cells(row: Row, columns: Sequence[Column]) -> list[str]:
    if row["missing"]:
        return [row["name"], *["missing"] * (len(columns) - 1)]
    return [cell(row) for _, cell in columns]


def _number(row: Row, multiple: int, metric: str) -> str:
    score = row.get("scores", {}).get(str(multiple))
    if score is None:
        return "missing"
    return "refused" if "refused" in score else f"{score[metric]:.4f}"


def _peak(row: Row) -> str:
    # training may have been ended together with whoever measured it
    return f"{row['peak_mb']:,.0f}" if "peak_mb" in row else "unknown"


def _state(row: Row) -> str:
    sizes = row.get("state_bytes", {}).values()
    return " / ".join(f"{n:,}" if isinstance(n, int) else n for n in sizes)


def _charts(rows: Sequence[Row], metric: str) -> list[Chart]:
    says = metric.replace("_", " ")
    return [
        Chart(
            "Validation against time", "seconds of training", says, _course(rows, metric, "seconds")
        ),
        Chart("Validation against tokens", "tokens seen", says, _course(rows, metric, "tokens")),
        Chart("Quality against memory", "peak MB of training", says, _by_memory(rows, metric)),
        Chart("Scores at longer contexts", "context, tokens", says, _by_length(rows, metric), True),
    ]


def _course(rows: Sequence[Row], metric: str, axis: str) -> list[Line]:
    lines = []
    for row in rows:
        points = [p for p in row["course"] if f"eval_{metric}" in p]
        if points:
            y = [p[f"eval_{metric}"] for p in points]
            lines.append(Line(row["name"], [p[axis] for p in points], y))
    return lines


def _by_memory(rows: Sequence[Row], metric: str) -> list[Line]:
    return [
        Line(row["name"], [row["peak_mb"]], [row["facts"]["numbers"][metric]])
        for row in rows
        if metric in row["facts"].get("numbers", {}) and "peak_mb" in row
    ]


def _by_length(rows: Sequence[Row], metric: str) -> list[Line]:
    lines = []
    for row in rows:
        context = row["facts"]["task_facts"]["config"].get("context")
        found = {int(m): s[metric] for m, s in row.get("scores", {}).items() if metric in s}
        if found and context is not None:  # what is no row of tokens has none
            lines.append(Line(row["name"], [m * context for m in found], list(found.values())))
    return lines


def _protocols(rows: Sequence[Row]) -> str:
    """How the scores were measured, each way of measuring once."""
    found: dict[str, None] = {}
    for row in rows:
        for multiple, score in row.get("scores", {}).items():
            text = score.get("protocol")
            refused = f"{row['name']} at {multiple}x refused: {score.get('refused')}"
            found[refused if text is None else f"{multiple}x: {text}"] = None
    return "\n".join(f"<li>{escape(text)}</li>" for text in found)


_BODY = """{table}
<p>Every arm had the same data, seed, scored tokens and budget, one after the other on this machine.
One seed: an order among arms is what this run gave, not more.</p>
<div class="charts">
{pictures}
</div>
<h2>How it was scored</h2>
<ul>
{protocols}
</ul>
<h2>Settings</h2>
{settings}"""
