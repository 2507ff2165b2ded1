"""Waves: sound as it is sampled, as a row of features, one for every few hundred samples.

    h_0 = wave,  h_i = gelu(norm(conv(h_{i-1})))      no padding; strides multiply
    x = W norm(h_last)

Baevski et al., 2020, wav2vec 2.0, https://arxiv.org/abs/2006.11477, section 2. Time and memory O(S)
for S samples.
Ours differs: padding has no part in any statistic and makes no tokens.

Axes: B batch, S samples, T steps between convolutions, N tokens, F channels, C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.choices import choose, normalise
from subquad.nn.context import Context
from subquad.nn.frames import Length
from subquad.ops.partial import wide

__all__ = ["ChannelNorm", "WaveStem", "WaveStemConfig"]


class ChannelNorm(nn.Module):
    """Each channel less its mean over the real steps of a row, over its deviation; then a scale and
    a shift for each channel.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(f(channels)) for f in (torch.ones, torch.zeros))
        self.eps = eps

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, T, F), valid (B, T), to (B, T, F)."""
        y = x.to(wide(x.dtype))
        real = torch.ones_like(y[..., :1]) if valid is None else valid.unsqueeze(-1).to(y.dtype)
        y = y.masked_fill(real == 0, 0.0)
        count = real.sum(1, keepdim=True).clamp(min=1)
        y = (y - y.sum(1, keepdim=True) / count) * real
        variance = y.square().sum(1, keepdim=True) / count
        return (y * (variance + self.eps).rsqrt()).to(x.dtype) * self.weight + self.bias


class StepNorm(nn.LayerNorm):
    """Layer norm of each step, by the call of a norm over real steps."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """(B, T, F) to (B, T, F)."""
        return super().forward(x)


class WaveStem(nn.Module):
    """Waves (B, S, 1), floating point, to features (B, N, C).

    A row of n samples gives `count(n)` tokens, those it gives alone, at the left of its row.
    channels, kernels, strides: of the convolutions in order, F, taps and steps.  norms: of each
    convolution, None for none.  norm: of what the last one gives.
    """

    #: it reads frames, of one band: waves
    frames = waves = True
    bands = 1

    def __init__(
        self,
        dim: int,
        channels: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        *,
        norms: Sequence[nn.Module | None],
        norm: nn.Module,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not len(channels) == len(kernels) == len(strides) == len(norms) or not channels:
            raise ValueError(
                f"channels, kernels and strides name {len(channels)}, {len(kernels)} and "
                f"{len(strides)} convolutions; they must agree, and be at least 1"
            )
        self.kernels, self.strides = tuple(kernels), tuple(strides)
        sizes = zip((1, *channels), channels, kernels, strides, strict=False)
        self.convs = nn.ModuleList(
            nn.Conv1d(a, b, kernel, stride=stride, bias=bias) for a, b, kernel, stride in sizes
        )
        self.norms = nn.ModuleDict({str(i): one for i, one in enumerate(norms) if one is not None})
        self.norm = norm
        self.project = nn.Linear(channels[-1], dim)
        self.dropout = nn.Dropout(dropout)

    @property
    def factor(self) -> int:
        """How many samples there are to a token."""
        return prod(self.strides)

    @property
    def field(self) -> int:
        """How many samples a token reads."""
        reach = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            reach = (reach - 1) * stride + kernel
        return reach

    def count(self, samples: Length) -> Length:
        """How many tokens a row of so many samples, or rows of such lengths, gives."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = _steps(samples, kernel, stride)
        return samples

    def real(self, valid: Tensor) -> Tensor:
        """Which tokens (B, N) are real, from which samples (B, S) are, wherever padding stood."""
        tokens = torch.arange(self.count(valid.shape[1]), device=valid.device)
        return tokens < self.count(valid.sum(1))[:, None]

    def forward(
        self, wave: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context, padding on the right. ValueError for pieces, or another form."""
        if start is not None:
            raise ValueError("a wave comes whole: this stem cannot be fed piece by piece")
        if wave.dim() != 3 or wave.shape[-1] != 1 or not wave.is_floating_point():
            raise ValueError(
                f"waves must be floating point (batch, samples, 1), not {wave.dtype} "
                f"{tuple(wave.shape)}"
            )
        tokens, lengths = self.count(wave.shape[1]), None if valid is None else valid.sum(1)
        # what is padding may hold anything; too short for one token: read as one, and then left out
        wave = wave if valid is None else wave.masked_fill(~valid.unsqueeze(-1), 0.0)
        x = F.pad(wave, (0, 0, 0, max(0, self.field - wave.shape[1])))
        for i, conv in enumerate(self.convs):
            x, real = conv(x.mT).mT, None
            if lengths is not None:
                lengths = _steps(lengths, self.kernels[i], self.strides[i])
                real = _first(x.shape[1], lengths)
                x = x.masked_fill(~real.unsqueeze(-1), 0.0)
            x = F.gelu(self.norms[str(i)](x, real) if str(i) in self.norms else x)
        x = self.project(self.norm(x))[:, :tokens]
        context = Context.of(x, None if lengths is None else _first(tokens, lengths))
        return context.clean(self.dropout(x)), context


@dataclass(frozen=True)
class WaveStemConfig:
    """Fields of a stem for waves, as `subquad.nn.WaveStem`; by default wav2vec 2.0's 320 samples to
    a token. `norms`: of the convolutions, "layer" for all, "first" for the first, over the row.
    `norm`: of what they give.
    """

    channels: tuple[int, ...] = (512,) * 7
    kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    bias: bool = False
    norms: str = "first"
    norm: str = "layer"
    dropout: float = 0.0

    def build(self, dim: int, vocab_size: int) -> WaveStem:
        """The stem of a model of this width; there is no vocabulary."""
        make = choose("norms", self.norms, {"layer": self._layers, "first": self._rows})
        return WaveStem(
            dim,
            self.channels,
            self.kernels,
            self.strides,
            norms=make(),
            norm=normalise(self.norm)(self.channels[-1] if self.channels else 1),
            bias=self.bias,
            dropout=self.dropout,
        )

    def _layers(self) -> list[nn.Module | None]:
        return [StepNorm(width) for width in self.channels]

    def _rows(self) -> list[nn.Module | None]:
        return [ChannelNorm(width) if i == 0 else None for i, width in enumerate(self.channels)]


def _steps(length: Length, kernel: int, stride: int) -> Length:
    """Outputs of a convolution without padding."""
    less = length - kernel
    if isinstance(less, Tensor):
        return less.div(stride, rounding_mode="floor").clamp(min=-1) + 1
    return max(less // stride, -1) + 1


def _first(steps: int, lengths: Tensor) -> Tensor:
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
