"""Cross-attention: softmax attention of tokens over a memory, such as what an encoder gives out.

    y = W_o softmax(scale q k^T) v      k and v from the memory

O(N M) time, O(N + M) memory.

Axes: B batch, N queries, M memory tokens, H heads, D head width, C model width.
"""

import torch
from torch import Tensor, nn

from subquad.nn.attention import divide, softmax_matrix
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.nn.state import Cross
from subquad.ops.attend import attend
from subquad.ops.partial import Where
from subquad.ops.pattern import Coords
from subquad.ops.patterns import Full

__all__ = ["CrossAttention"]


class CrossAttention(Mixer):
    """Attention of tokens over `Context.memory` (B, M, `memory_dim`): keys and values come from it.

    `head_dim` and `value_dim` as in `subquad.nn.Attention`. When streaming, the memory is projected
    once and kept.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        memory_dim: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.head_dim = head_dim or divide(dim, num_heads)
        width, value_width = num_heads * self.head_dim, num_heads * (value_dim or self.head_dim)
        self.scale = self.head_dim**-0.5
        self.query = nn.Linear(dim, width, bias=bias)
        self.key = nn.Linear(memory_dim or dim, width, bias=bias)
        self.value = nn.Linear(memory_dim or dim, value_width, bias=bias)
        self.out = nn.Linear(value_width, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Cross | None = None
    ) -> tuple[Tensor, Cross | None]:
        """y (B, N, C) and, if a state came in, the state that holds the memory."""
        if state is not None and state.k is not None:
            context.check_unread()
        if state is None or state.k is None or state.v is None:
            k, v, valid = self.memory(context)
        else:
            k, v, valid = state.k, state.v, state.valid
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=x.device)
        where = Coords(zero.expand(1, 1, x.shape[1])), Coords(zero.expand(1, 1, k.shape[2]))
        drop = self.dropout if self.training else 0.0
        y = attend(q, k, v, Full(), valid=valid, where=where, dropout=drop)
        return self.output(y), None if state is None else Cross(k, v, valid)

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        k, _, valid = self.memory(context)
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        q = q if rows is None else q[:, :, rows]
        zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=x.device)
        where = Where(Coords(zero), Coords(zero.expand(1, 1, k.shape[2])), valid)
        return softmax_matrix(q, k, Full(), where, self.scale, None)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return self.memory(context)[1]

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return True

    def init_state(self, batch: int) -> Cross:
        return Cross()

    def memory(self, context: Context) -> tuple[Tensor, Tensor, Tensor | None]:
        """What is looked at: keys and values (B, H, M, ...), and which of them are real (B, M)."""
        memory, heads = context.clean_memory(), self.num_heads
        k, v = split_heads(self.key(memory), heads), split_heads(self.value(memory), heads)
        return k, v, context.memory_valid
