"""Units of series: centre and deviation of each, and how large each is."""

import numpy as np

from subquad.data.series import Series

__all__ = ["scales", "standard", "units"]


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
            centre[number], unit[number] = standard(past)
    return centre, unit


def scales(series: Series, ends: np.ndarray) -> np.ndarray:
    """1 + mean |value| (S,) of the values before `ends` (S,): how large each series is."""
    found = np.ones(len(series))
    for number, end in enumerate(ends):
        past = series.of(number)[: int(end)]
        past = past[~np.isnan(past)]
        found[number] += float(np.abs(past).mean(dtype=np.float64)) if len(past) else 0.0
    return found


def standard(values: np.ndarray) -> tuple[float, float]:
    """Mean and deviation, which is 1 for what is constant; 0 and 1 of nothing."""
    if not len(values):
        return 0.0, 1.0
    mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    # float32 tells no smaller differences: they are no spread to divide by
    return mean, deviation if deviation > 1e-7 * abs(mean) else 1.0
