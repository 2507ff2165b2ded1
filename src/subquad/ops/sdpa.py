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
        q, k, wide_v = _exclude(q * scale, k, v, where.valid)
        out = F.scaled_dot_product_attention(q, k, wide_v, is_causal=True, scale=1.0)
        out = out[..., : v.shape[-1]]
        some = (where.valid.cumsum(-1) > 0)[:, None, :, None]
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


def _exclude(q: Tensor, k: Tensor, v: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q and k with one more channel: its product is 0 for valid keys, hugely negative for others.

    This spares the N x M mask. The scale is in q already, for it must not touch that channel. All
    three get one width, a multiple of 8: with unequal ones torch's kernel gives way to a path that
    writes the matrix down.
    """
    low = -3e4 if q.dtype == torch.float16 else EMPTY
    width = max(q.shape[-1] + 1, v.shape[-1])
    width += -width % 8
    ones = torch.ones_like(q[..., :1])
    bias = torch.where(valid, 0.0, low)[:, None, :, None].to(k.dtype).expand_as(k[..., :1])

    def fill(t: Tensor, *more: Tensor) -> Tensor:
        t = torch.cat((t, *more), -1)
        return F.pad(t, (0, width - t.shape[-1]))

    return fill(q, ones), fill(k, bias), fill(v)
