"""subquad list: what there is; subquad list RUN: the facts of a run."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from subquad.archs import ARCHS, PAIRS
from subquad.cli.parser import Parser
from subquad.tasks import TASKS
from subquad.train.folder import read_facts

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Print architectures with presets and tasks, or one run."""
    parser = Parser("subquad list", "Architectures, presets and tasks; or the facts of a run.")
    parser.add_argument("run", type=str | None, nargs="?", default=None, help="a run folder")
    given = parser.read(argv)
    console = Console(highlight=False)
    if given.run is None:
        _everything(console)
    else:
        _one(console, Path(given.run))
    return 0


def _everything(console: Console) -> None:
    table = Table("architecture", "presets", "is", box=None, pad_edge=False)
    for name, arch in (*ARCHS.items(), *PAIRS.items()):
        table.add_row(name, " ".join(arch.PRESETS), (arch.__doc__ or "").split("\n")[0])
    console.print(table)
    console.print()
    table = Table("task", "is", box=None, pad_edge=False)
    for name, (_, _, says) in TASKS.items():
        table.add_row(name, says)
    console.print(table)


def _one(console: Console, folder: Path) -> None:
    facts = read_facts(folder)
    table = Table.grid(padding=(0, 2))
    rows: list[tuple[str, Any]] = [
        ("task", facts["task"]),
        ("architecture", facts["arch"]),
        ("fields", " ".join(f"{k}={v}" for k, v in facts["model"].items())),
        ("parameters", f"{facts['parameters']:,}"),
        ("data", facts["data"]["source"]),
        ("command", facts["command"]),
    ]
    if "steps" in facts:
        rows += [
            ("trained", f"{facts['steps']:,} steps, {facts['tokens']:,} tokens"),
            ("in", f"{facts['seconds']:,} s"),
            ("numbers", " ".join(f"{k}={v:.6g}" for k, v in facts["numbers"].items())),
            ("measured on", facts["protocol"]),
        ]
    else:
        rows.append(("trained", "not to its end yet"))
    metric = facts.get("metric", "bits_per_byte")
    kept = folder / "evaluations.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append(("evaluated", f"{row[metric]:.4f} on {row['protocol']}"))
        except (ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise ValueError(f"{kept} line {number} is damaged: {reason}") from None
    for name, value in rows:
        table.add_row(name, Text(str(value)))  # what stands in brackets there is no markup
    console.print(table)
