"""Which engine runs which part of a pattern.

Axes: N queries, M keys.
"""

from torch import Tensor

from subquad.ops.band import band
from subquad.ops.dense import dense
from subquad.ops.lowering import lower, terms
from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Full
from subquad.ops.sdpa import is_plainly_causal, sdpa

__all__ = ["plan"]

#: up to this many pairs a mask of N x M costs nothing worth avoiding
FEW_PAIRS = 1 << 16


def plan(q: Tensor, k: Tensor, pattern: Pattern, where: Where, scoring: Scoring) -> list:
    """[(engine, part)]: disjoint parts whose union is `pattern`."""
    n, m = q.shape[2], k.shape[2]
    bare = scoring.distance is None and scoring.dropout == 0
    if bare and (
        n * m <= FEW_PAIRS or isinstance(pattern, Full) or is_plainly_causal(pattern, where)
    ):
        return [(sdpa, pattern)]
    if n * m <= FEW_PAIRS:
        return [(dense, pattern)]
    parts = terms(pattern)
    if all(None not in lower(p)[:2] for p in parts):
        return [(band, p) for p in parts]
    return [(band, pattern)]
