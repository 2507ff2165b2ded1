"""What distance adds to the scores of any block of pairs, and the gradients of that.

    score += r_i . table[d] + bias[d],   d = clamp(distance(i, j) + zero, 0, R - 1)
    score += log of the ramp at which the span of query i ends (`log_ramp`)

Engines whose blocks are not bands meet distances in any order, so rows are looked up pair by pair.
Where the table is not much longer than the block is wide, one product with the whole table is
cheaper than reading T x S of its rows.

Axes: B batch, H heads, T queries, S keys, R rows of a table, D head width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.calls import Call
from subquad.ops.partial import log_ramp, ramp_slope
from subquad.ops.pieces import Piece

__all__ = ["Relative", "heads_of", "loose"]


@dataclass
class Relative:
    """The distances of one block: query (B, H, T, D), table (H or 1, R, D), bias (H or 1, R).

    `distance` (B or 1, H or 1, T or 1, S) is query position minus key position; span (B, H, T).
    """

    query: Tensor | None
    table: Tensor | None
    bias: Tensor | None
    zero: int
    distance: Tensor
    span: Tensor | None = None
    ramp: float = 1.0

    def scores(self) -> Tensor | float:
        """What to add, (B or 1, H or 1, T or 1, S)."""
        total: Tensor | float = 0.0
        if self.bias is not None:
            total = total + self.bias[self._at(self.bias)]
        if self.query is not None and self.table is not None:
            if self._whole:
                every = self.query @ self.table.mT
                index = self._at(self.table)[1].expand(*self.query.shape[:3], -1)
                total = total + every.gather(-1, index)
            else:
                total = total + torch.einsum("bhtd,bhtsd->bhts", self.query, self._rows())
        if self.span is not None:
            total = total + log_ramp(self._left(self.span), self.ramp)
        return total

    def span_grad(self, scores: Tensor) -> Tensor | None:
        """The span's gradient (B, H, T) from that of `scores` (B, H, T, S)."""
        if self.span is None:
            return None
        return (scores * ramp_slope(self._left(self.span), self.ramp)).sum(-1)

    def _left(self, span: Tensor) -> Tensor:
        return self.ramp + span.unsqueeze(-1) - self.distance.abs()

    def add_grads(self, scores: Tensor, table: Tensor | None, bias: Tensor | None) -> Tensor | None:
        """The query's gradient from that of `scores` (B, H, T, S); adds to `table` and `bias`."""
        if self.bias is not None and bias is not None:
            _add(bias, self._at(self.bias), scores)
        if self.query is None or self.table is None or table is None:
            return None
        low = scores.to(self.query.dtype)
        index = self._at(self.table)
        if self._whole:
            every = low.new_zeros(*low.shape[:3], self.table.shape[1])
            every.scatter_add_(-1, index[1].expand(low.shape), low)
            table += (every.mT @ self.query).sum(0).sum_to_size(table.shape)
            return every @ self.table
        _add(table, index, low.unsqueeze(-1) * self.query.unsqueeze(-2))
        return torch.einsum("bhts,bhtsd->bhtd", low, self._rows())

    def _at(self, of: Tensor) -> tuple[Tensor, Tensor]:
        heads = torch.arange(of.shape[0], device=of.device).view(-1, 1, 1)
        return heads, (self.distance + self.zero).clamp(0, of.shape[1] - 1)

    @property
    def _whole(self) -> bool:
        return self.table is not None and self.table.shape[1] <= 4 * self.distance.shape[-1]

    def _rows(self) -> Tensor:
        assert self.table is not None
        return self.table[self._at(self.table)]


def loose(call: Call, piece: Piece) -> Relative:
    """The distances of a piece of a single block, whatever steps positions run on by."""
    at, to = piece.queries(call.q_where[0]), piece.look(call.k_where[0])
    query, span = (None if t is None else piece.queries(t) for t in (call.rel_query, call.span))
    return Relative(
        query,
        heads_of(call.rel_table, piece),
        heads_of(call.rel_bias, piece),
        call.zero,
        at.unsqueeze(-1) - to.unsqueeze(-2),
        span,
        call.ramp,
    )


def heads_of(table: Tensor | None, piece: Piece) -> Tensor | None:
    """The rows of a table (H or 1, R, ...) for the heads of a piece."""
    return table if table is None or table.shape[0] == 1 else table[piece.h0 : piece.h1]


def _add(total: Tensor, index: tuple[Tensor, Tensor], part: Tensor) -> None:
    """Add `part` (B, H, T, S, ...) at `index` (head, row) of `total`."""
    shape = torch.broadcast_shapes(*(i.shape for i in index))
    part = part.sum_to_size(*shape, *part.shape[4:])
    total.index_put_([i.expand(shape) for i in index], part.to(total.dtype), accumulate=True)
