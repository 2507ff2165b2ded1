"""Frequencies of series: names, places in time, calendars.

    s min H D B W M Q Y, each with a number before it if need be: 15min, 2H, 4W

The names are pandas' (T, MS, ME, QS, YE, W-SUN and their like are read too); B are the days from
Monday to Friday. Times have no zone: what is written with one is read as UTC.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

__all__ = ["UNDATED", "Frequency", "infer", "moment"]

#: where series begin that have no dates: a Monday, the first day of a year and a month
UNDATED = np.datetime64("2001-01-01T00:00:00", "s")

_SECONDS = {"s": 1, "min": 60, "H": 3600, "D": 86_400, "W": 604_800}
# alias -> (how many, unit)
_NAMES = {
    **dict.fromkeys(("s", "S"), (1, "s")),
    **dict.fromkeys(("min", "T"), (1, "min")),
    **dict.fromkeys(("h", "H"), (1, "H")),
    **dict.fromkeys(("d", "D"), (1, "D")),
    "B": (1, "B"),
    "W": (1, "W"),
    **dict.fromkeys(("M", "MS", "ME", "BM"), (1, "M")),
    **dict.fromkeys(("Q", "QS", "QE"), (3, "M")),
    **dict.fromkeys(("Y", "A", "YS", "YE", "AS"), (12, "M")),
}
_LARGER = {"s": (60, "min"), "min": (60, "H"), "H": (24, "D"), "D": (7, "W")}
_SEASON = {"s": 60, "min": 1440, "H": 24, "D": 7, "B": 5, "W": 52, "M": 12}
_MONTH = re.compile(r"\d{4}-\d\d")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Frequency:
    """A step of time: `count` units of s, min, H, D, B, W or M.

    day: of the month on which steps of months stand, or its last day if it has none such, so 31 is
    the last of all; 0 is not told, and then a first step on the last day of its month means 31.
    """

    count: int
    unit: str
    day: int = field(default=0, compare=False)

    @classmethod
    def of(cls, name: str) -> "Frequency":
        """The frequency of a name. ValueError for one that is not known."""
        found = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Z]+)?", name.strip())
        if found is None or found[2] not in _NAMES or found[1] == "0":
            raise ValueError(
                f"there is no frequency {name!r}; s, min, H, D, B, W, M, Q and Y are, with a "
                "number before them if need be, as in 15min"
            )
        many, unit = _NAMES[found[2]]
        count = many * int(found[1] or 1)
        while unit in _LARGER and count % _LARGER[unit][0] == 0:
            count, unit = count // _LARGER[unit][0], _LARGER[unit][1]
        return cls(count, unit)

    def __str__(self) -> str:
        count, unit = self.count, self.unit
        for name, many in (("Y", 12), ("Q", 3)):
            if unit == "M" and count % many == 0:
                count, unit = count // many, name
                break
        return unit if count == 1 else f"{count}{unit}"

    @property
    def season(self) -> int:
        """Steps after which things are expected to come again: a day of hours, a week of days."""
        return max(1, _SEASON[self.unit] // self.count)

    def on(self, day: int) -> "Frequency":
        """The same step, on a day of the month."""
        return replace(self, day=int(day))

    def fitted(self, stamps: np.ndarray) -> "Frequency":
        """The same step, on the day of the month of times (n,): one that starts on 28 February goes
        on at the ends of months only if all of them are such."""
        if self.unit != "M" or len(stamps) < 2:
            return self
        days, ends = _days_of_months(stamps)
        most = 31 if (days == ends).all() else days.max()
        # dates on no fixed day of the month go on at that of the first
        return self.on(most if (days == np.minimum(most, ends)).all() else days[0])

    def stamps(self, start: np.datetime64, first: int, count: int) -> np.ndarray:
        """The times of `count` steps from step `first` on, (count,) datetime64[s]."""
        steps = np.arange(first, first + count) * self.count
        start = start.astype("M8[s]")
        if self.unit in _SECONDS:
            return start + steps * np.timedelta64(_SECONDS[self.unit], "s")
        day, month = start.astype("M8[D]"), start.astype("M8[M]")
        if self.unit == "B":
            days = np.busday_offset(day, steps, roll="forward")
        else:
            months = month + steps
            (own,), (end,) = _days_of_months(np.asarray([start]))
            at = self.day or (31 if own == end else own)
            ends = (months + 1).astype("M8[D]") - 1
            days = np.minimum(months.astype("M8[D]") + (at - 1), ends)
        return days.astype("M8[s]") + (start - day.astype("M8[s]"))

    def places(self, start: np.datetime64, stamps: np.ndarray) -> np.ndarray:
        """The steps (n,) at which times (n,) stand; -1 for a time that no step meets.

        A month is met on any of its days.
        """
        if self.unit in _SECONDS:
            gone, every = (stamps - start).astype(np.int64), _SECONDS[self.unit] * self.count
        elif self.unit == "B":
            day = stamps.astype("M8[D]")
            gone, every = np.busday_count(start.astype("M8[D]"), day), self.count
            same = stamps - day == start - start.astype("M8[D]")
            gone = np.where(np.is_busday(day) & same, gone, -1)
        else:
            gone = (stamps.astype("M8[M]") - start.astype("M8[M]")).astype(np.int64)
            every = self.count
        return np.where((gone >= 0) & (gone % every == 0), gone // every, -1)

    @property
    def calendar(self) -> tuple[str, ...]:
        """What of the calendar changes from step to step."""
        every = ("second", "minute", "hour", "weekday", "day", "month", "year")
        from_ = {"s": 0, "min": 1, "H": 2, "D": 3, "B": 3, "W": 4, "M": 5}[self.unit]
        names = every[from_:]
        return names[1:] if self.unit == "M" and self.count % 12 == 0 else names

    def years(self, stamps: np.ndarray) -> np.ndarray:
        """The years of times (n,), float32: the last column of `features`."""
        return (1970 + stamps.astype("M8[Y]").astype(np.int64)).astype(np.float32)

    def features(self, stamps: np.ndarray) -> np.ndarray:
        """What the calendar says of times (n,): (n, `calendar`) float32.

        Each is standardised as if all its values came equally often; years stand as they are.
        """
        day, month = stamps.astype("M8[D]"), stamps.astype("M8[M]")
        second = (stamps - day).astype(np.int64)
        values = {
            "second": (second % 60, 60),
            "minute": (second // 60 % 60, 60),
            "hour": (second // 3600, 24),
            "weekday": ((day.astype(np.int64) + 3) % 7, 7),  # 1970 began on a Thursday
            "day": ((day - month.astype("M8[D]")).astype(np.int64), 31),
            "month": (month.astype(np.int64) % 12, 12),
        }
        columns = [_standard(*values[name]) for name in self.calendar[:-1]]
        return np.stack([*columns, self.years(stamps)], -1).astype(np.float32)


def _days_of_months(stamps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of times (n,) the day of the month, from 1, and the last day of that month, (n,) int64."""
    months = stamps.astype("M8[M]")
    begin = months.astype("M8[D]")
    ends = (months + 1).astype("M8[D]") - begin
    return (stamps.astype("M8[D]") - begin).astype(np.int64) + 1, ends.astype(np.int64)


