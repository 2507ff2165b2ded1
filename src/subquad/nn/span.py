"""Adaptive span: every head learns how far back it looks, and pays for it.

    m_z(x) = clamp((R + z - x) / R, 0, 1)                 x distance, z span of a head, R ramp
    a_ij = m_z(x) exp(s_ij) / sum_j' m_z(x') exp(s_ij')   = softmax over j of s_ij + log m_z(x)
    loss += cost S mean(z / S)                            over the heads of a layer
    dynamic: z_i = S sigmoid(v . x_i + b)                 a span of its own for every token

Sukhbaatar et al., Adaptive Attention Span in Transformers, https://arxiv.org/abs/1905.07799.

The newest key that a token may look at is at distance 1, as in the paper (0 in the released code).
A key beyond the span of the widest head counts for none, so attention neither computes nor keeps
it: O(N (z + R)) time for the largest z now, whatever z may become.

Axes: B batch, N queries, H heads, D head width, S farthest distance.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.position import Position
from subquad.ops.partial import Distance, log_ramp, wide

__all__ = ["Borrowed", "DynamicSpan", "RelativeTable", "SpanRamp", "Table"]


class RelativeTable(nn.Module):
    """A learned vector for each distance from `nearest` to `nearest + size - 1`: score += q . row.

    One table serves all heads, and through `Borrowed` all layers.
    """

    def __init__(self, head_dim: int, size: int, *, nearest: int = 1) -> None:
        super().__init__()
        self.nearest = nearest
        self.weight = nn.Parameter(torch.zeros(size, head_dim))

    def rows(self, behind: int, ahead: int) -> Tensor:
        """Rows of the distances -ahead to behind. ValueError for a distance that has none."""
        first, last = -ahead - self.nearest, behind - self.nearest
        if first < 0 or last >= len(self.weight):
            raise ValueError(
                f"distances {-ahead} to {behind} are asked for, and the table holds {self.nearest} "
                f"to {self.nearest + len(self.weight) - 1}"
            )
        return self.weight[first : last + 1]


class Borrowed:
    """The table of another layer: used here, trained and saved there."""

    def __init__(self, table: RelativeTable) -> None:
        self.table = table

    def rows(self, behind: int, ahead: int) -> Tensor:
        """As the table."""
        return self.table.rows(behind, ahead)


Table = RelativeTable | Borrowed


class SpanRamp(Position):
    """A learned span for each head, from 0 to `max_span`, with a soft end of `ramp` tokens.

    `span` (H, 1) is z as a share of `max_span`; it begins at 0, where a head sees the newest
    `ramp - 1` keys (with a ramp of 1 none: it gives zeros), and is held in [0, 1] after each step.
    `cost` is the paper's lambda. `table` adds the paper's relative positions. `newest` is what the
    ramp takes for the distance of the newest key. ValueError for a span or ramp below 1.
    """

    scores = True

    def __init__(
        self,
        num_heads: int,
        max_span: int,
        *,
        ramp: int = 32,
        cost: float = 0.0,
        table: Table | None = None,
        newest: int = 1,
    ) -> None:
        super().__init__()
        _check(max_span, ramp, cost)
        self.max_span, self.ramp, self.cost, self.table = max_span, ramp, cost, table
        self.newest = newest
        self.span = nn.Parameter(torch.zeros(num_heads, 1))

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int, x: Tensor
    ) -> tuple[Tensor, Distance | None]:
        behind = max(behind, -ahead)  # at least one row, where no distance can occur
        d = torch.arange(-ahead, behind + 1, device=q.device).abs()
        bias = log_ramp(self._ends() - d, self.ramp)
        query, rows = _relative(self.table, q, scale, behind, ahead)
        return q, Distance(query, rows, bias, ahead)

    def reach(self) -> int | None:
        """The farthest distance that some head looks at now.

        Read from the parameter each time. A graph cannot hold what training will change: under
        torch.compile, and without data (meta), this is `max_span`.
        """
        if torch.compiler.is_compiling() or self.span.is_meta:
            return self.max_span
        end = float(self._ends().detach().max())
        if not end < self.max_span + 1:  # a NaN counts as all, so that the loss shows it
            return self.max_span
        return math.ceil(max(end, 1.0)) - 1

    def spans(self) -> Tensor:
        """z of each head, in tokens: (H,)."""
        return self.span[:, 0] * self.max_span

    def penalty(self) -> Tensor:
        """What the spans of this layer add to the loss."""
        return self.cost * self.max_span * self.span.mean()

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Hold spans inside [0, max_span]."""
        self.span.clamp_(0.0, 1.0)

    def _ends(self) -> Tensor:
        """The distance from which on a head sees nothing, R + z: (H, 1)."""
        return self.ramp + 1 - self.newest + self.span.to(wide(self.span.dtype)) * self.max_span


class DynamicSpan(Position):
    """A span for each head and token, from what the token is: S sigmoid(v . x + b).

    b begins at -4, a 55th of `max_span`. Any token may look at all of `max_span`, so reach, time
    and state are those of the whole window. `cost`, `ramp` and `table` as in `SpanRamp`: what is
    paid for is the mean over the last batch trained on. ValueError for a span or ramp below 1.
    """

    scores = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        max_span: int,
        *,
        ramp: int = 32,
        cost: float = 0.0,
        table: Table | None = None,
    ) -> None:
        super().__init__()
        _check(max_span, ramp, cost)
        self.max_span, self.ramp, self.cost, self.table = max_span, ramp, cost, table
        self.weight = nn.Parameter(torch.zeros(num_heads, dim))
        self.offset = nn.Parameter(torch.full((num_heads,), -4.0))
        self._mean: Tensor | None = None

    def lower(
        self, q: Tensor, scale: float, behind: int, ahead: int, x: Tensor
    ) -> tuple[Tensor, Distance | None]:
        behind = max(behind, -ahead)
        span = self.spans(x)
        if self.training and self.cost:
            self._mean = span.mean()
        query, rows = _relative(self.table, q, scale, behind, ahead)
        return q, Distance(query, rows, None, ahead, span, self.ramp)

    def spans(self, x: Tensor) -> Tensor:
        """z of each token of x (B, N, C), in tokens: (B, H, N), float32 or wider."""
        share = F.linear(x, self.weight, self.offset)
        return self.max_span * share.to(wide(share.dtype)).sigmoid().transpose(1, 2)

    def penalty(self) -> Tensor | float:
        """What the spans of the batch just run add to the loss; asked once for each batch."""
        mean, self._mean = self._mean, None
        return 0.0 if mean is None else self.cost * mean

    def __getstate__(self) -> dict[str, Any]:
        """Without the mean: a copy has not run."""
        return {**self.__dict__, "_mean": None}


def _check(max_span: int, ramp: int, cost: float) -> None:
    if max_span < 1 or ramp < 1:
        raise ValueError(f"max_span {max_span} and ramp {ramp} must be at least 1")
    if cost < 0:
        raise ValueError(f"cost is {cost}; spans have a price, so it must not be negative")


def _relative(
    table: Table | None, q: Tensor, scale: float, behind: int, ahead: int
) -> tuple[Tensor | None, Tensor | None]:
    """The relative query (B, H, N, D) and its rows (1, S, D)."""
    if table is None:
        return None, None
    return q * scale, table.rows(behind, ahead).to(q.dtype)[None]
