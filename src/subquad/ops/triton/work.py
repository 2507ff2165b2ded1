"""One run of causal kernel attention on a GPU: what its kernels are compiled for and are given.

A state for each chunk of positions is written, so that chunks run side by side; positions are taken
in spans whose states fit a workspace of fixed size, so that this memory does not grow with the
length.

Precision: products of bfloat16 inputs run in bfloat16, those of float16 in TF32 (the same 11 bits,
and sums of features overflow nothing), those of float32 in three TF32 products, or in one where
`torch.backends.cuda.matmul.fp32_precision` is "tf32". Sums, states and log-scales are float32.

Axes: B batch, N positions, H heads, K key heads, D head width, E value width, F features, T chunks.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from subquad.ops.linear_chunk import RELU_OFFSET, feature_count
from subquad.ops.triton.forward import chunk_sums, log_scales, scan
from subquad.ops.triton.tiles import Spec

__all__ = ["Work", "flat", "fold", "launch", "spec_of", "steps", "unit"]

#: bytes that the states of a span may take
WORKSPACE = 128 << 20
#: chunks that a scan takes at once, and numbers of a state that one program scans
STEPS, BLOCK = 8, 256


def spec_of(q, k, v, projection: Tensor | None, kind: str) -> Spec:
    """What the kernels of a call are compiled for."""
    low = q.dtype == torch.bfloat16
    lifts = projection is not None
    same = projection is not None and projection.dtype == q.dtype
    d, e = (max(16, triton.next_power_of_2(t.shape[-1])) for t in (q, v))
    narrow = max(d, e) <= 64
    exact = q.dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"
    return Spec(
        kind=kind,
        lifts=lifts,
        depth=q.shape[-1],
        width=v.shape[-1],
        count=feature_count(q.shape[-1], projection),
        group=q.shape[1] // k.shape[1],
        chunk=64 if low or narrow else 32,
        block=64 if low and narrow else 32,
        d=d if lifts else 16,
        e=e,
        dot=tl.bfloat16 if low else tl.float32,
        lift=tl.bfloat16 if low and same else tl.float32,
        precision="tf32x3" if exact else "tf32",
        warps=8 if narrow and not low else 4,
        offset=RELU_OFFSET,
    )


def launch(kernel, grid: tuple[int, ...], *args, **constants) -> None:
    """Start a kernel; the one place where any is started."""
    kernel[grid](*args, **constants, num_warps=constants["SPEC"].warps, enable_fp_fusion=True)


def steps(x: Tensor) -> tuple:
    """A tensor (B, H, N, W) as the kernels take it."""
    return (x, *x.stride()[:3])


def unit(x: Tensor) -> Tensor:
    """x with the numbers of a row side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()


@dataclass
class Work:
    """One call: its inputs, and what both directions need of all positions."""

    q: Tensor
    k: Tensor
    v: Tensor
    valid: Tensor | None
    projection: Tensor | None
    top: Tensor
    kind: str
    scale: float

    def __post_init__(self) -> None:
        self.q, self.k, self.v = unit(self.q), unit(self.k), unit(self.v)
        self.spec = spec = spec_of(self.q, self.k, self.v, self.projection, self.kind)
        self.length, self.heads, self.key_heads = (
            self.q.shape[2],
            self.q.shape[1],
            self.k.shape[1],
        )
        self.lanes, self.key_lanes = (t.shape[0] * t.shape[1] for t in (self.q, self.k))
        self.every = triton.cdiv(self.length, spec.chunk)
        root = math.sqrt(self.scale)
        weights = self.q if self.projection is None else self.projection.contiguous()
        self.lift = (weights, root / math.log(2) if self.kind == "exp" else root, root)
        self._log_scales()

    def _log_scales(self) -> None:
        """Set the peaks of queries and keys, the log-scales c of keys, and P at every border."""
        new, n = self.q.new_empty, self.length
        self.peak_q, self.peak_k, self.c = (
            new(lanes, n, dtype=torch.float32) for lanes in (self.lanes, *[self.key_lanes] * 2)
        )
        tops = new(self.key_lanes, self.every, dtype=torch.float32)
        valid = self.q if self.valid is None else self.valid.contiguous().view(torch.uint8)
        half = self.scale / (2 * math.log(2))
        for x, peak, heads, keys in (
            (self.q, self.peak_q, self.heads, False),
            (self.k, self.peak_k, self.key_heads, True),
        ):
            launch(
                *(log_scales, (self.every, peak.shape[0]), steps(x), valid, n, self.lift[:2]),
                *(peak, self.c, tops, n, self.every, heads, half),
                KEYS=keys,
                MASKED=keys and self.valid is not None,
                SPEC=self.spec,
            )
        first = self.top.reshape(-1, 1).to(torch.float32)
        self.edges = torch.cat((first, tops), 1).cummax(1).values

    def spans(self) -> list[tuple[int, int]]:
        """First chunk and number of chunks of each span."""
        most = max(1, WORKSPACE // (4 * self.spec.size * self.lanes))
        # as many as are needed, and about equally long
        size = triton.cdiv(self.every, triton.cdiv(self.every, most))
        return [(a, min(size, self.every - a)) for a in range(0, self.every, size)]

    def states(self, state: Tensor, first: int, chunks: int, *adjoint: Tensor) -> Tensor:
        """States before the chunks of a span; adjoint ones after them, of (dout, out, den, log).

        `state` (lanes, F E + F) moves to the other end of the span.
        """
        spec, lanes = self.spec, state.shape[0]
        back = bool(adjoint)
        sums = state.new_empty(lanes, chunks, spec.size)
        where = (self.length, self.every, first, chunks)
        x, heads, peak = self.q, self.heads, self.peak_q
        if back:
            dout, out, den, log = adjoint
            values = (steps(dout), steps(out), den, log)
        else:
            x, heads, peak = self.k, self.key_heads, self.peak_k
            values = (steps(self.v), steps(self.v), self.c, self.c)
        grid = (chunks, triton.cdiv(spec.count, spec.block), lanes)
        launch(
            *(chunk_sums, grid, steps(x), *values, self.lift[:2], peak, self.edges, sums),
            *(*where, heads),
            KEYS=not back,
            SPEC=spec,
        )
        launch(
            *(scan, (triton.cdiv(spec.size, BLOCK), lanes), sums, state, self.edges, *where[1:]),
            BACK=back,
            STEPS=STEPS,
            BLOCK=BLOCK,
            SPEC=spec,
        )
        return sums


def flat(kv: Tensor) -> Tensor:
    """A state (B, K, F, E + 1) as the kernels keep it: (B K, F E + F) in float32."""
    parts = (kv[..., :-1].flatten(2), kv[..., -1])
    return torch.cat([t.to(torch.float32) for t in parts], -1).flatten(0, 1)


def fold(state: Tensor, kv: Tensor) -> None:
    """Write a flat state to kv (B, K, F, E + 1)."""
    width = kv.shape[3] - 1
    values, last = state.view(*kv.shape[:2], -1).split([kv.shape[2] * width, kv.shape[2]], -1)
    kv[..., :-1] = values.unflatten(-1, (-1, width))
    kv[..., -1] = last