def _standard(values: np.ndarray, many: int) -> np.ndarray:
    """Whole numbers from 0 to many - 1, at mean 0 and variance 1."""
    return (values - (many - 1) / 2) / np.sqrt((many**2 - 1) / 12)


def moment(cell: object) -> int:
    """The second since 1970 of a date or time; a month, as 2016-07, is its first day.

    ValueError, which goes on from the cell's name, if it is none or no whole second.
    """
    if isinstance(cell, datetime):
        found = cell
    else:
        told = str(cell).strip().replace("/", "-")
        try:
            found = datetime.fromisoformat(f"{told}-01" if _MONTH.fullmatch(told) else told)
        except ValueError:
            raise ValueError("is no date; write it as 2016-07-01 13:00:00") from None
    if found.microsecond:
        raise ValueError("has a part of a second, and times are read in whole seconds")
    if found.tzinfo is None:
        found = found.replace(tzinfo=UTC)
    gone = found - _EPOCH
    return gone.days * 86_400 + gone.seconds


def infer(stamps: np.ndarray) -> Frequency:
    """The frequency of rising times (n,) datetime64[s]: the step that comes most often.

    ValueError for fewer than three.
    """
    if len(stamps) < 3:
        raise ValueError(f"{len(stamps)} dates do not tell how often values come")
    steps = np.diff(stamps).astype(np.int64)
    often = Counter(steps.tolist()).most_common(1)[0][0]
    days = often // 86_400
    uneven = bool((steps % often).any())  # as four weeks are not, some of them left out
    for months, (low, high) in ((1, (28, 31)), (3, (89, 92)), (12, (365, 366))):
        if low <= days <= high and (months > 1 or uneven):
            return Frequency(months, "M")
    if days == 1 and len(stamps) > 5:
        weekdays = (stamps.astype("M8[D]").astype(np.int64) + 3) % 7
        if weekdays.max() < 5 and len(set(weekdays.tolist())) == 5:
            return Frequency(1, "B")
    return Frequency.of(f"{often}s")
