"""How far long work is, on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, TextColumn

__all__ = ["bar"]


@contextmanager
def bar(doing: str, unit: str) -> Iterator[Callable[[float, float], None]]:
    """report(n, of): `n` more of `of` are done, in units; nothing is shown before the first, and
    after the last."""
    columns = (*Progress.get_default_columns(), TextColumn("{task.fields[rate]}"))
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    row = progress.add_task(doing, total=None, rate="")

    def report(done: float, of: float) -> None:
        speed = progress.tasks[0].speed or 0.0
        progress.update(row, advance=done, total=of, rate=f"{speed:,.0f} {unit}/s")
        if not progress.finished:
            progress.start()
        else:  # others may show theirs now
            progress.stop()
            progress.reset(row)

    try:
        yield report
    finally:
        progress.stop()
