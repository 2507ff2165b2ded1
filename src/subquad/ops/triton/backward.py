"""Backward kernels of causal kernel attention; features and states are formed again.

With g_i = dout_i / den_i, h_i = -g_i.out_i and w_ij = 2^(c_j - M_i), 0 for j > i:

    dA_ij    = w_ij (g_i.v_j + h_i)
    dphi_q_i = sum_j dA_ij phi(k_j) + 2^(P_t - M_i) S_t [g_i, h_i]
    dphi_k_j = sum_i dA_ij phi(q_i) + 2^(c_j - P_(t+1)) Z_t [v_j, 1]
    dv_j     = sum_i w_ij phi(q_i).phi(k_j) g_i + 2^(c_j - P_(t+1)) Z_t^T phi(k_j)
    Z_(t-1)  = 2^(P_t - P_(t+1)) Z_t + sum_{i in t} 2^(P_t - M_i) phi(q_i) [g_i, h_i]^T
    dx       = W^T (phi' dphi),  for keys of `exp` less x sum_f phi' dphi

j in the chunk t of i; c and M are constants, for they cancel. Keys shared by a group of heads get
one gradient for each head, which the caller adds up.

Axes: B batch, N positions, H heads, K key heads, D row width, E value width, F features, n rows of
a chunk. Tensors and lanes come as `tiles` says; `lift` is (projection, gain, root), root^2 = scale.
"""

import triton
import triton.language as tl

from subquad.ops.triton.tiles import (
    features,
    held,
    pairs,
    product,
    projections,
    quotient_gradient,
    row,
    rows,
    scales,
    slope,
    source,
)

__all__ = ["key_gradients", "query_gradients"]


@triton.jit
def give(to, dw, f, du, x, lift, here, total, PROJECT: tl.constexpr, SPEC: tl.constexpr):
    """Take du (n, W) back to rows: the total (n, D) with it, or, unprojected, straight to `to`.

    With PROJECT, dw (F, D) of this program gets du^T x.
    """
    cut = du.to(SPEC.dot)
    if SPEC.lifts:
        total += product(cut, tl.trans(projections(lift, f, SPEC)).to(SPEC.dot), SPEC)
        if PROJECT:
            d = tl.arange(0, SPEC.d)[None, :]
            inside = (f < SPEC.count)[:, None] & (d < SPEC.depth)
            part = product(tl.trans(cut), x[1].to(SPEC.dot), SPEC)
            tl.store(dw + f[:, None] * SPEC.depth + d, part, mask=inside)
    else:
        inside = here[:, None] & (f < SPEC.count)[None, :]
        tl.store(to + f[None, :], du.to(to.dtype.element_ty), mask=inside)
    return total


