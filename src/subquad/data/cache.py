"""The folder of prepared data: unpacked and tokenised text, kept between runs.

`SUBQUAD_CACHE` names it; otherwise it is `subquad` in the user's cache folder. An entry appears
whole or not at all, so two processes may prepare the same one. It may be deleted at any time.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["entry", "folder", "reading"]


def folder() -> Path:
    """Where prepared data lies."""
    if given := os.environ.get("SUBQUAD_CACHE"):
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "subquad"


@contextlib.contextmanager
def reading(entry: Path) -> Iterator[None]:
    """Turns what damaged files of an entry raise into a ValueError that says what to do."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"the prepared data in {entry} are damaged ({reason}); delete that folder, and they "
            "are prepared anew"
        ) from None


def entry(kind: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder of an entry; if there is none yet, `fill` writes into a fresh one first."""
    final = folder() / kind / key
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=final.parent))
    try:
        fill(made)
        os.replace(made, final)
    except OSError:
        if not final.is_dir():  # otherwise another process was first, with the same content
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return final
