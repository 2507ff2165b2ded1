"""Which blocks of pairs a pattern touches, without looking at a pair: interval arithmetic.

A block holds the queries I and the keys J, of which the least and the largest position, label and
mark are known, and so the least and the largest distance. From those follows

    some    False only if no pair of the block is allowed
    every   True only if all pairs of the block are allowed

O(N + blocks of pairs) time, where asking the pattern takes O(N M). Blocks that are neither are
asked pair by pair, by whoever runs them. As with `reach`, what cannot be told may be taken for
touched, never the other way round.

Axes: B batch, N queries, M keys, H heads, I blocks of queries, J blocks of keys.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.grid import Blocks, Chunks, Columns, Segments
from subquad.ops.pattern import And, Coords, Minus, Or, Pattern
from subquad.ops.patterns import LogSteps, Marked, SameLabel, Strided, Window

__all__ = ["Ends", "Touched", "ends", "in_blocks", "touches"]


class Ends(NamedTuple):
    """The least and the largest coordinates of each block."""

    low: Coords
    high: Coords


class Touched(NamedTuple):
    """Of each block (B or 1, H or 1, I, J): is some pair allowed, is every one?"""

    some: Tensor
    every: Tensor


def in_blocks(t: Tensor, size: int) -> Tensor:
    """Cut the last axis into blocks of `size`; the last token stands in for those that lack."""
    lacking = -t.shape[-1] % size
    if lacking:
        t = torch.cat((t, t[..., -1:].expand(*t.shape[:-1], lacking)), -1)
    return t.unflatten(-1, (-1, size))


def ends(c: Coords, size: int) -> Ends:
    """The ends of blocks of `size` tokens of coordinates (B or 1, H or 1, N)."""
    return Ends(
        c.each(lambda t: in_blocks(t, size).amin(-1)), c.each(lambda t: in_blocks(t, size).amax(-1))
    )


def touches(p: Pattern, q: Ends, k: Ends) -> Touched:
    """Which blocks `p` touches; q with an axis 1 after its blocks, k before: they broadcast."""
    if isinstance(p, And | Or | Minus):
        a, b = touches(p.a, q, k), touches(p.b, q, k)
        if isinstance(p, And):
            return Touched(a.some & b.some, a.every & b.every)
        if isinstance(p, Or):
            return Touched(a.some | b.some, a.every | b.every)
        return Touched(a.some & ~b.every, a.every & ~b.some)
    near, far = q.low.pos - k.high.pos, q.high.pos - k.low.pos
    no = torch.zeros_like(near, dtype=torch.bool)
    if isinstance(p, SameLabel | Marked):
        return _told(p, q, k, no)
    if isinstance(p, Columns):
        return Touched(_columns(p, k) | no, no)
    if isinstance(p, Blocks | Chunks):
        ahead, behind = (0, 0) if isinstance(p, Blocks) else (p.right, p.left)
        low = q.low.pos // p.size - k.high.pos // p.size
        high = q.high.pos // p.size - k.low.pos // p.size
        return Touched((low <= behind) & (high >= -ahead), (high <= behind) & (low >= -ahead))
    if isinstance(p, Strided):
        return Touched(_multiple(near, far, p.stride), no | (p.stride == 1))
    if isinstance(p, LogSteps):
        return Touched(_log_steps(p, near, far), (near >= 0) & (far <= p.local))
    if isinstance(p, Segments):
        start = q.low.pos // p.length * p.length
        return Touched((far >= 0) & (k.high.pos >= start - p.memory), no)
    return _in_reach(p, near, far)


def _in_reach(p: Pattern, near: Tensor, far: Tensor) -> Touched:
    """Where distances alone decide they are all allowed within the reach, but for dilation."""
    behind, ahead = p.reach()
    some = torch.ones_like(near, dtype=torch.bool)
    every = some if p.by_distance else ~some
    if behind is not None:
        some, every = some & (near <= behind), every & (far <= behind)
        far = far.clamp(max=behind)
    if ahead is not None:
        some, every = some & (far >= -ahead), every & (near >= -ahead)
        near = near.clamp(min=-ahead)
    if isinstance(p, Window) and p.dilation > 1:
        return Touched(some & _multiple(near, far, p.dilation), ~some & some)
    return Touched(some, every)


def _told(p: Pattern, q: Ends, k: Ends, no: Tensor) -> Touched:
    """Labels: the intervals of query and key meet; marks: one of them has one."""
    name = "label" if isinstance(p, SameLabel) else "mark"
    (a, b), (c, d) = ((getattr(side, name) for side in both) for both in (q, k))
    if a is None or c is None:
        return Touched(no | (name == "label"), no | (name == "label"))
    if name == "label":
        return Touched((a <= d) & (c <= b) | no, (a == d) & (c == b) | no)
    return Touched(b | d | no, a | c | no)


def _multiple(low: Tensor, high: Tensor, step: int) -> Tensor:
    """Does a multiple of `step` lie between low and high, both included?"""
    return (low <= high) & (high // step * step >= low)


def _columns(p: Columns, k: Ends) -> Tensor:
    """Does a position from the least to the largest of the block stand in a column?"""
    first = p.size - p.skip - p.width
    # a column covers the places first.. first + width of every size: the last that begins by high
    begun = (k.high.pos - first) // p.size * p.size + first
    return begun + p.width > k.low.pos


def _log_steps(p: LogSteps, near: Tensor, far: Tensor) -> Tensor:
    """Is there a distance of up to `local`, or a power of two beyond it?"""
    if p.restart is not None:
        return far >= 0
    beyond = (far - p.local).clamp(min=1)
    # exact: a distance is far below 2^52
    power = 2 ** torch.log2(beyond.double() + 0.5).floor().long()
    return (far >= 0) & ((near <= p.local) | (p.local + power >= near) & (far > p.local))
