"""subquad eval RUN [--data PATH] [--arch.FIELD V], and flags of the task, such as --context"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TextColumn

from subquad.cli import overrides
from subquad.cli.parser import Parser, add_flags, flag_of
from subquad.tasks import TASKS, find_task
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Score a run; print numbers and protocol, and keep them in RUN/evaluations.jsonl."""
    argv, words = overrides.split(argv)
    given = _parser().read(argv)
    facts = read_facts(Path(given.run))  # before anything slow
    changed, how = overrides.read(words, facts), _how(facts["task"], given)
    run = load(given.run, **changed)
    begun = time.monotonic()
    with _bar() as report:
        result = run.task.evaluate_on(run.model, given.data, facts["data"], report=report, **how)
    for name, value in result.numbers.items():
        shown = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        print(f"{name.replace('_', ' ').replace('gzip', 'gzip -9'):<25}{shown}")
    said = "".join(f"; {name} {value}" for name, value in changed.items())
    print(f"measured on {result.protocol}{said}")
    row = {
        **result.numbers,
        "protocol": result.protocol + said,
        "seconds": round(time.monotonic() - begun, 1),
    }
    with open(Path(given.run) / "evaluations.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return 0


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None]]:
    """Shows on a terminal how many of how many tokens are scored."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        row = bar.add_task("scoring", total=None, rate="")

        def report(scored: int, of: int) -> None:
            speed = bar.tasks[0].speed or 0.0
            bar.update(row, advance=scored, total=of, rate=f"{speed:,.0f} tokens/s")

        yield report


def _how(task: str, given: Any) -> dict[str, Any]:
    """The flags that were given. ValueError for one that the run's task does not have."""
    known = {field.name: flag_of(field) for field in fields(_scoring(task))}
    every = {field.name: flag_of(field) for name in TASKS for field in fields(_scoring(name))}
    # 0 is a number that was given
    found = {name: given[name] for name in every if given[name] is not None}
    found = {name: value for name, value in found.items() if value is not False}
    for name in found:
        if name not in known:
            flags = ", ".join(f"--{flag}" for flag in known.values())
            raise ValueError(f"--{every[name]} is not for a run of the task {task}; known: {flags}")
    return found


def _scoring(task: str) -> type:
    return find_task(task).Scoring


def _parser() -> Parser:
    parser = Parser("subquad eval", f"Score a run on held-out data. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--data", type=str | None, default=None, help="file or folder; default: the run's own"
    )
    for name in TASKS:
        add_flags(parser, _scoring(name))
    return parser
