"""Windows of series for training: each step with the value before it and what is known of it.

    [value before, lags, calendar, age, covariates known ahead, covariates known late, number]

Lags are values so many steps back, and at least a horizon back, so that they are known for every
step of a forecast; 0 where there is none.
The calendar is what changes from step to step (`Frequency.calendar`); age counts steps from the
first value. All but the value are standardised: hour and its like by their range, years, ages and
covariates by the training part. Years and ages beyond those of the training part stand at its last
(or first) ones, for no weight has seen them. A covariate that is known late stands `horizon` steps
after it happened, so that it is known for every step of a forecast. What is missing of a covariate
is 0, its mean; a missing value is NaN.

A window's values are z = (value - centre) / unit of its series, or of its own values before the
forecast begins (`ToldByWindow`); its scale is 1 + mean |z| of those (Salinas et al., 2020,
https://arxiv.org/abs/1704.04110).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from subquad.data.frequency import Frequency
from subquad.data.series import Series

__all__ = ["Steps", "Told", "ToldByWindow", "Windows", "scales", "together", "units"]

_LEAST = 0.1  # of the deviation of its series: so much has each window at least


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
        means, deviations = zip(*(_standard(c) for c in columns), strict=True)
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


@dataclass(frozen=True)
class Told:
    """Series as a model is told them: in units of their own, with what is known of each step.

    centre, unit: (S,); z = (value - centre) / unit.
    """

    series: Series
    steps: Steps
    centre: np.ndarray
    unit: np.ndarray

    def units(self, number: int, first: int, origin: int) -> tuple[float, float]:
        """centre and unit of a window that begins at `first`, and its forecast at `origin`."""
        return float(self.centre[number]), float(self.unit[number])

    def window(self, number: int, first: int, origin: int, stop: int) -> dict[str, Tensor]:
        """inputs (stop - first, F), targets (stop - first,) and scale () of a span of steps.

        The scale is that of the values before `origin`.
        """
        centre, unit = map(np.float32, self.units(number, first, origin))
        z = (self._values(number, first - 1, stop) - centre) / unit
        about = self.steps.about(self.series, number, first, stop - first)
        past = np.abs(z[1 : 1 + origin - first])
        past = past[~np.isnan(past)]
        scale = np.float32(1 + (past.mean() if len(past) else 0.0))
        back = [self._values(number, first - lag, stop - lag) for lag in self.steps.lags]
        lags = [np.nan_to_num((y[:, None] - centre) / unit / scale, nan=0.0) for y in back]
        inputs = np.concatenate([z[:-1, None] / scale, *lags, about], 1)
        return {
            "inputs": torch.from_numpy(inputs),
            "targets": torch.from_numpy(z[1:]),
            "scale": torch.tensor(scale),
        }

    def _values(self, number: int, first: int, stop: int) -> np.ndarray:
        """Steps first .. stop - 1, (stop - first,) float32; NaN where there is no value."""
        values = self.series.of(number)
        out = np.full(stop - first, np.nan, np.float32)
        low, high = max(first, 0), min(stop, len(values))
        if low < high:
            out[low - first : high - first] = values[low:high]
        return out


class ToldByWindow(Told):
    """Series of which each window has units of its own: mean and deviation of its values before
    the forecast begins, so that a level that was never seen is told as any other.

    The deviation is at least a tenth of the series' own, and without a value both are the series'.
    """

    def units(self, number: int, first: int, origin: int) -> tuple[float, float]:
        past = self._values(number, first, origin)
        past = past[~np.isnan(past)]
        if not len(past):
            return super().units(number, first, origin)
        mean, deviation = float(past.mean(dtype=np.float64)), float(past.std(dtype=np.float64))
        return mean, max(deviation, _LEAST * float(self.unit[number]))


def units(series: Series, ends: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """centre and unit (S,) of `Told`, from the values before `ends` (S,).

    scaling: "mean" leaves values as they are, for the scale of each window; others take mean and
    deviation, which is 1 for a series that is constant.
    """
    centre, unit = np.zeros(len(series)), np.ones(len(series))
    if scaling != "mean":
        for number, end in enumerate(ends):
            past = series.of(number)[: int(end)]
            past = past[~np.isnan(past)]
            centre[number], unit[number] = _standard(past)
    return centre, unit


def scales(series: Series, ends: np.ndarray) -> np.ndarray:
    """1 + mean |value| (S,) of the values before `ends` (S,): how large each series is."""
    found = np.ones(len(series))
    for number, end in enumerate(ends):
        past = series.of(number)[: int(end)]
        past = past[~np.isnan(past)]
        found[number] += float(np.abs(past).mean(dtype=np.float64)) if len(past) else 0.0
    return found


def _standard(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, which is 1 for what is constant; 0 and 1 of nothing."""
    if not len(values):
        return 0.0, 1.0
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    # float32 tells no smaller differences: they are no spread to divide by
    return mean, deviation if deviation > 1e-7 * abs(mean) else 1.0


class Windows(Dataset):
    """`count` windows of at most `length` steps at random places of the training part.

    Item i depends on (seed, i) alone, so any process may form any item, at any time. Every window
    is as likely as every other, but for the weight of its series; a series that is shorter than a
    window is one.

    ends: (S,), where the training part of each series ends.  before: steps of a window that come
    before a forecast would begin, of whose values the scale is; half of a shorter one.
    weights: (S,), how much likelier windows of a series are; default 1.
    """

    def __init__(
        self,
        told: Told,
        ends: np.ndarray,
        *,
        before: int,
        length: int,
        count: int,
        seed: int,
        weights: np.ndarray | None = None,
    ) -> None:
        self.told, self.ends, self.before, self.length = told, ends, before, length
        self.count, self.seed = count, seed
        self._places = np.maximum(ends - length + 1, 1)
        self._until = np.cumsum(self._places * (1.0 if weights is None else weights))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """As `Told.window` gives it."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        number = int(np.searchsorted(self._until, draw.random() * self._until[-1], "right"))
        number = min(number, len(self._until) - 1)  # the product may be rounded up
        first = int(draw.integers(self._places[number]))
        stop = min(first + self.length, int(self.ends[number]))
        before = min(self.before, max(1, (stop - first) // 2))
        if stop - first == self.length:
            before = self.before
        return self.told.window(number, first, first + before, stop)


def together(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of windows, padded at their ends: attention_mask (B, N) tells where they are."""
    most = max(len(item["targets"]) for item in items)
    mask = torch.zeros(len(items), most, dtype=torch.int64)
    inputs = items[0]["inputs"].new_zeros(len(items), most, items[0]["inputs"].shape[-1])
    targets = items[0]["targets"].new_full((len(items), most), float("nan"))
    for row, item in enumerate(items):
        count = len(item["targets"])
        mask[row, :count] = 1
        inputs[row, :count], targets[row, :count] = item["inputs"], item["targets"]
    scale = torch.stack([item["scale"] for item in items])
    return {"inputs": inputs, "targets": targets, "scale": scale, "attention_mask": mask}
