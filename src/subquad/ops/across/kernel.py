"""Kernel attention over several processes: only a state travels, whatever the length.

    S_r = S_(r-1) + sum of phi(k_j) [v_j, 1]^T over the keys j of process r      handed on, causal
    S   = sum of those of all processes                                          summed, both ways

Choromanski et al., https://arxiv.org/abs/2009.14794; handing the state on between processes: Sun et
al., Linear Attention Sequence Parallelism, 2024, https://arxiv.org/abs/2404.02882.

A process forms the sum of its own keys while others do the same; what then goes from one to the
next is F (E + 1) numbers a head, and as many come back as gradient. Time O(N F (D + E)) for its own
N tokens, and P small messages in a row for the causal form.

Axes: B batch, N tokens of this process, H heads, K key heads, D head width, E value width,
F features.
"""

import torch
from torch import Tensor, distributed

from subquad.ops.across.ranks import AllSum, Ranks
from subquad.ops.linear import FeatureMap, Sum, accumulate, read
from subquad.ops.linear import kernel_attention as local_attention
from subquad.ops.linear_chunk import FLOOR

__all__ = ["kernel_attention"]


def kernel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    ranks: Ranks,
    *,
    causal: bool = True,
    valid: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Sum]:
    """As `subquad.ops.linear.kernel_attention` over the tokens of all processes in a row.

    q (B, H, N, D), k (B, K, N, D), v (B, K, N, E), valid (B, N): the tokens of this process ->
    out (B, H, N, E), and the state: after the last key of this process if `causal`, else after
    all. A process sends B K F (E + 1) sums and B K log-scales to the next, and in backward as many
    sums to the one before. ValueError for lengths that `ranks` does not know.
    """
    ranks.check(k.shape[2])
    own = accumulate(k, v, feature_map, valid=valid, scale=scale)
    if not causal:
        top = ranks.reduce(own.top, distributed.ReduceOp.MAX)
        total = Sum(AllSum.apply(_lowered(own.kv, own.top, top), ranks), top)
        return read(q, total, feature_map, scale=scale), total
    before = Sum(*_HandOver.apply(own.kv, own.top.detach(), ranks))
    return local_attention(q, k, v, feature_map, valid=valid, state=before, scale=scale)


def _lowered(kv: Tensor, top: Tensor, to: Tensor) -> Tensor:
    """Sums kept at log-scales `top` (B, K) as sums kept at `to`, which are no smaller."""
    return kv * (top - to).exp2()[..., None, None]


class _HandOver(torch.autograd.Function):
    """From the sums of every process to those of all before it."""

    @staticmethod
    def forward(ctx, kv: Tensor, top: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        # sums and their log-scales in one message
        before = torch.cat(
            (torch.zeros_like(kv).flatten(2), torch.full_like(top, FLOOR)[..., None]), -1
        )
        if ranks.rank > 0:
            ranks.exchange({}, {ranks.rank - 1: before})
        first, first_top = before[..., :-1].view(kv.shape), before[..., -1].clone()
        last_top = torch.maximum(top, first_top)
        if ranks.rank + 1 < ranks.size:
            total = _lowered(kv, top, last_top) + _lowered(first, first_top, last_top)
            message = torch.cat((total.flatten(2), last_top[..., None]), -1)
            ranks.exchange({ranks.rank + 1: message}, {})
        ctx.ranks = ranks
        ctx.save_for_backward(top, first_top, last_top)
        ctx.mark_non_differentiable(first_top)
        return first, first_top

    @staticmethod
    def backward(ctx, grad: Tensor, _):
        top, first_top, last_top = ctx.saved_tensors
        ranks: Ranks = ctx.ranks
        after = torch.zeros_like(grad, memory_format=torch.contiguous_format)
        if ranks.rank + 1 < ranks.size:
            ranks.exchange({}, {ranks.rank + 1: after})
        if ranks.rank > 0:
            message = grad + _lowered(after, first_top, last_top)
            ranks.exchange({ranks.rank - 1: message.contiguous()}, {})
        return _lowered(after, top, last_top), None, None
