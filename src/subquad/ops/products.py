"""Some queries against some keys, tile by tile: the blocks of a matrix that marks or columns cut.

Keys out of the pattern's reach from all queries of a tile are left out of it.

Axes: B batch, N queries, M keys, H heads, K tokens of a list, T and S queries and keys of a block,
D head width.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from subquad.ops.calls import Call
from subquad.ops.masks import LARGE, Cut, Mask, lead
from subquad.ops.partial import EMPTY, Partial, factors, merge
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.relative import Relative
from subquad.ops.sides import Side
from subquad.ops.tiles import LOG2_E, Scratch, Tile, tile_backward, tile_forward

__all__ = ["Product", "Products"]

#: scores in a tile, heads that it takes together, queries and keys that make products worth a call
BUDGET, LANES, ROWS, SPAN = 1 << 19, 8, 128, 512
#: farther than any position
FAR = 1 << 60

#: rows of the batch, heads and queries
Rows = tuple[slice, slice, slice]


class Product:
    """Queries of one side against keys of another, without the keys that `skip` (B, H, M) sets.

    beyond: what of the call's pattern is still to be asked of these pairs; none: all of it.
    """

    def __init__(
        self,
        call: Call,
        queries: Side,
        keys: Side,
        skip: Tensor | None = None,
        beyond: Pattern | None = None,
    ) -> None:
        self.call, self.queries, self.keys = call, queries, keys
        self.q, self.k, self.v = queries.take(call.q), keys.take(call.k), keys.take(call.v)
        self.rel = None if call.rel_query is None else queries.take(call.rel_query)
        self.span = None if call.span is None else queries.take(call.span)
        self.at, self.q_slots = _places(queries, call.q_where)
        self.to, self.k_slots = _places(keys, call.k_where)
        usable = torch.ones_like(self.k_slots, dtype=torch.bool)
        if call.valid is not None:
            usable = usable & keys.take(call.valid[:, None])
        if skip is not None:
            usable = usable & ~keys.take(skip)
        if keys.real is not None:
            usable = usable & keys.real
        self.near = self._near()
        pattern = call.pattern if beyond is None else beyond
        b, h = self.q.shape[:2]
        self.lanes = max(1, min(b, LANES // max(h, 1))), max(1, min(h, LANES))
        more = b > self.lanes[0] or h > self.lanes[1]
        self.mask = Mask(pattern, self.at, self.to, usable, queries.real, call.wide, more)

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, T, Dv) and lse (B, H, T) of the queries on this side."""
        (out, lse), scratch = replace(self.call, q=self.q).empty_result(), Scratch()
        for rows, spans in self._cuts():
            whole: list[Partial] = []
            for keys in spans:
                part = Partial(*tile_forward(self._tile((*rows, keys))[0], scratch))
                whole = [merge([*whole, part])]
            for into, found in ((out, whole[0].out), (lse, whole[0].lse)):
                assert found is not None
                into[rows] = found.view(into[rows].shape).to(into.dtype)
        return out, lse

    def backward(
        self, grad: Tensor, lse: Tensor, delta: Tensor, total: list[Tensor | None]
    ) -> None:
        """Add the gradients of this product to `total`, in the order of `Call.backward`."""
        c, scratch = self.call, Scratch()
        grad, lse, delta = (self.queries.take(t) for t in (grad, lse, delta))
        if self.queries.real is not None:
            lse = lse.where(self.queries.real, EMPTY)
        dq, dk, dv = (c.sums(t) for t in (self.q, self.k, self.v))
        drel, dspan = (None if t is None else c.sums(t) for t in (self.rel, self.span))
        for rows, spans in self._cuts():
            (b, h, _), given = rows, [t[rows].flatten(0, 1) for t in (grad, lse, delta)]
            for s in spans:
                tile, relative = self._tile((*rows, s))
                grads = tile_backward(tile, scratch, *given)
                dq[rows] += (grads.q * c.scale).view(dq[rows].shape)
                dk[b, h, s] += grads.k.view(dk[b, h, s].shape)
                dv[b, h, s] += grads.v.view(dv[b, h, s].shape)
                if relative is None:
                    continue
                scores = grads.scores.view(*dq[rows].shape[:3], -1)
                add = relative.add_grads(scores, _of(total[4], h), _of(total[5], h))
                for into, part in ((drel, add), (dspan, relative.span_grad(scores))):
                    if into is not None and part is not None:
                        into[rows] += part
        sides = (self.queries, self.keys, self.keys, self.queries, self.queries)
        into_all = (*total[:4], total[6])
        for side, into, part in zip(sides, into_all, (dq, dk, dv, drel, dspan), strict=True):
            if into is not None and part is not None:
                side.add(into, part)

    def _near(self) -> tuple[list[int], list[int]] | None:
        """The first key in reach of each query and the one after the last; None for all."""
        c = self.call
        behind, ahead = (None, None) if c.pattern is None else c.pattern.reach()
        if self.queries.slots is not None or (behind is None and ahead is None):
            return None
        if not self.q.shape[0] * self.q.shape[1]:
            return None
        k = self.to.pos
        if self.keys.real is not None:  # padding stands last, and must be beyond all
            k = k.masked_fill(~self.keys.real, FAR)
        lanes = torch.broadcast_shapes(k.shape[:2], self.at.pos.shape[:2])
        q, k = (t.expand(*lanes, -1).contiguous() for t in (self.at.pos, k))
        first = torch.searchsorted(k, q - (FAR if behind is None else behind))
        last = torch.searchsorted(k, q + (FAR - 1 if ahead is None else ahead), right=True)
        return first.flatten(0, 1).amin(0).tolist(), last.flatten(0, 1).amax(0).tolist()

    def _cuts(self) -> Iterator[tuple[Rows, list[slice]]]:
        """Which batch rows, heads and queries go together, and the keys of each of their tiles."""
        b, h, n, d = self.q.shape
        m = self.k.shape[2]
        # reading rows of a table pair by pair takes D times the room
        room = BUDGET if self.rel is None else max(1, 4 * BUDGET // d)
        bs, hs = self.lanes
        # few keys: then the queries themselves fill the cache
        t = max(1, min(n, room // (hs * bs * max(min(m, SPAN), d))))
        if self.near is not None and m > SPAN:  # what one of them does not reach is done in vain
            reached = max((b - a for a, b in zip(*self.near, strict=True)), default=0)
            t = min(t, max(ROWS, reached // 4))
        keys = max(1, room // (t * hs * bs))
        for i in range(0, n, t):
            first, last = 0, m
            if self.near is not None:
                first, last = min(self.near[0][i : i + t]), max(self.near[1][i : i + t])
            # what all queries reach first, so that those pairs need no mask
            inner = first if self.near is None else min(self.near[1][i : i + t])
            inner = inner if t * (inner - first) >= LARGE else first
            spans = [
                slice(j, min(j + keys, stop))
                for start, stop in ((first, inner), (inner, last))
                for j in range(start, stop, keys)
            ]
            if not spans:
                continue
            for b0 in range(0, b, bs):
                for h0 in range(0, h, hs):
                    yield (slice(b0, b0 + bs), slice(h0, h0 + hs), slice(i, i + t)), spans

    def _tile(self, cut: Cut) -> tuple[Tile, Relative | None]:
        c, (b, h, t, s) = self.call, cut
        q = self.q[b, h, t]
        full = (*q.shape[:3], s.stop - s.start)
        bias, relative = self.mask.bias(cut), self._relative(cut)
        added = 0.0 if relative is None else relative.scores()
        if isinstance(added, Tensor):
            added = (added * LOG2_E).to(c.wide)
            bias = added if bias is None else bias + added
        if bias is not None:
            some = (1, 1) if bias.shape[:2] == (1, 1) else full[:2]
            bias = bias.expand(*some, *full[2:]).flatten(0, 1)
        drop = None
        if c.seed is not None:
            lanes = torch.arange(c.q.shape[0] * c.q.shape[1], device=q.device)
            lanes = lanes.view(c.q.shape[:2])[b, h, None, None]
            i = lead(self.q_slots, b, h)[:, :, t, None]
            j = lead(self.k_slots, b, h)[:, :, None, s]
            drop = factors(c.seed, c.dropout, lanes, i, j).expand(full).flatten(0, 1)
        k, v = self.k[b, h, s].flatten(0, 1), self.v[b, h, s].flatten(0, 1)
        return Tile(q.flatten(0, 1) * c.scale, k, v, bias, factors=drop), relative

    def _relative(self, cut: Cut) -> Relative | None:
        """What distance adds to the scores of a tile, if anything."""
        c, (b, h, t, s) = self.call, cut
        if self.rel is None and c.rel_bias is None and self.span is None:
            return None
        q_pos, k_pos = lead(self.at.pos, b, h)[:, :, t], lead(self.to.pos, b, h)[:, :, s]
        rel, span = (None if x is None else x[b, h, t] for x in (self.rel, self.span))
        tables = _of(c.rel_table, h), _of(c.rel_bias, h)
        return Relative(
            rel, *tables, c.zero, q_pos.unsqueeze(-1) - k_pos.unsqueeze(-2), span, c.ramp
        )


class Products(Call):
    """A call whose pairs are those of a few products, the first of them of all queries or none."""

    spans = True

    def products(self) -> Iterator[Product]:
        """The products, whose pairs are disjoint."""
        raise NotImplementedError(f"{type(self).__name__} must define products")

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        products = list(self.products())
        if products[0].queries.slots is None:
            out, lse = products.pop(0).forward()
        else:
            out, lse = self.empty_result()
        for product in products:
            side = product.queries
            both = merge([Partial(side.take(out), side.take(lse)), Partial(*product.forward())])
            side.put(out, both.out.to(out.dtype))
            if both.lse is not None:
                side.put(lse, both.lse)
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k, v, rel_query, rel_table, rel_bias and span."""
        inputs = self.q, self.k, self.v, self.rel_query, self.rel_table, self.rel_bias, self.span
        total = [None if t is None else self.sums(t) for t in inputs]
        for product in self.products():
            product.backward(grad, lse, delta, total)
        return total


def _places(side: Side, where: Tensor) -> tuple[Coords, Tensor]:
    """Coordinates and slots of a side, each (B or 1, H or 1, T)."""
    pos, label, mark = (side.take(t) for t in where)
    slots = torch.arange(where.shape[-1], device=where.device).view(1, 1, -1)
    return Coords(pos, label, mark.bool()), side.take(slots)


def _of(t: Tensor | None, h: slice) -> Tensor | None:
    """Some heads of a table (H or 1, ...)."""
    return t if t is None or t.shape[0] == 1 else t[h]
