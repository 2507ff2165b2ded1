"""Log-mel features of speech: how loud each of 80 bands is, a hundred times a second.

    power_t = |FFT_512(w x[160 t - 200 : 160 t + 200])|^2        w: a Hann window of 400 samples
    y_t     = (log10 max(power_t bank, 1e-10) - mean) / std

at 16 kHz: windows of 25 ms every 10 ms, frame t centred on sample 160 t, the wave mirrored at both
ends; the bank is Slaney's (linear below 1 kHz, logarithmic above, every band of unit area). S
samples give 1 + S // 160 frames, none give none. These are the features that Hugging Face's
`audio_utils.spectrogram` and Whisper compute; mean and std are those of a training set, never of a
clip, so that a stream can be normalised while it comes.

A frame looks `LogMel.ahead` = 199 samples (12.4 ms) ahead of its centre: the window's first weight
is zero, so it has 399 taps. Spectra are taken in float64, because a quiet band beside a loud one is
lost in the rounding of float32.

Cost: O(S), in pieces of frames.

Ours is different: each row of a batch is mirrored at its own end, and is what it gives alone.

Axes: B batch, S samples, T frames, E mel bands (80).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from subquad.nn.state import register
from subquad.ops.partial import wide

__all__ = ["LogMel", "WaveTail", "mel_bank"]

_RATE, _HOP, _BANDS, _FFT, _TAPS = 16_000, 160, 80, 512, 399
_KEPT = _TAPS - 1  # the first sample that a frame to come may need is at most so far back
_PIECE = 1 << 11  # frames whose spectra are held at a time
_FLOOR = 1e-10


@register
@dataclass(frozen=True)
class WaveTail:
    """The end of a stream: its last samples (B, 398), the latest at the right, and seen (B,), how
    many each row has had."""

    samples: Tensor
    seen: Tensor


class LogMel(nn.Module):
    """Waves (B, S) at 16 kHz to features (B, T, 80), both padded on the right.

    mean, std: (80,), those of the features of a training set; without them nothing is normalised.
    """

    rate: ClassVar[int] = _RATE
    #: samples from frame to frame
    hop: ClassVar[int] = _HOP
    bands: ClassVar[int] = _BANDS
    #: samples behind its centre that a frame waits for in a stream
    ahead: ClassVar[int] = _TAPS // 2

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor | None = None, std: Tensor | None = None) -> None:
        super().__init__()
        mean = torch.zeros(_BANDS) if mean is None else torch.as_tensor(mean)
        std = torch.ones(_BANDS) if std is None else torch.as_tensor(std)
        for name, given in (("mean", mean), ("std", std)):
            if given.shape != (_BANDS,):
                raise ValueError(
                    f"{name} is of shape {tuple(given.shape)}; there are {_BANDS} mel bands, so it "
                    f"must be ({_BANDS},)"
                )
        if not bool((std > 0).all()):
            raise ValueError(f"std must be positive in every band; the least is {std.min():g}")
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("std", std.detach().clone())

    @staticmethod
    def frames(samples: int) -> int:
        """How many frames so many samples give."""
        return 1 + samples // _HOP if samples else 0

    def forward(self, waves: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features (B, T, 80) and valid (B, T) of waves (B, S) with valid (B, S) or None.

        Features of padding are zero. ValueError for waves that are no batch of floating point.
        """
        count = _counts(waves, valid)
        none = torch.zeros_like(count)
        return self._cut(waves, none, count, none, _all(count))

    # --- streams ------------------------------------------------------------------------------

    def init_state(self, batch: int, like: Tensor | None = None) -> WaveTail:
        """Nothing heard yet; `like`: a tensor of the dtype and device of the waves to come."""
        like = self.mean if like is None else like
        samples = like.new_zeros(batch, _KEPT)
        return WaveTail(samples, torch.zeros(batch, dtype=torch.int64, device=like.device))

    def stream(
        self, waves: Tensor, state: WaveTail, valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor, WaveTail]:
        """Features and valid of the frames whose samples are all there now, and the state after.

        waves (B, S): the samples that follow, any number of them, padded on the right.
        """
        count = _counts(waves, valid)
        b, kept = state.samples.shape
        if len(waves) != b:
            raise ValueError(f"the waves are a batch of {len(waves)}, and the state is one of {b}")
        heard = torch.cat((state.samples, waves), 1)
        seen = state.seen + count
        first = _whole(state.seen)
        out = self._cut(heard, state.seen - kept, seen, first, _whole(seen) - first)
        at = count[:, None] + torch.arange(kept, device=count.device)
        return *out, WaveTail(heard.gather(1, at), seen)

    def flush(self, state: WaveTail) -> tuple[Tensor, Tensor]:
        """Features and valid of the last frames: the stream has ended, and is mirrored there."""
        first = _whole(state.seen)
        left = _all(state.seen) - first
        kept = state.samples.shape[1]
        return self._cut(state.samples, state.seen - kept, state.seen, first, left)

    # --- both ---------------------------------------------------------------------------------

    def _cut(
        self, samples: Tensor, base: Tensor, length: Tensor, first: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Frames first to first + count - 1 of each row; all (B,).

        samples (B, L) has sample `base` of a row in slot 0; the row has `length` samples.
        """
        t = int(count.max()) if count.numel() else 0
        valid = torch.arange(t, device=count.device) < count[:, None]
        dtype = wide(samples.dtype)
        if t == 0:
            return samples.new_zeros(len(samples), 0, _BANDS, dtype=dtype), valid
        run = torch.arange((t - 1) * _HOP + _TAPS, device=count.device)
        at = run + (first * _HOP - _TAPS // 2)[:, None]
        # mirrored at both ends, again and again if the row is shorter than a window
        period = (2 * (length - 1)).clamp(min=1)[:, None]
        at = at % period
        at = torch.minimum(at, period - at) - base[:, None]
        # a row with fewer frames than others reads on; what it reads there is thrown away
        run = samples.gather(1, at.clamp(0, samples.shape[1] - 1))
        cut = run.unfold(1, _TAPS, _HOP)
        y = torch.cat([_log_mel(piece) for piece in cut.split(max(1, _PIECE // len(cut)), 1)], 1)
        y = (y - self.mean) / self.std
        return torch.where(valid[..., None], y, 0).to(dtype), valid


def _counts(waves: Tensor, valid: Tensor | None) -> Tensor:
    """The samples of each row, (B,)."""
    if waves.dim() != 2 or not waves.is_floating_point():
        raise ValueError(
            f"waves must be (batch, samples) in floating point, not {tuple(waves.shape)} of "
            f"{waves.dtype}"
        )
    if valid is None:
        return torch.full((len(waves),), waves.shape[1], device=waves.device)
    if valid.shape != waves.shape:
        raise ValueError(
            f"valid is of shape {tuple(valid.shape)}, and the waves of {tuple(waves.shape)}"
        )
    return valid.sum(1)


def _all(samples: Tensor) -> Tensor:
    """How many frames so many samples give in the end."""
    return torch.where(samples > 0, 1 + samples // _HOP, 0)


def _whole(samples: Tensor) -> Tensor:
    """How many frames lie within so many samples, whatever follows."""
    return ((samples - _TAPS // 2 - 1) // _HOP + 1).clamp(min=0)


def _log_mel(cut: Tensor) -> Tensor:
    """(B, T, E) float64 of frames (B, T, 399)."""
    window, bank = _constants(cut.device)
    found = torch.fft.rfft(cut.double() * window, n=_FFT)
    power = found.real.square() + found.imag.square()
    return (power @ bank).clamp(min=_FLOOR).log10()


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor]:
    """The window (399,) and the bank (257, E): no buffers, as these keep their float64."""
    with torch.inference_mode(False):
        window = torch.hann_window(_TAPS + 1, dtype=torch.float64)[1:]
        return window.to(device), mel_bank().to(device)


def mel_bank(bands: int = _BANDS, bins: int = _FFT // 2 + 1, rate: int = _RATE) -> Tensor:
    """Slaney's bank of triangles over the bins of a spectrum, (bins, bands) float64.

    Malcolm Slaney, Auditory Toolbox, version 2, 1998. A mel is 200 / 3 Hz up to 1 kHz, and above it
    27 mels are a factor of 6.4; each triangle is divided by half its width in Hz.
    """
    top, knee, step = rate / 2, 15.0, math.log(6.4) / 27
    most = knee + math.log(top / 1000) / step if top > 1000 else top * 3 / 200
    mel = torch.linspace(0, most, bands + 2, dtype=torch.float64)
    edge = torch.where(mel < knee, mel * 200 / 3, 1000 * ((mel - knee) * step).exp())
    hertz = torch.linspace(0, top, bins, dtype=torch.float64)[:, None]
    rise = (hertz - edge[:-2]) / (edge[1:-1] - edge[:-2])
    fall = (edge[2:] - hertz) / (edge[2:] - edge[1:-1])
    return torch.minimum(rise, fall).clamp(min=0) * 2 / (edge[2:] - edge[:-2])
