"""Windows of series for training: each step with the value before it and what is known of it.

    [value before, lags, calendar, age, covariates known ahead, covariates known late, number]

Lags are values so many steps back, and at least a horizon back, so that they are known for every
step of a forecast; 0 where there is none. What follows them is `data.series_steps.Steps`'. A
missing value is NaN.

A window's values are z = (value - centre) / unit of its series, or of its own values before the
forecast begins (`ToldByWindow`); its scale is 1 + mean |z| of those (Salinas et al., 2020,
https://arxiv.org/abs/1704.04110).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from subquad.data.series import Series
from subquad.data.series_steps import Steps

__all__ = ["Told", "ToldByWindow", "Windows", "together"]

_LEAST = 0.1  # of the deviation of its series: so much has each window at least


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

    Both are of the whole context, so the context's last steps are easier than what stands ahead:
    there values sum to 0, and those before say the rest. Its loss is no measure of a forecast's.
    With a context of 8 on an AR(1) series the first step ahead had a loss of 1.67 nats, where
    training on the horizon alone gave 1.59.
    """

    def units(self, number: int, first: int, origin: int) -> tuple[float, float]:
        past = self._values(number, first, origin)
        past = past[~np.isnan(past)]
        if not len(past):
            return super().units(number, first, origin)
        mean, deviation = float(past.mean(dtype=np.float64)), float(past.std(dtype=np.float64))
        return mean, max(deviation, _LEAST * float(self.unit[number]))


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
