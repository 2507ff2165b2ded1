"""What the first rows of a table of series say: its form, its names, its column of dates.

A column that is called after a time, or after a part of one, is never a series by itself: it holds
the dates (a year alone is one in a column so called) or, beside another that does, is left unread.
Nor is an index of pandas without a name, which is what rows were called in memory.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from subquad.data.series_sheet import MISSING, Columns, Row, is_date

__all__ = ["form", "is_series", "named", "time_column", "usual", "without_index"]

_USUAL = {
    "item": ("item_id", "unique_id", "series_id", "item", "series", "id"),
    "time": ("timestamp", "date", "datetime", "time", "ds"),
    "target": ("target", "y", "value"),
}
# what tells of a time, but perhaps only of a part of one
_PARTS = ("year", "month", "quarter", "week", "day", "hour", "period")
_INDEX = re.compile(r"__index_level_\d+__")  # so pandas calls what has no name


def form(head: list[Row], told: Columns) -> str:
    """What the first rows of a table, and the names that are told, say of its form."""
    first = [_word(cell) for cell in head[0][1]]
    item, time, target = (
        given is not None or any(name in _USUAL[kind] for name in first)
        for kind, given in (("item", told.item), ("time", told.time), ("target", None))
    )
    if (target and (item or time)) or (item and time and len(first) > 2):
        return "long"
    if _is_time(first[0]) or any(is_date(cell) for cell in head[-1][1]):
        return "columns"
    numbers = all(_is_number(cell) for cell in head[-1][1])
    return "columns" if numbers and first[0] not in _USUAL["item"] else "wide"


def named(rows: Iterator[Row]) -> tuple[list[str], Iterator[Row]]:
    """The names in the first row, if it holds names, and the rows of values."""
    first = next(rows)
    word = [_word(cell) for cell in first[1]]
    said = (
        word[0] in _USUAL["item"]
        or _is_time(word[0])
        or (len(word) == 1 and not _is_number(word[0]))
    )
    if said or any(not _is_number(one) and one not in MISSING for one in word[1:]):
        return [str(cell) for cell in first[1]], rows
    return [], chain([first], rows)


def usual(kind: str, names: Sequence[str]) -> str | None:
    """The first column with one of the usual names."""
    lower = {_word(name): name for name in reversed(names)}
    return next((lower[name] for name in _USUAL[kind] if name in lower), None)


def is_series(name: str) -> bool:
    """May a column so called be a series, although nobody says so?"""
    return bool(name.strip()) and not _is_time(_word(name)) and not _INDEX.fullmatch(name)


def without_index(
    head: list[Row], rows: Iterator[Row], told: Columns
) -> tuple[list[Row], Iterator[Row], list[str]]:
    """The first rows and the others without an index of pandas, unless it holds dates or is asked
    for; and what was left out."""
    asked = (told.item, told.time, *told.target, *told.covariates)
    pairs = enumerate(zip(head[0][1], head[-1][1], strict=False))
    gone = {
        i: str(name)
        for i, (name, cell) in pairs
        if _INDEX.fullmatch(str(name)) and name not in asked and not is_date(cell)
    }
    if not gone:
        return head, rows, []

    def kept(rows: Iterable[Row]) -> Iterator[Row]:
        for line, cells in rows:
            yield line, [cell for i, cell in enumerate(cells) if i not in gone]

    return [*kept(head)], kept(rows), [*gone.values()]


def time_column(told: Columns, names: Sequence[str], cells: Sequence[object] = ()) -> str | None:
    """The column of dates: as told, or with a usual name, or with a date in the first row of
    values, `cells`, or else one that is called after a part of a time."""
    free = [name for name in names if name not in (*told.covariates, *told.target)]
    pairs = zip(names, cells, strict=False)
    dated = (name for name, cell in pairs if name in free and is_date(cell))
    parts = (name for part in _PARTS for name in free if _word(name) == part)
    return told.time or usual("time", names) or next(dated, None) or next(parts, None)


def _is_time(word: str) -> bool:
    return word in (*_USUAL["time"], *_PARTS)


def _word(cell: object) -> str:
    return str(cell).strip().lower()


def _is_number(cell: object) -> bool:
    try:
        float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False
    return True