@triton.jit(do_not_specialize=["n", "every", "first", "chunks", "heads"])
def query_gradients(
    q, k, v, out, dout, dq, den, log, lift, peak_q, peak_k, c, edges, states, dw,
    n, every, first, chunks, heads, PROJECT: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """dq of the queries of a chunk."""
    C: tl.constexpr = SPEC.chunk
    D: tl.constexpr = SPEC.d
    t, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys, key_heads = lane // SPEC.group, heads // SPEC.group
    place = tl.arange(0, SPEC.chunk)
    at = (first + t) * SPEC.chunk + place
    here = at < n
    scale, there = scales(c, n, keys, at)
    top = tl.load(log + keys * n + at, mask=here, other=float("inf"))
    read = tl.exp2(tl.load(edges + keys * (every + 1) + first + t) - top)
    g, h = quotient_gradient(dout, out, den, n, lane, heads, at, here, SPEC)
    value = rows(row(v, keys, key_heads, at), there, SPEC.width, SPEC.e).to(SPEC.dot)
    cut = g.to(SPEC.dot)
    scores = product(cut, tl.trans(value), SPEC) + h[:, None]
    scores = (scores * pairs(scale, top, place)).to(SPEC.dot)
    from_q = source(q, peak_q, n, lane, heads, at, here, SPEC)
    from_k = source(k, peak_k, n, keys, key_heads, at, there, SPEC)
    to, own = row(dq, lane, heads, at), lane * chunks + t
    state, dw_to = states + (keys * chunks + t) * SPEC.size, dw + own * SPEC.count * SPEC.depth
    total = tl.zeros([C, D], tl.float32)
    for f0 in range(0, SPEC.count, SPEC.block):
        f = f0 + tl.arange(0, SPEC.block)
        phi_q, phi_k = features(from_q, lift, f, SPEC), features(from_k, lift, f, SPEC)
        kv, last = held(state, f, SPEC)
        dphi = product(cut, tl.trans(kv), SPEC) + h[:, None] * last[None, :]
        du = (dphi * read[:, None] + product(scores, phi_k, SPEC)) * slope(phi_q, SPEC)
        total = give(to, dw_to, f, du, from_q, lift, here, total, PROJECT, SPEC)
    if SPEC.lifts:
        d = tl.arange(0, SPEC.d)[None, :]
        inside = here[:, None] & (d < SPEC.depth)
        tl.store(to + d, (lift[2] * total).to(to.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n", "every", "first", "chunks", "heads", "shift"])
def key_gradients(
    q, k, v, out, dout, dk, dv, den, log, lift, peak_q, peak_k, c, edges, states, dw,
    n, every, first, chunks, heads, shift, PROJECT: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """dk and dv of the keys of a chunk, from one head; the place of position `shift` is first."""
    C: tl.constexpr = SPEC.chunk
    D: tl.constexpr = SPEC.d
    E: tl.constexpr = SPEC.e
    t, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys, key_heads = lane // SPEC.group, heads // SPEC.group
    place, e, d = tl.arange(0, SPEC.chunk), tl.arange(0, SPEC.e), tl.arange(0, SPEC.d)
    at = (first + t) * SPEC.chunk + place
    here = at < n
    scale, there = scales(c, n, keys, at)
    top = tl.load(log + keys * n + at, mask=here, other=float("inf"))
    powers = pairs(scale, top, place)
    add = tl.exp2(scale - tl.load(edges + keys * (every + 1) + first + t + 1))
    g, h = quotient_gradient(dout, out, den, n, lane, heads, at, here, SPEC)
    value = rows(row(v, keys, key_heads, at), there, SPEC.width, SPEC.e).to(SPEC.dot)
    cut = g.to(SPEC.dot)
    dscores = product(cut, tl.trans(value), SPEC) + h[:, None]
    dscores = tl.trans((dscores * powers).to(SPEC.dot))
    from_q = source(q, peak_q, n, lane, heads, at, here, SPEC)
    from_k = source(k, peak_k, n, keys, key_heads, at, there, SPEC)
    to, own = row(dk, lane, heads, at - shift), lane * chunks + t
    state, dw_to = states + own * SPEC.size, dw + own * SPEC.count * SPEC.depth
    scores = tl.zeros([C, C], tl.float32)
    dvalue = tl.zeros([C, E], tl.float32)
    total, slopes = tl.zeros([C, D], tl.float32), tl.zeros([C], tl.float32)
    for f0 in range(0, SPEC.count, SPEC.block):
        f = f0 + tl.arange(0, SPEC.block)
        phi_q, phi_k = features(from_q, lift, f, SPEC), features(from_k, lift, f, SPEC)
        z, last = held(state, f, SPEC)
        scores += product(phi_q, tl.trans(phi_k), SPEC)
        dvalue += product(phi_k, z, SPEC)
        dphi = (product(value, tl.trans(z), SPEC) + last[None, :]) * add[:, None]
        du = (dphi + product(dscores, phi_q, SPEC)) * slope(phi_k, SPEC)
        slopes += tl.sum(du, 1)
        total = give(to, dw_to, f, du, from_k, lift, here, total, PROJECT, SPEC)
    pulled = product(tl.trans((scores * powers).to(SPEC.dot)), cut, SPEC)
    dvalue = dvalue * add[:, None] + pulled
    inside = here[:, None] & (e < SPEC.width)[None, :]
    dv_to = row(dv, lane, heads, at - shift) + e[None, :]
    tl.store(dv_to, dvalue.to(dv_to.dtype.element_ty), mask=inside)
    if SPEC.lifts:
        total *= lift[2]
        if SPEC.kind == "exp":
            total -= lift[2] * lift[2] * slopes[:, None] * from_k[1]
        inside = here[:, None] & (d < SPEC.depth)[None, :]
        tl.store(to + d[None, :], total.to(to.dtype.element_ty), mask=inside)
