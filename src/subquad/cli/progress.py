"""How far long work is, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TextColumn

__all__ = ["bar"]


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Callable[[float, float], None]]:
    """report(n, of): `n` more of `of` are done, in units; nothing is shown before the first."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    shown = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
        row = progress.add_task(doing, total=None, rate="", visible=False)

        def report(done: float, of: float) -> None:
            speed = progress.tasks[0].speed or 0.0
            rate = f"{speed:,.0f} {unit}/s"
            progress.update(row, advance=done, total=of, rate=rate, visible=True)

        yield report
