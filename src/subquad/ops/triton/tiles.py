"""What the kernels of kernel attention share: tiles of rows, and a block of their features.

A tile of rows (n, D) is read once; features (n, W), W of them at a time, live in registers and
nowhere else. What is loaded becomes float32, operands of products have the type `dot`, sums are
float32. Logarithms are to base two.

Axes: B batch, N positions, H heads, K key heads, n rows of a chunk, D row width, E value width,
F features in blocks of W. A lane is b H + h, its key lane b K + h / R with R = H / K. A tensor
(B, H, N, any) comes as (pointer, steps of b, of h and of n); `lift` is (projection, gain).
"""

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

__all__ = [
    "Spec",
    "features",
    "held",
    "logs",
    "pairs",
    "product",
    "projections",
    "quotient_gradient",
    "row",
    "rows",
    "scales",
    "slope",
    "source",
]


@dataclass(frozen=True)
class Spec:
    """What a kernel is compiled for: nothing in it depends on a length or on a batch."""

    kind: str
    #: is there a projection? Without one, feature f of a row is a function of its entry f
    lifts: bool
    #: D, E, F and R
    depth: int
    width: int
    count: int
    group: int
    #: tiles: rows of a chunk, features of a block, D and E rounded up to powers of two
    chunk: int
    block: int
    d: int
    e: int
    #: the types of the operands of products, of those that lift rows; what float32 is cut to; warps
    dot: Any
    lift: Any
    precision: str
    warps: int
    #: what the ReLU kernel adds to its features
    offset: float

    @property
    def size(self) -> int:
        """Numbers of a flat state: F E sums of values, then F sums of features."""
        return self.count * (self.width + 1)


@triton.jit
def product(a, b, SPEC: tl.constexpr):
    """a b in float32."""
    return tl.dot(a, b, input_precision=SPEC.precision)


@triton.jit
def row(x, lane, heads, at):
    """Pointers (n, 1) to the rows `at` of a lane."""
    lane = lane.to(tl.int64)
    return x[0] + (lane // heads) * x[1] + (lane % heads) * x[2] + at[:, None].to(tl.int64) * x[3]


@triton.jit
def rows(pointers, here, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """The rows that are `here` (n,), as float32 (n, TILE); zeros elsewhere."""
    column = tl.arange(0, TILE)[None, :]
    inside = here[:, None] & (column < WIDTH)
    return tl.load(pointers + column, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def source(x, peak, n, lane, heads, at, here, SPEC: tl.constexpr):
    """What features of rows are formed from: pointers, the tile, peaks, and which rows exist."""
    pointers = row(x, lane, heads, at)
    most = tl.load(peak + lane * n + at, mask=here, other=0.0)
    return pointers, rows(pointers, here, SPEC.depth, SPEC.d), most, here


@triton.jit
def projections(lift, f, SPEC: tl.constexpr):
    """The rows f of the projection (F, D), turned: (D, W) in the type `lift`."""
    d = tl.arange(0, SPEC.d)[:, None]
    inside = (f < SPEC.count)[None, :] & (d < SPEC.depth)
    return tl.load(lift[0] + f[None, :] * SPEC.depth + d, mask=inside, other=0.0).to(SPEC.lift)


@triton.jit
def logs(pointers, tile, here, lift, f, SPEC: tl.constexpr):
    """gain x.w_f (n, W) for the features f (W,), or the entries x_f where nothing is projected."""
    if SPEC.lifts:
        return lift[1] * product(tile.to(SPEC.lift), projections(lift, f, SPEC), SPEC)
    inside = here[:, None] & (f < SPEC.count)[None, :]
    return tl.load(pointers + f[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def features(x, lift, f, SPEC: tl.constexpr):
    """phi (n, W) of a source, in the type `dot`; `exp` gives exp2(u - peak), in (0, 1]."""
    u = logs(x[0], x[1], x[3], lift, f, SPEC)
    if SPEC.kind == "exp":
        u = tl.exp2(u - x[2][:, None])
    elif SPEC.kind == "relu":
        u = tl.maximum(u, 0.0) + SPEC.offset
    elif SPEC.kind == "elu":
        # not elu(u) + 1, which loses every digit of a small feature
        u = tl.exp(tl.minimum(u, 0.0)) + tl.maximum(u, 0.0)
    return tl.where(x[3][:, None] & (f < SPEC.count)[None, :], u, 0.0).to(SPEC.dot)


@triton.jit
def slope(phi, SPEC: tl.constexpr):
    """d phi / d u: of exp it is phi itself, for peaks and log-scales are constants that cancel."""
    phi = phi.to(tl.float32)
    if SPEC.kind == "relu":
        phi = tl.where(phi > SPEC.offset, 1.0, 0.0)
    elif SPEC.kind == "elu":
        phi = tl.minimum(phi, 1.0)
    elif SPEC.kind == "none":
        phi = phi * 0.0 + 1.0
    return phi


@triton.jit
def scales(c, n, lane, at):
    """The log-scales of the keys of a chunk, and which of them exist: padding may hold NaN."""
    scale = tl.load(c + lane * n + at, mask=at < n, other=-float("inf"))
    return scale, scale != -float("inf")


@triton.jit
def held(state, f, SPEC: tl.constexpr):
    """Sums of values (W, E) and of features (W,) that a flat state holds for the features f."""
    e = tl.arange(0, SPEC.e)[None, :]
    inside = (f < SPEC.count)[:, None] & (e < SPEC.width)
    values = tl.load(state + f[:, None] * SPEC.width + e, mask=inside, other=0.0)
    last = tl.load(state + SPEC.count * SPEC.width + f, mask=f < SPEC.count, other=0.0)
    return values.to(SPEC.dot), last


@triton.jit
def pairs(scale, top, place):
    """2^(c_j - M_i) (n, n) for j <= i; powers of later keys may overflow: cut, not times 0."""
    past = place[None, :] <= place[:, None]
    return tl.where(past, tl.exp2(scale[None, :] - top[:, None]), 0.0)


@triton.jit
def quotient_gradient(dout, out, den, n, lane, heads, at, here, SPEC: tl.constexpr):
    """g = dout / den (n, E) and h = -g.out (n,): the gradients of numerators and denominators."""
    by = tl.load(den + lane * n + at, mask=here, other=1.0)
    g = rows(row(dout, lane, heads, at), here, SPEC.width, SPEC.e) / by[:, None]
    return g, -tl.sum(g * rows(row(out, lane, heads, at), here, SPEC.width, SPEC.e), 1)
