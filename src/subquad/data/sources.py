"""Where data comes from: files, packed or not; text as an iterator over (name, pieces of bytes)."""

import bz2
import gzip
import hashlib
import json
import lzma
import os
import sys
import sysconfig
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO
from zipfile import BadZipFile

__all__ = [
    "Found",
    "absolute",
    "damage",
    "existing",
    "find",
    "key_of",
    "lines_of",
    "unpacked",
    "visible",
]

Documents = Iterator[tuple[str, Iterator[bytes]]]
_OPENERS: dict[str, Callable] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}
_FOREIGN = {".zip", ".zst", ".7z", ".rar"}
_PIECE = 1 << 20
_LONGEST = 1 << 28  # bytes of a line: a packed file of a few kB can hold one that fills a disk
_DAMAGE = (lzma.LZMAError, zlib.error, EOFError, tarfile.TarError, BadZipFile)
# in the standard library's folder, but not written as part of it, or tests of it
_NOT_STDLIB = {"site-packages", "dist-packages", "test", "tests", "idle_test", "ensurepip"}
_VERSION = 2  # of what is kept in the cache


@dataclass(frozen=True)
class Found:
    """A source: in words, a key of its content, and its documents, or a plain file to map."""

    says: str
    key: str
    documents: Callable[[], Documents]
    plain: Path | None = None


def find(path: str | None) -> Found:
    """The source at a path. ValueError if there is nothing, or nothing in it."""
    if path is None:
        return _library()
    where = existing(path)
    if where.is_dir():
        files = visible(where)
        if not files:
            raise ValueError(f"the folder {path} holds no files")
        return Found(f"the folder {where.name}", key_of(files), lambda: _files(where, files))
    key, says = key_of([where]), where.name
    suffixes = [s.lower() for s in where.suffixes]
    if ".tar" in suffixes or ".tgz" in suffixes:
        return Found(says, key, lambda: _members(where))
    if ".jsonl" in suffixes:
        return Found(says, key, lambda: _rows(where))
    if suffixes and suffixes[-1] in _FOREIGN:
        known = ", ".join(_OPENERS)
        raise ValueError(
            f"{path} is packed in a way that is not read here ({known} are): unpack it"
        )
    if suffixes and suffixes[-1] in _OPENERS:
        return Found(says, key, lambda: iter([(where.name, _read(where))]))
    return Found(says, key, lambda: iter([(where.name, _read(where))]), plain=where)


def existing(path: str) -> Path:
    """The path. ValueError if there is nothing, or an empty file."""
    if not path:
        raise ValueError("the data have an empty path; name a file or folder, or leave it out")
    where = Path(path).expanduser()
    if not where.exists():
        raise ValueError(f"there is nothing at {path}")
    if not (where.is_file() or where.is_dir()):
        raise ValueError(f"{path} is neither a file nor a folder; write what it says into a file")
    if where.is_file() and where.stat().st_size == 0:
        raise ValueError(f"{path} is empty")
    return where


def absolute(path: str) -> str:
    """The same data from any folder; what is no path, such as an id of the hub, stays."""
    if Path(path).expanduser().exists():
        return str(Path(path).expanduser().resolve())
    for mark in ("::", ","):
        if mark in path:
            return mark.join(absolute(part) for part in path.split(mark))
    return path


def _library() -> Found:
    """The source files of Python's standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(f for f in root.rglob("*.py") if not _NOT_STDLIB & {*f.relative_to(root).parts})
    if not files:
        raise ValueError(
            f"this Python keeps no source files in {root}, so there is no embedded text: "
            "give one with --data"
        )
    version = ".".join(map(str, sys.version_info[:3]))
    says = f"the source files of Python {version}'s standard library"
    return Found(says, key_of(files), lambda: _files(root, files))


def visible(root: Path) -> list[Path]:
    """The files of a folder and of those below it, without what is hidden."""
    return [f for f in sorted(root.rglob("*")) if f.is_file() and not _hidden(f, root)]


def _hidden(file: Path, root: Path) -> bool:
    parts = file.relative_to(root).parts
    return any(part.startswith(".") or part == "__pycache__" for part in parts)


def key_of(files: list[Path]) -> str:
    """Changes when a file comes, goes, or changes its size or time."""
    digest = hashlib.sha256(f"subquad {_VERSION}".encode())
    for file in files:
        about = file.stat()
        digest.update(f"{file.resolve()}\0{about.st_size}\0{about.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:32]


def _files(root: Path, files: list[Path]) -> Documents:
    for file in files:
        yield file.relative_to(root).as_posix(), _read(file)


def _read(file: Path) -> Iterator[bytes]:
    with unpacked(file) as stream:
        yield from _pieces(stream, file)


def _rows(file: Path) -> Documents:
    """The `text` column of a JSON-lines file; a row's name is its number, from 1."""
    with unpacked(file) as stream:
        for number, line in enumerate(lines_of(stream, file), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{file} line {number} is not JSON: {error}") from None
            if not isinstance(row, dict) or "text" not in row:
                has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise ValueError(f"{file} line {number} has no column 'text'; it has {has}")
            if not isinstance(row["text"], str):
                raise ValueError(
                    f"{file} line {number} has {json.dumps(row['text'])[:40]} in column 'text', "
                    "which is no text"
                )
            yield str(number), iter([row["text"].encode()])


def _members(file: Path) -> Documents:
    with damage(file), tarfile.open(file, "r:*") as archive:
        for member in archive:
            if member.isfile() and not os.path.basename(member.name).startswith("."):
                stream = archive.extractfile(member)
                assert stream is not None
                name = member.name.removeprefix("./")
                yield name, _pieces(stream, file)


def _pieces(stream: IO[bytes], file: Path) -> Iterator[bytes]:
    """What is left of a member; it is read outside of its archive's own loop."""
    with damage(file):
        while piece := stream.read(_PIECE):
            yield piece


def lines_of(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """The lines of a file. ValueError for one that is longer than any text."""
    number = 0
    while line := stream.readline(_LONGEST + 1):
        number += 1
        if len(line) > _LONGEST:
            raise ValueError(f"{file} line {number} is longer than {_LONGEST:,} bytes")
        yield line


@contextmanager
def unpacked(file: Path) -> Iterator[BinaryIO]:
    """A file to read, whether it is packed or not."""
    opener = _OPENERS.get(file.suffix.lower(), open)
    with damage(file), opener(file, "rb") as stream:
        yield stream


@contextmanager
def damage(file: Path) -> Iterator[None]:
    """Turns the many errors of damaged archives into one that names the file."""
    try:
        yield
    except OSError as error:  # what bz2 makes of damage has no number of the system's
        if error.errno is not None:
            raise
        raise ValueError(f"{file} is damaged: {error}") from None
    except _DAMAGE as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    except MemoryError:  # what .xz declares of its window
        raise ValueError(f"{file} asks for more memory than there is") from None
