"""Some queries against some keys, tile by tile: the blocks of an attention matrix that marks cut.

Axes: B batch, N queries, M keys, H heads, K tokens of a list, T and S queries and keys of a block,
D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from subquad.ops.calls import Call
from subquad.ops.partial import EMPTY, factors
from subquad.ops.pattern import Coords
from subquad.ops.relative import Relative
from subquad.ops.tiles import LOG2_E, Tile, tile_backward, tile_forward

__all__ = ["Product", "Side"]

#: scores in a tile
BUDGET = 1 << 18

Cut = tuple[slice, slice, slice]


@dataclass
class Side:
    """Some slots of a row of tokens, the same number everywhere: all, or a padded list of them.

    `slots` (B or 1, H or 1, K) are distinct; `real` tells those meant from the padding.
    """

    slots: Tensor | None = None
    real: Tensor | None = None

    @staticmethod
    def of(mark: Tensor) -> "Side":
        """The slots where `mark` (B or 1, H or 1, N) is set."""
        count = int(mark.sum(-1).max()) if mark.numel() else 0
        order = mark.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
        return Side(order, mark.gather(-1, order))

    def take(self, t: Tensor) -> Tensor:
        """The slots of `t` (B or 1, H or 1, N, ...)."""
        if self.slots is None:
            return t
        index = self._index(t)
        return t.expand(*index.shape[:2], *t.shape[2:]).gather(2, index)

    def add(self, total: Tensor, part: Tensor) -> None:
        """Add `part`, as `take` gave it, to `total`; the padding must hold zeros."""
        if self.slots is None:
            total += part
        else:
            total.scatter_add_(2, self._index(total), part.to(total.dtype))

    def put(self, total: Tensor, part: Tensor) -> None:
        """Write `part` over its slots of `total`."""
        total.scatter_(2, self._index(total), part)

    def _index(self, t: Tensor) -> Tensor:
        assert self.slots is not None
        lead = torch.broadcast_shapes(self.slots.shape[:2], t.shape[:2])
        index = self.slots.view(*self.slots.shape, *[1] * (t.dim() - 3))
        return index.expand(*lead, -1, *t.shape[3:])


class Product:
    """Queries of one side against keys of another, without the keys that `skip` (B, H, M) sets."""

    def __init__(self, call: Call, queries: Side, keys: Side, skip: Tensor | None = None) -> None:
        self.call, self.queries, self.keys = call, queries, keys
        self.q, self.k, self.v = queries.take(call.q), keys.take(call.k), keys.take(call.v)
        self.rel = None if call.rel_query is None else queries.take(call.rel_query)
        self.at, self.q_slots = _places(queries, call.q_where)
        self.to, self.k_slots = _places(keys, call.k_where)
        self.usable = torch.ones_like(self.k_slots, dtype=torch.bool)
        if call.valid is not None:
            self.usable = self.usable & keys.take(call.valid[:, None])
        if skip is not None:
            self.usable = self.usable & ~keys.take(skip)
        if keys.real is not None:
            self.usable = self.usable & keys.real

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, T, Dv) and lse (B, H, T) of the queries on this side."""
        out, lse = replace(self.call, q=self.q).empty_result()
        for cut in self._cuts():
            part, part_lse = tile_forward(self._tile(cut)[0])
            out[cut] = part.view(out[cut].shape)
            lse[cut] = part_lse.view(lse[cut].shape)
        return out, lse

    def backward(
        self, grad: Tensor, lse: Tensor, delta: Tensor, total: list[Tensor | None]
    ) -> None:
        """Add the gradients of this product to `total`: q, k, v, rel_query, rel_table, rel_bias."""
        c = self.call
        grad, lse, delta = (self.queries.take(t) for t in (grad, lse, delta))
        if self.queries.real is not None:
            lse = lse.where(self.queries.real, EMPTY)
        dq, dk, dv = (c.sums(t) for t in (self.q, self.k, self.v))
        drel = None if self.rel is None else c.sums(self.rel)
        for cut in self._cuts():
            tile, relative = self._tile(cut)
            grads = tile_backward(tile, *(t[cut].flatten(0, 1) for t in (grad, lse, delta)))
            b, h, _ = cut
            dq[cut] = (grads.q * c.scale).view(dq[cut].shape).to(dq.dtype)
            dk[b, h] += grads.k.view(dk[b, h].shape)
            dv[b, h] += grads.v.view(dv[b, h].shape)
            scores = grads.scores.view(*dq[cut].shape[:3], -1)
            add = relative.add_grads(scores, _of(total[4], h), _of(total[5], h))
            if drel is not None and add is not None:
                drel[cut] = add.to(drel.dtype)
        sides = (self.queries, self.keys, self.keys, self.queries)
        for side, into, part in zip(sides, total[:4], (dq, dk, dv, drel), strict=True):
            if into is not None and part is not None:
                side.add(into, part)

    def _cuts(self) -> Iterator[Cut]:
        """Which batch rows, heads and queries make a tile."""
        b, h, n, d = self.q.shape
        if self.k.shape[2] == 0:
            return
        s = max(self.k.shape[2], d)  # few keys: then the queries themselves fill the cache
        # reading rows of a table pair by pair takes D times the room
        room = BUDGET if self.rel is None else max(1, 4 * BUDGET // d)
        t = max(1, min(n, max(16, room // s)))
        together = max(1, room // (t * s))
        hs, bs = min(h, together), max(1, together // max(h, 1))
        for b0 in range(0, b, bs):
            for h0 in range(0, h, hs):
                for i in range(0, n, t):
                    yield slice(b0, b0 + bs), slice(h0, h0 + hs), slice(i, i + t)

    def _tile(self, cut: Cut) -> tuple[Tile, Relative]:
        c, (b, h, t) = self.call, cut
        q = self.q[cut]
        full = (*q.shape[:3], self.k.shape[2])
        at, to = _coords(self.at, b, h, t), _coords(self.to, b, h, slice(None))
        allowed = _lead(self.usable, b, h)[:, :, None]
        if c.pattern is not None:
            allowed = allowed & c.pattern.allowed(at.queries(), to.keys())
        if self.queries.real is not None:
            allowed = allowed & _lead(self.queries.real, b, h)[:, :, t, None]
        distance = at.pos.unsqueeze(-1) - to.pos.unsqueeze(-2)
        rel = None if self.rel is None else self.rel[cut]
        relative = Relative(rel, _of(c.rel_table, h), _of(c.rel_bias, h), c.zero, distance)
        bias = torch.zeros((), dtype=c.wide, device=q.device).where(allowed, EMPTY)
        bias = ((bias + relative.scores()) * LOG2_E).to(c.wide).expand(full).flatten(0, 1)
        drop = None
        if c.seed is not None:
            lanes = torch.arange(c.q.shape[0] * c.q.shape[1], device=q.device)
            lanes = lanes.view(c.q.shape[:2])[b, h, None, None]
            i = _lead(self.q_slots, b, h)[:, :, t, None]
            j = _lead(self.k_slots, b, h)[:, :, None]
            drop = factors(c.seed, c.dropout, lanes, i, j).expand(full).flatten(0, 1)
        k, v = self.k[b, h].flatten(0, 1), self.v[b, h].flatten(0, 1)
        return Tile(q.flatten(0, 1) * c.scale, k, v, bias, factors=drop), relative


def _places(side: Side, where: Tensor) -> tuple[Coords, Tensor]:
    """Coordinates and slots of a side, each (B or 1, H or 1, T)."""
    pos, label, mark = (side.take(t) for t in where)
    slots = torch.arange(where.shape[-1], device=where.device).view(1, 1, -1)
    return Coords(pos, label, mark.bool()), side.take(slots)


def _coords(c: Coords, b: slice, h: slice, n: slice) -> Coords:
    return c.each(lambda x: _lead(x, b, h)[:, :, n])


def _lead(t: Tensor, b: slice, h: slice) -> Tensor:
    """Some batch rows and heads of (B or 1, H or 1, ...)."""
    b, h = (slice(None) if t.shape[i] == 1 else cut for i, cut in enumerate((b, h)))
    return t[b, h]


def _of(t: Tensor | None, h: slice) -> Tensor | None:
    """Some heads of a table (H or 1, ...)."""
    return t if t is None or t.shape[0] == 1 else t[h]
