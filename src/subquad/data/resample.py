"""Resampling: a wave at one rate becomes the same wave at another.

    y[n] = sum_k x[k] h(k - n down / up)        h(t) = s sinc(s t) kaiser(t / width)
    rate_out / rate_in = up / down in lowest terms;  s = 0.95 min(1, up / down)

The pass band ends at 0.9, and what would come back as another tone is 100 dB lower: a Kaiser window
(beta 10) over 64 zero crossings on each side. S samples give ceil(S up / down); beyond its ends a
wave is silent.

Cost: about 130 products for each sample of the higher rate, by pieces.
"""

from functools import lru_cache
from math import ceil, gcd

import numpy as np

__all__ = ["filter_at", "ratio", "resample"]

_ZEROS, _BETA, _ROLL = 64, 10.0, 0.95
_PHASES = 64  # outputs that share one window of the input
_PIECE = 1 << 20  # numbers of such windows held at a time


def resample(wave: np.ndarray, rate: int, to: int = 16_000) -> np.ndarray:
    """A wave (S,) at `rate` samples a second, at `to` a second: (ceil(S up / down),) of its dtype.

    ValueError for rates that are not positive.
    """
    up, down = ratio(rate, to)
    if up == down or not len(wave):
        return wave
    reach, groups = _groups(up, down, wave.dtype.str)
    count = ceil(len(wave) * up / down)
    blocks = ceil(count / up)
    longest = max(start + len(taps) for start, taps in groups)
    behind = (blocks - 1) * down + longest - reach - len(wave)
    padded = np.pad(wave, (reach, max(0, behind)))
    out = np.empty((blocks, up), wave.dtype)
    for number, (start, taps) in enumerate(groups):
        seen = np.lib.stride_tricks.sliding_window_view(padded[start:], len(taps))[::down]
        at = number * _PHASES
        step = max(1, _PIECE // len(taps))
        for i in range(0, blocks, step):
            rows = slice(i, min(i + step, blocks))
            out[rows, at : at + taps.shape[1]] = np.ascontiguousarray(seen[rows]) @ taps
    return out.reshape(-1)[:count]


def ratio(rate: int, to: int) -> tuple[int, int]:
    """up and down in lowest terms. ValueError for rates that are not positive."""
    if rate < 1 or to < 1:
        raise ValueError(f"a wave is resampled from {rate} to {to} a second; both must be positive")
    common = gcd(rate, to)
    return to // common, rate // common


def filter_at(t: np.ndarray, up: int, down: int) -> np.ndarray:
    """h(t), t in samples of the input."""
    low = min(1.0, up / down)
    place = t * low / _ZEROS
    window = np.i0(_BETA * np.sqrt(np.clip(1 - place**2, 0, None))) / np.i0(_BETA)
    return np.where(np.abs(place) <= 1, low * _ROLL * np.sinc(low * _ROLL * t) * window, 0.0)


@lru_cache(maxsize=8)
def _groups(up: int, down: int, dtype: str) -> tuple[int, list[tuple[int, np.ndarray]]]:
    """How far the filter reaches, and for each group of phases where in the padded input its window
    begins, and its taps (window, phases)."""
    reach = ceil(_ZEROS * max(up, down) / up)
    groups = []
    for first in range(0, up, _PHASES):
        centres = np.arange(first, min(first + _PHASES, up)) * (down / up)
        start = int(centres[0])
        k = np.arange(start - reach, int(centres[-1]) + reach + 2)
        taps = filter_at(k[:, None] - centres, up, down).astype(dtype)
        groups.append((start, taps))
    return reach, groups
