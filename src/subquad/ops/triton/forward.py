"""Forward kernels of causal kernel attention: log-scales, sums of chunks, their scan, outputs.

    c_j = max_f u_jf - |k_j|^2 / 2,  phi_jf = exp(u_jf - max_f u_jf),  u_j = W k_j
    U_t     = sum_{j in t} 2^(c_j - P_(t+1)) phi(k_j) [v_j, 1]^T
    S_(t+1) = 2^(P_t - P_(t+1)) S_t + U_t
    sums_i  = sum_{j<=i, j in t} 2^(c_j - M_i) phi(q_i).phi(k_j) [v_j, 1]
              + 2^(P_t - M_i) phi(q_i) S_t

M_i is the maximum of c up to i, P_t that before chunk t, so that no exponent is above 0.
Choromanski et al., https://arxiv.org/abs/2009.14794, appendix B; the chunked form is that of
Yang et al., https://arxiv.org/abs/2312.06635. `chunk_sums` and `scan` serve backward as well,
where the adjoint state runs from the last chunk to the first.

Axes: B batch, N positions, H heads, K key heads, D row width, E value width, F features, T chunks
of n rows. Tensors and lanes come as `tiles` says. edges (key lanes, T + 1) holds P.
A launch takes `chunks` of `every` chunks, from `first` on; sums and states are those of a launch.
"""

import triton
import triton.language as tl

from subquad.ops.triton.tiles import (
    features,
    held,
    logs,
    pairs,
    product,
    quotient_gradient,
    row,
    rows,
    scales,
    source,
)

__all__ = ["chunk_sums", "log_scales", "outputs", "scan"]


