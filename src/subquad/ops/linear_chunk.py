"""What the loops of kernel attention share: blocks of heads, buffers, and features of a chunk.

A loop runs over blocks of lanes and, inside, over chunks of positions, so that everything it
touches stays in cache and its memory does not depend on the length. Logarithms are to base two:
exp2 has a vectorised kernel where exp has none, and the factor is folded into the projection.

Axes: B batch, N queries, M keys, H heads, K key heads, R = H / K, D head width, E value width,
F features, C chunk, G = b k lanes of a block (a lane is a key head of a sequence).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = [
    "CHUNK",
    "FLOOR",
    "KINDS",
    "RELU_OFFSET",
    "WHOLE_CHUNK",
    "Lift",
    "Scratch",
    "blocks",
    "feature_count",
    "like_layout",
    "quotient_gradient",
    "spans",
    "working_dtype",
]


KINDS = ("exp", "relu", "elu", "none")
# measured from 64 to 128: fewer calls against more of the triangle inside a chunk
CHUNK = 96
# without a triangle the only cost of a long chunk is cache
WHOLE_CHUNK = 256
# the lanes whose features, state and tiles fit a 2 MB cache together (64 rows, 256 features)
LANES = 8
# log-scale before any key: finite, so that a difference of two of them is 0 and never NaN
FLOOR = -1e30
# the generalised ReLU kernel of the Performer is relu(Wx) + 1e-3
RELU_OFFSET = 1e-3


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """Return the type sums are kept in: float64 if any input has it, else float32."""
    double = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


def like_layout(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Return an empty (B, H, N, width) whose heads lie before or after positions as in x."""
    batch, heads, length, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty(batch, length, heads, width, dtype=dtype).transpose(1, 2)
    return x.new_empty(batch, heads, length, width, dtype=dtype)


def feature_count(width: int, projection: Tensor | None) -> int:
    """Return F for rows of the given width."""
    return width if projection is None else projection.shape[0]


