"""Embedded examples for tasks about text: Python's standard library, read where it is installed.

Each of its files is in one part, and the parts of each area hold about 80/10/10 of it. What the
rows are: see `snippets`. The library differs from version to version, and the examples with it;
`source` names the version. They are made once and kept in the cache.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from subquad.data import cache, snippets, sources
from subquad.data.documents import PARTS
from subquad.data.examples import Examples

__all__ = ["AREAS", "answer", "classify", "summarize", "tag"]

Row = dict[str, Any]
Maker = Callable[[str, str], Iterator[Row]]  # from a file's source and its area
_VERSION = 1  # of what is kept in the cache
_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}

#: label -> the packages and modules it stands for; of Python 3.11 to 3.13, about equally large
AREAS: Mapping[str, tuple[str, ...]] = {
    "asyncio": ("asyncio",),
    "debugging": (
        *("bdb", "cProfile", "dis", "inspect", "linecache", "pdb", "profile", "pstats"),
        *("timeit", "trace", "traceback", "tracemalloc"),
    ),
    "email": ("email", "imaplib", "mailbox", "poplib", "smtplib"),
    "files": (
        *("bz2", "filecmp", "fileinput", "fnmatch", "genericpath", "glob", "gzip", "lzma"),
        *("ntpath", "os", "pathlib", "posixpath", "shutil", "tarfile", "tempfile", "zipfile"),
    ),
    "imports": ("importlib", "modulefinder", "pkgutil", "runpy", "zipapp", "zipimport"),
    "markup": ("configparser", "csv", "html", "json", "plistlib", "tomllib", "xml"),
    "numbers": (
        *("_pydatetime", "_pydecimal", "calendar", "colorsys", "datetime", "decimal"),
        *("fractions", "numbers", "random", "statistics"),
    ),
    "processes": ("concurrent", "multiprocessing", "queue", "sched", "subprocess", "threading"),
    "testing": ("doctest", "unittest"),
    "web": ("http", "socketserver", "urllib", "wsgiref", "xmlrpc"),
}
_AREA = {name: area for area, names in AREAS.items() for name in names}
# what is not installed everywhere, and tables that are hardly code
_LEFT = {"tkinter", "idlelib", "turtledemo", "lib2to3", "distutils", "encodings", "pydoc_data"}


def classify() -> Examples:
    """Pieces of code of 512 to 1,000 characters; the label is the area that they come from."""

    def make(source: str, area: str) -> Iterator[Row]:
        return ({**row, "label": area} for row in snippets.pieces(source) if area)

    return _kept("classify", "pieces of", make)


def tag() -> Examples:
    """Statements, word by word, with what each word is."""
    return _kept("tag", "tagged statements of", lambda source, area: snippets.tagged(source))


def answer() -> Examples:
    """What does a function or class do? A docstring in about 2,000 characters of code says it."""
    return _kept("answer", "questions about", lambda source, area: snippets.questions(source))


def summarize() -> Examples:
    """Functions without their docstring, and its first sentence."""
    return _kept("summarize", "functions of", lambda source, area: snippets.summaries(source))


def _kept(name: str, what: str, make: Maker) -> Examples:
    """The rows of a cache entry; if there is none, they are made."""
    found = sources.find(None)
    key = f"{name}-{_VERSION}-{found.key}"
    folder = cache.entry("examples", key, lambda made: _write(found, make, made))
    with cache.reading(folder):
        rows = {
            part: [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
            for part in PARTS
        }
    sizes = ", ".join(f"{len(some):,} {part}" for part, some in rows.items())
    return Examples(rows, f"{what} {found.says} ({sizes})", key)


def _write(found: sources.Found, make: Maker, folder: Path) -> None:
    rows: dict[str, list[str]] = {part: [] for part in PARTS}
    seen: set[str] = set()
    files = {name: source for name, source in _files(found) if source}
    sizes = {name: len(source) for name, source in files.items()}
    part_of = {
        name: part
        for area in ("", *AREAS)
        for name, part in _parts({n: size for n, size in sizes.items() if _area(n) == area}).items()
    }
    for name, source in files.items():
        for row in make(source, _area(name)):
            line = json.dumps(row)
            if line not in seen:  # licences stand in many files
                rows[part_of[name]].append(line)
            seen.add(line)
    for part, some in rows.items():
        (folder / f"{part}.jsonl").write_text("".join(f"{line}\n" for line in some))


def _files(found: sources.Found) -> Iterator[tuple[str, str]]:
    for name, pieces in found.documents():
        top = name.split("/")[0].removesuffix(".py")
        if top not in _LEFT and not top.startswith("_sysconfigdata"):
            yield name, b"".join(pieces).decode(errors="replace").replace("\r\n", "\n")


def _area(name: str) -> str:
    """The area of a file, or ""."""
    return _AREA.get(name.split("/")[0].removesuffix(".py"), "")


def _parts(sizes: Mapping[str, int]) -> dict[str, str]:
    """The part of each file: the largest first, each to the part that lacks most of its share.

    Of three files or more no part is empty.
    """
    left = {part: _SHARES[part] * sum(sizes.values()) for part in PARTS}
    part_of: dict[str, str] = {}
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        empty = [part for part in PARTS if part not in part_of.values()]
        must = len(sizes) - len(part_of) <= len(empty)
        part = max(empty if must else PARTS, key=left.__getitem__)
        part_of[name] = part
        left[part] -= sizes[name]
    return part_of
