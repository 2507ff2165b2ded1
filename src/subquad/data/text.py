"""Text: files and folders as documents of bytes on disk, of any size.

A source is a file (plain, .gz, .bz2 or .xz), a .jsonl file with a `text` column, a .tar, a folder
in which each file is a document, or None: the source files of Python's standard library.

Plain files are mapped where they lie; everything else is unpacked once into the cache and mapped
there. Parts: folders or files called train, valid (val, dev) and test are taken at their word;
otherwise documents go 90/5/5 by a stable hash of their name (path or row number), and a source of
one or two documents is cut 90/5/5 in order.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.documents import NAMED, Documents, Kind, by_hash, index, kept, pack

__all__ = ["Text", "open_text"]


@dataclass(frozen=True)
class Text(Kind):
    """Bytes, which a vocabulary may join into subwords. The metric is bits per byte:

    (sum of -log2 p over all tokens of the text) / (its bytes), whatever the tokens are, so that
    models over bytes and over subwords compare, with each other and with gzip.
    """

    name, unit, member, metric, cuts = "text", "bytes", "document", "bits_per_byte", True

    @property
    def says(self) -> str:
        """In words, for errors."""
        return "text"

    def measure(self, nats: float, tokens: int, documents: Documents) -> dict[str, float]:
        return {
            "bits_per_byte": nats / math.log(2) / max(documents.nbytes, 1),
            "nats_per_token": nats / max(tokens, 1),
            "bytes": documents.nbytes,
            "tokens": tokens,
        }

    def shown(self, made: Sequence[bytes]) -> str:
        """What is not UTF-8 comes out as U+FFFD."""
        return "\n".join(text.decode(errors="replace") for text in made)


def open_text(path: str | None) -> Documents:
    """The text at a path. ValueError if it is missing, empty, damaged or of no known kind."""
    found = sources.find(path)
    if found.plain is None:
        return kept(found.key, lambda made: _unpack(found, made), Text())
    raw = np.memmap(found.plain, np.uint8, mode="r")
    bounds = np.zeros(1, np.int64), np.asarray([len(raw)])
    return Documents(raw, *bounds, None, found.says, found.key, Text())


def _unpack(found: sources.Found, folder: Path) -> None:
    names: list[str] = []

    def documents() -> Iterator[Iterator[bytes]]:
        for name, pieces in found.documents():
            names.append(name)
            yield pieces

    ends = pack(folder, documents())
    full = np.diff(ends, prepend=0) > 0
    part = np.full(len(ends), -2)
    part[full] = _parts([name for name, some in zip(names, full, strict=True) if some])
    index(folder, ends, part, found.says, "document")


def _parts(names: list[str]) -> np.ndarray:
    """The part of each document; -1 for all: cut them in order; -2: belongs to none."""
    named = np.asarray([NAMED.get(name.split("/")[0].split(".")[0].lower(), -2) for name in names])
    if {0, 2} <= set(named.tolist()):
        return named
    return np.full(len(names), -1) if len(names) < 3 else by_hash(names)
