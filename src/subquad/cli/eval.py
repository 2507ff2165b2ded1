"""subquad eval RUN [--data PATH] [--part P] [--context C --stride S | --carry] [--arch.FIELD V]"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn

from subquad.cli import overrides
from subquad.cli.parser import Parser
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["run"]


def run(argv: list[str]) -> int:
    """Score a run; print numbers and protocol, and keep them in RUN/evaluations.jsonl."""
    argv, words = overrides.split(argv)
    given = _parser().read(argv)
    changed = overrides.read(words, read_facts(Path(given.run)))  # before anything slow
    run = load(given.run, **changed)
    begun = time.monotonic()
    with _bar() as report:
        result = run.task.evaluate_on(  # type: ignore[attr-defined]
            run.model,
            given.data,
            run.facts["data"],
            part=given.part,
            limit=given.max_bytes,
            context=given.context,
            stride=given.stride,
            carry=given.carry or None,
            report=report,
        )
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


def _parser() -> Parser:
    parser = Parser("subquad eval", f"Score a run on held-out data. {overrides.HELP}.")
    parser.add_argument("run", type=str, help="the run folder")
    parser.add_argument(
        "--data", type=str | None, default=None, help="file or folder; default: the run's own"
    )
    parser.add_argument(
        "--part",
        type=str | None,
        default=None,
        help="train, valid, test or all; default: test of the run's own data, all of other data",
    )
    parser.add_argument(
        "--context", type=int | None, default=None, help="window; default: as in training"
    )
    parser.add_argument(
        "--stride",
        type=int | None,
        default=None,
        help="each token is scored once with context - stride to context tokens of past; "
        "default: half the context",
    )
    parser.add_argument(
        "--carry", action="store_true", help="carry the state through each document instead"
    )
    parser.add_argument(
        "--max-bytes", type=int | None, default=None, help="score only the first so many bytes"
    )
    return parser
