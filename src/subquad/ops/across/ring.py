"""Exact attention over several processes: keys and values go round, partials merge by log-sum-exp.

    out_i = sum_b exp(lse_ib - lse_i) out_ib          b: the keys of one process

Liu, Zaharia, Abbeel, Ring Attention, 2023, https://arxiv.org/abs/2310.01889. A process holds its
own keys and those of one other; backward lets them go round once more, with the gradients that
they have gathered. Keys go only as far as somebody may look at them: in causal attention not past
the last process. Time O(N P N) for N tokens in each of P processes; in causal attention the last
process has the most to do, for tokens are held in order.

Axes: B batch, N queries and M keys of a process, H heads, G key heads, D head width.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.across.ranks import Ranks
from subquad.ops.band import band
from subquad.ops.partial import EMPTY, Partial, Scoring, Where, merge, wide
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Causal, Full

__all__ = ["ring"]


class Facts(NamedTuple):
    """What every process knows of all tokens: coordinates and which exist, by process."""

    at: list[Coords]
    valid: list[Tensor] | None


def ring(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    facts: Facts,
    scoring: Scoring,
    ranks: Ranks,
) -> Partial:
    """The partial of queries q (B, H, N, D) over the keys of all processes.

    k (B, G, N, D), v (B, G, N, Dv) with G dividing H.
    """
    return Partial(*_Ring.apply(q, k, v, pattern, facts, scoring, ranks))


def _touch(pattern: Pattern, ranks: Ranks, looks: int, holds: int) -> bool:
    """May a query of one process look at a key of another?"""
    if not (ranks.lengths[looks] and ranks.lengths[holds]):
        return False
    behind, ahead = pattern.reach()
    nearest = ranks.starts[looks] - (ranks.starts[holds + 1] - 1)
    farthest = ranks.starts[looks + 1] - 1 - ranks.starts[holds]
    return (behind is None or nearest <= behind) and (ahead is None or farthest >= -ahead)


def _hops(pattern: Pattern, ranks: Ranks) -> list[int]:
    """How far the keys of each process travel: to the last that looks at them."""
    p = ranks.size
    return [
        max((s for s in range(p) if _touch(pattern, ranks, (b + s) % p, b)), default=0)
        for b in range(p)
    ]


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    holds: int,
    pattern: Pattern,
    facts: Facts,
    scoring: Scoring,
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:
    """The partial over the keys of one process: output and log-sum-exp."""
    groups = q.shape[1] // k.shape[1]
    k, v = (t.repeat_interleave(groups, 1) for t in (k, v))
    valid = None if facts.valid is None else facts.valid[holds]
    at, to = facts.at[ranks.rank], facts.at[holds]
    if isinstance(pattern, Full) or (isinstance(pattern, Causal) and holds < ranks.rank):
        # every pair: positions do not matter, and tiles need not be tested
        pattern, m = Full(), k.shape[2]
        line = torch.arange(m - q.shape[2], m, device=q.device).view(1, 1, -1)
        at, to = Coords(line), Coords(torch.arange(m, device=q.device).view(1, 1, -1))
    out, lse = band(q, k, v, pattern, Where(at, to, valid), scoring)
    assert lse is not None
    return out, lse


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, pattern, facts, scoring, ranks: Ranks):
        ctx.more = pattern, facts, scoring, ranks
        p, me = ranks.size, ranks.rank
        hops, held = _hops(pattern, ranks), torch.cat((k, v), -1)
        out = q.new_zeros(*q.shape[:3], v.shape[-1], dtype=wide(q.dtype))
        total = Partial(out, torch.full(q.shape[:3], EMPTY, dtype=out.dtype, device=q.device))
        for s in range(p):
            holds = (me - s) % p
            if s:
                held = _pass_on(held, s, hops, ranks)
            if _touch(pattern, ranks, me, holds):
                keys, values = held.split((k.shape[-1], v.shape[-1]), -1)
                part = _block(q, keys, values, holds, pattern, facts, scoring, ranks)
                total = merge([total, Partial(*part)])
        ctx.save_for_backward(q, k, v, *total)
        return total

    @staticmethod
    def backward(ctx, dout: Tensor, dlse: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        pattern, facts, scoring, ranks = ctx.more
        p, me, widths = ranks.size, ranks.rank, (k.shape[-1], v.shape[-1])
        hops, held = _hops(pattern, ranks), torch.cat((k, v), -1)
        dq, dheld = torch.zeros_like(q, dtype=out.dtype), torch.zeros_like(held, dtype=out.dtype)
        home = torch.zeros_like(dheld)
        for s in range(p):
            holds = (me - s) % p
            if s:
                held, dheld = (_pass_on(t, s, hops, ranks) for t in (held, dheld))
            if _touch(pattern, ranks, me, holds):
                with torch.enable_grad():
                    given = [t.detach().requires_grad_() for t in (q, *held.split(widths, -1))]
                    part = _block(*given, holds, pattern, facts, scoring, ranks)  # type: ignore
                share = (part[1].detach() - lse).exp()
                by_out = (share[..., None] * dout).to(part[0].dtype)
                by_lse = share * ((dout * (part[0].detach() - out)).sum(-1) + dlse)
                grads = torch.autograd.grad(part, given, (by_out, by_lse))
                dq, dheld = dq + grads[0], dheld + torch.cat(grads[1:], -1)
            _bring_home(dheld, home, s, hops, ranks)
        dk, dv = home.split(widths, -1)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None


def _pass_on(held: Tensor, s: int, hops: list[int], ranks: Ranks) -> Tensor:
    """What the process before held, at step s; nothing (of its length) if nobody needs it here."""
    p, me = ranks.size, ranks.rank
    mine, coming = (me - s + 1) % p, (me - s) % p
    shape = (*held.shape[:2], ranks.lengths[coming], held.shape[3])
    arrived = held.new_empty(shape)
    ranks.exchange(
        {(me + 1) % p: held.contiguous()} if s <= hops[mine] else {},
        {(me - 1) % p: arrived} if s <= hops[coming] else {},
    )
    return arrived


def _bring_home(dheld: Tensor, home: Tensor, s: int, hops: list[int], ranks: Ranks) -> None:
    """Gradients that have been everywhere, at step s, go to the process that holds the tokens."""
    p, me = ranks.size, ranks.rank
    here = (me - s) % p
    if s == 0:
        if hops[me] == 0:
            home.copy_(dheld)
        return
    ranks.exchange(
        {here: dheld.contiguous()} if hops[here] == s else {},
        {(me + s) % p: home} if hops[me] == s else {},
    )
