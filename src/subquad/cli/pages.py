"""Reports that commands leave behind: one that fails takes nothing with it."""

import sys
from collections.abc import Callable
from pathlib import Path

from subquad.train.atomic import write_text

__all__ = ["leave"]


def leave(path: Path, page: Callable[[], str]) -> None:
    """Write a page and say where; a line on stderr where it cannot be made."""
    try:
        write_text(path, page())
    except Exception as error:  # hours of training are worth more than a page about them
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"subquad: warning: no {path.name}: {reason}", file=sys.stderr)
    else:
        print(f"report: {path}")
