"""Convolutional attention: a query and a key know the shape of what came just before them.

    q_n = sum_t Q_t x_(n - t),  k_n = sum_t K_t x_(n - t)      t = 0 .. K - 1,  v_n = V x_n

Li et al., 2019, https://arxiv.org/abs/1907.00235, section 4.1. A kernel of 1 is plain attention.
Time O(N K C^2) beside attention's own, memory O(N).
Ours differs: streams exactly; beside keys and values the state holds the last K - 1 inputs.

Axes: B batch, N queries, M keys, H heads, R rows, K taps, D head width, C model width.
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from subquad.nn.attention import Attention
from subquad.nn.context import Context
from subquad.nn.conv import CausalConv, Tail
from subquad.nn.mixer import check_state, split_heads
from subquad.nn.past import KV, Past
from subquad.nn.position import Position
from subquad.nn.state import register
from subquad.ops.attend import Engine
from subquad.ops.pattern import Pattern

__all__ = ["ConvAttention", "KVTail"]


@register
@dataclass(frozen=True, kw_only=True)
class KVTail(KV):
    """Keys and values, and the last inputs of the convolutions that make keys and queries."""

    tail: Tail


class ConvAttention(Attention):
    """Self-attention over a pattern, its queries and keys from causal convolutions of `kernel` taps
    over all channels. It streams if the pattern never looks ahead.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        kernel: int,
        position: Position | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        engine: Engine | None = None,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            pattern,
            position=position,
            bias=bias,
            dropout=dropout,
            engine=engine,
        )
        self.kernel = kernel
        self.query = CausalConv(dim, dim, kernel, bias=bias)
        self.key = CausalConv(dim, dim, kernel, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Past | None = None
    ) -> tuple[Tensor, Past | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens.

        ValueError for packed documents, which a convolution would mix.
        """
        x = context.clean(x)
        if state is None:
            return super().forward(self._project(x, context), context)
        check_state(self, state, KVTail)
        assert isinstance(state, KVTail)
        y, after = super().forward(self._project(x, context, state.tail.x), context, state)
        assert isinstance(after, KVTail)
        return y, replace(after, tail=state.tail.follow(x, context.valid))

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        return super().weights(self._project(context.clean(x), context), context, rows)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return super().values(self._project(context.clean(x), context), context)

    def init_state(self, batch: int) -> KVTail:
        kv, width = super().init_state(batch), self.value.in_features
        tail = Tail(self.value.weight.new_zeros(batch, self.kernel - 1, width))
        return KVTail(**{f.name: getattr(kv, f.name) for f in fields(kv)}, tail=tail)

    def init_memory(self, batch: int) -> KVTail:
        # not layer inputs: the first ones kept would lack those that came before them
        return self.init_state(batch)

    def _project(self, x: Tensor, context: Context, past: Tensor | None = None) -> Tensor:
        """Queries, keys and values of x (B, N, C), clean, side by side: (B, N, 3 C)."""
        if context.label is not None and self.kernel > 1:
            raise ValueError(
                "a convolution does not keep packed documents apart: give each document a row of "
                "its own, or take kernel 1"
            )
        return torch.cat((self.query(x, past), self.key(x, past), self.value(x)), -1)

    # what attention reads from here on is what was projected

    def _queries(self, x: Tensor, context: Context) -> Tensor:
        q = split_heads(x.chunk(3, -1)[0], self.num_heads)
        return self.position.turn(q, context.pos)

    def _keys(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        k, v = (split_heads(part, self.num_heads) for part in x.chunk(3, -1)[1:])
        return self.position.turn(k, context.pos), v