@triton.jit(do_not_specialize=["n", "every", "heads", "valid_step"])
def log_scales(
    x, valid, valid_step, lift, peak, c, tops, n, every, heads, half,
    KEYS: tl.constexpr, MASKED: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """peak_i = max_f u_if of rows; of KEYS also c_i = peak_i - half |x_i|^2 and its maximum."""
    C: tl.constexpr = SPEC.chunk
    t, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = t * SPEC.chunk + tl.arange(0, SPEC.chunk)
    here = at < n
    if MASKED:
        here &= tl.load(valid + lane // heads * valid_step + at, mask=here, other=0) != 0
    pointers = row(x, lane, heads, at)
    tile = rows(pointers, here, SPEC.depth, SPEC.d)
    most = tl.zeros([C], tl.float32)
    if SPEC.kind == "exp":
        most -= float("inf")
        for f0 in range(0, SPEC.count, SPEC.block):
            f = f0 + tl.arange(0, SPEC.block)
            u = logs(pointers, tile, here, lift, f, SPEC)
            most = tl.maximum(
                most, tl.max(tl.where((f < SPEC.count)[None, :], u, -float("inf")), 1)
            )
    tl.store(peak + lane * n + at, most, mask=at < n)
    if KEYS:
        if SPEC.kind == "exp":
            most -= half * tl.sum(tile * tile, 1)
        most = tl.where(here, most, -float("inf"))
        tl.store(c + lane * n + at, most, mask=at < n)
        tl.store(tops + lane * every + t, tl.max(most, 0))


@triton.jit(do_not_specialize=["n", "every", "first", "chunks", "heads"])
def chunk_sums(
    x, y, out, den, log, lift, peak, edges, sums, n, every, first, chunks, heads,
    KEYS: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """U_t = sum_i a_i phi(x_i) [y_i, z_i]^T (F, E + 1) over the rows i of chunk t.

    KEYS: a_i = 2^(c_i - P_(t+1)) with c as `log`, y v, z 1. Otherwise a_i = 2^(P_t - M_i) with M as
    `log`, and y is the gradient of `out`, of which numerator and denominator get theirs.
    """
    t, f = tl.program_id(0), tl.program_id(1) * SPEC.block + tl.arange(0, SPEC.block)
    lane = tl.program_id(2).to(tl.int64)
    at, e = (first + t) * SPEC.chunk + tl.arange(0, SPEC.chunk), tl.arange(0, SPEC.e)
    here = at < n
    if KEYS:
        scale, here = scales(log, n, lane, at)
        here &= at < n
        a = tl.exp2(scale - tl.load(edges + lane * (every + 1) + first + t + 1))
        values = rows(row(y, lane, heads, at), here, SPEC.width, SPEC.e)
        last = a
    else:
        keys = lane // SPEC.group
        top = tl.load(log + keys * n + at, mask=here, other=float("inf"))
        a = tl.exp2(tl.load(edges + keys * (every + 1) + first + t) - top)
        values, last = quotient_gradient(y, out, den, n, lane, heads, at, here, SPEC)
        last *= a
    phi = features(source(x, peak, n, lane, heads, at, here, SPEC), lift, f, SPEC)
    total = product(tl.trans(phi), (values * a[:, None]).to(SPEC.dot), SPEC)
    to = sums + (lane * chunks + t) * SPEC.size
    inside = (f < SPEC.count)[:, None] & (e < SPEC.width)[None, :]
    tl.store(to + f[:, None] * SPEC.width + e[None, :], total, mask=inside)
    counted = tl.sum(phi.to(tl.float32) * last[:, None], 0)
    tl.store(to + SPEC.count * SPEC.width + f, counted, mask=f < SPEC.count)


@triton.jit(do_not_specialize=["every", "first", "chunks"])
def scan(
    sums, state, edges, every, first, chunks,
    BACK: tl.constexpr, STEPS: tl.constexpr, BLOCK: tl.constexpr, SPEC: tl.constexpr,
):  # fmt: skip
    """Put in place of the sums of each chunk what stood before it (BACK: after it); move `state`.

    STEPS chunks at once, so that their loads overlap. Sums stand at one end of their chunk, states
    are read at the other; every exponent is at most 0.
    """
    lane = tl.program_id(1).to(tl.int64)
    at, step = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.arange(0, STEPS)
    inside = at < SPEC.size
    edge = edges + (lane // SPEC.group if BACK else lane) * (every + 1) + first
    now = tl.load(state + lane * SPEC.size + at, mask=inside, other=0.0)
    carried = tl.load(edge + (chunks if BACK else 0))
    for begun in range(0, chunks, STEPS):
        s, end = begun + step, tl.minimum(begun + STEPS, chunks)
        live = s < chunks
        t = chunks - 1 - s if BACK else s
        low = tl.load(edge + t, mask=live, other=0.0)
        high = tl.load(edge + t + 1, mask=live, other=0.0)
        after = tl.load(edge + (chunks - end if BACK else end))
        to = sums + (lane * chunks + t)[:, None] * SPEC.size + at[None, :]
        there = live[:, None] & inside[None, :]
        tile = tl.load(to, mask=there, other=0.0)
        if BACK:
            power, since = high[:, None] - low[None, :], high - carried
            kept, added = after - carried, after - low
        else:
            power, since = high[None, :] - low[:, None], carried - low
            kept, added = carried - after, high - after
        earlier = (step[None, :] < step[:, None]) & live[:, None]
        factor = tl.where(earlier, tl.exp2(power), 0.0)
        before = tl.sum(factor[:, :, None] * tile[None, :, :], 1)
        tl.store(to, before + tl.exp2(since)[:, None] * now[None, :], mask=there)
        add = tl.where(live, tl.exp2(added), 0.0)
        now = now * tl.exp2(kept) + tl.sum(tile * add[:, None], 0)
        carried = after
    tl.store(state + lane * SPEC.size + at, now, mask=inside)


@triton.jit(do_not_specialize=["n", "every", "first", "chunks", "heads"])
def outputs(
    q, k, v, out, den, log, lift, peak_q, peak_k, c, edges, states, n, every, first, chunks, heads,
    SPEC: tl.constexpr,
):  # fmt: skip
    """out_i, den_i and M_i of the queries of a chunk."""
    C: tl.constexpr = SPEC.chunk
    E: tl.constexpr = SPEC.e
    t, lane = tl.program_id(0), tl.program_id(1).to(tl.int64)
    keys, key_heads = lane // SPEC.group, heads // SPEC.group
    place, e = tl.arange(0, SPEC.chunk), tl.arange(0, SPEC.e)
    at = (first + t) * SPEC.chunk + place
    here = at < n
    scale, there = scales(c, n, keys, at)
    before = tl.load(edges + keys * (every + 1) + first + t)
    past = tl.where(place[None, :] <= place[:, None], scale[None, :], -float("inf"))
    top = tl.maximum(tl.max(past, 1), before)
    from_q = source(q, peak_q, n, lane, heads, at, here, SPEC)
    from_k = source(k, peak_k, n, keys, key_heads, at, there, SPEC)
    scores = tl.zeros([C, C], tl.float32)
    number = tl.zeros([C, E], tl.float32)
    weight = tl.zeros([C], tl.float32)
    state = states + (keys * chunks + t) * SPEC.size
    for f0 in range(0, SPEC.count, SPEC.block):
        f = f0 + tl.arange(0, SPEC.block)
        phi_q, phi_k = features(from_q, lift, f, SPEC), features(from_k, lift, f, SPEC)
        kv, last = held(state, f, SPEC)
        scores += product(phi_q, tl.trans(phi_k), SPEC)
        number += product(phi_q, kv, SPEC)
        weight += tl.sum(phi_q.to(tl.float32) * last[None, :], 1)
    read = tl.exp2(before - top)
    scores = (scores * pairs(scale, top, place)).to(SPEC.dot)
    value = rows(row(v, keys, key_heads, at), there, SPEC.width, SPEC.e).to(SPEC.dot)
    number = number * read[:, None] + product(scores, value, SPEC)
    weight = weight * read + tl.sum(scores.to(tl.float32), 1)
    # a query with nothing to look at divides by infinity: zeros, and zero gradients
    weight = tl.where(weight <= 0.0, float("inf"), weight)
    inside = here[:, None] & (e < SPEC.width)[None, :]
    result = (number / weight[:, None]).to(out[0].dtype.element_ty)
    tl.store(row(out, lane, heads, at) + e[None, :], result, mask=inside)
    tl.store(den + lane * n + at, weight, mask=here)
    if lane % SPEC.group == 0:
        tl.store(log + keys * n + at, top, mask=here)
