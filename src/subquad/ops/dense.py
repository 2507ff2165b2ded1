"""The oracle: attention as it is written, with the whole matrix in memory.

    weights = softmax(scores where allowed),  out = weights v

O(N M) time and memory, sums in at least float32. Every other engine is tested against this one.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

import torch
from torch import Tensor

from subquad.ops.partial import EMPTY, Partial, Scoring, Where, keep, wide
from subquad.ops.pattern import Pattern

__all__ = ["dense"]


def dense(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    """
    scores, allowed = _scores(q, k, pattern, where, scoring)
    lse = scores.logsumexp(-1)
    p = (scores - lse.unsqueeze(-1)).exp() * allowed
    if scoring.dropout > 0 and scoring.seed is not None:
        p = p * keep(scoring.seed, scoring.dropout, scores.shape, 0, 0).to(p.dtype)
    some = allowed.any(-1).expand(lse.shape)
    out = (p @ v.to(p.dtype)).to(v.dtype)
    return Partial(out, torch.where(some, lse, EMPTY))


def _scores(
    q: Tensor, k: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    kind = wide(q.dtype)
    scores = scoring.scale * (q.to(kind) @ k.to(kind).mT)
    if scoring.distance is not None:
        scores = scores + scoring.distance.scores(where.distances()).to(kind)
    allowed = where.allowed(pattern) & ~(scores < EMPTY / 2)
    return torch.where(allowed, scores, EMPTY), allowed
