"""Tables of series, in three forms: a row per series, a column per series, a row per value.

wide      a row per series: its name, then its values (as M4 has them); in the first line names of
          the columns, or their dates, or none
columns   a row per time, in a column its date, and a column per series (as ETT has them); numbers
          alone, without dates and names of columns, are read so too
long      a row per value, in columns item_id, timestamp, target and what else is known
auto      long if a column is called target, y or value, or one names series and another has their
          dates; columns if a cell of the second row is a date, or all are numbers; else wide

Rules. Rows of a long table may stand in any order. A date that comes twice is refused, and so is
one that is no multiple of the step away from the first. Steps without a row are missing values,
and counted. Empty cells, nan, na and null are missing values.
A series without a name is refused; a column without one is left unread, unless it holds the dates.
Columns that `series_head` takes for no series are left unread too, and counted.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np

from subquad.data.frequency import Frequency
from subquad.data.series import Collected
from subquad.data.series_head import form, is_series, named, time_column, usual, without_index
from subquad.data.series_sheet import Row, Sheet, agreed, find, find_each, is_date, placed

__all__ = ["collect"]

Read = tuple[Collected, dict[str, Any]]


def collect(sheet: Sheet, frequency: Frequency | None) -> Read:
    """The series of a table, and how they were read: frequency, dated, together.

    frequency: what the user says. ValueError if dates say otherwise.
    """
    rows = iter(sheet.rows)
    head = list(islice(rows, 2))
    if not head:
        raise ValueError(f"{sheet.file} holds no rows")
    line, cells = head[0]
    if len(cells) == 1 and any(mark in str(cells[0]) for mark in ";,\t"):
        raise ValueError(
            f"{sheet.file} line {line} is one cell, {str(cells[0])[:60]!r}: cells stand between "
            "commas in a .csv, tabs in a .tsv"
        )
    head, rows, unread = without_index(head, rows, sheet.columns)
    layout = sheet.columns.layout
    layout = form(head, sheet.columns) if layout == "auto" else layout
    read = {"wide": _wide, "columns": _columns, "long": _long}[layout]
    made, how = read(sheet, chain(head, rows), frequency)
    _count_unread(made, unread)
    return made, how


def _wide(sheet: Sheet, rows: Iterator[Row], frequency: Frequency | None) -> Read:
    told = sheet.columns
    if told.covariates:
        raise ValueError(f"{sheet.file} has a row per series, which holds no covariates")
    names, rows = named(rows)
    if told.time or told.target or told.item not in (None, *names[:1]):
        raise ValueError(
            f"{sheet.file} is read as a row per series, its name first; leave --task.item, "
            "--task.time and --task.target out, or say another --task.layout"
        )
    start = None
    if len(names) > 3 and all(is_date(name) for name in names[1:]):
        stamps = np.asarray([sheet.date(name, 1, name) for name in names[1:]], "M8[s]")
        frequency = agreed(sheet.file, frequency, stamps)
        start, frequency = stamps[0], frequency.fitted(stamps)
        if (frequency.places(start, stamps) != np.arange(len(stamps))).any():
            raise ValueError(f"{sheet.file}: the dates in its first line are not {frequency} apart")
    made = Collected()
    for line, cells in rows:
        if names and len(cells) > len(names):
            raise ValueError(
                f"{sheet.file} line {line} has {len(cells)} cells and the first line {len(names)}"
            )
        called = names or [str(i) for i in range(len(cells))]
        values = [
            sheet.number(cell, line, called[i], sheet.least) for i, cell in enumerate(cells) if i
        ]
        name = sheet.name(cells[0], line, called[0])
        made.add(name, np.asarray(values, np.float32), start, frequency)
    return made, {"frequency": frequency, "dated": start is not None}


def _columns(sheet: Sheet, rows: Iterator[Row], frequency: Frequency | None) -> Read:
    told = sheet.columns
    names, rows = named(rows)
    first = next(rows, None)
    if first is None:
        raise ValueError(f"{sheet.file} names columns, and has no rows of values")
    if told.item:
        raise ValueError(
            f"{sheet.file} is read as a column per series; leave --task.item {told.item} out, or "
            "say --task.layout long"
        )
    names = names or [str(1 + i) for i in range(len(first[1]))]
    time = time_column(told, names, first[1])
    others = [name for name in names if name != time and name not in told.covariates]
    targets = told.target or [name for name in others if is_series(name)]
    if not targets:
        raise ValueError(
            f"{sheet.file} has no column that is a series; its columns are {', '.join(names)}"
        )
    at = find_each(sheet.file, [*targets, *told.covariates], names)
    when = None if time is None else find(sheet.file, time, names)
    found, stamps, lines = array("f"), array("q"), array("q")
    for line, cells in chain([first], rows):
        if len(cells) != len(names):
            raise ValueError(f"{sheet.file} line {line} has {len(cells)} cells, not {len(names)}")
        if when is not None:
            stamps.append(sheet.date(cells[when], line, names[when]))
        lines.append(line)
        found.extend(
            sheet.number(cells[i], line, names[i], sheet.least if j < len(targets) else None)
            for j, i in enumerate(at)
        )
    table = np.frombuffer(found, np.float32).reshape(len(lines), len(at))
    made = Collected(told.covariates)
    start, step = None, frequency
    if when is not None:
        dates = np.frombuffer(stamps, "M8[s]")
        frequency = agreed(sheet.file, frequency, dates)
        rows_of = (dates, lines, table)
        table, start, step = placed(sheet.file, names[when], rows_of, frequency, made)
    for j, name in enumerate(targets):
        known = table[:, len(targets) :] if told.covariates else None
        made.add(name, table[:, j], start, step, known)
    _count_unread(made, [n for n in others if n not in targets])
    how = {"frequency": frequency, "dated": when is not None, "together": True}
    return made, how


class _Item:
    """The rows of one series of a long table."""

    def __init__(self) -> None:
        self.stamps, self.lines, self.values = array("q"), array("q"), array("f")


def _long(sheet: Sheet, rows: Iterator[Row], frequency: Frequency | None) -> Read:
    told = sheet.columns
    names = [str(cell) for cell in next(rows)[1]]
    target = told.target[0] if told.target else usual("target", names)
    time, item = time_column(told, names), told.item or usual("item", names)
    if target is None or len(told.target) > 1:
        raise ValueError(
            f"{sheet.file} wants one column with the values, called target or named by "
            f"--task.target; its columns are {', '.join(names)}; if each is a series, say "
            "--task.layout columns"
        )
    read = [target, *told.covariates]
    at = find_each(sheet.file, read, names)
    when = None if time is None else find(sheet.file, time, names)
    which = None if item is None else find(sheet.file, item, names)
    items: dict[str, _Item] = {}
    for line, cells in rows:
        if len(cells) != len(names):
            raise ValueError(f"{sheet.file} line {line} has {len(cells)} cells, not {len(names)}")
        name = "" if which is None else sheet.name(cells[which], line, names[which])
        one = items.setdefault(name, _Item())
        if when is not None:
            one.stamps.append(sheet.date(cells[when], line, names[when]))
        one.lines.append(line)
        one.values.extend(
            sheet.number(cells[i], line, names[i], None if j else sheet.least)
            for j, i in enumerate(at)
        )
    made = Collected(told.covariates)
    if when is not None and items:
        longest = max(items.values(), key=lambda one: len(one.stamps))
        frequency = agreed(sheet.file, frequency, np.frombuffer(longest.stamps, "M8[s]"))
    for name, one in items.items():
        table = np.frombuffer(one.values, np.float32).reshape(-1, len(at))
        start, step = None, frequency
        if when is not None and frequency is not None:
            stamps = np.frombuffer(one.stamps, "M8[s]")
            found = (stamps, one.lines, table)
            table, start, step = placed(sheet.file, names[when], found, frequency, made, name)
        known = table[:, 1:] if told.covariates else None
        made.add(name or target, table[:, 0], start, step, known)
    _count_unread(made, [n for n in names if n not in {*read, time, item}])
    return made, {"frequency": frequency, "dated": when is not None}


def _count_unread(made: Collected, names: Sequence[str]) -> None:
    if names:
        told = ", ".join(name if name.strip() else "(no name)" for name in names)
        made.counts[f"columns left unread: {told}"] += len(names)
