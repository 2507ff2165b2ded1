"""Sheets: cells of a table of series as numbers and dates, and dates as steps of a frequency."""

import math
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from subquad.data.frequency import Frequency, infer, moment
from subquad.data.series import Collected

__all__ = [
    "LAYOUTS",
    "MISSING",
    "Columns",
    "Row",
    "Sheet",
    "agreed",
    "find",
    "find_each",
    "is_date",
    "placed",
]

#: the line, from 1, and its cells
Row = tuple[int, Sequence[object]]

LAYOUTS = ("auto", "wide", "columns", "long")
MISSING = {"", "nan", "na", "n/a", "null", "none", "<na>"}
_DATE = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}([T ].*)?|\d{4}[-/]\d{1,2}")
_YEAR = re.compile(r"\d{4}")
_SPARSE = 1000  # steps to a row, above which a date is taken for a slip


@dataclass(frozen=True)
class Columns:
    """Which columns hold what. Names that are not given are looked for among the usual ones.

    target: of long the one with the values, of columns those that are series; default all.
    known, late: covariates whose future is known, and those that are known when they have happened.
    """

    layout: str = "auto"
    item: str | None = None
    time: str | None = None
    target: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    late: tuple[str, ...] = ()

    @property
    def covariates(self) -> tuple[str, ...]:
        """Those known ahead, then the others."""
        return (*self.known, *self.late)


@dataclass(frozen=True)
class Sheet:
    """Rows of a file, the first of which may name the columns.

    least: the smallest target that can be, for counts.
    """

    file: str
    rows: Iterable[Row]
    columns: Columns
    least: float | None = None

    def number(self, cell: object, line: int, column: str, least: float | None = None) -> float:
        """A cell as a number, NaN if it is missing. ValueError for what is neither."""
        found = math.nan
        if isinstance(cell, str):
            try:
                found = float(cell)
            except ValueError:
                if cell.strip().lower() not in MISSING:
                    self.wrong(line, column, f"{cell!r} is no number")
        elif cell is not None:
            try:
                found = float(cell)  # type: ignore[arg-type]
            except OverflowError:  # whole numbers of JSON have any length
                found = math.inf
            except (TypeError, ValueError):
                self.wrong(line, column, f"{cell!r} is no number")
        if abs(found) > 3e38:
            self.wrong(line, column, f"{_short(cell)} is too large")
        if least is not None and found < least:
            self.wrong(line, column, f"{cell!r} is no count; choose another --task.likelihood")
        return found

    def date(self, cell: object, line: int, column: str) -> int:
        """A cell as the second since 1970. ValueError if it is no date."""
        told = str(cell).strip()
        if column.strip().lower() == "year" and _YEAR.fullmatch(told):
            cell = f"{told}-01-01"
        try:
            return moment(cell)
        except ValueError as error:
            self.wrong(line, column, f"{_short(cell)} {error}")

    def name(self, cell: object, line: int, column: str) -> str:
        """A cell as the name of a series. ValueError if it is empty."""
        found = "" if cell is None else str(cell)
        if not found.strip():
            self.wrong(line, column, "a series has no name")
        return found

    def wrong(self, line: int, column: str, why: str) -> NoReturn:
        """ValueError that names the place."""
        raise ValueError(f"{self.file} line {line}, column {column!r}: {why}")


def is_date(cell: object) -> bool:
    """Does this look like a date? It may still be none."""
    return hasattr(cell, "isoformat") or (
        isinstance(cell, str) and _DATE.fullmatch(cell.strip()) is not None
    )


def find(file: str, name: str, names: Sequence[str]) -> int:
    """Where a column is. ValueError if there is none, or more than one."""
    if name not in names:
        raise ValueError(f"{file} has no column {name!r}; its columns are {', '.join(names)}")
    if names.count(name) > 1:
        raise ValueError(
            f"{file} has {names.count(name)} columns {name!r}; each wants its own name"
        )
    return names.index(name)


