"""Series: many sequences of numbers in time, end to end in memory, and their parts by time.

A series begins at its first value and ends at its last; blank cells between them are missing and
stand as NaN, as do the steps of a gap between dates. Cells after the end are its future, of which
only covariates are read. What cannot be used is left out and counted. 4 bytes a value, and as
many for each covariate.

Parts, for every series by itself: the last `held` steps are test, as many before them valid, the
rest train. Files that come apart, TRAIN,TEST, say themselves how long the test is. A split in rows,
as (8640, 2880, 2880), counts from the beginning, and what comes after it is not used.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from subquad.data.frequency import UNDATED, Frequency

__all__ = ["Collected", "Parts", "Series", "divided"]


@dataclass(frozen=True)
class Series:
    """Series i is values[first[i] : first[i] + length[i]], (total,) float32.

    covariates: (total, C) float32, in the order of `covariate_names`; they go on into a series'
    future, up to first[i + 1].  start: (S,) datetime64[s], the time of the first value.
    dated: False where no dates were given, and `start` is made up.
    blank: (S,), how many cells without a value stood before the first one.
    day: (S,), the `Frequency.day` of each.
    counts: what was made of the data, in words -> how often.
    """

    values: np.ndarray
    first: np.ndarray
    length: np.ndarray
    start: np.ndarray
    names: Sequence[str]
    frequency: Frequency | None
    source: str
    key: str
    dated: bool = True
    together: bool = False
    covariates: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))
    covariate_names: Sequence[str] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    blank: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    day: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.names)

    def of(self, number: int) -> np.ndarray:
        """The values of one series, without copying."""
        first = int(self.first[number])
        return self.values[first : first + int(self.length[number])]

    def known(self, number: int) -> np.ndarray:
        """The covariates of one series and of its future, without copying."""
        return self.covariates[int(self.first[number]) : int(self.first[number + 1])]

    def stamps(self, number: int, first: int, count: int) -> np.ndarray:
        """The times of `count` steps of a series. Without a frequency steps are days."""
        frequency = self.frequency or Frequency(1, "D")
        return frequency.on(self.day[number]).stamps(self.start[number], first, count)

    @property
    def untold(self) -> int:
        """Covariates that are missing, which are read as their mean: those of the past, and of a
        future that is told in part; what is known late has none."""
        count = 0
        for number in range(len(self) if self.covariates.size else 0):
            missing, end = np.isnan(self.known(number)), int(self.length[number])
            future = missing[end:]
            count += int(missing[:end].sum() + future[:, ~future.all(0)].sum())
        return count

    @property
    def says(self) -> str:
        """What this is, with all counts."""
        missing = sum(int(np.isnan(self.of(i)).sum()) for i in range(len(self)))
        told = [f"{len(self):,} series", f"{int(self.length.sum()):,} values"]
        told += [f"{missing:,} of them missing"] if missing else []
        told += [f"{self.untold:,} values of covariates missing"] if self.untold else []
        told += [f"{many:,} {what}" for what, many in self.counts.items()]
        return f"{self.source} ({', '.join(told)})"

    def only(self, which: Sequence[int], why: str) -> "Series":
        """Some of the series; the others are counted under a reason."""
        if len(which) == len(self):
            return self
        gone = {**self.counts, why: self.counts.get(why, 0) + len(self) - len(which)}
        spans = [slice(int(self.first[i]), int(self.first[i + 1])) for i in which]
        keep = np.concatenate([np.arange(s.start, s.stop) for s in spans] or [np.arange(0)])
        ends = np.cumsum([0, *(s.stop - s.start for s in spans)])
        return replace(
            self,
            values=self.values[keep],
            covariates=self.covariates[keep] if self.covariates.size else self.covariates,
            first=ends,
            length=self.length[list(which)],
            start=self.start[list(which)],
            blank=self.blank[list(which)],
            day=self.day[list(which)],
            names=[self.names[i] for i in which],
            counts=gone,
        )


class Collected:
    """Series as they are read, one after another."""

    def __init__(self, covariates: Sequence[str] = ()) -> None:
        self.covariate_names = tuple(covariates)
        self.values, self.known = array("f"), array("f")
        self.first, self.length = [0], list[int]()
        self.start, self.names = list[np.datetime64](), list[str]()
        self.blank, self.day = list[int](), list[int]()
        self.counts: Counter[str] = Counter()

    def add(
        self,
        name: str,
        values: np.ndarray,
        start: np.datetime64 | None,
        frequency: Frequency | None,
        covariates: np.ndarray | None = None,
    ) -> None:
        """One series on the steps of its frequency: values (n,), covariates (n, C)."""
        there = np.flatnonzero(~np.isnan(values))
        if not len(there):
            self.counts["series left out without any value"] += 1
            return
        begin, end = int(there[0]), int(there[-1]) + 1
        stop = len(values) if covariates is not None else end
        self.values.frombytes(np.asarray(values[begin:stop], np.float32).tobytes())
        if covariates is not None:
            self.known.frombytes(np.asarray(covariates[begin:stop], np.float32).tobytes())
        start = UNDATED if start is None else start
        if begin and frequency is not None:
            start = frequency.stamps(start, begin, 1)[0]
        self.first.append(len(self.values))
        self.length.append(end - begin)
        self.start.append(start)
        self.blank.append(begin)
        self.day.append(0 if frequency is None else frequency.day)
        self.names.append(name)

    def done(
        self,
        source: str,
        key: str,
        frequency: Frequency | None,
        *,
        dated: bool,
        together: bool = False,
    ) -> Series:
        """All of them. ValueError if there is none."""
        if not self.names:
            said = "".join(f"; {many:,} {what}" for what, many in self.counts.items())
            raise ValueError(f"{source} holds no series with a value{said}")
        if twice := next((n for n, many in Counter(self.names).items() if many > 1), None):
            raise ValueError(f"{source} has two series called {twice!r}; each wants its own name")
        columns = len(self.covariate_names)
        known = np.frombuffer(self.known, np.float32) if self.known else np.empty(0, np.float32)
        return Series(
            np.frombuffer(self.values, np.float32),
            np.asarray(self.first),
            np.asarray(self.length),
            np.asarray(self.start, "M8[s]"),
            self.names,
            frequency,
            source,
            key,
            dated,
            together,
            known.reshape(-1, columns) if columns else np.empty((0, 0), np.float32),
            self.covariate_names,
            dict(self.counts),
            np.asarray(self.blank, np.int64),
            np.asarray(self.day, np.int64),
        )


@dataclass(frozen=True)
class Parts:
    """Where the parts of each series end: train, valid and test, (S,) int64 each."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray

    def origins(self, number: int, horizon: int, stride: int, part: str) -> Iterator[int]:
        """The steps of a series at which a forecast over valid or test begins, the last first."""
        begin, end = (self.train, self.valid) if part == "valid" else (self.valid, self.test)
        yield from range(int(end[number]) - horizon, int(begin[number]) - 1, -stride)


