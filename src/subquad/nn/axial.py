"""Axial positions: the place of a token on a grid, a learned table for each axis.

    p = (i_1, ..., i_k) on a grid of `shape`, the last axis fastest
    vector(p) = [table_1[i_1], ..., table_k[i_k]]        joined on the channels

Kitaev et al., 2020 (Reformer), as released: https://github.com/google/trax; Ho et al., 2019,
https://arxiv.org/abs/1912.12180. Parameters sum(shape_a dims_a) instead of prod(shape) C.

Axes: B batch, N tokens, C model width.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor, nn

from subquad.nn.choices import choose
from subquad.nn.position import Learned, Sinusoidal, within

__all__ = ["Axial", "AxialSum", "absolute"]


class Axial(nn.Module):
    """Learned positions on a grid, added to the features of a stem.

    shape: the places on each axis.  dims: the channels of each axis, which add up to `dim`; none
    given means as equal as can be, the first axes getting what is left over.
    ValueError where they do not fit, PositionError for positions at or beyond prod(shape), a real
    limit.
    """

    def __init__(self, dim: int, shape: Sequence[int], dims: Sequence[int] = ()) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.dims = tuple(dims) or _shares(dim, len(self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"axial_shape {self.shape} must name at least one place on every axis")
        if len(self.dims) != len(self.shape):
            raise ValueError(
                f"axial_dims {self.dims} name {len(self.dims)} axes and axial_shape {self.shape} "
                f"{len(self.shape)}; give one width for each axis"
            )
        if sum(self.dims) != dim or min(self.dims) < 1:
            raise ValueError(
                f"axial_dims {self.dims} must be positive and add up to the width {dim}, not to "
                f"{sum(self.dims)}"
            )
        sizes = zip(self.shape, self.dims, strict=True)
        self.tables = nn.ModuleList(nn.Embedding(places, width) for places, width in sizes)

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C); where `valid` (B, N) is False any vector may come."""
        return torch.cat(_looked_up(self.tables, self.shape, pos, valid), -1)


class AxialSum(nn.Module):
    """As `Axial`, each table as wide as the features, and their vectors added: reformer-pytorch's.

    ValueError for a grid without places, PositionError as `Axial`.
    """

    def __init__(self, dim: int, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"axial_shape {self.shape} must name at least one place on every axis")
        self.tables = nn.ModuleList(nn.Embedding(places, dim) for places in self.shape)

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C); where `valid` (B, N) is False any vector may come."""
        return torch.stack(_looked_up(self.tables, self.shape, pos, valid)).sum(0)


def _looked_up(
    tables: nn.ModuleList, shape: tuple[int, ...], pos: Tensor, valid: Tensor | None
) -> list[Tensor]:
    """The vector of each axis at positions (B or 1, N), the first axis first."""
    places = prod(shape)
    said = f"prod(axial_shape) = {places} of axial_shape {shape}"
    pos, parts = within(pos, valid, places, said), []
    for table, size in zip(reversed(tables), reversed(shape), strict=True):
        parts.append(table(pos % size))
        pos = pos // size
    return parts[::-1]


def _shares(whole: int, parts: int) -> tuple[int, ...]:
    """A width in as equal parts as can be, the first ones larger."""
    return tuple((whole + parts - 1 - part) // parts for part in range(parts))


def absolute(
    name: str, dim: int, *, max_len: int, axial: tuple[Sequence[int], Sequence[int]]
) -> nn.Module | None:
    """Absolute positions by their name in a stem's configuration; None for "none".

    max_len: of learned ones.  axial: shape and widths of axial ones (those that are
    added have one). ValueError for another name.
    """
    make: Callable[[], nn.Module | None] = choose(
        "stem position",
        name,
        {
            "none": lambda: None,
            "sinusoidal": lambda: Sinusoidal(dim),
            "fairseq": lambda: Sinusoidal.fairseq(dim),
            "learned": lambda: Learned(dim, max_len),
            "axial": lambda: Axial(dim, *axial),
            "axial_sum": lambda: AxialSum(dim, axial[0]),
        },
    )
    return make()
