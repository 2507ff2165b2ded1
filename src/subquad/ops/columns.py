"""The columns engine: all queries against the keys of a few columns (Sparse Transformer, fixed).

Keys at the last places of every block, `Columns(size, width)`, are taken out once, and queries pass
over them tile by tile, restricted by the rest of the pattern; tiles that its reach empties are
skipped. Scores are never kept: backward forms them again. O(N M width / size) time, O(N + M)
memory; with a constant number of blocks in N, as in the paper (size about sqrt(N)), O(N sqrt(N)).

Axes: B batch, N queries, M keys, H heads, D head width.
"""

from collections.abc import Iterator

from torch import Tensor

from subquad.ops.calls import operator
from subquad.ops.grid import Columns
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import And, Minus, Pattern
from subquad.ops.patterns import Full
from subquad.ops.products import Product, Products
from subquad.ops.sides import Side

__all__ = ["columns", "columns_of"]


def columns(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows, all of whose keys stand in columns.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError for a pattern that is not restricted to `Columns`.
    """
    found = columns_of(pattern)
    if found is None:
        raise ValueError(f"{pattern} has keys outside of columns; use the band engine")
    numbers = found.size, found.width, found.skip
    return _columns(q, k, v, pattern.text(), where, scoring, numbers=numbers)


def columns_of(p: Pattern) -> Columns | None:
    """The fewest columns known to hold every key of `p`; None if it has keys outside of columns."""
    if isinstance(p, And):
        a, b = columns_of(p.a), columns_of(p.b)
        if a is None or b is None:
            return b if a is None else a
        return a if a.width * b.size <= b.width * a.size else b
    if isinstance(p, Minus):
        return columns_of(p.a)
    return p if isinstance(p, Columns) else None


class _Columns(Products):
    """`numbers` are size, width and skip."""

    def products(self) -> Iterator[Product]:
        found = Columns(*self.numbers)
        held = Side.of(found.holds(self.k_where[0]))
        assert self.pattern is not None
        yield Product(self, Side(), held, beyond=_beyond(self.pattern, found))


def _beyond(p: Pattern, held: Columns) -> Pattern:
    """What is left of `p` to ask where all keys stand in the columns `held`."""
    if isinstance(p, And | Minus):
        kind, b = type(p), _beyond(p.b, held) if isinstance(p, And) else p.b
        return kind(_beyond(p.a, held), b)
    return Full() if p == held else p


_columns = operator("columns", _Columns)
