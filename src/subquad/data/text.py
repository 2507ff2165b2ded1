"""Text: files and folders as documents of bytes on disk, of any size.

A source is a file (plain, .gz or .xz), a .jsonl file with a `text` column, a .tar, a folder in
which each file is a document, or None: the source files of Python's standard library.

Plain files are mapped where they lie; everything else is unpacked once into the cache and mapped
there. Parts: folders or files called train, valid (val, dev) and test are taken at their word;
otherwise documents go 90/5/5 by a stable hash of their name (path or row number), and a source of
one or two documents is cut 90/5/5 in order.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from subquad.data import cache, sources

__all__ = ["PARTS", "Text", "open_text"]

PARTS = ("train", "valid", "test")
_NAMES = {"train": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2}
_PIECE = 1 << 20


@dataclass(frozen=True)
class Text:
    """Documents: document i is raw[start[i]:end[i]], and belongs to PARTS[part[i]].

    raw: uint8, mapped from disk.  part is None where the documents themselves are cut.
    source: what this is, in words.  key: changes when the content may have changed.
    """

    raw: np.ndarray
    start: np.ndarray
    end: np.ndarray
    part: np.ndarray | None
    source: str
    key: str

    @property
    def nbytes(self) -> int:
        """Bytes of all documents."""
        return int((self.end - self.start).sum())

    def __len__(self) -> int:
        return len(self.start)

    def documents(self) -> Iterator[bytes]:
        """The documents one after another."""
        for start, end in zip(self.start, self.end, strict=True):
            yield self.raw[start:end].tobytes()

    def pieces(self, size: int = _PIECE) -> Iterator[bytes]:
        """All bytes in order, at most `size` at a time."""
        for start, end in zip(self.start, self.end, strict=True):
            for at in range(start, end, size):
                yield self.raw[at : min(at + size, end)].tobytes()

    def take(self, part: str) -> "Text":
        """The documents of train, valid or test, or of `all`."""
        if part == "all":
            return self
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}; parts are all, {', '.join(PARTS)}")
        number = PARTS.index(part)
        key, source = f"{self.key}-{part}", f"the {part} part of {self.source}"
        if self.part is not None:
            chosen = self.part == number
            start, end = self.start[chosen], self.end[chosen]
            return replace(self, start=start, end=end, part=None, source=source, key=key)
        length = self.end - self.start
        cuts = [length * 0, length * 90 // 100, length * 95 // 100, length]
        start, end = (self._character(self.start + cuts[number + i], self.end) for i in (0, 1))
        return replace(self, start=start, end=end, source=source, key=key)

    def head(self, limit: int) -> "Text":
        """`limit` bytes in whole documents, the last one cut, spread evenly over all documents."""
        # multiples of the golden section fall between each other, so any first few are spread
        spread = np.argsort(np.arange(len(self)) * 0.6180339887498949 % 1, kind="stable")
        start, end = self.start[spread], self.end[spread]
        before = np.cumsum(end - start) - (end - start)
        start, end, before = (values[before < limit] for values in (start, end, before))
        end = self._character(np.minimum(end, start + limit - before), end)
        return replace(self, start=start, end=end, part=None, key=f"{self.key}-{limit}")

    def _character(self, at: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Places moved on to where a UTF-8 character begins, as far as the document's end."""
        moved = at.copy()
        for i, place in enumerate(at):
            after = self.raw[place : min(place + 4, end[i])]
            begins = np.flatnonzero((after & 0xC0) != 0x80)
            moved[i] += int(begins[0]) if len(begins) else 0
        return moved


def open_text(path: str | None) -> Text:
    """The text at a path. ValueError if it is missing, empty, damaged or of no known kind."""
    found = sources.find(path)
    if found.plain is not None:
        raw = np.memmap(found.plain, np.uint8, mode="r")
        return Text(raw, np.zeros(1, np.int64), np.asarray([len(raw)]), None, found.says, found.key)
    folder = cache.entry("text", found.key, lambda made: _unpack(found, made))
    index = np.load(folder / "index.npy", allow_pickle=False)
    says = json.loads((folder / "source.json").read_text())["says"]
    raw = np.memmap(folder / "raw.bin", np.uint8, mode="r")
    part = None if (index[:, 2] < 0).all() else index[:, 2]
    return Text(raw, index[:, 0], index[:, 1], part, says, found.key)


def _unpack(found: sources.Found, folder: Path) -> None:
    """Write raw.bin, index.npy (start, end, part; -1: cut in order) and source.json."""
    names, ends, at = [], [], 0
    with open(folder / "raw.bin", "wb") as out:
        for name, pieces in found.documents():
            first = at
            for piece in pieces:
                at += out.write(piece)
            if at > first:
                names.append(name)
                ends.append(at)
    if not names:
        raise ValueError(f"{found.says} holds no text")
    part = _parts(names)
    kept = part > -2
    start = np.asarray([0, *ends[:-1]])
    np.save(folder / "index.npy", np.stack([start, np.asarray(ends), part], 1)[kept])
    says = found.says
    if len(names) > 1:
        says += f" ({kept.sum():,} documents)"
    if not kept.all():
        says += f" ({(~kept).sum()} outside of train, valid and test left out)"
    (folder / "source.json").write_text(json.dumps({"says": says}))


def _parts(names: list[str]) -> np.ndarray:
    """The part of each document; -1 for all: cut them in order; -2: belongs to none."""
    named = np.asarray([_NAMES.get(name.split("/")[0].split(".")[0].lower(), -2) for name in names])
    if {0, 2} <= set(named.tolist()):
        return named
    if len(names) < 3:
        return np.full(len(names), -1)
    place = np.asarray([_hash(name) for name in names])
    part = np.digitize(place, [0.9, 0.95])
    order = np.argsort(place)
    for missing, chosen in ((2, order[-1]), (1, order[-2]), (0, order[0])):
        if not (part == missing).any():
            part[chosen] = missing
    return part


def _hash(name: str) -> float:
    """A place in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
