"""Positions: how distance enters the score.

A Position turns queries and keys when they are made (`turn`), and lowers to what distance adds to a
score when they meet (`lower`). Most do one of the two.

Axes: B batch, N tokens, H heads, D head width, C model width, S rows of a table of distances.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from subquad.ops.partial import Distance, wide
from subquad.ops.positions import Rates, alibi_slopes, rotate, sinusoids

__all__ = [
    "ALiBi",
    "Learned",
    "Position",
    "PositionError",
    "Rotary",
    "Sinusoidal",
    "XLBiases",
    "XLRelative",
]


class Position(nn.Module):
    """Base of all positions inside attention; this one adds nothing."""

    #: does `lower` add to scores? Kernel attention has no scores to add to, and refuses
    scores = False

    def reach(self) -> int | None:
        """The farthest distance that `lower` does not forbid now; None if unbounded."""
        return None

    def turn(self, x: Tensor, pos: Tensor) -> Tensor:
        """Queries or keys x (B, H, N, D) at pos (B or 1, N), changed by where they stand."""
        return x

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int, x: Tensor
    ) -> tuple[Tensor, Distance | None]:
        """Queries (B, H, N, D) and what distances from -ahead to behind add to scaled scores.

        x (B, N, C) are the features that the queries were made of.
        """
        return q, None


class Rotary(Position):
    """Rotation of queries and keys by their positions (RoFormer, arXiv 2104.09864).

    `width` channels of a head turn (default all); it must be even. `rates` may slow them down, so
    that a model reads further than it was trained to. Scores depend on distance alone.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        width: int | None = None,
        base: float = 10000.0,
        rates: Rates | None = None,
    ) -> None:
        super().__init__()
        self.width = head_dim if width is None else width
        self.base, self.rates = base, rates or Rates()
        if self.width % 2 or not 0 < self.width <= head_dim:
            raise ValueError(
                "rotary positions turn an even number of channels, at most the head width "
                f"{head_dim}, not {self.width}"
            )

    def turn(self, x: Tensor, pos: Tensor) -> Tensor:
        return rotate(x, pos, self.width, self.base, self.rates)


class ALiBi(Position):
    """A penalty that grows with distance, at a slope fixed per head (arXiv 2108.12409).

    score -= slope_h |i - j|. Extrapolates to lengths beyond training.
    """

    scores = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int, x: Tensor
    ) -> tuple[Tensor, Distance | None]:
        d = torch.arange(-ahead, behind + 1, device=q.device)
        slopes = alibi_slopes(self.num_heads).to(q.device, wide(q.dtype))
        return q, Distance(None, None, -slopes[:, None] * d.abs(), ahead)


class XLBiases(nn.Module):
    """u and v of Transformer-XL, one vector per head each, for layers that share them."""

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.zeros(num_heads, head_dim))
        self.v = nn.Parameter(torch.zeros(num_heads, head_dim))


