"""Engines of softmax attention in plain torch: the matrix, or blocks of it.

Axes: B batch, N queries, M keys, H heads, T blocks, C queries and S keys of a block, D head width,
R rows of a table of distances.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from subquad.ops.band import FAR
from subquad.ops.calls import Call
from subquad.ops.dense import dense
from subquad.ops.partial import Distance, Partial, Scoring, Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Full, Window

__all__ = ["band", "listed", "rows", "whole"]

#: queries of a block at the least: products smaller than this are not worth a block
LEAST = 16


def whole(*args) -> tuple[Tensor, Tensor]:
    """out (B, H, N, Dv) and lse (B, H, N) of an engine whose pattern says all: the whole matrix."""
    call = Call(*args)
    return _laid_out(_dense(call, call.pattern or Full()))


def rows(*args) -> tuple[Tensor, Tensor]:
    """Of the `rows` engine: queries that `listed` marks, the others look at nothing."""
    call = Call(*args)
    assert call.listed is not None
    return _laid_out(_dense(call, _Rows(call.listed, call.pattern or Full())))


def listed(*args) -> tuple[Tensor, Tensor]:
    """Of the `gather` engine: key slots by query, or what the pattern says where none come."""
    call = Call(*args)
    if call.listed is None:
        return whole(*args)
    return _laid_out(_dense(call, _Listed(call.listed, call.k.shape[2])))


def band(*args) -> tuple[Tensor, Tensor]:
    """Of the `band` engine: blocks of queries with the keys in their reach, if that is finite and
    the tokens are the same; else the whole matrix.
    """
    call = Call(*args)
    behind, ahead, step = call.numbers
    inside: Pattern = Window(behind, ahead, step) if behind >= -ahead else Full() - Full()
    inside = inside if call.pattern is None else inside & call.pattern
    n = call.q.shape[2]
    if FAR in (behind, ahead) or not statically_known_true(n == call.k.shape[2]):
        return _laid_out(_dense(call, inside))
    # positions increase by one or more from slot to slot: farther in slots is farther in positions
    reach = behind * step, ahead * step
    size = max(LEAST, sum(reach))
    if size + sum(reach) < 1:
        return _laid_out(_dense(call, inside))
    part = _dense(_in_blocks(call, size, *reach), inside)
    assert part.lse is not None
    out, lse = (_whole_rows(t, call.q.shape[0], n) for t in (part.out, part.lse))
    return _laid_out(Partial(out, lse))


class _Rows(Pattern):
    """A pattern for some queries alone."""

    def __init__(self, some: Tensor, pattern: Pattern) -> None:
        self.some, self.pattern = some, pattern

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return self.pattern.allowed(q, k) & self.some.bool().unsqueeze(-1)


class _Listed(Pattern):
    """Key slots (B or 1, H or 1, N, K) of each query, -1 for none, among M."""

    def __init__(self, slots: Tensor, keys: int) -> None:
        self.slots, self.keys_in_all = slots, keys

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        every = torch.arange(self.keys_in_all, device=self.slots.device)
        return (self.slots.unsqueeze(-1) == every).any(-2)


def _dense(call: Call, pattern: Pattern) -> Partial:
    where = Where(_coords(call.q_where), _coords(call.k_where), call.valid)
    nothing = call.rel_query is None and call.rel_bias is None and call.span is None
    added = call.rel_query, call.rel_table, call.rel_bias, call.zero, call.span, call.ramp
    distance = None if nothing else Distance(*added)
    scoring = Scoring(call.scale, distance, call.dropout, call.seed)
    return dense(call.q, call.k, call.v, pattern, where, scoring)


def _in_blocks(call: Call, size: int, behind: int, ahead: int) -> Call:
    """The same call with blocks of queries as rows of the batch: (B T, H, C, D) and (B T, H, S, D).

    ValueError if weights are dropped: which ones goes by slot.
    """
    if call.seed is not None:
        raise ValueError("a graph in plain torch drops no weights by blocks; export in eval mode")
    b, n, at = call.q.shape[0], call.q.shape[2], call.q.device
    # one block more than needed: that there are two or more then holds for every length
    first = torch.arange((n + size - 1) // size + 1, device=at)[:, None] * size
    queries = (first + torch.arange(size, device=at)).clamp(max=n - 1)
    keys = first - behind + torch.arange(size + behind + ahead, device=at)
    real = (keys >= 0) & (keys < n)
    keys = keys.clamp(min=0).clamp(max=n - 1)

    def cut(t: Tensor, slots: Tensor) -> Tensor:
        found = t.expand(b, *t.shape[1:]).index_select(2, slots.flatten())
        return found.unflatten(2, slots.shape).movedim(2, 1).flatten(0, 1)

    valid = real.expand(b, *real.shape)
    if call.valid is not None:
        valid = valid & call.valid.index_select(1, keys.flatten()).unflatten(1, keys.shape)
    where = [
        torch.stack([cut(c, slots) for c in coords])
        for coords, slots in ((call.q_where, queries), (call.k_where, keys))
    ]
    rel, span = (None if t is None else cut(t, queries) for t in (call.rel_query, call.span))
    q, k, v = cut(call.q, queries), cut(call.k, keys), cut(call.v, keys)
    return replace(
        call,
        q=q,
        k=k,
        v=v,
        q_where=where[0],
        k_where=where[1],
        valid=valid.flatten(0, 1),
        rel_query=rel,
        span=span,
    )


def _whole_rows(t: Tensor, batch: int, n: int) -> Tensor:
    """(B T, H, C, ...) back to (B, H, N, ...)."""
    return t.unflatten(0, (batch, -1)).movedim(1, 2).flatten(2, 3)[:, :, :n]


def _coords(where: Tensor) -> Coords:
    pos, label, mark = where
    return Coords(pos, label, mark.bool())


def _laid_out(part: Partial) -> tuple[Tensor, Tensor]:
    """Results as the operators lay them out: heads beside each other."""
    assert part.lse is not None
    return part.out.transpose(1, 2).contiguous().transpose(1, 2), part.lse.contiguous()
