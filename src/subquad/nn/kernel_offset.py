"""Kernel attention with small numbers added, as the authors' code and performer-pytorch have it.

    phi(q_i) = F^(-1/2) (exp(W q_i - |q_i|^2 / 2 - max_f W q_i) + 1e-4)
    phi(k_j) = F^(-1/2) (exp(W k_j - |k_j|^2 / 2 - max_(f, j) W k_j) + 1e-4)
    out_i    = sum_j phi(q_i).phi(k_j) v_j / (sum_j phi(q_i).phi(k_j) + e sum_f phi_f(q_i))

e is 1e-6 if it looks back alone, else 0. https://github.com/lucidrains/performer-pytorch, after
https://github.com/google-research/google-research/tree/master/performer. Other maps than the
exponential get e alone.

O(N F D) time, O(N F) memory: features are formed once, for all tokens.

Axes: B batch, N queries, M keys, H heads, D head width, C model width, F features.
"""

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.features import PositiveRandomFeatures
from subquad.nn.kernel import KernelAttention, check_apart, num_features
from subquad.nn.mixer import check_state
from subquad.ops.linear import Sum, kernel_attention
from subquad.ops.partial import wide

__all__ = ["OffsetKernelAttention"]

#: added to each random feature of the exponential
FEATURE = 1e-4
#: added to each sum of features of keys, by what looks back alone
TOTAL = 1e-6


class OffsetKernelAttention(KernelAttention):
    """Self-attention by features with numbers added, for converted checkpoints. With features of
    the exponential it is NOT STRICTLY CAUSAL, whatever `causal` says: 1e-4 is added at a scale that
    the largest of all keys sets, the later ones too, so it does not stream. New models take
    `KernelAttention`.
    """

    def forward(
        self, x: Tensor, context: Context, state: Sum | None = None
    ) -> tuple[Tensor, Sum | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens."""
        check_apart(context)
        if state is not None:
            self._check_streams()
            check_state(self, state, Sum)
        q, k, v = self._lifted(x, context)
        begun = self._begun(len(x), q) if state is None and self.causal else state
        y, after = kernel_attention(
            q, k, v, _as_given, causal=self.causal, valid=context.valid, state=begun
        )
        return self.output(y.to(v.dtype)), None if state is None else after

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        q, k, _ = self._lifted(x, context)
        slot = torch.arange(x.shape[1], device=x.device)
        rows = slot if rows is None else rows
        k = k.repeat_interleave(self.num_heads // self.num_kv_heads, 1)
        product = q[:, :, rows] @ k.mT
        if self.causal:
            product = product.masked_fill(slot > rows[:, None], 0.0)
        if context.valid is not None:
            product = product.masked_fill(~context.valid[:, None, None], 0.0)
        total = product.sum(-1) + self._total * q[:, :, rows].sum(-1)
        return (product / total.masked_fill(total == 0, torch.inf).unsqueeze(-1)).to(x.dtype)

    @property
    def streams(self) -> bool:
        return self.causal and not isinstance(self.feature_map, PositiveRandomFeatures)

    def init_state(self, batch: int) -> Sum:
        self._check_streams()
        return self._begun(batch, self.key.weight)

    @property
    def _total(self) -> float:
        return TOTAL if self.causal else 0.0

    def _check_streams(self) -> None:
        if not self.streams:
            raise ValueError(
                f"OffsetKernelAttention over {type(self.feature_map).__name__} adds to features at "
                "a scale that all keys of the input set, so it cannot stream"
            )

    def _begun(self, batch: int, like: Tensor) -> Sum:
        """The sum before the first key: what is added to every sum of features."""
        count = num_features(self.feature_map, like.new_zeros(1, 1, 1, self.head_dim))
        none = Sum.empty(batch, self.num_kv_heads, count, self.head_dim, like)
        kv = none.kv.clone()
        kv[..., -1] = self._total
        return Sum(kv, torch.zeros_like(none.top))

    def _lifted(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """Features of queries (B, H, N, F) and keys, and values (B, H, M, D)."""
        q, k, v = self._project(context.clean(x), context)
        q, k = (t.to(wide(t.dtype)) * self.head_dim**-0.25 for t in (q, k))
        phi = self.feature_map
        if not isinstance(phi, PositiveRandomFeatures):
            return phi(q, True), phi(k, False), v
        absent = None if context.valid is None else ~context.valid[:, None, :, None]
        rows = phi.projection.to(q.dtype)
        return _exponential(q, rows, (-1,), None), _exponential(k, rows, (-1, -2), absent), v


def _exponential(x: Tensor, rows: Tensor, over: tuple[int, ...], absent: Tensor | None) -> Tensor:
    """Features (B, H, N, F) by rows (F, D), less the maximum of those that are not absent."""
    u = x @ rows.T
    real = u.detach() if absent is None else u.detach().masked_fill(absent, -torch.inf)
    peak = real.amax(over, keepdim=True) if u.numel() else u.new_zeros(())
    u = u - x.square().sum(-1, keepdim=True) / 2 - peak
    # a row without keys has no peak, and an absent key may be anything above it
    u = u if absent is None else u.masked_fill(absent, 0.0)
    return len(rows) ** -0.5 * (u.exp() + FEATURE)


def _as_given(x: Tensor, is_query: bool) -> Tensor:
    """The features themselves."""
    return x