class XLRelative(Position):
    """Transformer-XL's relative positions (arXiv 1901.02860, section 3.3).

    score = (q_i + u) . k_j + (q_i + v) . W_R R_{i-j}, R sinusoids of distance, u and v per head.
    Distances beyond `clamp_len` count as `clamp_len`. `dim` is the width of R, by default that of
    all heads. `biases` are u and v that live elsewhere, shared among layers; by default its own.

    Without gradients the product W_R R is kept from call to call, for as long as W_R holds the same
    numbers: a decoding step then costs one product with the distances in reach, not the forming of
    them.
    """

    scores = True

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        dim: int | None = None,
        clamp_len: int | None = None,
        biases: XLBiases | None = None,
    ) -> None:
        super().__init__()
        if clamp_len is not None and clamp_len < 0:
            raise ValueError(f"clamp_len is {clamp_len}; it is a distance from 0 on, or None")
        self.num_heads, self.head_dim, self.clamp_len = num_heads, head_dim, clamp_len
        self.dim = dim or num_heads * head_dim
        self.table = nn.Linear(self.dim, num_heads * head_dim, bias=False)
        # in a tuple, so that they belong to one module alone: weights on disk have one name
        self._lent = () if biases is None else (biases,)
        if biases is None:
            self.u = nn.Parameter(torch.zeros(num_heads, head_dim))
            self.v = nn.Parameter(torch.zeros(num_heads, head_dim))
        self._kept: _Projected | None = None

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int, x: Tensor
    ) -> tuple[Tensor, Distance | None]:
        if self.clamp_len is not None:
            behind, ahead = min(behind, self.clamp_len), min(ahead, self.clamp_len)
        table = self._table(behind, ahead)
        owner = self._lent[0] if self._lent else self
        query = (q + owner.v[:, None]) * scale
        return q + owner.u[:, None], Distance(query, table.to(query.dtype), None, ahead)

    def _table(self, behind: int, ahead: int) -> Tensor:
        """W_R R of the distances from -ahead to behind: (H, S, D)."""
        weight = self.table.weight
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or weight.is_meta:
            return self._project(behind, ahead)
        kept = self._kept
        if kept is None or not kept.serves(behind, ahead, weight):
            # ahead of what is asked for: a stream asks for one distance more at every token
            far = 1 << behind.bit_length()
            far = far if self.clamp_len is None else min(far, self.clamp_len)
            with torch.autocast(weight.device.type, enabled=False):
                table = self._project(far, ahead).contiguous()
            kept = self._kept = _Projected(table, ahead, weight.detach().clone())
        first = kept.ahead - ahead
        return kept.table[:, first : first + ahead + behind + 1]

    def _project(self, behind: int, ahead: int) -> Tensor:
        d = torch.arange(-ahead, behind + 1, device=self.table.weight.device)
        table = self.table(sinusoids(d, self.dim).to(self.table.weight.dtype))
        return table.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)


class _Projected(NamedTuple):
    """A table (H, S, D) of distances from -ahead on, and the weights that it was made with."""

    table: Tensor
    ahead: int
    weight: Tensor

    def serves(self, behind: int, ahead: int, weight: Tensor) -> bool:
        """Does it hold these distances, and are those still the weights?"""
        wide = self.ahead >= ahead and self.table.shape[1] > self.ahead + behind
        alike = self.weight.dtype == weight.dtype and self.weight.device == weight.device
        # by their numbers: a version counter does not see what is written through .data
        return wide and alike and torch.equal(self.weight, weight)


class Sinusoidal(nn.Module):
    """Sinusoids of the absolute position, added to the features of a stem.

    first: the position of a row's first token.  base: as in `sinusoids`.
    """

    def __init__(self, dim: int, *, first: int = 0, base: float = 10000.0) -> None:
        super().__init__()
        self.dim, self.first, self.base = dim, first, base

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C)."""
        return sinusoids(pos + self.first, self.dim, self.base)

    @classmethod
    def fairseq(cls, dim: int) -> "Sinusoidal":
        """fairseq's: the slowest turns by 1 in 10,000, and tokens count from 2. ValueError for a
        width below 4."""
        if dim < 4:
            raise ValueError(f"these sinusoids need a width of at least 4, not {dim}")
        return cls(dim, first=2, base=10000.0 ** (dim / (dim - 2)))


class PositionError(ValueError):
    """A token stands where positions have not been learned."""


class Learned(nn.Module):
    """A learned vector per absolute position, added to the features of a stem.

    PositionError for positions at or beyond `max_len`: this limit is real.
    """

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len
        self.table = nn.Embedding(max_len, dim)

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C); where `valid` (B, N) is False any vector may come."""
        return self.table(within(pos, valid, self.max_len, f"max_len = {self.max_len}"))


def within(pos: Tensor, valid: Tensor | None, limit: int, said: str) -> Tensor:
    """Positions (B or 1, N) below `limit`, 0 where `valid` is False; `said` names the limit.

    PositionError for a token beyond it.
    """
    if valid is not None:
        pos = torch.where(valid, pos, 0)
    last = pos.shape[1] - 1
    if not torch.compiler.is_compiling() and pos.numel():
        last = int(pos.max())
    if last >= limit:
        raise PositionError(f"position {last}, but positions are learned up to {said}")
    return pos
