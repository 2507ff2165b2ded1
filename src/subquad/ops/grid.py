"""Patterns of a grid: where a token stands in stretches of a fixed length decides.

Axes: B batch, N queries, M keys, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.leaf import Leaf, at_least
from subquad.ops.pattern import Coords

__all__ = ["Blocks", "Chunks", "Columns", "Segments"]


@dataclass(frozen=True)
class Blocks(Leaf):
    """Keys in the query's own block of `size` tokens (Sparse Transformer, fixed: first half)."""

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("size", self.size, 1)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return q.pos // self.size == k.pos // self.size

    def reach(self) -> tuple[int | None, int | None]:
        return self.size - 1, self.size - 1


@dataclass(frozen=True)
class Columns(Leaf):
    """Keys at the last `width` places of every `size` tokens, before the last `skip` of those.

    Sparse Transformer, fixed: second half (arXiv 1904.10509, section 4.3); heads differ by `skip`.
    """

    size: int
    width: int
    skip: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("size", self.size, 1)
        at_least("width", self.width, 1)
        at_least("skip", self.skip, 0)
        if self.width + self.skip > self.size:
            raise ValueError(
                f"Columns(size={self.size}, width={self.width}, skip={self.skip}): width and skip "
                f"together are {self.width + self.skip}, and at most size"
            )

    def holds(self, pos: Tensor) -> Tensor:
        """Which positions are in a column."""
        last = self.size - self.skip
        place = pos % self.size
        return (place >= last - self.width) & (place < last)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return self.holds(k.pos).expand(torch.broadcast_shapes(q.pos.shape, k.pos.shape))


@dataclass(frozen=True)
class Segments(Leaf):
    """Causal inside segments of `length`, plus the `memory` tokens before the segment.

    What a Transformer-XL sees in training (arXiv 1901.02860, section 3.2).
    """

    length: int
    memory: int

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("length", self.length, 1)
        at_least("memory", self.memory, 0)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        start = q.pos // self.length * self.length
        return (k.pos <= q.pos) & (k.pos >= start - self.memory)

    def reach(self) -> tuple[int | None, int | None]:
        return self.length - 1 + self.memory, 0


@dataclass(frozen=True)
class Chunks(Leaf):
    """The query's own chunk of `size` tokens, whole, the `left` chunks before it, `right` after."""

    size: int
    left: int
    right: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("size", self.size, 1)
        at_least("left", self.left, 0)
        at_least("right", self.right, 0)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        back = q.pos // self.size - k.pos // self.size
        return (back >= -self.right) & (back <= self.left)

    def reach(self) -> tuple[int | None, int | None]:
        return (self.left + 1) * self.size - 1, (self.right + 1) * self.size - 1
