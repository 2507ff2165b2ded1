"""The loop behind LSH attention: rounds, and in each the tiles of sorted buckets.

    out_i = sum_{j in A(i)} p_ij v_j,   p = softmax of q_i . k_j / sqrt(D) over A(i),  k = q / |q|
    A(i) = union over rounds r of A_r(i),   A_r(i) = the last `behind` earlier tokens in i's bucket
    out_i = v_i where A(i) is empty

Each round counts the pairs that no earlier round holds, so that rounds are disjoint and merge by
log-sum-exp. Backward forms the tiles again, with scores to base 2.

Axes: B batch, H heads, L lanes of a block, N queries, M tokens, F = L M, R rounds, X tiles, T
queries, S keys, D head width.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

from subquad.ops.hashing import runs
from subquad.ops.lsh_tiles import Batch, Buffers, Cut, band, coordinates
from subquad.ops.partial import EMPTY, factors, wide
from subquad.ops.tiles import LN_2, LOG2_E

__all__ = ["At", "Block"]

#: some rows of a batch, some heads
At = tuple[slice, slice]


class Block:
    """Some lanes of a call, their tokens in a row: qk (F, D), v (F, Dv). See `lsh_call.Call`."""

    def __init__(self, call: Any, at: At) -> None:
        self.call, self.at = call, at
        self.tokens, self.queries = call.qk.shape[2], call.queries
        self.behind, self.ahead = (min(x, self.tokens) for x in (call.behind, call.ahead))
        self.scale = call.qk.shape[3] ** -0.5
        self.labels = call.labels[at].flatten(0, 1)
        self.wide = wide(call.qk.dtype)
        self.qk, self.v = (self._flat(t[at]) for t in (call.qk, call.v))
        norm = torch.linalg.vector_norm(self.qk, dim=-1)
        # zero has no direction, and gets no gradient through it
        self.shrink = norm.reciprocal().masked_fill_(norm == 0, 0.0)
        self.buffers = Buffers(self.wide, call.qk.device)
        self.band = (0, 0, 0), self.qk

    def forward(self) -> tuple[Tensor, Tensor]:
        """out (L N, Dv) and lse (L N)."""
        parts: list[tuple[Tensor, Tensor]] = []
        for r, (cut, earlier) in enumerate(self._rounds()):
            if r < 2:
                parts.append(self._nothing())
            out, lse = parts[-1]
            for batch in cut:
                found = self._forward_tiles(batch, earlier)
                rows = batch.queries.flatten()
                out.index_copy_(0, rows, found[0].flatten(0, 1))
                lse.index_copy_(0, rows, found[1].flatten())
            if r > 0:
                _merge(parts[0], parts[1])
        out, lse = (t[:-1] for t in parts[0])
        alone, token, kept = self._alone(lse)
        out[alone] = self.v[token] * kept
        return out, lse

    def backward(self, grad: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of qk (F, D) and v (F, Dv) from those of the block's lanes."""
        grad, lse, delta = self._flat(grad), lse.flatten(), delta.flatten()
        # exp2(score - less) is 0 for a row that looks at nothing, and for one that is none
        less = (lse * LOG2_E).masked_fill_(lse < EMPTY / 2, -EMPTY)
        given = grad, nnf.pad(less, (0, 1), value=-EMPTY), nnf.pad(delta, (0, 1))
        dqk, dv = (t.new_zeros(len(t) + 1, t.shape[1]) for t in (self.qk, self.v))
        for cut, earlier in self._rounds():
            for batch in cut:
                parts = self._backward_tiles(batch, earlier, given)
                for total, part in zip((dqk, dv), parts, strict=True):
                    total.index_add_(0, batch.keys.flatten(), part.flatten(0, 1))
        alone, token, kept = self._alone(lse)
        dv.index_add_(0, token, grad[alone] * kept)
        return dqk[:-1], dv[:-1]

    def _rounds(self) -> Iterator[tuple[Cut, list[Tensor]]]:
        """The tiles of each round, and the coordinates of the rounds before it."""
        earlier: list[Tensor] = []
        rounds = self.labels.shape[1]
        for r in range(rounds):
            order = runs(self.labels[:, r])
            yield Cut(order, self.tokens, self.queries, self.behind, self.ahead), earlier
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
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the tiles' tokens (X, S, D), as queries and keys, and values (X, S, Dv)."""
        new, rows, mine = self.buffers.new, self.buffers.rows, batch.mine
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
        # through k = q / |q|: what points along k changes nothing
        along = torch.linalg.vecdot(dk, k).unsqueeze(-1)
        dk.addcmul_(k, along, value=-1.0).mul_(self._of("shrink", batch) * LN_2)
        dk[:, mine].add_(torch.bmm(ds, k, out=new("dq", *q.shape)), alpha=self.scale)
        return dk, dv

    def _scores(
        self, batch: Batch, earlier: list[Tensor], unit: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`unit` scores (X, T, S), EMPTY where not allowed; q, so scaled, and k of the tiles."""
        new = self.buffers.new
        k = self.buffers.rows("k", self.qk, batch.keys)
        x, keys, width = k.shape
        rows = batch.queries.shape[1]
        q = torch.mul(k[:, batch.mine], self.scale * unit, out=new("q", x, rows, width))
        k.mul_(self._of("shrink", batch))
        bias = self._bias(batch, earlier).expand(x, rows, keys)
        return torch.baddbmm(bias, q, k.mT, out=new("scores", x, rows, keys)), q, k

    def _of(self, name: str, batch: Batch) -> Tensor:
        """What there is one number of for each token (F,), for the keys: (X, S, 1)."""
        index = batch.keys.flatten().clamp(max=len(self.qk) - 1)
        return getattr(self, name).index_select(0, index).view(*batch.keys.shape, 1)

    def _bias(self, batch: Batch, earlier: list[Tensor]) -> Tensor:
        """0 where a pair counts in this round, else EMPTY: (X or 1, T, S)."""
        (x, rows), keys = batch.queries.shape, batch.keys.shape[1]
        new, reach = self.buffers.new, max(self.behind, self.ahead)
        kind = (rows, keys, batch.lead)
        if kind != self.band[0]:
            # kinds come one after the other, and where all is reached there are as many as tiles
            self.band = kind, band(*kind, self.behind, self.ahead, self.qk)[None]
        far = self.band[1]
        if self.ahead:
            # the bucket may end among the later keys
            none = (batch.keys == len(self.qk)).unsqueeze(1)
            far = torch.where(none, 0.0, far)
        tokens = batch.keys.flatten()
        for c in earlier:
            here = c.index_select(0, tokens).view(x, keys)
            apart = new("apart", x, rows, keys)
            torch.sub(here[:, batch.mine, None], here.unsqueeze(1), out=apart).abs_()
            far = torch.minimum(far, apart, out=new("far", x, rows, keys))
        return nnf.threshold(far, reach + 0.5, EMPTY).clamp_(max=0.0)

    def _factors(self, batch: Batch) -> Tensor | None:
        """The factors of dropout (X, T, S), by number of the query and slot of the key."""
        if self.call.seed is None:
            return None
        m = self.tokens
        lanes = nnf.pad(self._lanes(), (0, 1))[batch.keys // m]  # beyond the last: no token
        i, j = batch.keys[:, batch.mine, None] % m - (m - self.queries), batch.keys[:, None] % m
        drop = factors(self.call.seed, self.call.dropout, lanes[:, batch.mine, None], i, j)
        return drop.to(self.wide)

    def _alone(self, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The queries (K,) that found nothing, their tokens, and what dropout makes of their value.

        The factors are (K, 1).
        """
        alone = (lse < EMPTY / 2).nonzero().squeeze(-1)
        lane, i = alone // self.queries, alone % self.queries
        slot = i + self.tokens - self.queries
        kept = torch.ones_like(alone, dtype=self.wide)
        if self.call.seed is not None:
            lanes = self._lanes()[lane]
            kept = factors(self.call.seed, self.call.dropout, lanes, i, slot).to(self.wide)
        return alone, lane * self.tokens + slot, kept.unsqueeze(-1)

    def _lanes(self) -> Tensor:
        """The number b * H + h of each lane of the block (L,)."""
        b, h = self.call.qk.shape[:2]
        every = torch.arange(b * h, device=self.call.qk.device).view(b, h)
        return every[self.at].flatten()

    def _flat(self, t: Tensor) -> Tensor:
        """t (b, h, N, D) as (L N, D), wide: a view for a single lane."""
        return t.reshape(-1, t.shape[-1]).to(self.wide)

    def _nothing(self) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of nothing, with a row for what belongs to no query."""
        count = len(self.labels) * self.queries + 1
        return self.v.new_zeros(count, self.v.shape[1]), self.v.new_full((count,), EMPTY)


def _merge(total: tuple[Tensor, Tensor], part: tuple[Tensor, Tensor]) -> None:
    """Put `part` into `total`, two outputs with their log-sum-exps over disjoint keys."""
    lse = torch.logaddexp(total[1], part[1])
    mine, other = ((t[1] - lse).exp_().unsqueeze(-1) for t in (total, part))
    total[0].mul_(mine).addcmul_(part[0], other)
    total[1].copy_(lse)
