"""The loop behind shifts and gather: every query against a few keys of its own, column by column.

Column c holds one key for each query. Where positions run on by one and distances are constant, a
column of keys is a view of k, shifted; otherwise its slots are looked up. Blocks of queries pass
through, so that scores are never kept, and no tensor (N, K, D) is made.

Axes: B batch, N queries, M keys, H heads, T queries of a block, K listed keys, D head width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.calls import Call, continuous
from subquad.ops.lowering import distances
from subquad.ops.partial import EMPTY, factors
from subquad.ops.pattern import Coords
from subquad.ops.relative import Relative
from subquad.ops.tiles import LOG2_E

__all__ = ["Listed"]

#: elements of one block of queries: 1 MiB of float32
BUDGET = 1 << 18


@dataclass
class Block:
    """Queries i0..i1 and their K keys: slots (B or 1, H or 1, T, K), -1 where there is none."""

    i0: int
    i1: int
    slots: Tensor
    bias: Tensor
    relative: Relative
    factors: Tensor | None
    #: slot minus query slot, by column, where that is constant
    shifts: tuple[int, ...] | None

    def rows(self, t: Tensor) -> Tensor:
        """The queries of `t` (B, H, N, ...)."""
        return t[:, :, self.i0 : self.i1]

    def column(self, t: Tensor, c: int) -> tuple[Tensor, slice]:
        """Column `c` of keys in `t` (B, H, M, D), and the queries of the block that have one."""
        if self.shifts is None:
            return t.gather(2, self._index(t, c)), slice(None)
        start, inside = self._span(t, c)
        return t[:, :, start : start + inside.stop - inside.start], inside

    def add(self, total: Tensor, part: Tensor, c: int) -> None:
        """Add `part`, one row for each query that has a key in column `c`, to those keys."""
        if self.shifts is None:
            # the key of a missing slot is not meant, and its part is zero
            total.scatter_add_(2, self._index(total, c), part.to(total.dtype))
        else:
            start, inside = self._span(total, c)
            total[:, :, start : start + inside.stop - inside.start] += part

    def _index(self, t: Tensor, c: int) -> Tensor:
        return self.slots[..., c : c + 1].clamp(min=0).expand(*t.shape[:2], -1, t.shape[-1])

    def _span(self, t: Tensor, c: int) -> tuple[int, slice]:
        assert self.shifts is not None
        first = self.i0 + self.shifts[c]
        start = max(first, 0)
        stop = max(start, min(self.i1 + self.shifts[c], t.shape[2]))
        return start, slice(start - first, stop - first)


class Listed(Call):
    """One call; `listed` gives the slots (B or 1, H or 1, N, K), otherwise the pattern does.

    `numbers` is (0,), or (1,) to look slots up even where columns are views.
    """

    spans = True

    def __post_init__(self) -> None:
        self.shift = self.k.shape[2] - self.q.shape[2]
        views = self.listed is None and not self.numbers[0]
        self.plain = views and continuous(self.q_where[0], self.k_where[0])
        self.offsets: tuple[int, ...] | None = None
        if self.listed is None:
            assert self.pattern is not None
            spread = self.k.shape[2]
            if not self.plain and spread and self.q.shape[2]:
                ends = self.k_where[0], self.q_where[0]
                spread = int(max(t.max() for t in ends) - min(t.min() for t in ends)) + 1
            self.offsets = distances(self.pattern, spread)
            if self.offsets is None:
                raise ValueError(f"{self.pattern} does not name few distances; use the band engine")
            if self.plain:
                self.offsets = tuple(
                    d for d in self.offsets if -self.k.shape[2] < d < self.k.shape[2]
                )

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        out, lse = self.empty_result()
        for block in self._blocks():
            s = self._scores(block)
            top = s.amax(-1, keepdim=True)
            p = s.sub_(top).mul_(LOG2_E).exp2_()
            total = p.sum(-1, keepdim=True)
            empty = top < EMPTY / 2
            block.rows(lse).copy_(torch.where(empty, EMPTY, top + total.log()).squeeze(-1))
            p *= torch.where(empty, 0.0, 1.0 / total)
            if block.factors is not None:
                p = p * block.factors.to(p.dtype)
            sums = torch.zeros_like(block.rows(out), dtype=self.wide)
            for c in range(s.shape[-1]):
                v, inside = block.column(self.v, c)
                sums[:, :, inside].addcmul_(p[:, :, inside, c, None], v.to(self.wide))
            block.rows(out).copy_(sums)
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k, v, rel_query, rel_table, rel_bias and span."""
        dq, dk, dv = (self.sums(t) for t in (self.q, self.k, self.v))
        rel = (self.rel_query, self.rel_table, self.rel_bias, self.span)
        dr, dtable, dbias, dspan = (None if t is None else self.sums(t) for t in rel)
        for block in self._blocks():
            row = block.rows(lse)
            full = row.where(row > EMPTY / 2, -EMPTY).unsqueeze(-1)
            p = self._scores(block).sub_(full).mul_(LOG2_E).exp2_()
            kept = p if block.factors is None else p * block.factors.to(p.dtype)
            do = block.rows(grad).to(self.wide)
            dp = torch.zeros_like(p)
            for c in range(p.shape[-1]):
                v, inside = block.column(self.v, c)
                part = do[:, :, inside]
                torch.sum(part * v, -1, out=dp[:, :, inside, c])
                block.add(dv, part * kept[:, :, inside, c, None], c)
            if block.factors is not None:
                dp *= block.factors.to(p.dtype)
            ds = dp.sub_(block.rows(delta).unsqueeze(-1)).mul_(p)
            q, into = block.rows(self.q) * self.scale, block.rows(dq)
            for c in range(p.shape[-1]):
                k, inside = block.column(self.k, c)
                part = ds[:, :, inside, c, None]
                into[:, :, inside].addcmul_(part, k.to(self.wide), value=self.scale)
                block.add(dk, part * q[:, :, inside], c)
            add = block.relative.add_grads(ds, dtable, dbias)
            if dr is not None and add is not None:
                block.rows(dr).copy_(add)
            end = block.relative.span_grad(ds)
            if dspan is not None and end is not None:
                block.rows(dspan).copy_(end)
        return [dq, dk, dv, dr, dtable, dbias, dspan]

    def _scores(self, block: Block) -> Tensor:
        q = block.rows(self.q).to(self.wide) * self.scale
        s = q.new_zeros(*q.shape[:3], block.bias.shape[-1])
        for c in range(s.shape[-1]):
            k, inside = block.column(self.k, c)
            torch.sum(q[:, :, inside] * k, -1, out=s[:, :, inside, c])
        s += block.bias
        return s

    def _blocks(self) -> Iterator[Block]:
        b, h, n, d = self.q.shape
        columns = len(self.offsets or ()) if self.listed is None else self.listed.shape[-1]
        if columns == 0 or self.k.shape[2] == 0:
            return
        width = max(d, columns) if self.rel_query is None else d * columns
        rows = max(1, min(n, max(16, BUDGET // max(1, b * h * width))))
        for i0 in range(0, n, rows):
            yield self._block(i0, min(n, i0 + rows))

    def _block(self, i0: int, i1: int) -> Block:
        at = Coords(*(c[:, :, i0:i1, None] for c in self.q_where))
        slots = self._slots(at.pos, i0, i1)
        real = slots >= 0
        index = slots.clamp(min=0)
        to = Coords(*(self._keys(c, index) for c in self.k_where))
        allowed = real
        if self.pattern is not None:
            allowed = allowed & self.pattern.allowed(_flags(at), _flags(to))
        if self.valid is not None:
            allowed = allowed & self._keys(self.valid[:, None], index)
        distance = at.pos - to.pos
        if self.plain and self.offsets is not None:
            few = torch.tensor(self.offsets, dtype=torch.int64, device=slots.device)
            distance = few.view(1, 1, 1, -1)
        rel = None if self.rel_query is None else self.rel_query[:, :, i0:i1]
        span = None if self.span is None else self.span[:, :, i0:i1]
        relative = Relative(
            rel, self.rel_table, self.rel_bias, self.zero, distance, span, self.ramp
        )
        bias = torch.zeros((), dtype=self.wide, device=slots.device).where(allowed, EMPTY)
        bias = (bias + relative.scores()).to(self.wide)
        shifts = None
        if self.plain and self.offsets is not None:
            shifts = tuple(self.shift - d for d in self.offsets)
        drop = None
        if self.seed is not None:
            b, h = self.q.shape[:2]
            lanes = torch.arange(b * h, device=slots.device).view(b, h, 1, 1)
            rows = torch.arange(i0, i1, device=slots.device).view(-1, 1)
            drop = factors(self.seed, self.dropout, lanes, rows, index)
        return Block(i0, i1, slots, bias, relative, drop, shifts)

    def _slots(self, pos: Tensor, i0: int, i1: int) -> Tensor:
        """Key slots (B or 1, H or 1, T, K) of queries at `pos` (B or 1, H or 1, T, 1), or -1."""
        if self.listed is not None:
            return self.listed[:, :, i0:i1]
        m = self.k.shape[2]
        offsets = torch.tensor(self.offsets, dtype=torch.int64, device=pos.device)
        if self.plain:
            rows = torch.arange(i0, i1, device=pos.device).view(1, 1, -1, 1)
            slots = rows + self.shift - offsets
            return slots.masked_fill((slots < 0) | (slots >= m), -1)
        k_pos = self.k_where[0]
        lead = torch.broadcast_shapes(pos.shape[:2], k_pos.shape[:2])
        wanted = (pos - offsets).expand(*lead, -1, -1)
        k_pos = k_pos.expand(*lead, -1).contiguous()
        slots = torch.searchsorted(k_pos, wanted.flatten(2).contiguous()).clamp(max=m - 1)
        found = k_pos.gather(-1, slots) == wanted.flatten(2)
        return slots.masked_fill(~found, -1).view(wanted.shape)

    def _keys(self, t: Tensor, index: Tensor) -> Tensor:
        """Entries of `t` (B or 1, H or 1, M) at `index` (B or 1, H or 1, T, K)."""
        lead = torch.broadcast_shapes(t.shape[:2], index.shape[:2])
        index = index.expand(*lead, -1, -1)
        return t.expand(*lead, -1).gather(-1, index.flatten(2)).view(index.shape)


def _flags(c: Coords) -> Coords:
    return c if c.mark is None else c._replace(mark=c.mark.bool())
