"""The drawn engine: blocks of queries against the few blocks of keys that they drew (BigBird).

Queries of one block drew the same blocks of keys. The keys of some blocks at a time are gathered
and scored in one batch of products, then forgotten; backward forms the scores again.
O(N count size) time, O(N + M) memory.

Axes: B batch, N queries, M keys, H heads, G blocks of queries, T and S queries and keys of a block,
D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.calls import Call, empty_output, operator
from subquad.ops.partial import EMPTY, Partial, Scoring, Where, factors
from subquad.ops.pattern import And, Coords, Minus, Pattern
from subquad.ops.random_blocks import RandomBlocks
from subquad.ops.relative import Relative
from subquad.ops.tiles import LOG2_E, Scratch, Tile, tile_backward, tile_forward

__all__ = ["drawn", "drawn_of"]

#: scores formed at once
BUDGET = 1 << 19


def drawn(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, all of whose keys stand in drawn blocks.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError for a pattern that is not restricted to `RandomBlocks`.
    """
    found = drawn_of(pattern)
    if found is None:
        raise ValueError(f"{pattern} has keys outside of drawn blocks; use the band engine")
    numbers = found.size, found.count, found.seed
    return _drawn(q, k, v, pattern.text(), where, scoring, numbers=numbers)


def drawn_of(p: Pattern) -> RandomBlocks | None:
    """The fewest drawn blocks known to hold every key of `p`; None if it has keys outside."""
    if isinstance(p, And):
        a, b = drawn_of(p.a), drawn_of(p.b)
        if a is None or b is None:
            return b if a is None else a
        return a if a.count * a.size <= b.count * b.size else b
    if isinstance(p, Minus):
        return drawn_of(p.a)
    return p if isinstance(p, RandomBlocks) else None


@dataclass
class _Slots:
    """Slots (B or 1, H or 1, G, T) of the tokens in some blocks; where `real` is not set, any."""

    slots: Tensor
    real: Tensor

    @staticmethod
    def of(pos: Tensor, blocks: Tensor, size: int) -> "_Slots":
        """The tokens at `pos` (B or 1, H or 1, N), N > 0, in the blocks (G, K): T = K size."""
        lead, last = pos.shape[:2], pos.shape[-1] - 1
        starts = (blocks * size).flatten().expand(*lead, -1).contiguous()
        # positions increase, so a block holds at most `size` tokens, one after the other
        slots = torch.searchsorted(pos.contiguous(), starts).unsqueeze(-1)
        slots = slots + torch.arange(size, device=pos.device)
        real, slots = slots <= last, slots.clamp(max=last)
        at = pos.gather(-1, slots.flatten(2)).view(slots.shape) // size
        real = real & (at == blocks.flatten().unsqueeze(-1))
        shape = (*lead, len(blocks), -1)
        return _Slots(slots.reshape(shape), real.reshape(shape))

    def take(self, t: Tensor) -> Tensor:
        """Those of `t` (B or 1, H or 1, N, ...): (B or 1, H or 1, G, T, ...)."""
        index = self.index(t)
        found = t.expand(*index.shape[:2], *t.shape[2:]).gather(2, index)
        return found.unflatten(2, self.slots.shape[2:])

    def index(self, t: Tensor, missing: int | None = None) -> Tensor:
        """Where they are in `t`, G and T as one axis; `missing` stands for those not real."""
        slots = self.slots if missing is None else self.slots.where(self.real, missing)
        lead = torch.broadcast_shapes(slots.shape[:2], t.shape[:2])
        index = slots.flatten(2).view(*slots.shape[:2], -1, *[1] * (t.dim() - 3))
        return index.expand(*lead, -1, *t.shape[3:])


