"""The loop behind LSH attention: rounds, and in each the tiles of sorted buckets.

    out_i = sum_{j in A(i)} p_ij v_j,   p = softmax of scale q_i . k_j over A(i)
    A(i) = union over rounds r of A_r(i),   A_r(i) = the last `behind` earlier tokens in i's bucket

Each round counts the pairs that no earlier round holds, so that rounds are disjoint and merge by
log-sum-exp. Backward forms the tiles again, with scores to base 2.

Axes: B batch, H heads, L lanes of a block, N queries, M keys, R rounds, X tiles, T queries, S
keys, D head width.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as nnf
from torch import Tensor

from subquad.ops.calls import Call
from subquad.ops.hashing import runs
from subquad.ops.lsh_tiles import Batch, Buffers, Cut, band, coordinates
from subquad.ops.partial import EMPTY, factors
from subquad.ops.tiles import LN_2, LOG2_E

__all__ = ["Loop"]

#: tokens of a block of lanes: what is gathered from should stay in cache
TOKENS = 1 << 15

At = tuple[slice, slice]


class Loop(Call):
    """One call; `listed` are the labels (B, H, R, M), `numbers` are behind and ahead.

    A query that looks at nothing gets its own value; its log-sum-exp stays EMPTY.
    """

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (B, H, N, Dv) and lse (B, H, N)."""
        out, lse = self.empty_result()
        for at in self._blocks():
            for whole, part in zip((out, lse), Block(self, at).forward(), strict=True):
                whole[at] = part.view(whole[at].shape)
        alone, drop = self._alone(lse)
        out[alone] = self._last(self.v)[alone] * drop
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> list[Tensor | None]:
        """Gradients of q, k and v."""
        grads = [torch.zeros_like(t) for t in (self.q, self.k, self.v)]
        for at in self._blocks():
            parts = Block(self, at).backward(grad, lse, delta)
            for whole, part in zip(grads, parts, strict=True):
                whole[at] = part.view(whole[at].shape)
        alone, drop = self._alone(lse)
        self._last(grads[2])[alone] += grad[alone] * drop
        return [*grads, None, None, None]

    def _last(self, t: Tensor) -> Tensor:
        """The part of t (B, H, M, D) that stands where the queries do, as a view."""
        return t[:, :, t.shape[2] - self.q.shape[2] :]

    def _alone(self, lse: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Queries that look at nothing, as indices of (B, H, N), and the dropout of each."""
        b, h, i = (lse < EMPTY / 2).nonzero(as_tuple=True)
        drop = torch.ones((), device=lse.device)
        if self.seed is not None:
            lanes = b * self.q.shape[1] + h
            drop = factors(self.seed, self.dropout, lanes, i, i + self.k.shape[2] - self.q.shape[2])
        return (b, h, i), drop.unsqueeze(-1).to(self.v.dtype)

    def _blocks(self) -> Iterator[At]:
        """Rows of the batch and heads that run together."""
        b, h, n, _ = self.q.shape
        if n == 0:
            return
        together = max(1, TOKENS // self.k.shape[2])
        hs, bs = min(h, together), max(1, together // max(h, 1))
        for b0 in range(0, b, bs):
            for h0 in range(0, h, hs):
                yield slice(b0, b0 + bs), slice(h0, h0 + hs)


class Block:
    """Some lanes of a call, their tokens in one row: q (L N, D), k (L M, D), v (L M, Dv)."""

    def __init__(self, call: Call, at: At) -> None:
        assert call.listed is not None
        self.call, self.at = call, at
        self.behind, self.ahead = (min(x, call.k.shape[2]) for x in call.numbers)
        self.labels = call.listed[at].flatten(0, 1)
        self.q, self.k, self.v = (self._flat(t).to(call.wide) for t in (call.q, call.k, call.v))
        self.buffers = Buffers(call.wide, call.q.device)
        self.bands: dict[tuple[int, int, int], Tensor] = {}

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (L N, Dv) and lse (L N)."""
        first, count = True, len(self.q)
        total = part = self._nothing()
        for cut, earlier in self._rounds():
            if not first:
                part = self._nothing() if part is total else part
            for batch in cut:
                out, lse = self._forward_tiles(batch, earlier)
                rows = batch.queries.flatten()
                part[0].index_copy_(0, rows, out.flatten(0, 1))
                part[1].index_copy_(0, rows, lse.flatten())
            if not first:
                _merge(total, part)
            first = False
        return total[0][:count], total[1][:count]

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q (L N, D), k (L M, D) and v (L M, Dv)."""
        grad = self._flat(grad).to(self.call.wide)
        lse, delta = (self._flat(t.unsqueeze(-1)).squeeze(-1) for t in (lse, delta))
        # exp2(score - less) is 0 for a row that looks at nothing, and for one that is none
        less = (lse * LOG2_E).masked_fill_(lse < EMPTY / 2, -EMPTY)
        less = torch.cat((less, less.new_full((1,), -EMPTY)))
        delta = torch.cat((delta, delta.new_zeros(1)))
        sums = [t.new_zeros(len(t) + 1, t.shape[1]) for t in (self.q, self.k, self.v)]
        for cut, earlier in self._rounds():
            for batch in cut:
                parts = self._backward_tiles(batch, earlier, (grad, less, delta))
                index = batch.queries.flatten(), batch.keys.flatten(), batch.keys.flatten()
                for into, rows, part in zip(sums, index, parts, strict=True):
                    into.index_add_(0, rows, part.flatten(0, 1))
        dq, dk, dv = (t[:-1] for t in sums)
        return dq.mul_(self.call.scale), dk.mul_(LN_2), dv

    def _rounds(self) -> Iterator[tuple[Cut, list[Tensor]]]:
        """The tiles of each round, and the coordinates of the rounds before it."""
        call, earlier = self.call, list[Tensor]()
        rounds = self.labels.shape[1]
        for r in range(rounds):
            order = runs(self.labels[:, r])
            yield Cut(order, call.k.shape[2], call.q.shape[2], self.behind, self.ahead), earlier
            if r + 1 < rounds:
                earlier.append(coordinates(order, max(self.behind, self.ahead)))

    def _forward_tiles(self, batch: Batch, earlier: list[Tensor]) -> tuple[Tensor, Tensor]:
        """out (X, T, Dv) and lse (X, T)."""
        new = self.buffers.new
        s, _, _ = self._scores(batch, earlier, 1.0)
        x, t, _ = s.shape
        top = torch.amax(s, -1, out=new("top", x, t))
        # softmax goes row by row. An exponential of the whole batch rounds otherwise at its end,
        # and which tile stands there depends on later tokens
        p = torch.ops.aten._softmax.out(s, -1, False, out=new("p", *s.shape))
        lse = top - torch.amax(p, -1, out=new("best", x, t)).log_()
        drop = self._factors(batch)
        if drop is not None:
            p.mul_(drop)
        v = self.buffers.rows("v", self.v, batch.keys)
        out = torch.bmm(p, v, out=new("out", x, t, v.shape[-1]))
        some = top > EMPTY / 2
        return out.mul_(some.to(out.dtype).unsqueeze(-1)), lse.masked_fill_(~some, EMPTY)

    def _backward_tiles(
        self, batch: Batch, earlier: list[Tensor], given: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the tiles' queries / scale, keys / ln 2, and values."""
        new, rows = self.buffers.new, self.buffers.rows
        grad, less, delta = given
        s, q, k = self._scores(batch, earlier, LOG2_E)
        p = s.sub_(less[batch.queries].unsqueeze(-1)).exp2_()
        do, v = rows("grad", grad, batch.queries), rows("v", self.v, batch.keys)
        drop = self._factors(batch)
        dp, less_delta = new("dp", *p.shape), delta[batch.queries].neg_().unsqueeze(-1)
        if drop is None:
            dv = torch.bmm(p.mT, do, out=new("dv", *v.shape))
            # dp - delta in one product: the sum starts at -delta
            torch.baddbmm(less_delta.expand(p.shape), do, v.mT, out=dp)
        else:
            dv = torch.bmm(torch.mul(p, drop).mT, do, out=new("dv", *v.shape))
            torch.bmm(do, v.mT, out=dp).mul_(drop).add_(less_delta)
        ds = dp.mul_(p)
        dk = torch.bmm(ds.mT, q, out=new("dk", *k.shape))
        return torch.bmm(ds, k, out=new("dq", *q.shape)), dk, dv

    def _scores(
        self, batch: Batch, earlier: list[Tensor], unit: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`unit` scores (X, T, S), EMPTY where not allowed; q, so scaled, and k of the tiles."""
        q = self.buffers.rows("q", self.q, batch.queries).mul_(self.call.scale * unit)
        k = self.buffers.rows("k", self.k, batch.keys)
        bias = self._bias(batch, earlier)
        s = self.buffers.new("scores", *batch.queries.shape, batch.keys.shape[1])
        return torch.baddbmm(bias.expand(s.shape), q, k.mT, out=s), q, k

    def _bias(self, batch: Batch, earlier: list[Tensor]) -> Tensor:
        """0 where a pair counts in this round, else EMPTY: (X or 1, T, S)."""
        (x, rows), keys = batch.queries.shape, batch.keys.shape[1]
        new, reach = self.buffers.new, max(self.behind, self.ahead)
        kind = (rows, keys, batch.lead)
        if kind not in self.bands:
            self.bands[kind] = band(*kind, self.behind, self.ahead, self.q)[None]
        far = self.bands[kind]
        if self.ahead:
            # the bucket may end among the later keys
            none = (batch.keys == len(self.k)).unsqueeze(1)
            far = torch.where(none, 0.0, far)
        tokens = batch.keys.flatten()
        for c in earlier:
            here = c.index_select(0, tokens).view(x, keys)
            mine = here[:, batch.lead : batch.lead + rows, None]
            apart = torch.sub(mine, here.unsqueeze(1), out=new("apart", x, rows, keys)).abs_()
            far = torch.minimum(far, apart, out=new("far", x, rows, keys))
        return nnf.threshold(far, reach + 0.5, EMPTY).clamp_(max=0.0)

    def _factors(self, batch: Batch) -> Tensor | None:
        """The factors of dropout (X, T, S), by slot of query and key."""
        c = self.call
        if c.seed is None:
            return None
        (rows, heads), (n, m) = self.at, (c.q.shape[2], c.k.shape[2])
        lanes = torch.arange(c.q.shape[0] * c.q.shape[1], device=c.q.device)
        lanes = lanes.view(c.q.shape[:2])[rows, heads].flatten()
        lanes = nnf.pad(lanes, (0, 1))[batch.keys // m]  # a key that is none is beyond the last
        mine = slice(batch.lead, batch.lead + batch.queries.shape[1])
        i, j = batch.keys[:, mine, None] % m - (m - n), batch.keys[:, None] % m
        return factors(c.seed, c.dropout, lanes[:, mine, None], i, j).to(c.wide)

    def _flat(self, t: Tensor) -> Tensor:
        """The block's part of t (B, H, N, D) as (L N, D): a view for a single lane."""
        return t[self.at].reshape(-1, t.shape[-1])

    def _nothing(self) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of nothing, with a row for what belongs to no query."""
        count = len(self.q) + 1
        return self.q.new_zeros(count, self.v.shape[1]), self.q.new_full((count,), EMPTY)


def _merge(total: tuple[Tensor, Tensor], part: tuple[Tensor, Tensor]) -> None:
    """Put `part` into `total`, two outputs with their log-sum-exps over disjoint keys."""
    lse = torch.logaddexp(total[1], part[1])
    mine, other = ((t[1] - lse).exp_().unsqueeze(-1) for t in (total, part))
    total[0].mul_(mine).addcmul_(part[0], other)
    total[1].copy_(lse)
