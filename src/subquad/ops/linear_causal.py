"""Causal kernel attention as one operator with its own recomputing backward.

    out_i = sum_{j<=i} phi(q_i).phi(k_j) v_j / sum_{j<=i} phi(q_i).phi(k_j)

Choromanski et al., https://arxiv.org/abs/2009.14794, appendix B. Saved for backward: inputs,
output, the denominators and the running log-scales; features and states are formed again
(`linear_loops`), so nothing of size N x F is held. On a CUDA device the kernels of
`subquad.ops.triton` do the same work, where triton is installed and they take the types and widths.

Axes: B batch, N positions, H heads, K key heads, D head width, E value width, F features.
"""

from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from subquad.ops.linear_chunk import CHUNK, Lift, like_layout, spans, working_dtype
from subquad.ops.linear_loops import Adjoint, forward_block, key_pass, query_pass, run

__all__ = ["kernel_causal", "kernel_causal_grad"]


@torch.library.custom_op("subquad::kernel_causal", mutates_args=())
def kernel_causal(
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
    """Return out (B,H,N,E), den (B,H,N), M (B,K,N), and the state kv (B,K,F,E+1), top (B,K)."""
    out, den, log, new_kv, new_top = _outputs(q, k, v, valid, projection, kv, top, kind, scale)
    if not q.shape[2]:
        new_kv.copy_(kv), new_top.copy_(top)
    heads = (k.shape[1], -1)
    out_of, den_of = out.unflatten(1, heads), den.unflatten(1, heads)[..., None]
    with torch.autocast(q.device.type, enabled=False):
        lift = Lift(projection, kind, scale, new_kv.dtype)
        for at, block in run(q, k, v, valid, lift):
            state, first = block.state("kv", kv[at]), top[at].flatten().to(lift.dtype)
            last = forward_block(block, state, first, out_of[at], den_of[at], log[at])
            new_kv[at], new_top[at] = block.as_kv(state), last.view_as(new_top[at])
    return out, den, log, new_kv, new_top


@kernel_causal.register_fake
def _outputs(q, k, v, valid, projection, kv, top, kind, scale):
    sums = working_dtype(q, k, v)
    out = like_layout(q, v.shape[-1], v.dtype)
    den, log = q.new_empty(q.shape[:3], dtype=sums), q.new_empty(k.shape[:3], dtype=sums)
    return out, den, log, q.new_empty(kv.shape, dtype=sums), q.new_empty(top.shape, dtype=sums)


@torch.library.custom_op("subquad::kernel_causal_grad", mutates_args=())
def kernel_causal_grad(
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
    """Return dq, dk, dv, the gradient of the first kv, and that of the projection if wanted."""
    dq, dk, dv, first_dkv, _ = _gradients(
        dout, dkv, q, k, v, valid, projection, kv, top, out, den, log, kind, scale, project
    )
    if not q.shape[2]:
        first_dkv.copy_(dkv)
    heads = (k.shape[1], -1)
    by_query = [t.unflatten(1, heads) for t in (dout, out, den, dq)]
    with torch.autocast(q.device.type, enabled=False):
        lift = Lift(projection, kind, scale, first_dkv.dtype)
        if project:
            lift.want_projection()
        for at, block in run(q, k, v, valid, lift):
            dout_of, out_of, den_of, dq_of = (t[at] for t in by_query)
            first = top[at].flatten().to(lift.dtype)
            adjoint = Adjoint(dout_of, out_of, den_of, log[at], first)
            query_pass(block, adjoint, block.state("kv", kv[at]), dq_of)
            suffix = block.state("dkv", dkv[at])
            key_pass(block, adjoint, suffix, dk[at], dv[at])
            first_dkv[at] = block.as_kv(suffix)
    return dq, dk, dv, first_dkv, lift.projection_gradient(dq)


@kernel_causal_grad.register_fake
def _gradients(dout, dkv, q, k, v, valid, projection, kv, top, out, den, log, kind, scale, project):
    sums = working_dtype(q, k, v)
    first_dkv = q.new_empty(kv.shape, dtype=sums)
    dprojection = q.new_empty(projection.shape, dtype=sums) if project else q.new_empty(0)
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), first_dkv, dprojection


@cache
def _kernels():
    """The module of GPU kernels, or None where triton is not installed."""
    if find_spec("triton") is None:
        return None
    from subquad.ops.triton import causal

    return causal


@kernel_causal.register_kernel("cuda")
def _causal_on_gpu(q, k, v, valid, projection, kv, top, kind, scale):
    gpu = _kernels()
    fits = gpu is not None and gpu.fits(q, v, projection)
    run = gpu.forward if fits else kernel_causal._init_fn
    return run(q, k, v, valid, projection, kv, top, kind, scale)


@kernel_causal_grad.register_kernel("cuda")
def _causal_grad_on_gpu(dout, dkv, q, k, v, valid, projection, *rest):
    gpu = _kernels()
    fits = gpu is not None and gpu.fits(q, v, projection)
    run = gpu.backward if fits else kernel_causal_grad._init_fn
    return run(dout, dkv, q, k, v, valid, projection, *rest)


def _save(ctx, inputs, output):
    *tensors, ctx.kind, ctx.scale = inputs
    out, den, log, _, new_top = output
    ctx.save_for_backward(*tensors, out, den, log)
    ctx.mark_non_differentiable(den, log, new_top)


def _backward(ctx, dout, dden, dlog, dkv, dtop):
    saved = ctx.saved_tensors  # once: activation checkpointing unpacks them a single time
    projection, kv = saved[4:6]
    project = ctx.needs_input_grad[4]
    dq, dk, dv, dkv, dprojection = kernel_causal_grad(
        dout, dkv, *saved, ctx.kind, ctx.scale, project
    )
    dprojection = dprojection.to(projection.dtype) if project else None
    return dq, dk, dv, None, dprojection, dkv.to(kv.dtype), None, None, None


kernel_causal.register_autograd(_backward, setup_context=_save)


def _products(q_shape, k_shape, projection_shape, chunk) -> int:
    """Sum 2abc over the products of a call; chunk(n, R, F, D or 0) counts one lane's chunk."""
    batch, heads, length, depth = q_shape
    lifts = projection_shape is not None
    features = projection_shape[0] if lifts else depth
    lanes, group = batch * k_shape[1], heads // k_shape[1]
    sizes = (b - a for a, b in spans(length, CHUNK))
    return 2 * lanes * sum(chunk(n, group, features, depth * lifts) for n in sizes)


@register_flop_formula(torch.ops.subquad.kernel_causal)
def _forward_flops(q, k, v, valid, projection, *args, **kwargs) -> int:
    width = v[-1] + 1

    def chunk(n, group, features, depth):
        lift = (group + 1) * depth * features
        pairs = group * n * (features + width)
        return n * (lift + pairs + (group + 1) * features * width)

    return _products(q, k, projection, chunk)


@register_flop_formula(torch.ops.subquad.kernel_causal_grad)
def _backward_flops(dout, dkv, q, k, v, valid, projection, *args, **kwargs) -> int:
    width, project = v[-1] + 1, args[-1]

    def chunk(n, group, features, depth):
        # both passes lift queries and keys; each then takes its own gradient back to rows
        lift = (2 + 1 + project) * (group + 1) * depth * features
        # dscores, dphi; dscores, scores, dvalues, dphi
        pairs = group * n * 3 * (width + features)
        # read and absorb; dvalues, dphi and the adjoint state
        return n * (lift + pairs + (2 * group + 3) * features * width)

    return _products(q, k, projection, chunk)
