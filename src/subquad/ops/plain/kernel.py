"""Kernel attention in plain torch: chunks side by side instead of one after the other.

    U_s = sum_{j in s} 2^(c_j - P_(s+1)) phi(k_j) [v_j, 1]^T
    S_t = 2^(top - P_t) S_0 + sum_{s<t} 2^(P_(s+1) - P_t) U_s

P_t is the running maximum of the keys' log-scales c (to base two) before chunk t, so that no factor
is above 1. Axes: B batch, N positions, H heads, K key heads, R = H / K, D head width, E value
width, F features, T chunks of n positions.
"""

import math

import torch
from torch import Tensor

from subquad.ops.linear_chunk import RELU_OFFSET, like_layout, working_dtype

__all__ = ["kernel_causal", "kernel_read", "kernel_sum"]

#: positions of a chunk
SIZE = 64


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
    """Results of `subquad::kernel_causal`: out (B,H,N,E), den (B,H,N), M (B,K,N), kv and top."""
    n, sums = q.shape[2], working_dtype(q, k, v)
    # one chunk more than needed: that there are two or more then holds for every length
    chunks = (n + SIZE - 1) // SIZE + 1
    every = (
        torch.arange(SIZE, device=q.device) + torch.arange(chunks, device=q.device)[:, None] * SIZE
    )
    phi_k, values, c = _keys(k, v, valid, projection, kind, scale, sums)
    phi_q = _features(q.to(sums), projection, kind, scale)[0].unflatten(1, (k.shape[1], -1))
    slots, past = every.flatten().clamp(max=n - 1), every >= n

    def cut(t: Tensor, axis: int) -> Tensor:
        return t.index_select(axis, slots).unflatten(axis, every.shape)

    phi_k, values = cut(phi_k, 2), cut(values, 2)
    phi_q = cut(phi_q, 3).movedim(3, 2)  # (B, K, T, R, n, F)
    c = cut(c, 2).masked_fill(past, -math.inf)
    top, kv = top.to(sums), kv.to(sums)
    ends, before = _running(c.amax(-1), top)
    now = torch.maximum(_maxima(c), before.unsqueeze(-1))  # (B, K, T, n)
    added = torch.einsum(
        "bktnf,bktne->bktfe", phi_k, values * (c - ends.unsqueeze(-1)).exp2()[..., None]
    )
    first = kv.unsqueeze(2) * (top.unsqueeze(-1) - before).exp2()[..., None, None]
    states = first + _earlier(ends, before, added)
    later = _later(SIZE, q.device)
    factor = (c.unsqueeze(-2) - now.unsqueeze(-1)).masked_fill(later, -math.inf).exp2()
    scores = torch.einsum("bktrnf,bktmf->bktrnm", phi_q, phi_k) * factor.unsqueeze(3)
    read = torch.einsum("bktrnf,bktfe->bktrne", phi_q, states)
    read = read * (before.unsqueeze(-1) - now).exp2()[:, :, :, None, :, None]
    total = (
        (scores @ values.unsqueeze(3) + read).movedim(2, 3).flatten(3, 4)[:, :, :, :n].flatten(1, 2)
    )
    out, den = _quotient(total)
    last = ends[:, :, -1]
    new_kv = (added * (ends - last.unsqueeze(-1)).exp2()[..., None, None]).sum(2)
    new_kv = new_kv + kv * (top - last).exp2()[..., None, None]
    return _like(q, v, out), den, now.flatten(2)[:, :, :n].contiguous(), new_kv, last.contiguous()


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
    """Results of `subquad::kernel_sum`: kv (B, K, F, E + 1) and top (B, K) after the keys."""
    sums = working_dtype(k, v)
    phi, values, c = _keys(k, v, valid, projection, kind, scale, sums)
    first = top.to(sums)
    last = torch.maximum(first, c.amax(-1))
    values = values * (c - last.unsqueeze(-1)).exp2().unsqueeze(-1)
    return kv.to(sums) * (first - last).exp2()[..., None, None] + phi.mT @ values, last


