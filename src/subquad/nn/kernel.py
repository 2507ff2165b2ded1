"""Kernel attention mixers: weights are products of features, so that cost is linear in length.

    y = W_o out,    out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j)

Choromanski et al., Rethinking Attention with Performers, https://arxiv.org/abs/2009.14794;
Katharopoulos et al., Transformers are RNNs, https://arxiv.org/abs/2006.16236.

O(N F D) time and O(N) memory; the state is F (D + 1) numbers a head, whatever was read. Random
features see q and k times D^(-1/4), the other maps of the user see them as they are.

Axes: B batch, N queries, M keys, H heads, G key heads, R rows, D head width, C model width,
F features.
"""

import torch
from torch import Tensor, nn

from subquad.nn.attention import divide
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, check_state, merge_heads, split_heads
from subquad.nn.position import Position
from subquad.ops.linear import FeatureMap, Sum, accumulate, kernel_attention, read

__all__ = ["KernelAttention", "KernelCrossAttention"]


class KernelAttention(Mixer):
    """Self-attention by features. With `causal` it streams: its state is a Sum.

    `position` may turn queries and keys (rotary), not add to scores: there are none.
    `num_kv_heads` below `num_heads` shares keys among heads. ValueError if the heads do not
    divide the width, or the position adds to scores.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feature_map: FeatureMap,
        *,
        causal: bool = False,
        position: Position | None = None,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim = head_dim or divide(dim, num_heads)
        divide(num_heads, self.num_kv_heads)
        self.feature_map, self.causal = feature_map, causal
        self.position = position or Position()
        if self.position.scores:
            raise ValueError(
                f"{type(self.position).__name__} adds to scores and kernel attention has none: "
                "take Rotary, or positions added by the stem"
            )
        self.query = nn.Linear(dim, num_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(num_heads * self.head_dim, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Sum | None = None
    ) -> tuple[Tensor, Sum | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens."""
        check_apart(context)
        if state is not None:
            check_state(self, state, Sum)
        q, k, v = self._project(context.clean(x), context)
        y, after = kernel_attention(
            q, k, v, self.feature_map, causal=self.causal, valid=context.valid, state=state
        )
        return self.output(y), None if state is None else after

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(context.clean(x), context)
        slot = torch.arange(x.shape[1], device=x.device)
        rows = slot if rows is None else rows
        later = slot > rows[:, None] if self.causal else slot.new_zeros(1, 1, dtype=torch.bool)
        absent = later if context.valid is None else later | ~context.valid[:, None, None]
        return kernel_matrix(q[:, :, rows], k, self.feature_map, absent)

    def values(self, x: Tensor, context: Context) -> Tensor:
        v = self._project(context.clean(x), context)[2]
        return v.repeat_interleave(self.num_heads // self.num_kv_heads, 1)

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return self.causal

    def init_state(self, batch: int) -> Sum:
        if not self.causal:
            raise ValueError("kernel attention with causal=False looks ahead, so it cannot stream")
        count = num_features(self.feature_map, self.key.weight.new_zeros(1, 1, 1, self.head_dim))
        return Sum.empty(batch, self.num_kv_heads, count, self.head_dim, self.key.weight)

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        q = split_heads(self.query(x), self.num_heads)
        k = split_heads(self.key(x), self.num_kv_heads)
        v = split_heads(self.value(x), self.num_kv_heads)
        return self.position.turn(q, context.pos), self.position.turn(k, context.pos), v


class KernelCrossAttention(Mixer):
    """Kernel attention of tokens over `Context.memory` (B, M, `memory_dim`).

    When streaming, the memory is summed once; the Sum is all that is kept of it.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feature_map: FeatureMap,
        *,
        memory_dim: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads, self.feature_map = num_heads, feature_map
        self.head_dim = head_dim or divide(dim, num_heads)
        width = num_heads * self.head_dim
        self.query = nn.Linear(dim, width, bias=bias)
        self.key = nn.Linear(memory_dim or dim, width, bias=bias)
        self.value = nn.Linear(memory_dim or dim, width, bias=bias)
        self.out = nn.Linear(width, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Sum | None = None
    ) -> tuple[Tensor, Sum | None]:
        """y (B, N, C) and, if a state came in, the state that holds the memory."""
        memory = state
        if memory is not None and memory.kv.shape[2] > 0:
            context.check_unread()
        if memory is None or memory.kv.shape[2] == 0:
            k, v = self._memory(context)
            memory = accumulate(k, v, self.feature_map, valid=context.memory_valid)
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        y = read(q, memory, self.feature_map)
        return self.output(y), None if state is None else memory

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        k, _ = self._memory(context)
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        q = q if rows is None else q[:, :, rows]
        some = context.memory_valid
        absent = torch.zeros_like(k[:, :1, None, :, 0], dtype=torch.bool)
        absent = absent if some is None else ~some[:, None, None]
        return kernel_matrix(q, k, self.feature_map, absent)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return self._memory(context)[1]

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return True

    def init_state(self, batch: int) -> Sum:
        """A Sum without features: the memory has not been read."""
        return Sum.empty(batch, self.num_heads, 0, self.head_dim, self.key.weight)

    def _memory(self, context: Context) -> tuple[Tensor, Tensor]:
        memory = context.clean_memory()
        heads = self.num_heads
        return split_heads(self.key(memory), heads), split_heads(self.value(memory), heads)


def check_apart(context: Context) -> None:
    """ValueError for documents with labels."""
    if context.label is not None:
        raise ValueError(
            "kernel attention sums over all keys and cannot keep labelled documents apart; "
            "give each document a row of its own"
        )


def kernel_matrix(q: Tensor, k: Tensor, feature_map: FeatureMap, absent: Tensor) -> Tensor:
    """phi(q).phi(k) over the keys that are not absent, normalised: (B, H, N, M); empty rows are 0.

    In logarithms, log sum_f phi_f(q) phi_f(k), so that no length of a key overflows.
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    a, b = log_features(feature_map, q, True), log_features(feature_map, k, False)
    top_a, top_b = (t.detach().amax(-1, keepdim=True) for t in (a, b))
    product = torch.einsum("bhnf,bhmf->bhnm", (a - top_a).exp(), (b - top_b).exp())
    scores = (product.log() + top_b.mT).masked_fill(absent, -torch.inf)
    none = absent.all(-1, keepdim=True)
    return scores.masked_fill(none, 0.0).softmax(-1) * ~none


def log_features(feature_map: FeatureMap, x: Tensor, is_query: bool) -> Tensor:
    """The logarithm of the features (..., F) of x (..., D) as attention sees them."""
    if hasattr(feature_map, "lower") and feature_map.lower()[1] is not None:
        x = x * x.shape[-1] ** -0.25
    log = getattr(feature_map, "log", None)
    return feature_map(x, is_query).log() if log is None else log(x)


def num_features(feature_map: FeatureMap, row: Tensor) -> int:
    """F, asked of the map by one row (1, 1, 1, D)."""
    return feature_map(row, False).shape[-1]
