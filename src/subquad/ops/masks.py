"""Which pairs of a tile count, for products of some queries with some keys.

A large tile is first asked by the ends of its coordinates: where they tell that every pair is
allowed there is no mask. What heads share is formed once.

Axes: B batch, H heads, N queries and M keys of the product, T and S those of a tile.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from subquad.ops.partial import EMPTY
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.touching import Ends, ends, touches

__all__ = ["LARGE", "Cut", "Mask", "coords_of", "lead"]

#: pairs from which asking each of them takes longer than asking the ends
LARGE = 1 << 14

#: rows of the batch, heads, queries, keys
Cut = tuple[slice, slice, slice, slice]


@dataclass
class Mask:
    """at, to: coordinates of queries and keys, (B or 1, H or 1, N or M); usable (.., M) and real
    (.., N): the keys and queries that exist. kind: dtype of scores. several: do lanes come in
    more than one group?
    """

    pattern: Pattern | None
    at: Coords
    to: Coords
    usable: Tensor
    real: Tensor | None
    kind: torch.dtype
    several: bool
    #: the queries that were asked last, and by first key what was found
    _memo: tuple[slice | None, dict[int, Tensor | None]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._memo = None, {}

    def bias(self, cut: Cut) -> Tensor | None:
        """0 where a pair counts and EMPTY elsewhere, (B or 1, H or 1, T, S); None if all count."""
        if self._memo[0] != cut[2]:  # other heads have the same queries and keys next
            self._memo = cut[2], {}
        known, first = self._memo[1], cut[3].start
        if first in known:
            return known[first]
        bias = None if self._every(cut) else self._pairs(cut)
        if self._shared:
            known[first] = bias
        return bias

    @property
    def _shared(self) -> bool:
        """Will other lanes ask the same again?"""
        given = (self.usable, self.at.pos, self.to.pos, self.real)
        return self.several and all(t is None or t.shape[:2] == (1, 1) for t in given)

    def _every(self, cut: Cut) -> bool:
        """Do ends tell that all pairs count?"""
        b, h, t, s = cut
        rows, keys = t.stop - t.start, s.stop - s.start
        if rows * keys < LARGE or not lead(self.usable, b, h)[:, :, s].all():
            return False
        if self.real is not None and not lead(self.real, b, h)[:, :, t].all():
            return False
        if self.pattern is None:
            return True
        at, to = ends(coords_of(self.at, b, h, t), rows), ends(coords_of(self.to, b, h, s), keys)
        q, k = Ends(*(c.queries() for c in at)), Ends(*(c.keys() for c in to))
        return bool(touches(self.pattern, q, k).every.all())

    def _pairs(self, cut: Cut) -> Tensor:
        b, h, t, s = cut
        at, to = coords_of(self.at, b, h, t), coords_of(self.to, b, h, s)
        allowed = lead(self.usable, b, h)[:, :, None, s]
        if self.pattern is not None:
            allowed = allowed & self.pattern.allowed(at.queries(), to.keys())
        if self.real is not None:
            allowed = allowed & lead(self.real, b, h)[:, :, t, None]
        zero = torch.zeros((), dtype=self.kind, device=allowed.device)
        return zero.where(allowed, EMPTY)


def coords_of(c: Coords, b: slice, h: slice, n: slice) -> Coords:
    """The coordinates of some tokens."""
    return c.each(lambda x: lead(x, b, h)[:, :, n])


def lead(t: Tensor, b: slice, h: slice) -> Tensor:
    """Some batch rows and heads of (B or 1, H or 1, ...)."""
    b, h = (slice(None) if t.shape[i] == 1 else cut for i, cut in enumerate((b, h)))
    return t[b, h]
