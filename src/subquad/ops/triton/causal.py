"""Causal kernel attention on a GPU: what `subquad::kernel_causal` and its backward run there.

Span by span (`work`): sums of chunks, their scan, outputs. Backward goes through the spans twice,
as `subquad.ops.linear_loops` does: forward in time the states come back and give dq, backward in
time the adjoint states give dk and dv. Nothing of size N x F is held.

Axes: B batch, N positions, H heads, K key heads, R = H / K, D head width, E value width,
F features, T chunks.
"""

import torch
from torch import Tensor

from subquad.ops.linear_chunk import like_layout
from subquad.ops.triton.backward import key_gradients, query_gradients
from subquad.ops.triton.forward import outputs
from subquad.ops.triton.work import Work, flat, fold, launch, steps, unit

__all__ = ["backward", "fits", "forward"]

#: widest rows whose tiles fit the shared memory of a multiprocessor
WIDEST = 128


def fits(q: Tensor, v: Tensor, projection: Tensor | None) -> bool:
    """Do the kernels take these types and widths? Not float64, nor rows wider than 128."""
    depth = 0 if projection is None else q.shape[-1]
    types = (torch.float32, torch.float16, torch.bfloat16)
    return q.dtype in types and v.dtype in types and max(depth, v.shape[-1]) <= WIDEST


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    kv: Tensor,
    top: Tensor,
    kind: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Results of `subquad::kernel_causal`: out (B,H,N,E), den (B,H,N), M (B,K,N), kv and top."""
    out = like_layout(q, v.shape[-1], v.dtype)
    den, log = (q.new_empty(t.shape[:3], dtype=torch.float32) for t in (q, k))
    new_kv, new_top = (q.new_empty(t.shape, dtype=torch.float32) for t in (kv, top))
    if not q.numel():
        new_kv.copy_(kv), new_top.copy_(top)
        return out, den, log, new_kv, new_top
    with torch.cuda.device_of(q):
        w = Work(q, k, v, valid, projection, top, kind, scale)
        state = flat(kv)
        tensors = [steps(t) for t in (w.q, w.k, w.v, out)]
        for first, chunks in w.spans():
            launch(
                *(outputs, (chunks, w.lanes), *tensors, den, log, w.lift[:2]),
                *(w.peak_q, w.peak_k, w.c, w.edges, w.states(state, first, chunks)),
                *(w.length, w.every, first, chunks, w.heads),
                SPEC=w.spec,
            )
        fold(state, new_kv)
        new_top.copy_(w.edges[:, -1].view_as(new_top))
    return out, den, log, new_kv, new_top


def backward(
    dout: Tensor,
    dkv: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    kv: Tensor,
    top: Tensor,
    out: Tensor,
    den: Tensor,
    log: Tensor,
    kind: str,
    scale: float,
    project: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Results of `subquad::kernel_causal_grad`: dq, dk, dv, dkv of the start, dW or nothing."""
    dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
    first_dkv = q.new_empty(kv.shape, dtype=torch.float32)
    shape = projection.shape if projection is not None and project else torch.Size([0])
    total = q.new_zeros(shape, dtype=torch.float32)
    if not q.numel():
        first_dkv.copy_(dkv)
        return dq, dk, dv, first_dkv, total
    with torch.cuda.device_of(q):
        w = Work(q, k, v, valid, projection, top, kind, scale)
        known = (unit(dout), unit(out), den, log)
        _query_pass(w, known, flat(kv), dq, total)
        state = flat(dkv).unsqueeze(1)
        # the heads of a group add to one adjoint state, and the gradient of the last is one of them
        state = torch.cat((state, state.new_zeros(len(state), w.spec.group - 1, w.spec.size)), 1)
        state = state.flatten(0, 1)
        _key_pass(w, known, state, dk, dv, total)
        fold(state.unflatten(0, (-1, w.spec.group)).sum(1), first_dkv)
    return dq, dk, dv, first_dkv, total


def _query_pass(w: Work, known: tuple[Tensor, ...], state: Tensor, dq: Tensor, dw: Tensor) -> None:
    """Fill dq, and add to dw (F, D) if it is wanted; the state (B K, F E + F) runs to the last."""
    dout, out, den, log = known
    to = _rows_of(dq)
    tensors = [steps(t) for t in (w.q, w.k, w.v, out, dout, to)]
    for first, chunks in w.spans():
        part = _part(w, chunks, dw)
        launch(
            *(query_gradients, (chunks, w.lanes), *tensors, den, log, w.lift),
            *(w.peak_q, w.peak_k, w.c, w.edges, w.states(state, first, chunks), part),
            *(w.length, w.every, first, chunks, w.heads),
            PROJECT=dw.numel() > 0,
            SPEC=w.spec,
        )
        _add_up(w, part, dw)
    if to is not dq:
        dq.copy_(to)


def _key_pass(
    w: Work, known: tuple[Tensor, ...], state: Tensor, dk: Tensor, dv: Tensor, dw: Tensor
) -> None:
    """Fill dk and dv, and add to dw if it is wanted; the adjoint state (B H, F E + F) runs back."""
    dout, out, den, log = known
    group = w.spec.group
    tensors = [steps(t) for t in (w.q, w.k, w.v, out, dout)]
    for first, chunks in reversed(w.spans()):
        part = _part(w, chunks, dw)
        a, b = first * w.spec.chunk, min((first + chunks) * w.spec.chunk, w.length)
        places = [t[:, :, a:b] for t in (dk, dv)]
        # keys that heads share get one gradient for each: float32, until they are added up
        each = [
            _rows_of(t)
            if group == 1
            else t.new_empty(t.shape[0], w.heads, *t.shape[2:], dtype=torch.float32)
            for t in places
        ]
        launch(
            *(key_gradients, (chunks, w.lanes), *tensors, *map(steps, each), den, log, w.lift),
            *(w.peak_q, w.peak_k, w.c, w.edges, w.states(state, first, chunks, *known), part),
            *(w.length, w.every, first, chunks, w.heads, a),
            PROJECT=dw.numel() > 0,
            SPEC=w.spec,
        )
        _add_up(w, part, dw)
        for place, found in zip(places, each, strict=True):
            if found is not place:
                place.copy_(found.unflatten(1, (-1, group)).sum(2))


def _rows_of(x: Tensor) -> Tensor:
    """x, or where the numbers of its rows do not lie side by side a fresh tensor of its size."""
    return x if x.stride(-1) == 1 else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _part(w: Work, chunks: int, dw: Tensor) -> Tensor:
    """A buffer for what each program adds to dw, or nothing."""
    return dw.new_empty(w.lanes * chunks if dw.numel() else 0, *dw.shape)


def _add_up(w: Work, part: Tensor, dw: Tensor) -> None:
    """Add to dw what the programs found."""
    # in one order, so that the same inputs give the same bits
    if dw.numel():
        dw.add_(part.sum(0), alpha=w.lift[2])
