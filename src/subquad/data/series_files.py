"""Where series come from.

FILE          a table: .csv, .tsv (plain, .xz, .gz or .bz2) or .parquet, in one of the forms of
              `series_tables`.
TRAIN,TEST    two such files of the same series; the second goes on where the first ends, or, if
              its dates say so, holds all from the beginning.
FOLDER        a data set of GluonTS: metadata.json with the frequency, and in the folders train and
              test files of JSON lines {"start": ..., "target": [...], "item_id": ...}. Of tests
              that roll on, the longest is read.

Without dates series begin at a made-up time, and their calendar is a mere clock: hour 0 is the
first value's.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data import sources
from subquad.data.frequency import Frequency
from subquad.data.series import Collected, Series
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
        return _joined(train, test)
    where = sources.existing(path)
    if not where.is_dir():
        return _table(where, columns, frequency, least), None
    told = where / "metadata.json"
    if not told.is_file():
        raise ValueError(f"the folder {path} has no metadata.json; folders are read as GluonTS's")
    return _gluonts(where, told, frequency, least)


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
        yield from _parquet(file)
        return
    csv.field_size_limit(2**31 - 1)
    cells = csv.reader((line for _, line in lines(file)), delimiter=_DELIMITERS[kind], strict=True)
    try:
        yield from ((cells.line_num, row) for row in cells if row)
    except csv.Error as error:
        raise ValueError(f"{file} line {cells.line_num} is no table: {error}") from None


def _parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"{error}; {file.name} needs it: pip install 'subquad[series]', or write it as .csv"
        ) from error
    try:
        with parquet.ParquetFile(file) as found:
            yield 1, found.schema_arrow.names
            number = 1
            for batch in found.iter_batches():
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _joined(train: Series, test: Series) -> tuple[Series, np.ndarray]:
    """Series of which the end is given apart."""
    frequency, numbers = train.frequency, {name: i for i, name in enumerate(test.names)}
    if str(frequency) != str(test.frequency):
        raise ValueError(
            f"{train.source} has a step of {frequency}, and {test.source} one of {test.frequency}"
        )
    if missing := [name for name in train.names if name not in numbers]:
        raise ValueError(
            f"{test.source} has no series {missing[0]!r}, and {train.source} has; a test holds "
            f"all of them ({len(missing):,} are not there)"
        )
    made, held = Collected(train.covariate_names), []
    for name, count in (*train.counts.items(), *test.counts.items()):
        made.counts[name] += count
    if more := len(test) - len(train):
        made.counts["series left out that are only in the test"] += more
    for i, name in enumerate(train.names):
        j = numbers[name]
        before, after = train.of(i), test.of(j)
        at = len(before)
        if train.dated and test.dated and frequency is not None:
            at = int(frequency.places(train.start[i], test.start[j : j + 1])[0])
        elif not test.dated:  # blank cells before its first value are steps
            at += int(test.blank[j])
        if (at < len(before) and at != 0) or at + len(after) <= len(before):
            raise ValueError(
                f"series {name!r} of {test.source} begins at {test.start[j]}, and that of "
                f"{train.source} at {train.start[i]} with {len(before):,} steps of {frequency}; "
                "the test must go on after its end, or hold it all"
            )
        values = np.full(at + len(after), np.nan, np.float32)
        values[: len(before)] = before
        values[at:] = after
        known = None
        if train.covariate_names:
            told = test.known(j)
            known = np.full((at + len(told), len(train.covariate_names)), np.nan, np.float32)
            known[: len(before)] = train.known(i)[: len(before)]
            known[at:] = told
            values = np.concatenate([values, np.full(len(known) - len(values), np.nan)])
        made.add(name, values, train.start[i], frequency, known)
        held.append(at + len(after) - len(before))
    key = f"{train.key[:16]}{test.key[:16]}"
    source = f"{train.source} and {test.source}"
    how: dict[str, Any] = {"dated": train.dated, "together": train.together}
    return made.done(source, key, frequency, **how), np.asarray(held)


def _gluonts(
    where: Path, told: Path, asked: Frequency | None, least: float | None
) -> tuple[Series, np.ndarray | None]:
    try:
        about = json.loads(told.read_text(encoding="utf-8"))
        frequency = Frequency.of(about["freq"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{told} names no frequency: {type(error).__name__}: {error}") from None
    if asked is not None and asked != frequency:
        raise ValueError(f"{told} says {frequency}, and {asked} is asked for")
    parts = {}
    for part in ("train", "test"):
        files = [f for f in sources.visible(where / part) if {".json", ".jsonl"} & {*f.suffixes}]
        if files:
            made = Collected()
            for start, values, name in _entries(files, least, part == "test", made.counts):
                made.add(name, values, start, frequency)
            key = sources.key_of(files)
            parts[part] = made.done(f"the {part} part of {where.name}", key, frequency, dated=True)
    if not parts:
        raise ValueError(f"{where} has no JSON lines in train or test")
    if len(parts) == 2:
        return _joined(parts["train"], parts["test"])
    return next(iter(parts.values())), None


def _entries(
    files: list[Path], least: float | None, rolling: bool, counts: Counter[str]
) -> Iterator[tuple[np.datetime64, np.ndarray, str]]:
    """(start, values, name) of each series; of those that come again, longer, the longest."""
    longest: dict[str, tuple[np.datetime64, np.ndarray]] = {}
    place = 0
    for file in files:
        for line, text in lines(file):
            sheet = Sheet(str(file), (), Columns())
            try:
                row = json.loads(text)
                start, target = row["start"], row["target"]
                if not isinstance(target, list):
                    raise TypeError(f"target is {str(target)[:40]!r} and no list")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f"{file} line {line} is no series with start and target: "
                    f"{type(error).__name__}: {error}"
                ) from None
            at = np.datetime64(sheet.date(start, line, "start"), "s")
            values = [sheet.number(x, line, f"target[{i}]", least) for i, x in enumerate(target)]
            name = str(row.get("item_id", place))
            place += 1
            for other in row.keys() - {"start", "target", "item_id"}:
                counts[f"entries of {other} left unread"] += 1
            before = longest.get(name)
            if before is not None and not rolling:
                raise ValueError(f"{file} line {line} has series {name!r} a second time")
            if before is None or len(values) > len(before[1]):
                longest[name] = at, np.asarray(values, np.float32)
    yield from ((at, values, name) for name, (at, values) in longest.items())
