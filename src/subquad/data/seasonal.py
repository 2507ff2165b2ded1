"""Seasonal: made-up hourly series with a day, a week, a trend and noise, each of its own.

    level (1 + trend t) (1 + day(t) + week(t)) exp(noise), never below 0

Levels span three powers of ten, days and weeks are sums of two waves, and the noise is partly that
of the hour before. Series i depends on (seed, i) alone.
"""

import numpy as np

from subquad.data.frequency import Frequency
from subquad.data.series import Collected, Series

__all__ = ["seasonal"]

_HOURS = 24 * 7 * 6


def seasonal(count: int = 60, seed: int = 0) -> Series:
    """The series, of six weeks each, from the first day of 2024 on."""
    made, frequency = Collected(), Frequency.of("H")
    start = np.datetime64("2024-01-01T00:00:00", "s")
    for number in range(count):
        draw = np.random.Generator(np.random.Philox(key=[seed, number]))
        made.add(f"S{number + 1}", _one(draw), start, frequency)
    source = f"made-up seasonal series, seed {seed}"
    return made.done(source, f"seasonal-1-{count}-{seed}", frequency, dated=True)


def _one(draw: np.random.Generator) -> np.ndarray:
    t = np.arange(_HOURS)
    level, trend = 10 ** draw.uniform(0.5, 3.5), draw.uniform(-0.3, 0.5) / _HOURS
    wave = np.ones(_HOURS)
    for period, most in ((24, 0.4), (12, 0.15), (168, 0.15), (84, 0.1)):
        size, phase = draw.uniform(0.2, 1.0) * most, draw.uniform(0, 2 * np.pi)
        wave += size * np.sin(2 * np.pi * t / period + phase)
    shock, noise = draw.normal(0, 0.05, _HOURS), 0.0
    logs = np.empty(_HOURS)
    for hour in t:
        noise = 0.6 * noise + shock[hour]
        logs[hour] = noise
    return (level * (1 + trend * t) * np.clip(wave, 0.02, None) * np.exp(logs)).astype(np.float32)
