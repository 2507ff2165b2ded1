"""Parallel texts: line n of one file is the translation of line n of another.

    SRC::TGT                                  two files, plain or packed (.xz, .gz, .bz2)
    TRAIN,TEST::TRAIN,TEST  and three of each, TRAIN,VALID,TEST: files of the parts

Lines end at "\\n" alone, so that no mark inside a text moves those behind it.
"""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from subquad.data import sources
from subquad.data.documents import PARTS
from subquad.data.example_files import Row, Source, Table
from subquad.data.forms import Form
from subquad.data.tables import lines

__all__ = ["BETWEEN", "find"]

#: stands between the files of the two languages
BETWEEN = "::"


def find(path: str, form: Form) -> Source:
    """The source at two paths. ValueError for what is no pair of files."""
    if tuple(form.fields) != ("text", "translation"):
        raise ValueError(f"{form.name} reads no texts line by line beside others: {path}")
    sides = [side.split(",") for side in path.split(BETWEEN)]
    if len(sides) != 2 or len(sides[0]) != len(sides[1]) or len(sides[0]) > 3:
        counts = " and ".join(f"{len(side)}" for side in sides)
        raise ValueError(
            f"{path} names {counts} files; a file of each language is read, or TRAIN,TEST or "
            "TRAIN,VALID,TEST of each"
        )
    names = {1: ("",), 2: ("train", "test"), 3: PARTS}[len(sides[0])]
    files = [[_file(one.strip()) for one in side] for side in sides]
    parts = {part: [_table(*pair)] for part, *pair in zip(names, *files, strict=True)}
    says = " and ".join(", ".join(file.name for file in side) for side in files)
    return Source(says, sources.key_of([file for side in files for file in side]), parts)


def _file(path: str) -> Path:
    file = sources.existing(path)
    if file.is_dir():
        raise ValueError(f"{path} is a folder; name the file of one language")
    return file


def _table(source: Path, target: Path) -> Table:
    return Table(f"{source} and {target}", lambda: _rows(source, target))


def _rows(source: Path, target: Path) -> Iterator[Row]:
    counts = [0, 0]
    for pair in zip_longest(lines(source), lines(target)):
        for side, line in enumerate(pair):
            counts[side] += line is not None
        if counts[0] == counts[1]:
            text, translation = (line.rstrip("\r\n") for _, line in pair)
            yield {"text": text, "translation": translation}
    if counts[0] != counts[1]:
        raise ValueError(
            f"{source} has {counts[0]:,} lines and {target} {counts[1]:,}; line n of one is the "
            "translation of line n of the other, so they must have as many"
        )