class _Drawn(Call):
    """`numbers` are size, count and seed."""

    spans = True

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        b, h, n, _ = self.q.shape
        # one slot more, for what the blocks hold beyond their tokens
        out = self.v.new_zeros(b, h, n + 1, self.v.shape[-1])
        lse = torch.full((b, h, n + 1), EMPTY, dtype=self.wide, device=out.device)
        scratch = Scratch()
        for queries, keys in self._groups():
            part, part_lse = tile_forward(self._tile(queries, keys)[0], scratch)
            index = queries.index(out, missing=n)
            out.scatter_(2, index, part.view(index.shape))
            index = queries.index(lse, missing=n)
            lse.scatter_(2, index, part_lse.view(index.shape))
        return empty_output(self.q, self.v).copy_(out[:, :, :n]), lse[:, :, :n].contiguous()

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k, v, rel_query, rel_table, rel_bias and span."""
        inputs = self.q, self.k, self.v, self.rel_query, self.rel_table, self.rel_bias, self.span
        total = [None if t is None else self.sums(t) for t in inputs]
        (dq, dk, dv, drel, dtable, dbias, dspan), scratch = total, Scratch()
        for queries, keys in self._groups():
            tile, relative = self._tile(queries, keys)
            ends = queries.take(lse).where(queries.real, EMPTY)
            rows = (queries.take(grad), ends, queries.take(delta))
            grads = tile_backward(tile, scratch, *(t.flatten(0, 2) for t in rows))
            _add(dq, queries, grads.q * self.scale)
            _add(dk, keys, grads.k)
            _add(dv, keys, grads.v)
            if relative is None:
                continue
            scores = grads.scores.view(*self.q.shape[:2], -1, grads.scores.shape[-1])
            _add(drel, queries, relative.add_grads(scores, dtable, dbias))
            _add(dspan, queries, relative.span_grad(scores))
        return total

    def _groups(self) -> Iterator[tuple[_Slots, _Slots]]:
        """Queries and keys of some blocks at a time."""
        random = RandomBlocks(*self.numbers)
        q_pos, k_pos = self.q_where[0], self.k_where[0]
        b, h, n, d = self.q.shape
        if b * h * n * k_pos.shape[-1] == 0:
            return
        blocks = (q_pos // random.size).unique()
        scores = b * h * random.size**2 * random.count
        # reading rows of a table pair by pair takes D times the room
        room = BUDGET if self.rel_query is None else 4 * BUDGET // d
        for part in blocks.split(max(1, room // scores)):
            keys = [random.drawn(part, which) for which in range(random.count)]
            yield (
                _Slots.of(q_pos, part.unsqueeze(-1), random.size),
                _Slots.of(k_pos, torch.stack(keys, -1), random.size),
            )

    def _tile(self, queries: _Slots, keys: _Slots) -> tuple[Tile, Relative | None]:
        """Queries (B * H * G, T, D) against keys (B * H * G, S, D), and what distance adds."""
        q = queries.take(self.q) * self.scale
        full = (*q.shape[:-1], keys.slots.shape[-1])
        bias, relative = self._allowed(queries, keys), self._relative(queries, keys)
        if relative is not None:
            added = torch.as_tensor(relative.scores() * LOG2_E).to(self.wide)
            bias = bias + added.unflatten(2, full[2:4])
        drop = None
        if self.seed is not None:
            lanes = torch.arange(full[0] * full[1], device=q.device).view(*full[:2], 1, 1, 1)
            at, to = queries.slots.unsqueeze(-1), keys.slots.unsqueeze(-2)
            drop = factors(self.seed, self.dropout, lanes, at, to).expand(full).flatten(0, 2)
        k, v = (keys.take(t).flatten(0, 2) for t in (self.k, self.v))
        return Tile(q.flatten(0, 2), k, v, bias.expand(full).flatten(0, 2), factors=drop), relative

    def _allowed(self, queries: _Slots, keys: _Slots) -> Tensor:
        """0 where a pair counts and EMPTY elsewhere: (B or 1, H or 1, G, T, S), wide."""
        usable = keys.real
        if self.valid is not None:
            usable = usable & keys.take(self.valid[:, None])
        allowed = usable.unsqueeze(-2) & queries.real.unsqueeze(-1)
        if self.pattern is not None:
            at, to = (_coords(s, w) for s, w in ((queries, self.q_where), (keys, self.k_where)))
            allowed = allowed & self.pattern.allowed(at.queries(), to.keys())
        zero = torch.zeros((), dtype=self.wide, device=allowed.device)
        return zero.where(allowed, EMPTY)

    def _relative(self, queries: _Slots, keys: _Slots) -> Relative | None:
        """What distance adds to the scores of these blocks, G and T as one axis, if anything."""
        if self.rel_query is None and self.rel_bias is None and self.span is None:
            return None
        at, to = queries.take(self.q_where[0]), keys.take(self.k_where[0])
        distance = (at.unsqueeze(-1) - to.unsqueeze(-2)).flatten(2, 3)
        rel, span = (
            None if t is None else queries.take(t).flatten(2, 3)
            for t in (self.rel_query, self.span)
        )
        return Relative(rel, self.rel_table, self.rel_bias, self.zero, distance, span, self.ramp)


_drawn = operator("drawn", _Drawn)


def _coords(side: _Slots, where: Tensor) -> Coords:
    """Coordinates (B or 1, H or 1, G, T) of the tokens on one side."""
    pos, label, mark = (side.take(t) for t in where)
    return Coords(pos, label, mark.bool())


def _add(total: Tensor | None, side: _Slots, part: Tensor | None) -> None:
    """Add `part`, by block and token, to `total` (B, H, N, ...); it is 0 where none is real."""
    if total is not None and part is not None:
        index = side.index(total)
        total.scatter_add_(2, index, part.reshape(index.shape).to(total.dtype))
