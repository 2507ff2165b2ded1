"""Which keys a stream must keep: those that later queries may look at.

Axes: B batch, M keys, H heads.
"""

from math import lcm

import torch
from torch import Tensor

from subquad.ops.grid import Blocks, Chunks, Columns, Segments
from subquad.ops.pattern import And, Coords, Minus, Or, Pattern, PerHead, least, most

__all__ = ["behind", "forgets", "later", "step", "together"]


def behind(p: Pattern, first: Tensor) -> int | None:
    """How many tokens before position `first` (B or 1) queries from there on may look at, if known.

    As much as the reach, or less: a segment that begins now does not need the one before whole.
    """
    if isinstance(p, Segments):
        return int((first % p.length).max()) + p.memory
    if isinstance(p, And):
        return least(behind(p.a, first), behind(p.b, first))
    if isinstance(p, Or):
        return most(behind(p.a, first), behind(p.b, first))
    if isinstance(p, PerHead):
        return most(*(behind(one, first) for _, one in p.groups))
    return behind(p.a, first) if isinstance(p, Minus) else p.reach()[0]


def forgets(p: Pattern) -> bool:
    """Are there keys that no later query needs, whatever they are?"""
    if isinstance(p, And):
        return forgets(p.a) or forgets(p.b)
    if isinstance(p, Or):
        return forgets(p.a) and forgets(p.b)
    if isinstance(p, Minus):
        return forgets(p.a)
    if isinstance(p, PerHead):
        return all(forgets(one) for _, one in p.groups)
    return isinstance(p, Blocks | Columns) or p.reach()[0] is not None


def later(p: Pattern, k: Coords, first: Tensor) -> Tensor:
    """Which keys `k` (B or 1, H or 1, M) may queries from position `first` (B or 1, 1, 1) on need?

    Marked keys apart. As with `reach`, a key that is not needed may be told to be, never the other
    way round.
    """
    if isinstance(p, And | Or):
        a, b = later(p.a, k, first), later(p.b, k, first)
        return a & b if isinstance(p, And) else a | b
    if isinstance(p, Minus):
        return later(p.a, k, first)
    if isinstance(p, PerHead):
        return torch.stack([later(one, k, first) for _, one in p.groups]).any(0)
    if isinstance(p, Columns):
        return p.holds(k.pos)
    if isinstance(p, Blocks):
        return k.pos // p.size >= first // p.size
    behind = p.reach()[0]
    return k.pos >= (k.pos if behind is None else first - behind)


def step(p: Pattern) -> int | None:
    """How many tokens of a stream must come together, so that none looks at what comes later.

    1 if no token looks ahead at all; None if there is no such number.
    """
    ahead = p.reach()[1]
    if ahead is not None and ahead <= 0:
        return 1
    if isinstance(p, And):
        return least(step(p.a), step(p.b))
    if isinstance(p, Or):
        return together(step(p.a), step(p.b))
    if isinstance(p, PerHead):
        return together(*(step(one) for _, one in p.groups))
    if isinstance(p, Minus):
        return step(p.a)
    if isinstance(p, Blocks) or (isinstance(p, Chunks) and p.right == 0):
        return p.size
    return None


def together(*steps: int | None) -> int | None:
    """The step of parts that run one after the other; None if one of them has none."""
    known = [s for s in steps if s is not None]
    return lcm(*known) if len(known) == len(steps) else None
