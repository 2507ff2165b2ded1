"""Tables: rows of named columns in a file, and text that stands there token by token.

.jsonl .ndjson    a row per line
.json             a list of rows, alone or as "data"; SQuAD's nested form; or a row per line
.csv              the first line names the columns; cells may be quoted, and then span lines
.tsv              the same with tabs; a quotation mark is a character like any other
.conll .bio .iob  a token per line, its tag last; an empty line ends a sentence. Lines -DOCSTART-,
                  and those that begin with # and have not as many cells as the others, are none

All may be packed (.xz, .gz, .bz2), and are UTF-8.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from subquad.data.npz import memory
from subquad.data.sources import lines_of, unpacked

__all__ = ["READERS", "lines", "reader"]

Row = dict[str, Any]
_PACKED = {".xz", ".gz", ".bz2"}


def lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, from 1; ends of lines stay on."""
    total, most = 0, memory()
    with unpacked(file) as stream:
        for number, line in enumerate(lines_of(stream, file), 1):
            total += len(line)
            if total > most:  # all rows are kept in memory
                raise ValueError(
                    f"{file} unpacks to more than {most:,} bytes, half of this machine's memory"
                )
            try:
                said = line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{file} line {number} is not UTF-8: {error}") from None
            yield number, said.removeprefix("\ufeff") if number == 1 else said


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in lines(file):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} line {number} is not JSON: {error}") from None
        yield _row(row, f"{file} line {number}")


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise ValueError(
            f"{where} is a {type(row).__name__}; a row is an object with named columns"
        )
    return row


def _json(file: Path) -> Iterator[Row]:
    try:
        found = json.loads("".join(line for _, line in lines(file)))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # a row per line under another name
            yield from _json_lines(file)
            return
        raise ValueError(f"{file} line {error.lineno} is not JSON: {error}") from None
    except RecursionError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if isinstance(found, dict):
        found = found.get("data", [found])
    if not isinstance(found, list):
        raise ValueError(f'{file} holds neither a list of rows nor one as "data"')
    for number, row in enumerate(found, 1):
        row = _row(row, f"{file}: row {number}")
        if isinstance(row.get("paragraphs"), list):
            yield from _questions(row["paragraphs"], f"{file}: row {number}")
        else:
            yield row


def _questions(paragraphs: list[Any], where: str) -> Iterator[Row]:
    """Rows of SQuAD's nested form."""
    for paragraph in paragraphs:
        asked = _row(paragraph, where).get("qas")
        if not isinstance(asked, list):
            raise ValueError(f'{where} has a paragraph without a list "qas"')
        for question in asked:
            told = {k: _row(question, where).get(k) for k in ("question", "answers")}
            yield {**told, "context": paragraph.get("context")}


def _csv(file: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # a document in a cell is longer than the module expects
    cells = csv.reader((line for _, line in lines(file)), strict=True)

    def numbered() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in cells:
                yield cells.line_num, row
        except csv.Error as error:
            raise ValueError(f"{file} line {cells.line_num} is no CSV: {error}") from None

    yield from _named(numbered(), file)


def _tsv(file: Path) -> Iterator[Row]:
    def split(line: str) -> list[str]:
        line = line.rstrip("\r\n")
        return line.split("\t") if line else []

    yield from _named(((number, split(line)) for number, line in lines(file)), file)


def _named(cells: Iterator[tuple[int, list[str]]], file: Path) -> Iterator[Row]:
    """Rows, from lists of cells of which the first names the columns; empty lines are none."""
    full = ((number, row) for number, row in cells if row)
    _, names = next(full, (0, []))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{file} has two columns {twice!r}; its first line must name each once")
    for number, row in full:
        if len(row) != len(names):
            raise ValueError(
                f"{file} line {number} has {len(row)} cells and the first line names {len(names)} "
                "columns"
            )
        yield dict(zip(names, row, strict=True))


def _conll(file: Path) -> Iterator[Row]:
    tokens: list[str] = []
    tags: list[str] = []
    width = 0
    for number, line in lines(file):
        line = line.rstrip("\r\n")
        cells = line.split("\t") if "\t" in line else re.split(" +", line.strip(" "))
        if not line.strip():
            if tokens:
                yield {"tokens": tokens, "tags": tags}
            tokens, tags = [], []
            continue
        if cells[0] == "-DOCSTART-" or (line.startswith("#") and len(cells) != width):
            continue
        width = width or len(cells)
        if len(cells) != width or width < 2:
            raise ValueError(
                f"{file} line {number} has {len(cells)} cells; a line is a token and its tag, "
                f"here {max(width, 2)} cells"
            )
        tokens.append(cells[0])
        tags.append(cells[-1])
    if tokens:
        yield {"tokens": tokens, "tags": tags}


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".conll": _conll,
    ".bio": _conll,
    ".iob": _conll,
}


def reader(file: Path) -> Callable[[Path], Iterator[Row]] | None:
    """What reads the rows of a file, by its suffix; None if it is no table."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return READERS.get(suffixes[-1]) if suffixes else None
