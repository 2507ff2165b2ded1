"""The patterns that the papers use. What a pattern is: `subquad.ops.pattern`.

Axes: B batch, N queries, M keys, H heads.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.pattern import Coords, Pattern

__all__ = [
    "Blocks",
    "Causal",
    "Chunks",
    "Full",
    "LogSteps",
    "Marked",
    "SameLabel",
    "Segments",
    "Strided",
    "Window",
]


class Leaf(Pattern):
    """A pattern of plain numbers. Its text is fixed when it is made: under torch.compile numbers
    may be symbols, and a symbol cannot be printed.
    """

    def __post_init__(self) -> None:
        object.__setattr__(self, "_text", super().text())

    def text(self) -> str:
        """What `str` prints and `parse` reads."""
        return self.__dict__["_text"]


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


def _distance(q: Coords, k: Coords) -> Tensor:
    return q.pos - k.pos


def _everywhere(q: Coords, k: Coords, value: bool) -> Tensor:
    shape = torch.broadcast_shapes(q.pos.shape, k.pos.shape)
    return torch.full(shape, value, dtype=torch.bool, device=q.pos.device)


@dataclass(frozen=True)
class Full(Leaf):
    """Every query looks at every key."""

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return _everywhere(q, k, True)


@dataclass(frozen=True)
class Causal(Leaf):
    """A query looks at itself and at everything before it."""

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return _distance(q, k) >= 0

    def reach(self) -> tuple[int | None, int | None]:
        return None, 0


@dataclass(frozen=True)
class Window(Leaf):
    """Keys from `behind` steps before the query to `ahead` steps after it, both included.

    A step is `dilation` tokens: `Window(64, 64, 4)` reaches 256 tokens each way and looks at every
    fourth (Longformer, arXiv 2004.05150, section 3.1). `ahead=-1` leaves the token itself out.
    """

    behind: int
    ahead: int = 0
    dilation: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("dilation", self.dilation, 1)
        if self.behind < -self.ahead:
            raise ValueError(
                f"Window(behind={self.behind}, ahead={self.ahead}) holds no distance: "
                "behind must be at least -ahead"
            )

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        d = _distance(q, k)
        inside = (d <= self.behind * self.dilation) & (d >= -self.ahead * self.dilation)
        return inside if self.dilation == 1 else inside & (d % self.dilation == 0)

    def reach(self) -> tuple[int | None, int | None]:
        return self.behind * self.dilation, self.ahead * self.dilation

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        steps = range(-self.ahead, self.behind + 1)
        return tuple(s * self.dilation for s in steps if abs(s * self.dilation) <= limit)


@dataclass(frozen=True)
class Strided(Leaf):
    """Keys a whole number of strides away, both ways (Sparse Transformer, arXiv 1904.10509)."""

    stride: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("stride", self.stride, 1)

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return _distance(q, k) % self.stride == 0


@dataclass(frozen=True)
class Blocks(Leaf):
    """Keys in the query's own block of `size` tokens (Sparse Transformer, fixed: first half)."""

    size: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("size", self.size, 1)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return q.pos // self.size == k.pos // self.size

    def reach(self) -> tuple[int | None, int | None]:
        return self.size - 1, self.size - 1


@dataclass(frozen=True)
class Segments(Leaf):
    """Causal inside segments of `length`, plus the `memory` tokens before the segment.

    What a Transformer-XL sees in training (arXiv 1901.02860, section 3.2).
    """

    length: int
    memory: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("length", self.length, 1)
        _at_least("memory", self.memory, 0)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        start = q.pos // self.length * self.length
        return (k.pos <= q.pos) & (k.pos >= start - self.memory)

    def reach(self) -> tuple[int | None, int | None]:
        return self.length - 1 + self.memory, 0


@dataclass(frozen=True)
class Chunks(Leaf):
    """The query's own chunk of `size` tokens, whole, and the `left` chunks before it."""

    size: int
    left: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("size", self.size, 1)
        _at_least("left", self.left, 0)

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        back = q.pos // self.size - k.pos // self.size
        return (back >= 0) & (back <= self.left)

    def reach(self) -> tuple[int | None, int | None]:
        return (self.left + 1) * self.size - 1, self.size - 1


@dataclass(frozen=True)
class LogSteps(Leaf):
    """Distances 0..local, then local + 1, 2, 4, 8, ... (LogSparse, arXiv 1907.00235).

    With `restart`, distances are reduced modulo `restart` first, so the same steps repeat in every
    stretch of that length. The paper's figure leaves both readings open; this one is ours.
    """

    local: int = 0
    restart: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("local", self.local, 0)
        if self.restart is not None:
            _at_least("restart", self.restart, 1)

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        d = _distance(q, k)
        r = d if self.restart is None else d % self.restart
        beyond = r - self.local
        power = (beyond > 0) & (beyond & (beyond - 1) == 0)
        return (d >= 0) & ((r <= self.local) | power)

    def reach(self) -> tuple[int | None, int | None]:
        return None, 0

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        period = limit + 1 if self.restart is None else self.restart
        steps = list(range(min(self.local + 1, period)))
        power = 1
        while self.local + power < period:
            steps.append(self.local + power)
            power *= 2
        starts = range(0, limit + 1, period)
        return tuple(s + d for s in starts for d in steps if s + d <= limit)


@dataclass(frozen=True)
class SameLabel(Leaf):
    """Keys that carry the query's label: packed documents, LSH buckets."""

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        if q.label is None or k.label is None:
            return _everywhere(q, k, True)
        return q.label == k.label


@dataclass(frozen=True)
class Marked(Leaf):
    """Pairs of which the query or the key is marked: Longformer's global tokens."""

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        if q.mark is None or k.mark is None:
            return _everywhere(q, k, False)
        return q.mark | k.mark
