"""Long Range Arena: five tasks that classify long sequences, and their published accuracies.

listops        ListOps of 501 to 1,999 tokens, made here: 96,000, 2,000 and 2,000
listops-short  the same, of 101 to 199 tokens; nothing is published for it
text           bytes of IMDB reviews, the first 4,000; read from a folder
image          grey intensities of CIFAR-10 pictures, line by line, 1,024; read from a folder
pathfinder     pixels of Pathfinder pictures, 1,024, made here: 160,000, 20,000 and 20,000

Retrieval (pairs of papers) is left out: its texts may not be passed on. Where only train and test
are given, a tenth of train, by a hash of the number, is valid. What is made here has seed 0.

Tay et al., 2021, https://arxiv.org/abs/2011.04006.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path

import numpy as np

from subquad.data import sources
from subquad.data.documents import PARTS, by_hash
from subquad.data.listops import ListOps, Tokens
from subquad.data.lra_published import published
from subquad.data.made import Made
from subquad.data.npz import open_arrays
from subquad.data.pathfinder import LABELS, Pathfinder
from subquad.data.readers import open_documents

__all__ = ["SUITES", "Rows", "Suite", "open_lra"]

IMDB = "imdb.{}.25000.jsonl.xz"
CIFAR = "cifar10_jpeg_8k2k.npz"
_BYTES = 4000
_GREY = np.asarray([0.299, 0.587, 0.114])  # of red, green and blue

Row = tuple[np.ndarray, str]


@dataclass(frozen=True)
class Rows(Sequence[Row]):
    """`size` rows (ids (N,) uint8, label), each made when it is asked for.

    lengths: tokens of each row; None where only making it would tell.
    """

    size: int
    at: Callable[[int], Row]
    lengths: Sequence[int] | None = None

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(f"there is no row {index}; there are {self.size}")
        return self.at(index % self.size)


@dataclass(frozen=True)
class Suite:
    """One task.

    rows: by part.  labels: all of them.  symbols: ids are below it.  longest: tokens of a row, at
    most.  source: in words.  key: changes when the content may have changed.  paper: published test
    accuracies in percent, by architecture.
    """

    rows: Mapping[str, Rows]
    labels: list[str]
    symbols: int
    longest: int
    source: str
    key: str
    paper: Mapping[str, float] = field(default_factory=dict)


def open_lra(name: str, data: str | None = None) -> Suite:
    """A task by its name.

    data: the folder, or for image the file, that holds what is not made here. ValueError for an
    unknown name, and for data that are missing, damaged, or not asked for.
    """
    if name not in SUITES:
        near = get_close_matches(name, SUITES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"no suite is called {name!r}; {hint}known: {', '.join(SUITES)}")
    return SUITES[name](name, data)


# --- what is made here ----------------------------------------------------------------------------


def _own(name: str, data: str | None) -> None:
    if data is not None:
        raise ValueError(f"{name} makes its own items; leave {data} out")


def _expression(made: Made, index: int) -> Row:
    row = made[index]
    return Tokens().encode(row["text"].encode()), row["label"]


def _picture(made: Made, index: int) -> Row:
    row = made[index]
    return row["image"].reshape(-1), row["label"]


def _listops(
    name: str, data: str | None, shortest: int, longest: int, paper: Mapping[str, float]
) -> Suite:
    _own(name, data)
    made = {
        part: ListOps(count, 0, part, shortest, longest)
        for part, count in zip(PARTS, (96_000, 2_000, 2_000), strict=True)
    }
    return Suite(
        rows={part: Rows(len(some), partial(_expression, some)) for part, some in made.items()},
        labels=[str(digit) for digit in range(10)],
        symbols=Tokens().count,
        longest=longest - 1,
        source=f"ListOps of {shortest + 1} to {longest - 1} tokens, made by the published rules",
        key=f"{name}-1",
        paper=paper,
    )


def _pathfinder(name: str, data: str | None) -> Suite:
    _own(name, data)
    made = {
        part: Pathfinder(count, 0, part)
        for part, count in zip(PARTS, (160_000, 20_000, 20_000), strict=True)
    }
    return Suite(
        rows={part: Rows(len(some), partial(_picture, some)) for part, some in made.items()},
        labels=[*LABELS],
        symbols=256,
        longest=1024,
        source="Pathfinder pictures of 32 x 32, made by the published rules with a pen of our own",
        key=f"{name}-1",
        paper=published(name),
    )


# --- what is read ---------------------------------------------------------------------------------


def _file(data: str | None, name: str, within: str) -> Path:
    """The file of this name in a folder, or in the folder `within` of it."""
    if data is None:
        raise ValueError(f"this task reads {name}: name the folder that holds it")
    where = sources.existing(data)
    tried = [where] if where.is_file() else [where / name, where / within / name]
    for path in tried:
        if path.is_file() and path.name == name:
            return path
    raise ValueError(f"there is no {name} at {data}; name the folder that holds it")


def _given(rows: Sequence[Row], chosen: np.ndarray) -> Rows:
    """Some of the rows that are in memory."""
    some = [rows[i] for i in chosen]
    return Rows(len(some), some.__getitem__, [len(ids) for ids, _ in some])


def _valid(count: int) -> np.ndarray:
    """(count,) bool: the tenth of train that is valid."""
    return by_hash([str(number) for number in range(count)], 0.1, 0.0) > 0


def _reviews(file: Path) -> list[Row]:
    rows = []
    with sources.unpacked(file) as stream:
        for number, line in enumerate(sources.lines_of(stream, file), 1):
            try:
                row = json.loads(line)
                text, label = row["text"].encode()[:_BYTES], ("negative", "positive")[row["label"]]
            except (
                ValueError,
                KeyError,
                TypeError,
                AttributeError,
                IndexError,
                RecursionError,
            ) as error:
                raise ValueError(
                    f"{file} line {number} is no review with the fields text and label (0 or 1): "
                    f"{type(error).__name__}: {error}"
                ) from None
            rows.append((np.frombuffer(text, np.uint8), label))
    return rows


def _text(name: str, data: str | None) -> Suite:
    files = [_file(data, IMDB.format(part), "text") for part in ("train", "test")]
    train, test = map(_reviews, files)
    valid = _valid(len(train))
    cut = [(train, np.flatnonzero(~valid)), (train, np.flatnonzero(valid))]
    cut.append((test, np.arange(len(test))))
    return Suite(
        rows={part: _given(*rows) for part, rows in zip(PARTS, cut, strict=True)},
        labels=["negative", "positive"],
        symbols=256,
        longest=_BYTES,
        source=f"the first {_BYTES:,} bytes of reviews, {' and '.join(f.name for f in files)}",
        key=sources.key_of(files),
        paper=published(name),
    )


def _grey(raw: np.ndarray, labels: list[str], chosen: np.ndarray, index: int) -> Row:
    number = chosen[index]
    return np.rint(raw[number].reshape(-1, 3) @ _GREY).astype(np.uint8), labels[number]


def _image(name: str, data: str | None) -> Suite:
    file = _file(data, CIFAR, "image")
    documents = open_documents(str(file))
    with open_arrays(file) as arrays:
        if missing := {"label", "split", "classes"} - set(arrays):
            raise ValueError(f"{file.name} lacks the arrays {', '.join(sorted(missing))}")
        split, classes = arrays["split"], arrays["classes"].tolist()
        labels = [classes[number] for number in arrays["label"].tolist()]
    raw = documents.raw.reshape(len(documents), -1)
    train = np.flatnonzero(split == 0)
    valid = _valid(len(train))
    cut = dict(zip(PARTS, (train[~valid], train[valid], np.flatnonzero(split)), strict=True))
    return Suite(
        rows={p: Rows(len(c), partial(_grey, raw, labels, c)) for p, c in cut.items()},
        labels=classes,
        symbols=256,
        longest=raw.shape[1] // 3,
        source=f"grey pictures of {file.name}, from JPEG: 8,000 of the 50,000 for training",
        key=sources.key_of([file]),
        paper=published(name),
    )


SUITES: Mapping[str, Callable[[str, str | None], Suite]] = {
    "listops": partial(_listops, shortest=500, longest=2000, paper=published("listops")),
    "listops-short": partial(_listops, shortest=100, longest=200, paper={}),
    "text": _text,
    "image": _image,
    "pathfinder": _pathfinder,
}
