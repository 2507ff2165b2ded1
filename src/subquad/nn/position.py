"""Positions: how distance enters the score.

A Position turns queries and keys when they are made (`turn`), and lowers to what distance adds to a
score when they meet (`lower`). Most do one of the two.

Axes: B batch, N tokens, H heads, D head width, C model width, S rows of a table of distances.
"""

import torch
from torch import Tensor, nn

from subquad.ops.partial import Distance, wide
from subquad.ops.positions import alibi_slopes, rotate, sinusoids

__all__ = ["ALiBi", "Learned", "Position", "Rotary", "Sinusoidal", "XLRelative"]


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
        self, q: Tensor, scale: float, behind: int, ahead: int
    ) -> tuple[Tensor, Distance | None]:
        """Queries (B, H, N, D) and what distances from -ahead to behind add to scaled scores."""
        return q, None


class Rotary(Position):
    """Rotation of queries and keys by their positions (RoFormer, arXiv 2104.09864).

    `width` channels of a head turn (default all); it must be even. Scores depend on distance alone.
    """

    def __init__(self, head_dim: int, *, width: int | None = None, base: float = 10000.0) -> None:
        super().__init__()
        self.width = head_dim if width is None else width
        self.base = base
        if self.width % 2 or not 0 < self.width <= head_dim:
            raise ValueError(
                "rotary positions turn an even number of channels, at most the head width "
                f"{head_dim}, not {self.width}"
            )

    def turn(self, x: Tensor, pos: Tensor) -> Tensor:
        return rotate(x, pos, self.width, self.base)


class ALiBi(Position):
    """A penalty that grows with distance, at a slope fixed per head (arXiv 2108.12409).

    score -= slope_h |i - j|. Extrapolates to lengths beyond training.
    """

    scores = True

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int
    ) -> tuple[Tensor, Distance | None]:
        d = torch.arange(-ahead, behind + 1, device=q.device)
        slopes = alibi_slopes(self.num_heads).to(q.device, wide(q.dtype))
        return q, Distance(None, None, -slopes[:, None] * d.abs(), ahead)


class XLRelative(Position):
    """Transformer-XL's relative positions (arXiv 1901.02860, section 3.3).

    score = (q_i + u) . k_j + (q_i + v) . W_R R_{i-j}, R sinusoids of distance, u and v per head.
    Distances beyond `clamp_len` count as `clamp_len`.
    """

    scores = True

    def __init__(self, num_heads: int, head_dim: int, *, clamp_len: int | None = None) -> None:
        super().__init__()
        dim = num_heads * head_dim
        self.num_heads, self.clamp_len, self.dim = num_heads, clamp_len, dim
        self.table = nn.Linear(dim, dim, bias=False)
        self.u = nn.Parameter(torch.zeros(num_heads, head_dim))
        self.v = nn.Parameter(torch.zeros(num_heads, head_dim))

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int
    ) -> tuple[Tensor, Distance | None]:
        if self.clamp_len is not None:
            behind, ahead = min(behind, self.clamp_len), min(ahead, self.clamp_len)
        d = torch.arange(-ahead, behind + 1, device=q.device)
        table = self.table(sinusoids(d, self.dim).to(self.table.weight.dtype))
        table = table.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        query = (q + self.v[:, None]) * scale
        return q + self.u[:, None], Distance(query, table.to(query.dtype), None, ahead)


class Sinusoidal(nn.Module):
    """Sinusoids of the absolute position, added to the features of a stem."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C)."""
        return sinusoids(pos, self.dim)


class Learned(nn.Module):
    """A learned vector per absolute position, added to the features of a stem.

    ValueError for positions at or beyond `max_len`: this limit is real.
    """

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__()
        self.max_len = max_len
        self.table = nn.Embedding(max_len, dim)

    def forward(self, pos: Tensor, valid: Tensor | None = None) -> Tensor:
        """pos (B or 1, N) to (B or 1, N, C); where `valid` (B, N) is False any vector may come."""
        if valid is not None:
            pos = torch.where(valid, pos, 0)
        last = pos.shape[1] - 1
        if not torch.compiler.is_compiling() and pos.numel():
            last = int(pos.max())
        if last >= self.max_len:
            raise ValueError(
                f"position {last}, but positions are learned up to max_len = {self.max_len}"
            )
        return self.table(pos)
