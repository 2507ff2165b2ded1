"""What is known of each step of a series beside values: its calendar, its age, covariates.

The calendar is what changes from step to step (`Frequency.calendar`); age counts steps from the
first value. All are standardised: hour and its like by their range, years, ages and covariates by
the training part. Years and ages beyond those of the training part stand at its last (or first)
ones, for no weight has seen them. A covariate that is known late stands `horizon` steps after it
happened, so that it is known for every step of a forecast. What is missing of a covariate is 0, its
mean.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from subquad.data.frequency import Frequency
from subquad.data.series import Series
from subquad.data.series_units import standard

__all__ = ["Steps"]


@dataclass(frozen=True)
class Steps:
    """How the steps of a series are told to a model.

    means, deviations: of year, age and covariates.  low, high: of year and age.  known: how many
    covariates are known ahead.  late: after how many steps the others are.
    names: series -> its number; empty if numbers are not told.  dated: is the calendar that of
    dates, or a mere clock? None in runs that were saved before this was kept.  lags: so many steps
    back stand values that are told too.
    """

    frequency: str | None
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    known: int
    late: int
    names: dict[str, int] = field(default_factory=dict)
    dated: bool | None = None
    lags: tuple[int, ...] = ()

    @classmethod
    def fit(
        cls,
        series: Series,
        ends: np.ndarray,
        *,
        known: int,
        late: int,
        named: bool,
        lags: tuple[int, ...] = (),
    ) -> "Steps":
        """Means and deviations over the steps before `ends` (S,) of each series."""
        years = [
            series.frequency.years(series.stamps(i, 0, int(end)))
            if series.frequency
            else np.zeros(int(end), np.float32)
            for i, end in enumerate(ends)
        ]
        ages = [np.arange(end, dtype=np.float32) for end in ends]
        columns = [np.concatenate(years), np.concatenate(ages)]
        if series.covariates.size:
            seen = np.concatenate([series.known(i)[: int(end)] for i, end in enumerate(ends)])
            columns += [column[~np.isnan(column)] for column in seen.T]
        means, deviations = zip(*(standard(c) for c in columns), strict=True)
        low, high = (tuple(float(end(c)) for c in columns[:2]) for end in (np.min, np.max))
        names = {name: i for i, name in enumerate(series.names)} if named else {}
        frequency = None if series.frequency is None else str(series.frequency)
        return cls(frequency, means, deviations, low, high, known, late, names, series.dated, lags)

    @property
    def covariates(self) -> int:
        """Columns between the value and the number."""
        calendar = len(Frequency.of(self.frequency).calendar) - 1 if self.frequency else 0
        return len(self.lags) + calendar + len(self.means)

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of(cls, facts: dict[str, Any]) -> "Steps":
        """From `facts`."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in facts.items()})

    def about(self, series: Series, number: int, first: int, count: int) -> np.ndarray:
        """What is known of steps, all but values: (count, covariates - lags [+ 1]) float32."""
        columns: list[np.ndarray] = []
        year = np.zeros(count)
        if self.frequency:
            told = Frequency.of(self.frequency).features(series.stamps(number, first, count))
            columns, year = [told[:, :-1]], told[:, -1]
        own = np.zeros((count, len(self.means)), np.float32)
        own[:, 0], own[:, 1] = year, np.arange(first, first + count)
        own[:, :2] = np.clip(own[:, :2], self.low, self.high)
        if series.covariates.size:
            there = series.known(number)
            for j in range(there.shape[1]):
                at = np.arange(first, first + count) - (0 if j < self.known else self.late)
                inside = (at >= 0) & (at < len(there))
                own[:, 2 + j] = np.where(inside, there[at * inside, j], np.nan)
        else:
            own[:, 2:] = np.nan
        own = (own - np.float32(self.means)) / np.float32(self.deviations)
        columns.append(np.nan_to_num(own, nan=0.0))
        if self.names:
            known = self.names.get(series.names[number], -1)
            columns.append(np.full((count, 1), known))
        return np.concatenate(columns, 1).astype(np.float32)
