"""The gather engine: attention of every query over a few keys that are listed for it.

The list comes from the pattern (`Pattern.keys`) or from the caller. Keys are read column by column
and block by block of queries; no tensor (N, K, D) is made. O(N K) time, O(N K) integers.

Axes: B batch, N queries, M keys, H heads, K listed keys, D head width.
"""

import torch
from torch import Tensor

from subquad.ops.calls import operator
from subquad.ops.listed import Listed
from subquad.ops.lowering import distances
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import And, Coords, Minus, Pattern

__all__ = ["gather", "gather_listed"]

_gather = operator("gather", Listed)


def gather(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, which must list the keys of a query.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError for a pattern that lists none.
    """
    if distances(pattern, 1) is not None:
        return _gather(q, k, v, pattern.text(), where, scoring, numbers=(1,))
    total = int(where.k.pos.max()) + 1 if where.k.pos.numel() else 0
    keys = _keys(pattern, where.q.pos, total)
    if keys is None:
        raise ValueError(f"{pattern} does not list the keys of a query; use the band engine")
    return gather_listed(q, k, v, _slots(keys, pattern, where), where, scoring)


def gather_listed(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, where: Where, scoring: Scoring
) -> Partial:
    """Attention of each query over the key slots `keys` (B or 1, H or 1, N, K), -1 for none.

    Shapes as in `gather`. The slots of a query must be distinct.
    """
    return _gather(q, k, v, "", where, scoring, listed=keys, numbers=(1,))


def _keys(p: Pattern, q: Tensor, total: int) -> Tensor | None:
    """Positions of keys that hold all those allowed by `p`."""
    if isinstance(p, And):
        a = _keys(p.a, q, total)
        return a if a is not None else _keys(p.b, q, total)
    return _keys(p.a, q, total) if isinstance(p, Minus) else p.keys(q, total)


def _slots(keys: Tensor, pattern: Pattern, where: Where) -> Tensor:
    """Slots (B or 1, H or 1, N, K) of the listed positions that `pattern` allows, else -1."""

    def at(t: Tensor, index: Tensor) -> Tensor:
        return t.expand(*index.shape[:2], -1).gather(-1, index.flatten(2)).view(index.shape)

    lead = torch.broadcast_shapes(keys.shape[:2], *(t.shape[:2] for t in where.k if t is not None))
    keys = keys.expand(*lead, -1, -1)
    k_pos = where.k.pos.expand(*lead, -1).contiguous()
    slots = torch.searchsorted(k_pos, keys.flatten(2).contiguous()).clamp(max=k_pos.shape[-1] - 1)
    slots = slots.view(keys.shape)
    to = where.k.each(lambda t: at(t, slots))
    at_q: Coords = where.q.each(lambda t: t.unsqueeze(-1))
    allowed = (to.pos == keys) & pattern.allowed(at_q, to)
    return slots.masked_fill(~allowed, -1)
