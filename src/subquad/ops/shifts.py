"""The shifts engine: attention at a few constant distances (LogSparse and its kin).

For each distance, keys and values are views of k and v, shifted; no tensor (N, K, D) is made, and
scores exist for one block of queries at a time. Where positions jump, the key at each distance is
looked up instead, at the same cost in N. O(N K) time, O(N) memory.

Axes: B batch, N queries, M keys, H heads, K distances, D head width.
"""

from torch import Tensor

from subquad.ops.calls import operator
from subquad.ops.listed import Listed
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import Pattern

__all__ = ["shifts"]

_shifts = operator("shifts", Listed)


def shifts(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, distance by distance.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError for a pattern that does not name few distances.
    """
    return _shifts(q, k, v, pattern.text(), where, scoring, numbers=(0,))
