"""The state of kernel attention from keys and values, as one operator with its own backward.

    S = sum_j phi(k_j) [v_j, 1]^T

Choromanski et al., https://arxiv.org/abs/2009.14794, algorithm 1. Runs over chunks; features are
formed again in backward. S is kept at the maximum of the keys' log-scales.

Axes: B batch, M keys, K key heads, D head width, E value width, F features, n keys of a chunk,
G = b k lanes of a block.
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
    spans,
    working_dtype,
)

__all__ = ["kernel_sum", "kernel_sum_grad"]


def _keys(s: Scratch, lift: Lift, k: Tensor, v: Tensor, valid: Tensor | None):
    """Return rows (G n, D), features (G, n, F), values (G, n, E + 1) and log-scales (G, n)."""
    n, width = k.shape[2], v.shape[3]
    x, values = (
        s.new("x", s.count * n, k.shape[3]),
        s.new("values", s.count, n, width + 1, fill=1.0),
    )
    x.view(k.shape).copy_(k)
    values[..., :width].view(v.shape).copy_(v)
    if valid is not None:
        absent = ~valid[:, None, :]
        x.view(k.shape).masked_fill_(absent[..., None], 0)
        values[..., :width].view(v.shape).masked_fill_(absent[..., None], 0)
    phi = s.new("phi", s.count * n, lift.count(k.shape[3]))
    peak, c = lift.features(x, phi), s.new("c", s.count, n).zero_()
    if peak is not None:
        lift.log_scale(x, peak, out=c)
    if valid is not None:
        c.view(k.shape[:3]).masked_fill_(absent, -math.inf)
    return x, phi.view(s.count, n, -1), values, c


@torch.library.custom_op("subquad::kernel_sum", mutates_args=())
def kernel_sum(
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    kv: Tensor,
    top: Tensor,
    kind: str,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return kv (B,K,F,E+1) and top (B,K) after the keys k (B,K,M,D), v (B,K,M,E)."""
    new_kv, new_top = _state_like(k, v, valid, projection, kv, top, kind, scale)
    with torch.autocast(k.device.type, enabled=False):
        lift = Lift(projection, kind, scale, new_kv.dtype)
        for at in blocks(k.shape[0], k.shape[1], 1, k.device.type):
            keys, values_at = k[at], v[at]
            s = Scratch(keys.shape[:2], lift.dtype, k.device)
            # a copy: a flattened block of some heads may or may not share memory with the result
            state = kv[at].flatten(0, 1).to(lift.dtype, copy=True)
            last = top[at].reshape(-1, 1).to(lift.dtype)
            for a, b in spans(k.shape[2], WHOLE_CHUNK):
                known = None if valid is None else valid[at[0], a:b]
                _, phi, values, c = _keys(s, lift, keys[..., a:b, :], values_at[..., a:b, :], known)
                first, last = last, torch.maximum(last, c.amax(1, keepdim=True))
                weighted = torch.mul(
                    values, c.sub_(last).exp2_()[..., None], out=s.new("weighted", *values.shape)
                )
                state.mul_((first - last).exp2_()[..., None])
                state.baddbmm_(phi.transpose(1, 2), weighted)
            new_kv[at], new_top[at] = state.view_as(new_kv[at]), last.view_as(new_top[at])
    return new_kv, new_top


@kernel_sum.register_fake
def _state_like(k, v, valid, projection, kv, top, kind, scale):
    sums = working_dtype(k, v)
    return k.new_empty(kv.shape, dtype=sums), k.new_empty(top.shape, dtype=sums)


@torch.library.custom_op("subquad::kernel_sum_grad", mutates_args=())
def kernel_sum_grad(
    dkv: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    top: Tensor,
    kind: str,
    scale: float,
    project: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return dk, dv and, if wanted, the gradient of the projection; top is that after the keys."""
    dk, dv, _ = _key_gradients(dkv, k, v, valid, projection, top, kind, scale, project)
    with torch.autocast(k.device.type, enabled=False):
        lift = Lift(projection, kind, scale, top.dtype)
        if project:
            lift.want_projection()
        for at in blocks(k.shape[0], k.shape[1], 1, k.device.type):
            s = Scratch(k[at].shape[:2], lift.dtype, k.device)
            dstate, last = s.load("dkv", dkv[at], *dkv.shape[2:]), top[at].reshape(-1, 1)
            for a, b in spans(k.shape[2], WHOLE_CHUNK):
                here = (*at, slice(a, b))
                known = None if valid is None else valid[at[0], a:b]
                x, phi, values, c = _keys(s, lift, k[here], v[here], known)
                weight = c.sub_(last).exp2_()[..., None]
                dvalues = torch.bmm(phi, dstate, out=s.new("dvalues", *values.shape)).mul_(weight)
                dv[here] = dvalues[..., :-1].view(v[here].shape)
                weighted = torch.mul(values, weight, out=dvalues)
                dphi = torch.bmm(weighted, dstate.transpose(1, 2), out=s.new("dphi", *phi.shape))
                dx = lift.row_gradient(x, phi.flatten(0, 1), dphi.flatten(0, 1), keys=True)
                dk[here] = dx.view(k[here].shape)
    return dk, dv, lift.projection_gradient(dkv)


@kernel_sum_grad.register_fake
def _key_gradients(dkv, k, v, valid, projection, top, kind, scale, project):
    dprojection = dkv.new_empty(projection.shape if project else 0)
    return torch.empty_like(k), torch.empty_like(v), dprojection


def _save_sum(ctx, inputs, output):
    k, v, valid, projection, kv, top, ctx.kind, ctx.scale = inputs
    ctx.save_for_backward(k, v, valid, projection, top, output[1])
    ctx.kv_dtype = kv.dtype
    ctx.mark_non_differentiable(output[1])


def _backward_sum(ctx, dkv, dtop):
    k, v, valid, projection, first, last = ctx.saved_tensors
    project = ctx.needs_input_grad[3]
    dk, dv, dprojection = kernel_sum_grad(
        dkv, k, v, valid, projection, last, ctx.kind, ctx.scale, project
    )
    dprojection = dprojection.to(projection.dtype) if project else None
    dfirst = (dkv * (first - last).exp2()[..., None, None]).to(ctx.kv_dtype)
    return dk, dv, None, dprojection, dfirst, None, None, None


kernel_sum.register_autograd(_backward_sum, setup_context=_save_sum)


@register_flop_formula(torch.ops.subquad.kernel_sum)
def _forward_flops(k, v, valid, projection, kv, *args, **kwargs) -> int:
    depth = 0 if projection is None else k[-1]
    return 2 * math.prod(k[:3]) * kv[2] * (depth + kv[3])


@register_flop_formula(torch.ops.subquad.kernel_sum_grad)
def _backward_flops(dkv, k, v, valid, projection, *args, **kwargs) -> int:
    depth = 0 if projection is None else k[-1]
    return 2 * math.prod(k[:3]) * dkv[2] * ((2 + args[-1]) * depth + 2 * dkv[3])
