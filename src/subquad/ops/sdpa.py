"""PyTorch's own scaled_dot_product_attention, for patterns that it runs well.

Full and causal patterns cost no mask; any other pattern costs one of N x M booleans, so `attend`
asks for those only where they are small. O(N M) time, memory O(N) for full and causal.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.ops.partial import EMPTY, Partial, Scoring, Where
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Causal, Full

__all__ = ["is_plainly_causal", "sdpa"]


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows; gives no log-sum-exp.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv).
    ValueError if distances are scored or weights dropped: this engine can do neither.
    """
    if scoring.distance is not None or scoring.dropout > 0:
        raise ValueError("the sdpa engine scores no distances and drops no weights; use another")
    scale = scoring.scale
    if is_plainly_causal(pattern, where):
        if where.valid is None:
            return Partial(
                F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale), None
            )
        q, k = _exclude(q, k, where.valid)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        some = where.valid.cummax(-1).values[:, None, :, None]
        return Partial(torch.where(some, out, 0.0), None)
    if isinstance(pattern, Full) and where.valid is None:
        return Partial(F.scaled_dot_product_attention(q, k, v, scale=scale), None)
    if isinstance(pattern, Full) and where.valid is not None:
        allowed = where.valid[:, None, None]
    else:
        allowed = where.allowed(pattern)
    some = allowed.any(-1, keepdim=True)
    # a row without keys would be 0 / 0 in some of torch's kernels: let it see all, then zero it
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed | ~some, scale=scale)
    return Partial(torch.where(some, out, 0.0), None)


def is_plainly_causal(pattern: Pattern, where: Where) -> bool:
    """Is it Causal over the same tokens as queries and keys? (Positions increase along slots.)"""
    return isinstance(pattern, Causal) and where.q.pos is where.k.pos


def _exclude(q: Tensor, k: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """q and k with extra channels whose product is 0 for valid keys and hugely negative for others.

    Eight channels, so that rows stay aligned; this spares the N x M mask.
    """
    low = -3e4 if q.dtype == torch.float16 else EMPTY
    ones = torch.zeros(*q.shape[:-1], 8, dtype=q.dtype, device=q.device)
    ones[..., 0] = 1.0
    bias = torch.zeros(*k.shape[:-1], 8, dtype=k.dtype, device=k.device)
    bias[..., 0] = torch.where(valid, 0.0, low)[:, None].to(k.dtype)
    return torch.cat((q, ones), -1), torch.cat((k, bias), -1)
