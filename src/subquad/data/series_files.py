"""Where series come from.

FILE          a table: .csv, .tsv (plain, .xz, .gz or .bz2) or .parquet, in one of the forms of
              `series_tables`.
TRAIN,TEST    two such files of the same series; the second goes on where the first ends, or, if
              its dates say so, holds all from the beginning, with the same values.
FOLDER        a data set of GluonTS: metadata.json with the frequency, and in the folders train and
              test files of JSON lines {"start": ..., "target": [...], "item_id": ...}. Of tests
              that roll on, the longest is read.

Without dates series begin at a made-up time, and their calendar is a mere clock: hour 0 is the
first value's.
"""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data import sources
from subquad.data.frequency import Frequency
from subquad.data.series import Collected, Series
from subquad.data.series_gluonts import gluonts
from subquad.data.series_joined import joined
from subquad.data.series_parquet import parquet_rows
from subquad.data.series_sheet import Columns, Row, Sheet
from subquad.data.series_tables import collect
from subquad.data.tables import lines

__all__ = ["from_row", "open_series"]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


def open_series(
    path: str, columns: Columns, frequency: Frequency | None, least: float | None = None
) -> tuple[Series, np.ndarray | None]:
    """The series at a path, and how many steps of each are its test, if files say so.

    frequency: what the user says; None: what the dates tell.  least: the smallest target.
    ValueError for what is missing, damaged, or contradicts itself.
    """
    named = Path(path).expanduser()
    if "," in path and not named.exists():
        paths = [part.strip() for part in path.split(",")]
        if len(paths) != 2:
            raise ValueError(f"{path} names {len(paths)} files; FILE or TRAIN,TEST are read")
        train, test = (_table(sources.existing(p), columns, frequency, least) for p in paths)
        return joined(train, test)
    where = sources.existing(path)
    if not where.is_dir():
        return _table(where, columns, frequency, least), None
    told = where / "metadata.json"
    if not told.is_file():
        raise ValueError(f"the folder {path} has no metadata.json; folders are read as GluonTS's")
    return gluonts(where, told, frequency, least)


def from_row(
    row: Mapping[str, Any], columns: Columns, frequency: Frequency | None, least: float | None
) -> Series:
    """A series of one row {"target": [...], "start": ..., "item_id": ...}, and a list for each
    covariate; they go on into the future, where the target has ended.

    ValueError without a target, for another name, and for a covariate that is shorter.
    """
    start, wanted = row.get("start"), ("target", *columns.covariates)
    if lacks := [name for name in wanted if not isinstance(row.get(name), list)]:
        raise ValueError(f"a row wants a list {lacks[0]}; this one has {', '.join(row) or 'none'}")
    if others := row.keys() - {"start", "item_id", *wanted}:
        raise ValueError(
            f"a row has {', '.join(sorted(others))}, and this run reads start, item_id, "
            f"{', '.join(wanted)}"
        )
    sheet, made = Sheet("this row", (), Columns()), Collected(columns.covariates)
    begin = None if start is None else np.datetime64(sheet.date(start, 1, "start"), "s")
    lists = [
        [sheet.number(x, 1, f"{name}[{i}]", None if j else least) for i, x in enumerate(row[name])]
        for j, name in enumerate(wanted)
    ]
    most = max(map(len, lists))
    for name, cells in zip(wanted[1:], lists[1:], strict=True):
        if len(cells) < len(lists[0]):
            raise ValueError(
                f"{name} has {len(cells)} values and the target {len(lists[0])}; it must go as far"
            )
    table = np.full((most, len(wanted)), np.nan, np.float32)
    for j, cells in enumerate(lists):
        table[: len(cells), j] = cells
    name, known = str(row.get("item_id", "series")), table[:, 1:] if wanted[1:] else None
    made.add(name, table[:, 0], begin, frequency, known)
    dated = start is not None and frequency is not None
    return made.done("a row", "row", frequency, dated=dated)


def _table(
    file: Path, columns: Columns, frequency: Frequency | None, least: float | None
) -> Series:
    made, how = collect(Sheet(str(file), _rows(file), columns, least), frequency)
    return made.done(file.name, sources.key_of([file]), **how)


def _rows(file: Path) -> Iterator[Row]:
    """The rows of a table with their lines; empty lines are none."""
    kinds = [suffix.lower() for suffix in file.suffixes]
    kind = next((k for k in reversed(kinds) if k in (*_DELIMITERS, ".parquet")), None)
    if kind is None:
        known = ", ".join(_DELIMITERS)
        raise ValueError(f"{file} is no table that is read here: {known} and .parquet are")
    if kind == ".parquet":
        yield from parquet_rows(file)
        return
    csv.field_size_limit(2**31 - 1)
    cells = csv.reader((line for _, line in lines(file)), delimiter=_DELIMITERS[kind], strict=True)
    try:
        yield from ((cells.line_num, row) for row in cells if row)
    except csv.Error as error:
        raise ValueError(f"{file} line {cells.line_num} is no table: {error}") from None
