"""Which engine runs which part of a pattern: the cheapest, by pairs scored for each query.

    band      behind + ahead + 1 pairs in steps of its dilation, at most all
    shifts    K distances, each worth several pairs of a matrix product
    columns   the share of keys that stands in columns
    drawn     the keys of the blocks that a query's block drew
    marked    a few columns and rows: taken as cheap, for how many is data
    whole     everything that the union of the parts reaches, in one band

On a CUDA device torch compiles the whole pattern into one kernel (`flex`), where triton is
installed and the kernel takes the types, widths and distances; random blocks, of which it could
tell none apart, stay with `drawn`.

A part costs something to start and to merge, so a union goes in parts only where that saves more.

Axes: N queries, M keys.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.band import band
from subquad.ops.columns import columns, columns_of
from subquad.ops.dense import dense
from subquad.ops.drawn import drawn, drawn_of
from subquad.ops.flex import flex, takes
from subquad.ops.lowering import candidates, lower, terms
from subquad.ops.marked import marked
from subquad.ops.partial import Partial, Scoring, Where
from subquad.ops.pattern import And, Minus, Pattern
from subquad.ops.patterns import Full, Marked
from subquad.ops.sdpa import is_plainly_causal, sdpa
from subquad.ops.shifts import shifts

__all__ = ["Engine", "Part", "needs_mark", "plan"]

Engine = Callable[[Tensor, Tensor, Tensor, Pattern, Where, Scoring], Partial]

#: up to this many pairs a mask of N x M costs nothing worth avoiding
FEW_PAIRS = 1 << 16
#: the length that a graph is planned for
LONG = 1 << 16
#: pairs of a matrix product that take as long: to start and merge a part, one distance of shifts,
#: and the marked tokens
START, SHIFT, MARKS = 64, 16, 64


class Part(NamedTuple):
    """An engine, what it runs, and the pairs per query that this is worth."""

    engine: Engine
    pattern: Pattern
    cost: float = 0.0


def plan(q: Tensor, k: Tensor, pattern: Pattern, where: Where, scoring: Scoring) -> list[Part]:
    """Disjoint parts whose union is `pattern`, each with its engine."""
    n, m = q.shape[2], k.shape[2]
    if torch.compiler.is_compiling():
        n = m = LONG  # one graph for every length
    bare = scoring.distance is None and scoring.dropout == 0
    small = n * m * (1 if bare else q.shape[0] * q.shape[1]) <= FEW_PAIRS
    if bare and (small or isinstance(pattern, Full) or is_plainly_causal(pattern, where)):
        return [Part(sdpa, pattern)]
    if small:
        return [Part(dense, pattern)]
    fused = q.device.type == "cuda" and find_spec("triton") is not None and takes(q, scoring)
    if fused and all(drawn_of(p) is None for p in terms(pattern)):
        return [Part(flex, pattern)]
    parts = [_cheapest(p, m) for p in terms(pattern)]
    whole = _in_band(pattern, m)
    return parts if sum(p.cost + START for p in parts) < whole.cost + START else [whole]


def _cheapest(p: Pattern, m: int) -> Part:
    if needs_mark(p):
        return Part(marked, p, MARKS)
    best = _in_band(p, m)
    held = columns_of(p)
    if held is not None and m * held.width / held.size < best.cost:
        return Part(columns, p, m * held.width / held.size)
    chosen = drawn_of(p)
    if chosen is not None and chosen.count * chosen.size < best.cost:
        return Part(drawn, p, chosen.count * chosen.size)
    if lower(p).rest is None:  # a band has as many pairs as distances, and those are cheaper
        return best
    # lengths in steps of four times: one graph then serves many of them
    limit = 256
    while limit < m:
        limit *= 4
    few = candidates(p, limit)
    if few is not None and SHIFT * len(few) < best.cost:
        return Part(shifts, p, SHIFT * len(few))
    return best


def _in_band(p: Pattern, m: int) -> Part:
    behind, ahead, step, _ = lower(p)
    longest = m // step + 1
    sides = [longest if side is None else min(side, longest) for side in (behind, ahead)]
    return Part(band, p, min(longest, max(0, sum(sides) + 1)))


def needs_mark(p: Pattern) -> bool:
    """Does every pair of `p`, which holds no Or, hold a marked token?"""
    if isinstance(p, And):
        return needs_mark(p.a) or needs_mark(p.b)
    return needs_mark(p.a) if isinstance(p, Minus) else isinstance(p, Marked)
