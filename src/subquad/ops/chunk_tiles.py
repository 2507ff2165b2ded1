"""The tiles of sorted chunks: queries of a chunk against its keys and those of the one before.

Scores are formed for some chunks at a time, and once more in backward: none are kept.

Axes: G chunks of all lanes, m tokens of a chunk, X chunks of a tile, F rows of all lanes, D head
width, R rounds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from subquad.ops.partial import EMPTY
from subquad.ops.tiles import LOG2_E, Scratch, Tile, tile_backward, tile_forward

__all__ = ["Round", "attend_round"]

#: scores in a tile: a MiB of float32
BUDGET = 1 << 18


@dataclass(frozen=True)
class Round:
    """One round: rows i (G, m) of queries and j (G, 2 m) of keys among the F rows of all lanes.

    weigh(i (X, m, 1), j (X, 1, 2 m)): natural logarithms of what pairs count, EMPTY for none.
    factors: those of dropout, likewise.
    """

    i: Tensor
    j: Tensor
    weigh: Callable[[Tensor, Tensor], Tensor]
    factors: Callable[[Tensor, Tensor], Tensor] | None = None

    def tiles(self, q: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple[slice, Tile]]:
        """Tiles of q, k (F, D) and v (F, Dv), each with the chunks that it holds."""
        many = max(1, BUDGET // max(1, self.i.shape[1] * self.j.shape[1]))
        for start in range(0, len(self.i), many):
            some = slice(start, start + many)
            i, j = self.i[some], self.j[some]
            pair = i.unsqueeze(2), j.unsqueeze(1)
            drop = None if self.factors is None else self.factors(*pair)
            rows = _rows(q, i).mul_(q.shape[1] ** -0.5)
            bias = self.weigh(*pair).mul_(LOG2_E)
            yield some, Tile(rows, _rows(k, j), _rows(v, j), bias, factors=drop)


def _rows(t: Tensor, index: Tensor) -> Tensor:
    """t[index], which copies rows several times more slowly."""
    flat = index.flatten().unsqueeze(1).expand(-1, t.shape[1])
    return t.gather(0, flat).view(*index.shape, -1)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, cut: Round) -> tuple[Tensor, Tensor]:
        out = v.new_empty(*cut.i.shape, v.shape[1])
        lse, scratch = v.new_full(cut.i.shape, EMPTY), Scratch()
        with torch.autocast(q.device.type, enabled=False):
            for some, tile in cut.tiles(q, k, v):
                out[some], lse[some] = tile_forward(tile, scratch)
        ctx.cut = cut
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, dlse: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, out, lse = ctx.saved_tensors
        delta = torch.linalg.vecdot(grad, out) - dlse
        (dq, dk, dv), scratch = (torch.zeros_like(t) for t in (q, k, v)), Scratch()
        with torch.autocast(q.device.type, enabled=False):
            for some, tile in ctx.cut.tiles(q, k, v):
                found = tile_backward(tile, scratch, grad[some], lse[some], delta[some])
                i, j = ctx.cut.i[some].flatten(), ctx.cut.j[some].flatten()
                dq.index_add_(0, i, found.q.flatten(0, 1), alpha=q.shape[1] ** -0.5)
                dk.index_add_(0, j, found.k.flatten(0, 1))
                dv.index_add_(0, j, found.v.flatten(0, 1))
        return dq, dk, dv, None


def attend_round(q: Tensor, k: Tensor, v: Tensor, cut: Round) -> tuple[Tensor, Tensor]:
    """out (G, m, Dv) and lse (G, m) of the queries of one round; q, k (F, D) and v (F, Dv) are of
    the type that sums have. Rows with nothing to look at: zeros, EMPTY.
    """
    if torch.compiler.is_compiling():
        return _at_once(q, k, v, cut)  # one graph for every length
    return _Attend.apply(q, k, v, cut)


def _at_once(q: Tensor, k: Tensor, v: Tensor, cut: Round) -> tuple[Tensor, Tensor]:
    pair = cut.i.unsqueeze(2), cut.j.unsqueeze(1)
    scores = q.shape[1] ** -0.5 * q[cut.i] @ k[cut.j].mT + cut.weigh(*pair)
    allowed = scores > EMPTY / 2
    lse = scores.logsumexp(-1)
    p = (scores - lse.unsqueeze(-1)).exp() * allowed
    p = p if cut.factors is None else p * cut.factors(*pair).to(p.dtype)
    return p @ v[cut.j], torch.where(allowed.any(-1), lse, EMPTY)