def find_each(file: str, wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Where some columns are. ValueError for one that is wanted twice."""
    at = [find(file, name, names) for name in wanted]
    if twice := next((name for name in wanted if wanted.count(name) > 1), None):
        raise ValueError(
            f"{file}: column {twice!r} is asked for twice; what is forecast is no covariate, and "
            "what is known ahead is not known late"
        )
    return at


def agreed(file: str, asked: Frequency | None, stamps: np.ndarray) -> Frequency:
    """The frequency of dates in any order. ValueError if another one is asked for.

    What is asked for is right if every date is a step of it and most are one step apart: days may
    lack their weekends, and a quarter may be 13 weeks or three months.
    """
    stamps = np.unique(stamps)
    if asked is not None:
        places = asked.places(stamps[0], stamps) if len(stamps) else stamps.astype(np.int64)
        steps, often = np.unique(np.diff(places), return_counts=True)
        if len(stamps) < 3 or ((places >= 0).all() and steps[often.argmax()] == 1):
            return asked
    try:
        found = infer(stamps)
    except ValueError as error:
        raise ValueError(f"{file}: {error}; say it with --freq, as in --freq H") from None
    if asked is not None and asked != found:
        raise ValueError(f"the dates of {file} are {found} apart, and {asked} is asked for")
    return found


def placed(
    file: str,
    column: str,
    rows: tuple[np.ndarray, array, np.ndarray],
    frequency: Frequency,
    made: Collected,
    item: str = "",
) -> tuple[np.ndarray, np.datetime64, Frequency]:
    """Rows, (dates (n,), lines, values (n, K)), on the steps of a frequency; the first date; and
    the frequency on the day of the month of these dates.

    Steps without a row are NaN, and counted in `made`.  ValueError for a date that comes twice, or
    is no step.
    """
    stamps, lines, table = rows
    of = f" of {item!r}" if item else ""
    order = np.argsort(stamps, kind="stable")
    stamps, table = stamps[order], table[order]
    for at in np.flatnonzero(np.diff(stamps.astype(np.int64)) == 0)[:1]:
        one, two = sorted((lines[order[at]], lines[order[at + 1]]))
        raise ValueError(
            f"{file} line {two}, column {column!r}: {_told(stamps[at])}{of} stands in line {one} "
            "already; each time wants one row"
        )
    places = frequency.places(stamps[0], stamps)
    for at in np.flatnonzero(places < 0)[:1]:
        raise ValueError(
            f"{file} line {lines[order[at]]}, column {column!r}: {_told(stamps[at])}{of} is no "
            f"multiple of {frequency} after the first, {_told(stamps[0])}"
        )
    for at in np.flatnonzero(np.diff(places) == 0)[:1]:
        raise ValueError(
            f"{file} line {lines[order[at + 1]]}, column {column!r}: {_told(stamps[at + 1])}{of} "
            f"falls in the same {frequency} as line {lines[order[at]]}"
        )
    steps = int(places[-1]) + 1
    if steps > _SPARSE * len(stamps):
        at = int(np.diff(places).argmax()) + 1
        raise ValueError(
            f"{file} line {lines[order[at]]}, column {column!r}: {_told(stamps[at])}{of} comes "
            f"{int(places[at] - places[at - 1]):,} steps of {frequency} after the date before it; "
            "is one of them wrong?"
        )
    if steps > len(stamps):
        made.counts["steps without a row, filled as missing"] += steps - len(stamps)
    grid = np.full((steps, table.shape[1]), np.nan, np.float32)
    grid[places] = table
    return grid, stamps[0], frequency.fitted(stamps)


def _short(cell: object) -> str:
    told = repr(cell)
    return told if len(told) <= 60 else f"{told[:60]}..."


def _told(stamp: np.datetime64) -> str:
    return str(stamp).replace("T", " ")
