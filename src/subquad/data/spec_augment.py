"""SpecAugment: parts of log-mel features are hidden in training; and waves are played faster.

Park et al., 2019, https://arxiv.org/abs/1904.08779, with time masks that grow with the recording
(Park et al., 2020, https://arxiv.org/abs/1912.05533), sizes as Gulati et al., 2020,
https://arxiv.org/abs/2005.08100, have them:

    2 band masks    f ~ U{0..27} bands from f0 ~ U{0..80 - f}
    10 time masks   t ~ U{0..0.05 T} frames from t0 ~ U{0..T - t}     T: the recording's own frames

What is hidden becomes 0, the mean of features that are normalised. Time is not warped.

Speed: a wave is resampled by 0.9, 1 or 1.1 (Ko et al., 2015, Audio augmentation for speech
recognition, Interspeech), which moves its pitch too.

Axes: B batch, T frames, E mel bands.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from subquad.data.audio import RATE
from subquad.data.resample import resample

__all__ = ["SPEEDS", "SpecAugment", "any_speed", "draw_of", "faster", "mean_and_std"]

SPEEDS = (0.9, 1.0, 1.1)
_LEAST_STD = (
    0.1  # a band that is nearly constant, as those above 4 kHz of a telephone, is no signal
)


def draw_of(seed: int, item: int) -> np.random.Generator:
    """The draws of one item of training; they depend on (seed, item) alone."""
    # the order of an epoch and other draws have this key too, from counters of their own
    return np.random.Generator(np.random.Philox(key=[seed, item], counter=[0, 0, 0, 2]))


@dataclass(frozen=True)
class SpecAugment:
    """Hides up to `bands` neighbouring bands `band_masks` times, and up to `ratio` of the frames
    `time_masks` times. ValueError for sizes below 0 and a ratio that is none."""

    bands: int = 27
    band_masks: int = 2
    time_masks: int = 10
    ratio: float = 0.05

    def __post_init__(self) -> None:
        if min(self.bands, self.band_masks, self.time_masks) < 0 or not 0 <= self.ratio <= 1:
            raise ValueError(
                f"bands {self.bands}, band_masks {self.band_masks} and time_masks "
                f"{self.time_masks} must not be below 0, and ratio {self.ratio} in 0 to 1"
            )

    def __call__(
        self, features: Tensor, valid: Tensor | None, draws: Sequence[np.random.Generator]
    ) -> Tensor:
        """Features (B, T, E) with parts hidden, each row by its own draws, within its own length.

        valid (B, T): padding stands at the right; None: there is none.
        """
        b, t, e = features.shape
        if len(draws) != b:
            raise ValueError(f"there are {b} rows of features, and {len(draws)} draws for them")
        lengths = [t] * b if valid is None else valid.sum(1).tolist()
        shown = np.ones((b, t, e), bool)
        for row, length, draw in zip(shown, lengths, draws, strict=True):
            for band, width in _spans(draw, self.band_masks, min(self.bands, e), e):
                row[:, band : band + width] = False
            longest = int(self.ratio * length)
            for frame, width in _spans(draw, self.time_masks, longest, length):
                row[frame : frame + width] = False
        return torch.where(torch.from_numpy(shown).to(features.device), features, 0)


def _spans(
    draw: np.random.Generator, count: int, longest: int, room: int
) -> Iterator[tuple[int, int]]:
    """Where each of `count` spans begins, and its width, 0 to `longest`; all within `room`."""
    for _ in range(count):
        width = int(draw.integers(longest + 1))
        yield int(draw.integers(room - width + 1)), width


def any_speed(draw: np.random.Generator) -> float:
    """One of SPEEDS, each as often."""
    return SPEEDS[draw.integers(len(SPEEDS))]


def faster(wave: np.ndarray, speed: float) -> np.ndarray:
    """A wave (S,) played at so many times its speed: about S / speed samples."""
    # as if it had been recorded at another rate
    return resample(wave, round(RATE * speed), RATE)


def mean_and_std(features: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each band, (E,) float32 each, over features (T, E) that come
    one after another; summed in float64.

    A deviation is at least 0.1, a decibel, so that a band that is always silent is not blown up.
    ValueError without frames.
    """
    count = 0
    total = square = torch.zeros((), dtype=torch.float64)
    for some in features:
        wide = some.detach().double().cpu()
        # around the first recording's mean, so that squares do not drown the deviation
        if count == 0 and len(wide):
            about = wide.mean(0)
        if len(wide):
            count += len(wide)
            total = total + (wide - about).sum(0)
            square = square + ((wide - about) ** 2).sum(0)
    if count == 0:
        raise ValueError("mean and deviation of features need a recording, and there is none")
    mean = total / count
    std = (square / count - mean**2).clamp(min=0).sqrt().clamp(min=_LEAST_STD)
    return (about + mean).float(), std.float()
