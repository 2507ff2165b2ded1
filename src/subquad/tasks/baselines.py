"""What every forecast is printed beside: the seasonal naive forecast, and exponential smoothing.

Both say a mean and a deviation for each step, and the distribution between is taken as normal.
`spread_out` makes samples of it, at equal steps of probability, so that they are scored as paths.

seasonal naive    the value one season ago; deviation sqrt(mean (x_t - x_(t - season))^2 k) in the
                  k-th season ahead (Hyndman and Athanasopoulos, Forecasting, section 5.5)
ETS               statsmodels' ETSModel, errors, damped trend and season additive, fitted by maximum
                  likelihood from heuristic initial states, on the last `LONGEST` values
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

__all__ = ["BASELINES", "LONGEST", "Unfitted", "ets", "seasonal_naive", "spread_out"]

#: values of a history on which ETS is fitted
LONGEST = 1000
_MOST_SEASON = 200  # steps of a season that is still fitted

#: how they are called in tables
BASELINES = ("seasonal_naive", "ets")


class Unfitted(Exception):  # noqa: N818, no error for whoever asks
    """ETS does not fit to a history."""


def seasonal_naive(history: Any, horizon: int, season: int) -> tuple[Any, Any]:
    """Mean and deviation (horizon,) after a history (N,), in which NaN is missing.

    What is missing a season ago is taken from the season before it, or else is the last value. A
    history that is not longer than a season is forecast by its last value.
    """
    import numpy as np

    season = season if len(history) > season else 1
    there = history[~np.isnan(history)]
    mean = np.full(horizon, there[-1] if len(there) else 0.0, np.float64)
    for step in range(horizon):
        same = history[len(history) - season + step % season :: -season]
        same = same[~np.isnan(same)]
        mean[step] = same[0] if len(same) else mean[step]
    gaps = history[season:] - history[:-season]
    gaps = gaps[~np.isnan(gaps)].astype(np.float64)
    deviation = math.sqrt(float(np.mean(gaps**2))) if len(gaps) else 0.0
    return mean, deviation * np.sqrt(1 + np.arange(horizon) // season)


def ets(history: Any, horizon: int, season: int) -> tuple[Any, Any]:
    """Mean and deviation (horizon,) after a history (N,); missing values lie on straight lines.

    `Unfitted` for a history that is too short, or constant, or on which the fit fails.
    """
    import numpy as np

    with _smoothing():
        from pandas import Series
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel
    history = np.asarray(history[-LONGEST:], np.float64)
    there = ~np.isnan(history)
    if there.sum() < 10 or np.ptp(history[there]) == 0:
        raise Unfitted
    at = np.arange(len(history))
    whole = np.interp(at, at[there], history[there])
    seasonal = 1 < season <= _MOST_SEASON and len(whole) >= max(2 * season, 10 + 2 * (season // 2))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # it may stop before it has converged, and says so
            model = ETSModel(
                Series(whole),
                error="add",
                trend="add",
                damped_trend=True,
                seasonal="add" if seasonal else None,
                seasonal_periods=season if seasonal else None,
                initialization_method="heuristic",
            )
            found = model.fit(disp=False, maxiter=200)
            said = found.get_prediction(len(whole), len(whole) + horizon - 1)
            # copies: pandas gives arrays that must not be written to, and torch warns of them
            mean, variance = np.array(said.predicted_mean), np.array(said.forecast_variance)
    except (ValueError, np.linalg.LinAlgError, FloatingPointError, ZeroDivisionError):
        raise Unfitted from None
    if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0).all()):
        raise Unfitted
    return mean, np.sqrt(variance)


def spread_out(mean: Any, deviation: Any, count: int) -> Tensor:
    """Quantiles of normal distributions (N,) at (i + 1/2) / count: (count, N) float64."""
    at = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    centre, width = (torch.as_tensor(t, dtype=torch.float64) for t in (mean, deviation))
    return centre + torch.special.ndtri(at)[:, None] * width


@contextmanager
def _smoothing() -> Iterator[None]:
    """Around the import of what smooths: ValueError with the way to install it."""
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{error}; ETS stands beside forecasts: pip install 'subquad[series]'"
        ) from error