def divided(
    series: Series, horizon: int, held: Sequence[int] | None, split: Sequence[int] = ()
) -> tuple[Series, Parts]:
    """The series that are long enough, and their parts.

    held: the steps of test of each series.  ValueError if none is long enough for a horizon in
    valid, a horizon in test and two values to train on.
    """
    if split:
        sizes = np.repeat(np.asarray(split)[:, None], len(series), 1)
    else:
        test = np.full(len(series), horizon) if held is None else np.asarray(held)
        valid = np.maximum(test, horizon)
        sizes = np.stack([series.length - test - valid, valid, test])
    ends = np.cumsum(sizes, 0)
    enough = (sizes[0] >= 2) & (sizes[1:] >= horizon).all(0) & (ends[2] <= series.length)
    which = np.flatnonzero(enough)
    if not len(which):
        longest = int(series.length.argmax())
        told = ", ".join(f"{many:,}" for many in sizes[:, longest])
        raise ValueError(
            f"no series of {series.source} is long enough for a horizon of {horizon}: the longest, "
            f"{series.names[longest]}, has {int(series.length[longest]):,} values, and train, "
            f"valid and test would be {told} of them; at least 2, {horizon} and {horizon} are "
            "needed"
        )
    kept = series.only(which.tolist(), "series left out, too short for the horizon")
    if more := int((kept.length - ends[2, which]).sum()):
        kept = replace(kept, counts={**kept.counts, "values after the split, not used": more})
    return kept, Parts(*ends[:, which])
