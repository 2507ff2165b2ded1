"""Position as mathematics: rotation, sinusoids, slopes, grids. Modules: `subquad.nn.position`.

Axes: B batch, N tokens, H heads, D head width, C model width, A axes of a grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from subquad.ops.partial import wide

__all__ = [
    "LinearRates",
    "Llama3Rates",
    "Rates",
    "alibi_slopes",
    "fourier",
    "rotate",
    "sinusoids",
]


@dataclass(frozen=True)
class Rates:
    """How fast the channels of a rotation turn: base^(-2i/width) per token, as they are."""

    def of(self, rates: Tensor) -> Tensor:
        """The rates that are turned by, of any shape, from base^(-2i/width)."""
        return rates


_AS_THEY_ARE = Rates()


@dataclass(frozen=True)
class LinearRates(Rates):
    """All channels turn `factor` times slower, as if positions were that much closer together.

    Chen et al. 2023, Extending Context Window of Large Language Models via Positional
    Interpolation, arXiv 2306.15595. ValueError for a factor below 1.
    """

    factor: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)

    def of(self, rates: Tensor) -> Tensor:
        return rates / self.factor


@dataclass(frozen=True)
class Llama3Rates(Rates):
    """Slow channels turn `factor` times slower, fast ones as they did, those between by degrees.

    A channel that turns t times in `length` tokens is slow if t < low and fast if t > high
    (Grattafiori et al. 2024, The Llama 3 Herd of Models, arXiv 2407.21783; Llama 3.1 and later have
    8, 1, 4, 8192). ValueError for a factor below 1, or unless 0 < low < high and 0 < length.
    """

    factor: float
    low: float
    high: float
    length: float

    def __post_init__(self) -> None:
        _check_factor(self.factor)
        if not 0 < self.low < self.high or not self.length > 0:
            raise ValueError(
                f"low is {self.low}, high {self.high} and length {self.length}; channels are slow "
                "below low turns in length tokens and fast above high: 0 < low < high, 0 < length"
            )

    def of(self, rates: Tensor) -> Tensor:
        turns = rates * (self.length / (2 * pi))
        fast = ((turns - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
        return rates * (fast + (1 - fast) / self.factor)


def _check_factor(factor: float) -> None:
    if not factor >= 1:
        raise ValueError(f"factor is {factor}; rates are divided by it, and it is at least 1")


def sinusoids(pos: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Sines, then cosines, of positions of any shape: (..., dim), float32.

    Frequencies base^(-2i/dim) (Vaswani et al. 2017, section 3.5; halves joined, not interleaved, as
    in Transformer-XL). ValueError if `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {dim}")
    angle = _angles(pos, dim, base)
    return torch.cat((angle.sin(), angle.cos()), -1).float()


def rotate(
    x: Tensor, pos: Tensor, width: int, base: float = 10000.0, rates: Rates = _AS_THEY_ARE
) -> Tensor:
    """x (B, H, N, D), its first `width` channels turned by pos (B or 1, N) (RoFormer, 2104.09864).

    Channel i turns with channel i + width / 2, as in Llama and GPT-NeoX, at base^(-2i/width) or
    what `rates` makes of it. Angles are computed in float64: at position 100,000 float32 angles are
    off by 0.004.
    """
    angle = _angles(pos, width, base, rates)[:, :, None]
    kind = wide(x.dtype)
    cos, sin = angle.cos().to(kind), angle.sin().to(kind)
    x = x.transpose(1, 2)  # as projections leave it: what attends then finds all three alike
    a, b = x[..., : width // 2].to(kind), x[..., width // 2 : width].to(kind)
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)
    both = turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)
    return both.transpose(1, 2)


def _angles(pos: Tensor, width: int, base: float, rates: Rates = _AS_THEY_ARE) -> Tensor:
    """Positions times rates: (..., width / 2), in float64 where the device has it."""
    kind = torch.float32 if pos.device.type == "mps" else torch.float64
    rate = base ** (-torch.arange(0, width, 2, device=pos.device, dtype=kind) / width)
    return pos.to(kind).unsqueeze(-1) * rates.of(rate)


def alibi_slopes(num_heads: int) -> Tensor:
    """Slopes of ALiBi (2108.12409): a geometric row from 2^(-8/n), n the power of two below.

    Further heads take every other slope of the row for twice as many, as in the released code.
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return torch.tensor(slopes, dtype=torch.float64, device="cpu")


def fourier(
    shape: Sequence[int],
    bands: int,
    resolution: Sequence[int],
    device: torch.device | str | None = None,
) -> Tensor:
    """The places of a grid of `shape`, last axis fastest: (N, A + 2 A bands), in float64.

    The place itself, from -1 to 1 on each axis, then sines, then cosines of pi f place, at `bands`
    frequencies f from 1 to half of the axis's `resolution`, evenly apart (Jaegle et al. 2021,
    Perceiver, arXiv 2103.03206, section 3.2). An axis of one place stands at -1.
    ValueError where shape and resolution have not as many axes.
    """
    if len(shape) != len(resolution):
        raise ValueError(
            f"a grid of shape {tuple(shape)} has {len(shape)} axes and resolution "
            f"{tuple(resolution)} has {len(resolution)}; they must agree"
        )
    kind = torch.float32 if torch.device(device or "cpu").type == "mps" else torch.float64
    sides = [torch.linspace(-1.0, 1.0, size, dtype=kind, device=device) for size in shape]
    place = torch.stack(torch.meshgrid(*sides, indexing="ij"), -1).flatten(0, -2)
    rates = [torch.linspace(1.0, most / 2, bands, dtype=kind, device=device) for most in resolution]
    angle = (pi * place[:, :, None] * torch.stack(rates)).flatten(1)
    return torch.cat((place, angle.sin(), angle.cos()), -1)
