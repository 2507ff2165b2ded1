"""Attention with global tokens that have projections of their own (Longformer, section 3.1).

    unmarked query:  softmax over [its window | marked keys] of q k^T, times v
    marked query:    softmax over all keys of q_g k_g^T, times v_g

Beltagy et al., 2020, https://arxiv.org/abs/2004.05150. O(N (reach + marks)) time, O(N) memory.
Since rows use different values, the matrix has two columns for each token: v, then v_g.

Axes: B batch, N queries, M keys, H heads, R rows, D head width, C model width.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from subquad.nn.attention import Attention, softmax_matrix
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.nn.position import Position
from subquad.ops.attend import attend
from subquad.ops.marked import rows as marked_rows
from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Marked, SameLabel

__all__ = ["MarkedAttention"]


class MarkedAttention(Mixer):
    """`Attention` over `local | Marked()`, whose marked queries use projections of their own.

    Labelled documents stay apart.
    Marks come with the context (`Context.mark`), per example; without any this is `local` alone.
    Only rotary positions apply: a marked query meets keys at any distance. It does not stream: a
    marked query looks ahead.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        local: Pattern,
        *,
        position: Position | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        pattern = (local | Marked()) & SameLabel()
        self.inner = Attention(
            dim, num_heads, pattern, position=position, bias=bias, dropout=dropout
        )
        if self.inner.position.scores:
            raise ValueError(
                f"{type(position).__name__} adds to scores; marked tokens take rotary positions, "
                "or positions added by the stem"
            )
        self.num_heads, self.head_dim = num_heads, self.inner.head_dim
        width = num_heads * self.head_dim
        self.query = nn.Linear(dim, width, bias=bias)
        self.key = nn.Linear(dim, width, bias=bias)
        self.value = nn.Linear(dim, width, bias=bias)

    def forward(self, x: Tensor, context: Context, state: None = None) -> tuple[Tensor, None]:
        """y (B, N, C); a state is refused."""
        if state is not None:
            raise ValueError("MarkedAttention looks ahead, so it cannot stream")
        mark = context.mark
        if mark is None:
            if not self.training:
                return self.inner(x, context)
            # every parameter takes part in every step, or replicas could not agree on gradients
            mark = torch.zeros_like(x[..., 0], dtype=torch.bool)
            context = replace(context, mark=mark)
        x = context.clean(x)
        q = self.inner._queries(x, context)
        k, v = self.inner._keys(x, context)
        at = context.coords()
        # marked queries get their rows below, so here only keys count as marked
        plain = at._replace(mark=torch.zeros_like(mark[:, None]))
        rate = self.inner.dropout if self.training else 0.0
        local = attend(
            q,
            k,
            v,
            self.inner.pattern,
            valid=context.valid,
            where=(plain, at),
            scale=self.inner.scale,
            dropout=rate,
        )
        whole = marked_rows(
            *self._project(x, context),
            mark[:, None],
            SameLabel(),
            Where(at, at, context.valid),
            Scoring(self.inner.scale, None, rate, torch.randint(2**31, (), device=x.device)),
        ).out
        return self.output(torch.where(mark[:, None, :, None], whole, local)), None

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        rows = torch.arange(x.shape[1], device=x.device) if rows is None else rows
        if context.mark is None:
            near = self.inner.weights(x, context, rows)
            return torch.cat((near, torch.zeros_like(near)), -1)
        marked = context.mark[:, None, rows, None]
        near = self.inner.weights(x, context, rows)
        q, k, _ = self._project(context.clean(x), context)
        where = Where(context.rows(rows).coords(), context.coords(), context.valid)
        far = softmax_matrix(q[:, :, rows], k, SameLabel(), where, self.inner.scale, None)
        return torch.cat((near * ~marked, far * marked), -1)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return torch.cat((self.inner.values(x, context), self._values(x, context)), 2)

    def columns(self, x: Tensor, context: Context) -> Tensor:
        slots = torch.arange(x.shape[1], device=x.device)
        return torch.cat((slots, slots))

    def output(self, mixed: Tensor) -> Tensor:
        return self.inner.out(merge_heads(mixed))

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            split_heads(part(x), self.inner.num_heads)
            for part in (self.query, self.key, self.value)
        )
        turn = self.inner.position.turn
        return turn(q, context.pos), turn(k, context.pos), v

    def _values(self, x: Tensor, context: Context) -> Tensor:
        return split_heads(self.value(context.clean(x)), self.inner.num_heads)
