"""Documents in parts, on disk: what every source of data gives, whatever the documents are made of.

A source writes its documents once into the cache (or they lie there plain) and says of which Kind
they are: the elements, the vocabulary, and how well predicting them is measured. Everything that
trains, scores and writes goes by the Kind.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from subquad.data import cache
from subquad.data.vocabulary import Symbols

__all__ = ["NAMED", "PARTS", "Documents", "Kind", "by_hash", "index", "kept", "of_elements", "pack"]

PARTS = ("train", "valid", "test")
#: what files and folders of a part are called -> its number
NAMED = {"train": 0, "valid": 1, "val": 1, "validation": 1, "dev": 1, "test": 2}
_PIECE = 1 << 20


class Kind:
    """What documents are made of. Equal kinds can be scored by one model."""

    #: as it stands in run.json
    name: ClassVar[str]
    #: what one element is called, and one document
    unit: ClassVar[str]
    member: ClassVar[str]
    #: the number that makes a checkpoint the best (smaller is better)
    metric: ClassVar[str]
    #: may a document be cut anywhere, to have so many elements?
    cuts: ClassVar[bool] = False
    #: the vocabulary, or None: the task chooses how to cut elements into tokens
    words: Symbols | None = None
    #: elements of every document, where all have as many
    length: int | None = None
    #: how pictures are read
    order: Any = "raster"

    @property
    def says(self) -> str:
        """In words, for errors."""
        return f"{self.member}s"

    def measure(self, nats: float, tokens: int, documents: "Documents") -> dict[str, float]:
        """The numbers of an evaluation, from the nats of all its tokens."""
        raise NotImplementedError

    def check(self, out: Path | None) -> None:
        """ValueError if documents cannot be written to this file (None: as text)."""

    def shown(self, made: Sequence[bytes]) -> str:
        """Documents as text, from the elements of each."""
        raise NotImplementedError

    def write(self, made: Sequence[bytes], out: Path) -> None:
        """Documents as a file that `check` has passed."""
        out.write_text(self.shown(made) + "\n", encoding="utf-8")

    def save(self, folder: Path) -> dict[str, Any]:
        """What `load` needs again, as JSON; what is large goes into the folder."""
        return {}

    @classmethod
    def load(cls, folder: Path, facts: dict[str, Any]) -> "Kind":
        """The kind of a saved run."""
        return cls()


@dataclass(frozen=True)
class Documents:
    """Document i is raw[start[i]:end[i]], and belongs to PARTS[part[i]].

    raw: uint8, mapped from disk.  part is None where the documents themselves are cut (text).
    source: what this is, in words.  key: changes when the content may have changed.
    """

    raw: np.ndarray
    start: np.ndarray
    end: np.ndarray
    part: np.ndarray | None
    source: str
    key: str
    kind: Kind

    @property
    def nbytes(self) -> int:
        """Elements of all documents, a byte each."""
        return int((self.end - self.start).sum())

    def __len__(self) -> int:
        return len(self.start)

    def documents(self) -> Iterator[bytes]:
        """The documents one after another."""
        for start, end in zip(self.start, self.end, strict=True):
            yield self.raw[start:end].tobytes()

    def pieces(self, size: int = _PIECE) -> Iterator[bytes]:
        """All elements in order, at most `size` at a time."""
        for start, end in zip(self.start, self.end, strict=True):
            for at in range(start, end, size):
                yield self.raw[at : min(at + size, end)].tobytes()

    def take(self, part: str) -> "Documents":
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

    def head(self, limit: int) -> "Documents":
        """About `limit` elements, spread evenly over all documents.

        Of text exactly so many, up to a character, the last document cut; else whole documents.
        """
        # multiples of the golden section fall between each other, so any first few are spread
        spread = np.argsort(np.arange(len(self)) * 0.6180339887498949 % 1, kind="stable")
        start, end = self.start[spread], self.end[spread]
        before = np.cumsum(end - start) - (end - start)
        start, end, before = (values[before < limit] for values in (start, end, before))
        if self.kind.cuts:
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


def of_elements(kind: Kind, elements: bytes) -> Documents:
    """One document in memory."""
    raw = np.frombuffer(elements, np.uint8)
    return Documents(raw, np.zeros(1, np.int64), np.asarray([len(raw)]), None, "memory", "", kind)


def kept(key: str, fill: Callable[[Path], None], kind: Kind) -> Documents:
    """The documents of a cache entry; if there is none, `fill` packs them into a fresh folder."""
    folder = cache.entry(kind.name, key, fill)
    with cache.reading(folder):
        index = np.load(folder / "index.npy", allow_pickle=False)
        says = json.loads((folder / "source.json").read_text())["says"]
        raw = np.memmap(folder / "raw.bin", np.uint8, mode="r")
        part = None if (index[:, 2] < 0).all() else index[:, 2]
        if (need := index[:, 1].max()) > len(raw):
            raise ValueError(f"raw.bin has {len(raw)} bytes of {need}")
    return Documents(raw, index[:, 0], index[:, 1], part, says, key, kind)


def pack(folder: Path, documents: Iterable[Iterable[bytes]]) -> np.ndarray:
    """Write raw.bin, the documents one behind the other in pieces; the end of each comes back."""
    ends, at = [], 0
    with open(folder / "raw.bin", "wb") as out:
        for pieces in documents:
            for piece in pieces:
                at += out.write(piece)
            ends.append(at)
    return np.asarray(ends, np.int64)


def index(folder: Path, ends: np.ndarray, part: np.ndarray, says: str, member: str) -> None:
    """Write index.npy (start, end, part; -1 for all: cut in order) and source.json.

    Documents without elements, and those of no part (-2), are left out.
    """
    start = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    full = ends > start
    if not full.any():
        raise ValueError(f"{says} holds no {member}s")
    chosen = full & (part > -2)
    np.save(folder / "index.npy", np.stack([start, ends, part], 1)[chosen])
    if full.sum() > 1:
        says += f" ({chosen.sum():,} {member}s)"
    if (full & ~chosen).any():
        says += f" ({(full & ~chosen).sum()} outside of train, valid and test left out)"
    (folder / "source.json").write_text(json.dumps({"says": says}))


def by_hash(names: Sequence[str], valid: float = 0.05, test: float = 0.05) -> np.ndarray:
    """The part of each document by a stable hash of its name alone; of three or more, none empty.

    valid, test: the fractions of these parts.
    """
    place = np.asarray([_hash(name) for name in names])
    part = np.digitize(place, [1 - valid - test, 1 - test])
    if len(names) < 3:
        return part
    order = np.argsort(place)
    for missing, chosen in ((2, order[-1]), (1, order[-2]), (0, order[0])):
        if not (part == missing).any():
            part[chosen] = missing
    return part


def _hash(name: str) -> float:
    """A place in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
