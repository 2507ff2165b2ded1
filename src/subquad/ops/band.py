"""The band engine: attention over keys at most `behind` before and `ahead` after the query.

The score matrix is formed in tiles of a few hundred kilobytes and never kept: backward forms the
tiles again. O(N reach) time, O(N) memory whatever the reach, so that it also serves full and causal
attention where torch's own kernel cannot (distances, labels, a log-sum-exp to merge by). Strides
and dilations fold the tokens first (`subquad.ops.fold`), so they cost O(N reach / stride).

Axes: B batch, N queries, M keys, H heads, D head width.
"""

from torch import Tensor

from subquad.ops.band_loop import Loop
from subquad.ops.calls import operator
from subquad.ops.lowering import lower
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import Pattern

__all__ = ["FAR", "band"]

#: an unbounded reach: positions may run on in any steps, so farther than there are slots
FAR = 1 << 40

_band = operator("band", Loop)


def band(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, tile by tile.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    A pattern of unbounded reach costs O(N M) time, and still O(N) memory.
    """
    behind, ahead, step, rest = lower(pattern)
    reach = FAR if behind is None else behind, FAR if ahead is None else ahead
    text = "" if rest is None else rest.text()
    return _band(q, k, v, text, where, scoring, numbers=(*reach, step))
