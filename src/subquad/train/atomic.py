"""Files and folders that appear whole or not at all.

What is new is written beside what is there, brought to disk, and renamed into place. If the disk is
full, or the process dies, what was there before is untouched.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

__all__ = ["finish_folder", "reporting", "write_files", "write_text"]


@contextlib.contextmanager
def reporting(what: str, where: Path) -> Iterator[None]:
    """Turns what libraries raise when a disk is full into an OSError of one clear line."""
    from safetensors import SafetensorError

    try:
        yield
    except Exception as error:
        # tokenizers has no type of its own for what it cannot write
        known = isinstance(error, OSError | RuntimeError | SafetensorError)
        if not known and type(error) is not Exception:
            raise
        reason = str(error).strip().split("\n")[0]
        raise OSError(
            f"could not write {what} to {where}: {reason}; what was saved before is untouched"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Replace one file."""
    part = path.with_name(f".{path.name}.part")
    with reporting(path.name, path.parent), _removed_on_error(part):
        part.write_text(text, encoding="utf-8")
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)


@contextlib.contextmanager
def write_files(folder: Path, what: str) -> Iterator[Path]:
    """A fresh folder whose files then replace those of the same name in `folder`."""
    part = folder / f".{what}.part"
    shutil.rmtree(part, ignore_errors=True)
    with reporting(what, folder), _removed_on_error(part):
        part.mkdir(parents=True)
        yield part
        files = sorted(part.iterdir())
        for file in files:
            _sync(file)
        for file in files:
            os.replace(file, folder / file.name)
        _sync(folder)
        part.rmdir()


def finish_folder(part: Path, final: Path) -> None:
    """Bring a written folder to disk and rename it into place; an older one there is replaced."""
    for file in part.iterdir():
        _sync(file)
    _sync(part)
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(final, old)
        os.replace(part, final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(part, final)
    _sync(final.parent)


@contextlib.contextmanager
def _removed_on_error(part: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