def kernel_read(
    q: Tensor, kv: Tensor, projection: Tensor | None, kind: str, scale: float
) -> tuple[Tensor, Tensor]:
    """Results of `subquad::kernel_read`: out (B, H, N, E) and den (B, H, N)."""
    sums = working_dtype(q, kv)
    phi = _features(q.to(sums), projection, kind, scale)[0].unflatten(1, (kv.shape[1], -1))
    out, den = _quotient((phi @ kv.to(sums).unsqueeze(2)).flatten(1, 2))
    return _like(q, q, out), den


def _features(
    x: Tensor, projection: Tensor | None, kind: str, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Features (..., F) of rows x (..., D), and the maxima of their logarithms for `exp`."""
    u = x if projection is None else x @ (projection.to(x.dtype) * math.sqrt(scale)).mT
    if kind == "exp":
        u = u * (1 / math.log(2))
        peak = u.amax(-1, keepdim=True)
        return (u - peak).exp2(), peak.squeeze(-1)
    if kind == "relu":
        return u.clamp(min=0) + RELU_OFFSET, None
    if kind == "elu":
        return u.clamp(max=0).exp() + u.clamp(min=0), None
    return u, None


def _keys(
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    kind: str,
    scale: float,
    sums: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, K, M, F), [v, 1] (B, K, M, E + 1), log-scales (B, K, M), -inf for none."""
    k, v = k.to(sums), v.to(sums)
    absent = None if valid is None else ~valid[:, None]
    if absent is not None:
        k, v = (t.masked_fill(absent.unsqueeze(-1), 0.0) for t in (k, v))
    phi, peak = _features(k, projection, kind, scale)
    c = torch.zeros_like(k[..., 0])
    if peak is not None:
        c = peak - k.square().sum(-1) * (scale / (2 * math.log(2)))
    c = c if absent is None else c.masked_fill(absent, -math.inf)
    return phi, torch.cat((v, torch.ones_like(v[..., :1])), -1), c


def _later(size: int, device: torch.device, *, least: int = 1) -> Tensor:
    """Which of `size` places come later than each, by `least` or more: (size, size)."""
    at = torch.arange(size, device=device)
    return at >= at.unsqueeze(-1) + least


def _maxima(c: Tensor, *, itself: bool = True) -> Tensor:
    """Running maxima along the last axis, by one comparison of all with all."""
    out = _later(c.shape[-1], c.device, least=1 if itself else 0)
    return c.unsqueeze(-2).masked_fill(out, -math.inf).amax(-1)


def _running(peaks: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """P after and before each chunk (B, K, T), from the chunks' own maxima and `top` (B, K)."""
    ends, before = _maxima(peaks), _maxima(peaks, itself=False)
    return torch.maximum(ends, top.unsqueeze(-1)), torch.maximum(before, top.unsqueeze(-1))


def _earlier(ends: Tensor, before: Tensor, added: Tensor) -> Tensor:
    """What the chunks before each have added (B, K, T, F, E + 1), at the scale before it."""
    out = _later(ends.shape[-1], ends.device, least=0)
    far = (ends.unsqueeze(-2) - before.unsqueeze(-1)).masked_fill(out, -math.inf)
    return (far.exp2() @ added.flatten(-2)).unflatten(-1, added.shape[-2:])


def _quotient(total: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (..., E + 1) divided by their last column, which is infinite where it was 0."""
    weight = total[..., -1]
    weight = weight.masked_fill(weight == 0, math.inf)
    return total[..., :-1] / weight.unsqueeze(-1), weight.contiguous()


def _like(q: Tensor, v: Tensor, out: Tensor) -> Tensor:
    """`out` in the type of v, laid out as the operators do it by q."""
    target = like_layout(q, out.shape[-1], v.dtype)
    if target.stride(1) < target.stride(2):
        return out.to(v.dtype).transpose(1, 2).contiguous().transpose(1, 2)
    return out.to(v.dtype).contiguous()
