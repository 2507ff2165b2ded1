"""Units of series: centre and deviation of each, and how large each is."""

import numpy as np

from subquad.data.series import Series

__all__ = ["deviations", "scales", "standard", "units"]


def units(series: Series, ends: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """centre and unit (S,) of `Told`, from the values before `ends` (S,).

    scaling: "mean" leaves values as they are, for the scale of each window; others take mean and
    deviation. The unit of a series that is constant is its level, for a spread of 1 would be any
    number of times what is small; 1 if the level is 0.
    """
    centre, unit = np.zeros(len(series)), np.ones(len(series))
    if scaling != "mean":
        for number, end in enumerate(ends):
            mean, deviation = _moments(_past(series, number, end))
            centre[number], unit[number] = mean, deviation or abs(mean) or 1.0
    return centre, unit


def deviations(series: Series, ends: np.ndarray) -> np.ndarray:
    """The deviation (S,) of the values before `ends` (S,), 1 for what is constant."""
    return np.array([standard(_past(series, i, end))[1] for i, end in enumerate(ends)])


def scales(series: Series, ends: np.ndarray) -> np.ndarray:
    """1 + mean |value| (S,) of the values before `ends` (S,): how large each series is."""
    found = np.ones(len(series))
    for number, end in enumerate(ends):
        past = _past(series, number, end)
        found[number] += float(np.abs(past).mean(dtype=np.float64)) if len(past) else 0.0
    return found


def standard(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, which is 1 for what is constant; 0 and 1 of nothing."""
    mean, deviation = _moments(values)
    return mean, deviation or 1.0


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, which is 0 for what is constant, and of nothing."""
    if not len(values):
        return 0.0, 0.0
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    # float32 tells no smaller differences: they are no spread to divide by
    return mean, deviation if deviation > 1e-7 * abs(mean) else 0.0


def _past(series: Series, number: int, end: int) -> np.ndarray:
    values = series.of(number)[: int(end)]
    return values[~np.isnan(values)]