def blocks(batch: int, key_heads: int, group: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Yield slices of batch and of key heads that make blocks of about LANES lanes."""
    lanes = LANES if device == "cpu" else batch * key_heads * group
    heads = max(1, min(key_heads, lanes // group))
    rows = max(1, lanes // (key_heads * group)) if heads == key_heads else 1
    for b in range(0, batch, rows):
        for h in range(0, key_heads, heads):
            yield slice(b, b + rows), slice(h, h + heads)


def spans(length: int, chunk: int) -> list[tuple[int, int]]:
    """Return the borders of the chunks of a length."""
    return [(a, min(a + chunk, length)) for a in range(0, length, chunk)]


class Scratch:
    """Buffers of one block, kept by name and shape: fresh memory costs more than the sums."""

    def __init__(self, lanes: torch.Size, dtype: torch.dtype, device: torch.device):
        self.lanes, self.count = lanes, math.prod(lanes)
        self.dtype, self.device = dtype, device
        self.kept: dict[tuple, Tensor] = {}

    def new(self, name: str, *shape: int, fill: float | None = None) -> Tensor:
        """Return the buffer of that name and shape; `fill` is written when it is made."""
        key = (name, *shape)
        if key not in self.kept:
            buffer = torch.empty(shape, dtype=self.dtype, device=self.device)
            self.kept[key] = buffer if fill is None else buffer.fill_(fill)
        return self.kept[key]

    def load(self, name: str, source: Tensor, *shape: int) -> Tensor:
        """Copy (b, k, ...) to contiguous lanes (G, *shape) of the working type."""
        lanes = self.new(name, self.count, *shape)
        lanes.view(source.shape).copy_(source)
        return lanes


def quotient_gradient(s: Scratch, dout: Tensor, out: Tensor, den: Tensor) -> Tensor:
    """Return [dout, -dout.out] / den (G, R n, E + 1) from (b, k, R, n, E) and den (b, k, R, n)."""
    rows, width = out.shape[2] * out.shape[3], out.shape[4]
    out, dout = s.load("out", out, rows, width), s.load("dout", dout, rows, width)
    den = s.load("den", den, rows, 1)
    both = s.new("dsums", s.count, rows, width + 1)
    torch.div(dout, den, out=both[..., :-1])
    torch.div(out.mul_(dout).sum(-1, keepdim=True).neg_(), den, out=both[..., -1:])
    return both


class Lift:
    """Turns rows into features, and gradients of features into gradients of rows.

    `exp` gives exp(Wx - max_f Wx), in (0, 1], and a log-scale apart; the other kinds have
    log-scale 0. Both rows and projection take a factor sqrt(scale).
    """

    def __init__(self, projection: Tensor | None, kind: str, scale: float, dtype: torch.dtype):
        self.kind, self.scale, self.dtype = kind, scale, dtype
        self.rows: Tensor | None = None
        self.columns: Tensor | None = None
        self.gradient: Tensor | None = None
        if projection is not None:
            self.rows = projection.to(dtype) * math.sqrt(scale)
            base = 1 / math.log(2) if kind == "exp" else 1.0
            self.columns = (self.rows * base).t().contiguous()

    def count(self, depth: int) -> int:
        """Return F for rows of width D."""
        return feature_count(depth, self.rows)

    def want_projection(self) -> None:
        """Start to sum the gradient of the projection."""
        assert self.rows is not None, "a kind without projection has no gradient of one"
        self.gradient = torch.zeros_like(self.rows)

    def features(self, x: Tensor, phi: Tensor) -> Tensor | None:
        """Write the features of rows x (rows, D) to phi (rows, F); return max_f of their logs."""
        if self.columns is None:
            phi.copy_(x)
        else:
            torch.mm(x, self.columns, out=phi)
        if self.kind == "exp":
            peak = phi.amax(-1, keepdim=True)
            phi.sub_(peak).exp2_()
            return peak
        if self.kind == "relu":
            phi.clamp_min_(0).add_(RELU_OFFSET)
        elif self.kind == "elu":
            # not elu(x) + 1, which loses every digit of a small feature
            phi.clamp_max_(0).exp_().add_(x.clamp_min(0))
        return None

    def log_scale(self, x: Tensor, peak: Tensor, out: Tensor) -> None:
        """Write c (G, n), the logarithms of the factors that the features of keys lack."""
        # a norm is one pass where a dot product of rows is two
        square = torch.linalg.vector_norm(x, dim=-1).square_()
        half = self.scale / (2 * math.log(2))
        torch.sub(peak.view_as(out), square.view_as(out), alpha=half, out=out)

    def row_gradient(self, x: Tensor, phi: Tensor, dphi: Tensor, *, keys: bool) -> Tensor:
        """Return dx (rows, D); dphi is overwritten; keys get the term of -|x|^2 / 2.

        The output does not move when a query's features are multiplied by a number, and those of
        a key stand for phi exp(c) with c detached: in both the slope of `exp` is phi itself.
        """
        if self.kind == "exp":
            dphi.mul_(phi)
        elif self.kind == "relu":
            dphi.mul_(phi > RELU_OFFSET)
        elif self.kind == "elu":
            dphi.mul_(phi.clamp_max(1))
        if self.rows is None:
            return dphi
        if self.gradient is not None:
            self.gradient.addmm_(dphi.t(), x)
        dx = torch.mm(dphi, self.rows)
        if keys and self.kind == "exp":
            dx.addcmul_(x, dphi.sum(-1, keepdim=True), value=-self.scale)
        return dx

    def projection_gradient(self, like: Tensor) -> Tensor:
        """Return the summed gradient of the projection, or nothing (0,) if none was wanted."""
        if self.gradient is None:
            return like.new_empty(0)
        return self.gradient * math.sqrt(self.scale)
