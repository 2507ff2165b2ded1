"""The report of a run: curves, samples, settings, environment, cost, errors, on one page."""

import csv
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from subquad.viz.curves import Chart, Line
from subquad.viz.html import document, facts, figure, table

__all__ = ["page"]

#: what an evaluation leaves in a run folder, and what it is
ERRORS = {
    "classes.tsv": "Errors by class",
    "errors.tsv": "Errors by utterance",
    "translations.tsv": "Translations",
}
_ROWS = 40  # of a list of errors

Facts = dict[str, Any]


def page(folder: Path, told: Facts, samples: Sequence[tuple[str, str]] = ()) -> str:
    """The report as one HTML file, of what run.json tells and of what stands beside it.

    samples: (how they were made, text).  ValueError without matplotlib, or for damaged files.
    """
    course = _lines(folder / "metrics.jsonl")
    parts = [
        _result(told),
        _charts(course, told["metric"]),
        _evaluations(_lines(folder / "evaluations.jsonl")),
        *(_errors(folder / name, title) for name, title in ERRORS.items()),
        _samples(samples),
        "<h2>Cost</h2>" + facts(_cost(told)),
        "<h2>Settings</h2>" + facts(_settings(told)),
        "<h2>Environment</h2>" + facts(_environment(told)),
    ]
    title = f"Run {folder.resolve().name}: {told['arch']}, {told['task']}"
    return document(title, "\n".join(filter(None, parts)))


def _result(told: Facts) -> str:
    if "numbers" not in told:
        return "<p>Training has not come to its end yet.</p>"
    rows = [(_says(name), _number(value)) for name, value in told["numbers"].items()]
    stopped = f"<p>Stopped by {escape(told['stopped_by'])}.</p>" if told["stopped_by"] else ""
    return (
        table(("validation, best of training", ""), rows, "Validation")
        + f"<p>Measured on {escape(told['protocol'])}.</p>{stopped}"
    )


def _charts(course: list[Facts], metric: str) -> str:
    """Loss, metric and rate against steps."""
    found = [
        Chart("Loss", "step", "loss", _line(course, "loss", "training")),
        Chart("Validation", "step", _says(metric), _line(course, f"eval_{metric}", "validation")),
        Chart("Rate", "step", "tokens/s", _line(course, "tokens_per_second", "training")),
        Chart("Learning rate", "step", "", _line(course, "learning_rate", "learning rate")),
    ]
    drawn = "\n".join(figure(chart) for chart in found if chart.lines)
    return f'<h2>Course</h2>\n<div class="charts">\n{drawn}\n</div>' if drawn else ""


def _line(course: list[Facts], name: str, says: str) -> list[Line]:
    points = [row for row in course if name in row]
    return [Line(says, [p["step"] for p in points], [p[name] for p in points])] if points else []


def _evaluations(rows: list[Facts]) -> str:
    if not rows:
        return ""
    found = ""
    for row in rows:
        numbers = {_says(k): _number(v) for k, v in row.items() if isinstance(v, int | float)}
        found += f"<p>{escape(str(row.get('protocol', '')))}</p>{facts(numbers)}"
    return f"<h2>Evaluations</h2>{found}"


def _errors(path: Path, title: str) -> str:
    """The first rows of a list that `eval` has kept, the worst first."""
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", newline="") as file:
        head, *rows = [*csv.reader(file, delimiter="\t")]
    more = f"<p>{len(rows) - _ROWS:,} more are in {path.name}.</p>" if len(rows) > _ROWS else ""
    return f"<h2>{title}</h2>{table(head, rows[:_ROWS], title)}{more}"


def _samples(samples: Sequence[tuple[str, str]]) -> str:
    if not samples:
        return ""
    made = "".join(f"<p>{escape(how)}</p><pre>{escape(text)}</pre>" for how, text in samples)
    return f"<h2>Samples</h2>{made}"


def _cost(told: Facts) -> dict[str, str]:
    seconds, tokens = told.get("seconds", 0.0), told.get("tokens", 0)
    return {
        "parameters": f"{told['parameters']:,}",
        "steps": f"{told.get('steps', 0):,}",
        "tokens seen": f"{tokens:,}",
        "seconds": f"{seconds:,.1f}",
        "tokens/s": f"{tokens / seconds:,.0f}" if seconds else "",
    }


def _settings(told: Facts) -> dict[str, str]:
    groups = {"architecture": told["model"], "training": told["train"]}
    groups["task"] = told["task_facts"]["config"]
    fields = {
        name: ", ".join(f"{k} {v}" for k, v in group.items() if v is not None)
        for name, group in groups.items()
    }
    data = told["data"]
    return {"command": told["command"], "data": data["source"], **fields, "data key": data["key"]}


def _environment(told: Facts) -> dict[str, str]:
    return {name: str(version) for name, version in told["versions"].items()}


def _lines(path: Path) -> list[Facts]:
    """The rows of a file of JSON lines; none if there is none."""
    if not path.is_file():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} line {number} is damaged: {error}") from None
    return found


def _says(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float) -> str:
    return f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
