"""Queries of kernel attention read a state, as one operator with its own backward.

    out_i = phi(q_i) S_v / phi(q_i) S_1,    S = sum_j phi(k_j) [v_j, 1]^T

Choromanski et al., https://arxiv.org/abs/2009.14794, algorithm 1. Runs over chunks; features are
formed again in backward. The log-scale of S cancels.

Axes: B batch, N queries, H heads, K key heads, R = H / K, D head width, E value width,
F features, n queries of a chunk, G = b k lanes of a block.
"""

import math

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from subquad.ops.linear_chunk import (
    WHOLE_CHUNK,
    Lift,
    Scratch,
    blocks,
    like_layout,
    quotient_gradient,
    spans,
    working_dtype,
)

__all__ = ["kernel_read", "kernel_read_grad"]


@torch.library.custom_op("subquad::kernel_read", mutates_args=())
def kernel_read(
    q: Tensor, kv: Tensor, projection: Tensor | None, kind: str, scale: float
) -> tuple[Tensor, Tensor]:
    """Return out (B,H,N,E), in the type of q, and den (B,H,N), from kv (B,K,F,E+1)."""
    out, den = _read_like(q, kv, projection, kind, scale)
    heads = (kv.shape[1], -1)
    q, out_of, den_of = (t.unflatten(1, heads) for t in (q, out, den))
    with torch.autocast(q.device.type, enabled=False):
        lift = Lift(projection, kind, scale, den.dtype)
        for at in blocks(q.shape[0], q.shape[1], q.shape[2], q.device.type):
            s = Scratch(q[at].shape[:2], lift.dtype, q.device)
            state = s.load("kv", kv[at], *kv.shape[2:])
            for a, b in spans(q.shape[3], WHOLE_CHUNK):
                here = (*at, slice(None), slice(a, b))
                x, phi = _queries(s, lift, q[here])
                sums = torch.bmm(phi, state, out=s.new("sums", *phi.shape[:2], state.shape[2]))
                weight = sums[..., -1:]
                # a state without keys divides by infinity: zeros, and zero gradients
                weight.masked_fill_(weight == 0, math.inf)
                target = out_of[here]
                den_of[here] = weight.view(target.shape[:-1])
                rows = sums.view(*target.shape[:-1], -1)
                torch.div(rows[..., :-1], rows[..., -1:], out=target)
    return out, den


def _queries(s: Scratch, lift: Lift, q: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows (G R n, D) and features (G, R n, F) of q (b, k, R, n, D)."""
    x = s.load("x", q, q.shape[2] * q.shape[3], q.shape[4]).flatten(0, 1)
    phi = s.new("phi", x.shape[0], lift.count(q.shape[4]))
    lift.features(x, phi)
    return x, phi.view(s.count, -1, phi.shape[1])


@kernel_read.register_fake
def _read_like(q, kv, projection, kind, scale):
    den = q.new_empty(q.shape[:3], dtype=working_dtype(q, kv))
    return like_layout(q, kv.shape[3] - 1, q.dtype), den


@torch.library.custom_op("subquad::kernel_read_grad", mutates_args=())
def kernel_read_grad(
    dout: Tensor,
    q: Tensor,
    kv: Tensor,
    projection: Tensor | None,
    out: Tensor,
    den: Tensor,
    kind: str,
    scale: float,
    project: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dq, dkv and, if wanted, the gradient of the projection."""
    dq, dkv, _ = _read_gradients(dout, q, kv, projection, out, den, kind, scale, project)
    heads = (kv.shape[1], -1)
    q, dq_of, dout, out, den = (t.unflatten(1, heads) for t in (q, dq, dout, out, den))
    with torch.autocast(q.device.type, enabled=False):
        lift = Lift(projection, kind, scale, dkv.dtype)
        if project:
            lift.want_projection()
        for at in blocks(q.shape[0], q.shape[1], q.shape[2], q.device.type):
            s = Scratch(q[at].shape[:2], lift.dtype, q.device)
            state = s.load("kv", kv[at], *kv.shape[2:])
            dstate = s.new("dkv", *state.shape).zero_()
            for a, b in spans(q.shape[3], WHOLE_CHUNK):
                here = (*at, slice(None), slice(a, b))
                x, phi = _queries(s, lift, q[here])
                dsums = quotient_gradient(s, dout[here], out[here], den[here])
                dstate.baddbmm_(phi.transpose(1, 2), dsums)
                dphi = torch.bmm(dsums, state.transpose(1, 2), out=s.new("dphi", *phi.shape))
                dx = lift.row_gradient(x, phi.flatten(0, 1), dphi.flatten(0, 1), keys=False)
                dq_of[here] = dx.view(q[here].shape)
            dkv[at] = dstate.view_as(dkv[at])
    return dq, dkv, lift.projection_gradient(dkv)


@kernel_read_grad.register_fake
def _read_gradients(dout, q, kv, projection, out, den, kind, scale, project):
    dkv = q.new_empty(kv.shape, dtype=working_dtype(q, kv))
    return torch.empty_like(q), dkv, dkv.new_empty(projection.shape if project else 0)


def _save_read(ctx, inputs, output):
    *tensors, ctx.kind, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward_read(ctx, dout, dden):
    saved = ctx.saved_tensors  # once: activation checkpointing unpacks them a single time
    kv, projection = saved[1:3]
    project = ctx.needs_input_grad[2]
    dq, dkv, dprojection = kernel_read_grad(dout, *saved, ctx.kind, ctx.scale, project)
    dkv = dkv.to(kv.dtype)
    return dq, dkv, dprojection.to(projection.dtype) if project else None, None, None


kernel_read.register_autograd(_backward_read, setup_context=_save_read)


@register_flop_formula(torch.ops.subquad.kernel_read)
def _forward_flops(q, kv, projection, *args, **kwargs) -> int:
    depth = 0 if projection is None else q[-1]
    return 2 * math.prod(q[:3]) * kv[2] * (depth + kv[3])


@register_flop_formula(torch.ops.subquad.kernel_read_grad)
def _backward_flops(dout, q, kv, projection, *args, **kwargs) -> int:
    depth = 0 if projection is None else q[-1]
    return 2 * math.prod(q[:3]) * kv[2] * ((2 + args[-1]) * depth + 2 * kv[3])
