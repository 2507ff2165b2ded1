"""The marked engine: pairs of which the query or the key is marked (Longformer's global tokens).

A few columns, the marked keys against all queries, and a few rows, the marked queries against all
other keys. Both are gathered, scored in tiles and merged by log-sum-exp. How many marks there are
is data, so it stays inside the op: the graph around it never changes.

O((N + M) K) time for at most K marks in a row of the batch, O(N + M) memory.

Axes: B batch, N queries, M keys, H heads, K marked tokens, D head width.
"""

from collections.abc import Iterator

from torch import Tensor

from subquad.ops.calls import operator
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import Pattern
from subquad.ops.products import Product, Products
from subquad.ops.sides import Side

__all__ = ["marked", "rows"]


def marked(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows and that hold a marked query or key.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    Whole for patterns that allow no other pairs: conjunctions with `Marked()`.
    """
    return _marked(q, k, v, pattern.text(), where, scoring)


def rows(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mark: Tensor,
    pattern: Pattern,
    where: Where,
    scoring: Scoring,
) -> Partial:
    """Attention of the queries in `mark` (B or 1, H or 1, N) over all keys that `pattern` allows.

    Shapes as in `marked`; the other rows hold zeros and EMPTY. O(K M) time for K marked queries.
    """
    return _rows(q, k, v, pattern.text(), where, scoring, listed=mark)


class _Rows(Products):
    """The queries that `listed` marks against all keys."""

    def products(self) -> Iterator[Product]:
        assert self.listed is not None
        yield Product(self, Side.of(self.listed), Side())


class _Marked(Products):
    """Marked keys against all queries, then marked queries against all other keys."""

    def products(self) -> Iterator[Product]:
        columns, rows = self.k_where[2].bool(), self.q_where[2].bool()
        yield Product(self, Side(), Side.of(columns))
        yield Product(self, Side.of(rows), Side(), skip=columns)


_marked = operator("marked", _Marked)
_rows = operator("rows", _Rows)
