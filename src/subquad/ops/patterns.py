"""The patterns that the papers use. What a pattern is: `subquad.ops.pattern`.

Axes: B batch, N queries, M keys, H heads.
"""

from dataclasses import dataclass

from torch import Tensor

from subquad.ops.grid import Blocks, Chunks, Columns, Segments
from subquad.ops.leaf import Leaf, at_least, distance, everywhere, whole
from subquad.ops.pattern import Coords
from subquad.ops.random_blocks import RandomBlocks

__all__ = [
    "Blocks",
    "Causal",
    "Chunks",
    "Columns",
    "Full",
    "LogSteps",
    "Marked",
    "RandomBlocks",
    "SameLabel",
    "Segments",
    "Strided",
    "Window",
]


@dataclass(frozen=True)
class Full(Leaf):
    """Every query looks at every key."""

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return everywhere(q, k, True)


@dataclass(frozen=True)
class Causal(Leaf):
    """A query looks at itself and at everything before it."""

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return distance(q, k) >= 0

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
        at_least("dilation", self.dilation, 1)
        whole("behind", self.behind, self.dilation)
        whole("ahead", self.ahead, self.dilation)
        if self.behind < -self.ahead:
            raise ValueError(
                f"Window(behind={self.behind}, ahead={self.ahead}) holds no distance: "
                "behind must be at least -ahead"
            )

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        d = distance(q, k)
        inside = (d <= self.behind * self.dilation) & (d >= -self.ahead * self.dilation)
        return inside if self.dilation == 1 else inside & (d % self.dilation == 0)

    def reach(self) -> tuple[int | None, int | None]:
        return self.behind * self.dilation, self.ahead * self.dilation

    def offsets(self, limit: int) -> tuple[int, ...] | None:
        most = limit // self.dilation
        steps = range(max(-self.ahead, -most), min(self.behind, most) + 1)
        return tuple(s * self.dilation for s in steps)


@dataclass(frozen=True)
class Strided(Leaf):
    """Keys a whole number of strides away, both ways (Sparse Transformer, arXiv 1904.10509)."""

    stride: int

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("stride", self.stride, 1)

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return distance(q, k) % self.stride == 0


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
        at_least("local", self.local, 0)
        if self.restart is not None:
            at_least("restart", self.restart, 1)

    by_distance = True

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        d = distance(q, k)
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
            return everywhere(q, k, True)
        return q.label == k.label


@dataclass(frozen=True)
class Marked(Leaf):
    """Pairs of which the query or the key is marked: Longformer's global tokens."""

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        if q.mark is None or k.mark is None:
            return everywhere(q, k, False)
        return q.mark | k.mark
