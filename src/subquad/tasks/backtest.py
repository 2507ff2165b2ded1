"""A back-test: forecasts from many origins, scored beside the baselines on the same steps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from subquad.data.series import Parts, Series
from subquad.tasks.baselines import BASELINES, LONGEST, Unfitted, ets, seasonal_naive, spread_out
from subquad.tasks.forecast_scores import SUMS, seasonal_error, sums, totals
from subquad.tasks.task import Result

__all__ = ["Backtest", "Window", "backtest", "origins_of"]

#: the number of a series, and the step at which a forecast of it begins
Window = tuple[int, int]

_TOGETHER = 32  # windows between two reports


@dataclass(frozen=True)
class Backtest:
    """What was found: method -> sums of each window (W, SUMS); "ours" is the model.

    undefined: how many windows have no MASE.  unfitted: on how many ETS did not fit, where the
    seasonal naive forecast stands for it.
    """

    series: Series
    windows: Sequence[Window]
    found: Mapping[str, Tensor]
    unfitted: int

    @property
    def numbers(self) -> dict[str, dict[str, float]]:
        """method -> its numbers."""
        return {name: totals(rows, self.series.together) for name, rows in self.found.items()}

    @property
    def by_series(self) -> dict[str, Any]:
        """Names of series, and for each method the mean MASE of each."""
        numbers = torch.tensor([number for number, _ in self.windows])
        which, own = numbers.unique(return_counts=True)
        order, mase = numbers.argsort(), SUMS.index("mase")
        told = {
            name: [float(m.nanmean()) for m in rows[order, mase].split(own.tolist())]
            for name, rows in self.found.items()
        }
        return {"names": [self.series.names[i] for i in which.tolist()], "mase": told}

    @property
    def says(self) -> str:
        """What could not be done."""
        undefined = int(self.found["ours"][:, SUMS.index("mase")].isnan().sum())
        told = "; beside it the seasonal naive forecast, and ETS of statsmodels on the last "
        told += f"{LONGEST:,} values"
        told += f" (not fitted on {self.unfitted:,}: naive there)" if self.unfitted else ""
        return told + (f"; {undefined:,} forecasts without MASE" if undefined else "")

    def result(self, protocol: str, loss: float) -> Result:
        """As `evaluate_on` gives it; loss: of true values before each step."""
        numbers = self.numbers
        ours = numbers.pop("ours")
        return Result(
            {"loss": loss, **ours, "forecasts": len(self.windows)},
            protocol,
            beside=numbers,
            parts=self.by_series,
        )


def origins_of(
    series: Series, parts: Parts, horizon: int, stride: int, most: int | None, part: str
) -> list[Window]:
    """The windows of valid or test, `most` of each series. ValueError if it has not so many."""
    windows = []
    for number, name in enumerate(series.names):
        own = list(parts.origins(number, horizon, stride, part))
        if most is not None and len(own) < most:
            raise ValueError(
                f"{most} origins {stride} apart do not fit into the {part} part of series "
                f"{name!r}, {len(own)} do; train with --task.held "
                f"{horizon + (most - 1) * stride}"
            )
        windows += [(number, origin) for origin in reversed(own[:most])]
    return windows


def backtest(
    draw: Callable[[Sequence[Window], int], Tensor],
    series: Series,
    windows: Sequence[Window],
    horizon: int,
    season: int,
    deviation: Any,
    report: Callable[[int, int], None],
) -> Backtest:
    """Sums of the model's forecasts and of the baselines'.

    draw(windows, n): the paths (S, W, horizon) of the n-th group of windows, in targets' units.
    deviation: (S,) of each series' training part.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in ("ours", *BASELINES)}
    unfitted = 0
    for number, at in enumerate(range(0, len(windows), _TOGETHER)):
        group = windows[at : at + _TOGETHER]
        paths = draw(group, number)
        past = [series.of(i)[:origin].astype("float64") for i, origin in group]
        target = torch.stack([_tensor(series.of(i)[o : o + horizon]) for i, o in group])
        error = torch.stack([seasonal_error(_tensor(values), season) for values in past])
        unit = _tensor(deviation)[[i for i, _ in group]]
        naive = [seasonal_naive(values, horizon, season) for values in past]
        smooth = []
        for values, instead in zip(past, naive, strict=True):
            try:
                smooth.append(ets(values, horizon, season))
            except Unfitted:
                smooth.append(instead)
                unfitted += 1
        found["ours"].append(sums(target, paths, error, unit))
        for name, told in zip(BASELINES, (naive, smooth), strict=True):
            samples = torch.stack([spread_out(*one, len(paths)) for one in told], 1)
            found[name].append(sums(target, samples, error, unit))
        report(len(group), len(windows))
    rows = {name: torch.cat(parts) for name, parts in found.items()}
    return Backtest(series, windows, rows, unfitted)


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)
