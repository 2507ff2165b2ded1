"""Position as mathematics: rotation, sinusoids, slopes, grids. Modules: `subquad.nn.position`.

Axes: B batch, N tokens, H heads, D head width, C model width, A axes of a grid.
"""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from subquad.ops.partial import wide

__all__ = ["alibi_slopes", "fourier", "rotate", "sinusoids"]


def sinusoids(pos: Tensor, dim: int, base: float = 10000.0) -> Tensor:
    """Sines, then cosines, of positions of any shape: (..., dim), float32.

    Frequencies base^(-2i/dim) (Vaswani et al. 2017, section 3.5; halves joined, not interleaved, as
    in Transformer-XL). ValueError if `dim` is odd.
    """
    if dim % 2:
        raise ValueError(f"sinusoidal positions need an even width, not {dim}")
    angle = _angles(pos, dim, base)
    return torch.cat((angle.sin(), angle.cos()), -1).float()


def rotate(x: Tensor, pos: Tensor, width: int, base: float = 10000.0) -> Tensor:
    """x (B, H, N, D), its first `width` channels turned by pos (B or 1, N) (RoFormer, 2104.09864).

    Channel i turns with channel i + width / 2, as in Llama and GPT-NeoX. Angles are computed in
    float64: at position 100,000 float32 angles are off by 0.004.
    """
    angle = _angles(pos, width, base)[:, None]
    kind = wide(x.dtype)
    cos, sin = angle.cos().to(kind), angle.sin().to(kind)
    a, b = x[..., : width // 2].to(kind), x[..., width // 2 : width].to(kind)
    turned = torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)
    return turned if width == x.shape[-1] else torch.cat((turned, x[..., width:]), -1)


def _angles(pos: Tensor, width: int, base: float) -> Tensor:
    """Positions times base^(-2i/width): (..., width / 2), in float64 where the device has it."""
    kind = torch.float32 if pos.device.type == "mps" else torch.float64
    rate = base ** (-torch.arange(0, width, 2, device=pos.device, dtype=kind) / width)
    return pos.to(kind).unsqueeze(-1) * rate


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
