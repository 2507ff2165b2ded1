"""Attention of finite reach over several processes: neighbours give the tokens at their borders.

    process r looks at tokens starts[r] - behind .. starts[r] + lengths[r] - 1 + ahead

A process receives at most behind + ahead tokens, from one neighbour on each side or, where the
reach is longer than what a neighbour holds, from several. Time as with one process, N (reach).

Axes: B batch, N tokens of this process, L and R tokens received before and behind them, H heads,
D head width, W width.
"""

from itertools import pairwise

import torch
from torch import Tensor

from subquad.ops.across.ranks import Ranks
from subquad.ops.band import band
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import Coords, Pattern

__all__ = ["halo", "windowed"]


def halo(x: Tensor, ranks: Ranks, behind: int, ahead: int) -> Tensor:
    """x (B, H, N, W) of this process with its neighbours' tokens around it: (B, H, L + N + R, W).

    L = min(behind, tokens before), R = min(ahead, tokens after). Differentiable.
    """
    ranks.check(x.shape[2])
    return _Halo.apply(x, ranks, behind, ahead)


def windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    at: Coords,
    valid: Tensor | None,
    scoring: Scoring,
    ranks: Ranks,
) -> Partial:
    """The partial of queries q (B, H, N, D) over all keys in a finite reach, held here or not.

    k (B, G, N, D), v (B, G, N, Dv) with G dividing H; `at` places the tokens of this process.
    """
    behind, ahead = (max(0, side or 0) for side in pattern.reach())
    groups = q.shape[1] // k.shape[1]
    both = halo(torch.cat((k, v), -1), ranks, behind, ahead).repeat_interleave(groups, 1)
    n, start = q.shape[2], ranks.starts[ranks.rank]
    first = min(behind, start) if n else 0
    line = torch.arange(both.shape[2], device=q.device).view(1, 1, -1) + (start - first)
    around = at._replace(pos=line).each(
        lambda t: t if t is line else _share(t, ranks, behind, ahead)
    )
    if valid is not None:
        valid = _share(valid[:, None], ranks, behind, ahead)[:, 0]
    # as many queries of zeros as keys stand behind ours: tiles are then cut along the diagonal
    q = torch.cat((q, q.new_zeros(*q.shape[:2], both.shape[2] - first - n, q.shape[3])), 2)
    where = Where(around.each(lambda t: t[..., first:]), around, valid)
    k, v = both.split((k.shape[3], v.shape[3]), -1)
    done = band(q, k, v, pattern, where, scoring)
    assert done.lse is not None
    return Partial(done.out[:, :, :n], done.lse[:, :, :n])


def _share(t: Tensor, ranks: Ranks, behind: int, ahead: int) -> Tensor:
    """Facts (B or 1, H or 1, N) of tokens, with those of the neighbours' tokens."""
    wide = t.to(torch.int64 if t.dtype == torch.int64 else torch.uint8)
    return _around(wide[..., None], ranks, behind, ahead)[..., 0].to(t.dtype)


def _spans(ranks: Ranks, behind: int, ahead: int) -> list[list[tuple[int, int]]]:
    """[looks][holds] -> which tokens of the one the other looks at: first, and behind the last."""
    held = list(pairwise(ranks.starts))
    spans = []
    for start, end in held:
        first, last = (start - behind, end + ahead) if end > start else (0, 0)
        spans.append([(max(first, a), max(first, a, min(last, b))) for a, b in held])
    return spans


def _around(x: Tensor, ranks: Ranks, behind: int, ahead: int) -> Tensor:
    me, start = ranks.rank, ranks.starts[ranks.rank]
    spans = _spans(ranks, behind, ahead)
    out, into = {}, {}
    for peer in (r for r in range(ranks.size) if r != me):
        first, last = spans[peer][me]
        if last > first:
            out[peer] = x[:, :, first - start : last - start].contiguous()
        first, last = spans[me][peer]
        if last > first:
            into[peer] = x.new_empty(*x.shape[:2], last - first, x.shape[3])
    ranks.exchange(out, into)
    return torch.cat([into.get(r, x[:, :, :0]) if r != me else x for r in range(ranks.size)], 2)


class _Halo(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks, behind: int, ahead: int) -> Tensor:
        ctx.ranks, ctx.reach = ranks, (behind, ahead)
        return _around(x, ranks, behind, ahead)

    @staticmethod
    def backward(ctx, grad: Tensor):
        ranks: Ranks = ctx.ranks
        me, start = ranks.rank, ranks.starts[ranks.rank]
        spans = _spans(ranks, *ctx.reach)
        sizes = [ranks.tokens if r == me else b - a for r, (a, b) in enumerate(spans[me])]
        parts = dict(enumerate(grad.split(sizes, 2)))
        total = parts.pop(me).contiguous().clone()
        out = {peer: part.contiguous() for peer, part in parts.items() if part.shape[2]}
        back = {}
        for peer in parts:
            first, last = spans[peer][me]
            if last > first:
                back[peer] = total.new_empty(*total.shape[:2], last - first, total.shape[3])
        ranks.exchange(out, back)
        for peer, part in back.items():
            first, last = spans[peer][me]
            total[:, :, first - start : last - start] += part
        return total, None, None, None
