"""Attention mixers: softmax attention over a pattern, of tokens among themselves or over a memory.

    y = W_o softmax(scale q k^T + distance) v      over the keys that the pattern allows

O(N reach) time for patterns of finite reach, O(N^2) otherwise; memory O(N) either way.

Axes: B batch, N queries, M keys, H heads, G key heads, R rows, D head width, C model width.
"""

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.nn.position import Position
from subquad.nn.state import KV, Cross
from subquad.ops.attend import Engine, attend
from subquad.ops.lowering import without
from subquad.ops.partial import Distance, Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.patterns import Full

__all__ = ["Attention", "CrossAttention"]


class Attention(Mixer):
    """Self-attention over a pattern. It streams if the pattern never looks ahead.

    The state holds the keys and values that later queries may reach: all for `Causal()`, the last
    `behind` (and the marked ones) for windows. `num_kv_heads` below `num_heads` shares keys among
    heads. ValueError if the heads do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        pattern: Pattern,
        *,
        position: Position | None = None,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim = head_dim or divide(dim, num_heads)
        divide(num_heads, self.num_kv_heads)
        self.pattern, self.dropout, self.engine = pattern, dropout, engine
        self.position = position or Position()
        self.scale = self.head_dim**-0.5
        self.query = nn.Linear(dim, num_heads * self.head_dim, bias=bias)
        self.key = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.out = nn.Linear(num_heads * self.head_dim, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: KV | None = None
    ) -> tuple[Tensor, KV | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens."""
        q, k, v = self._project(context.clean(x), context)
        at = context.coords()
        kept = KV.empty(len(x), 1, (0, 0), k) if state is None else state
        if kept.k.shape[2] == 0:
            # the very same coordinates on both sides tell engines that causal means by slot
            q_at, k_at, valid = at, at, context.valid
            full = None if state is None else state.append(k, v, at, context.valid)
        else:
            full = kept.append(k, v, at, context.valid)
            k, v, valid, k_at = full.k, full.v, full.valid, full.coords()
            q_at = Coords(at.pos, at.label, None if full.mark is None else at.mark)
            if full.mark is not None and self.position.scores:
                raise ValueError(
                    f"{type(self.position).__name__} scores distances, and a stream with marked "
                    "tokens keeps tokens from far apart; take rotary positions"
                )
        q, distance = self.position.lower(q, self.scale, *self._span(k.shape[2]))
        y = attend(
            q,
            k,
            v,
            self.pattern,
            valid=valid,
            where=(q_at, k_at),
            distance=distance,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            engine=self.engine,
        )
        if full is not None:
            full = full.trim(self._behind(), ragged=context.valid is not None)
        return self.output(y), full

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(context.clean(x), context)
        q, distance = self.position.lower(q, self.scale, *self._span(k.shape[2]))
        rows = torch.arange(x.shape[1], device=x.device) if rows is None else rows
        at = context.coords()
        where = Where(context.rows(rows).coords(), at, context.valid)
        return softmax_matrix(
            q[:, :, rows], k, self.pattern, where, self.scale, _rows(distance, rows)
        )

    def values(self, x: Tensor, context: Context) -> Tensor:
        v = self._project(context.clean(x), context)[2]
        return v.repeat_interleave(self.num_heads // self.num_kv_heads, 1)

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        ahead = self.pattern.reach()[1]
        return ahead is not None and ahead <= 0

    def init_state(self, batch: int) -> KV:
        if not self.streams:
            raise ValueError(f"attention over {self.pattern} looks ahead, so it cannot stream")
        widths = (self.head_dim, self.head_dim)
        return KV.empty(batch, self.num_kv_heads, widths, self.key.weight)

    def _project(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        q = split_heads(self.query(x), self.num_heads)
        k = split_heads(self.key(x), self.num_kv_heads)
        v = split_heads(self.value(x), self.num_kv_heads)
        return self.position.turn(q, context.pos), self.position.turn(k, context.pos), v

    def _behind(self) -> int | None:
        """How far back later queries reach, marked keys apart."""
        rest = without(self.pattern, labels=True, marks=False)
        return 0 if rest is None else rest.reach()[0]

    def _span(self, keys: int) -> tuple[int, int]:
        """The farthest distances that can meet among this many keys."""
        behind, ahead = self.pattern.reach()
        far = max(keys - 1, 0)
        return min(far if behind is None else behind, far), min(
            far if ahead is None else ahead, far
        )


class CrossAttention(Mixer):
    """Attention of tokens over `Context.memory` (B, M, `memory_dim`): keys and values come from it.

    When streaming, the memory is projected once and kept.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        memory_dim: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.head_dim = head_dim or divide(dim, num_heads)
        width = num_heads * self.head_dim
        self.scale = self.head_dim**-0.5
        self.query = nn.Linear(dim, width, bias=bias)
        self.key = nn.Linear(memory_dim or dim, width, bias=bias)
        self.value = nn.Linear(memory_dim or dim, width, bias=bias)
        self.out = nn.Linear(width, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Cross | None = None
    ) -> tuple[Tensor, Cross | None]:
        """y (B, N, C) and, if a state came in, the state that holds the memory."""
        if state is None or state.k is None or state.v is None:
            k, v = self._memory(context)
            valid = context.memory_valid
        else:
            k, v, valid = state.k, state.v, state.valid
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=x.device)
        where = Coords(zero.expand(1, 1, x.shape[1])), Coords(zero.expand(1, 1, k.shape[2]))
        drop = self.dropout if self.training else 0.0
        y = attend(q, k, v, Full(), valid=valid, where=where, dropout=drop)
        return self.output(y), None if state is None else Cross(k, v, valid)

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        k, _ = self._memory(context)
        q = split_heads(self.query(context.clean(x)), self.num_heads)
        q = q if rows is None else q[:, :, rows]
        zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=x.device)
        where = Where(Coords(zero), Coords(zero.expand(1, 1, k.shape[2])), context.memory_valid)
        return softmax_matrix(q, k, Full(), where, self.scale, None)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return self._memory(context)[1]

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return True

    def init_state(self, batch: int) -> Cross:
        return Cross()

    def _memory(self, context: Context) -> tuple[Tensor, Tensor]:
        memory = context.clean_memory()
        heads = self.num_heads
        return split_heads(self.key(memory), heads), split_heads(self.value(memory), heads)


def softmax_matrix(
    q: Tensor, k: Tensor, pattern: Pattern, where: Where, scale: float, distance: Distance | None
) -> Tensor:
    """softmax(scale q k^T + distance) over allowed pairs: (B, H, N, M); empty rows are 0."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = scale * torch.einsum("bhnd,bhmd->bhnm", q, k)
    if distance is not None:
        scores = scores + distance.scores(where.distances())
    allowed = where.allowed(pattern)
    scores = scores.masked_fill(~allowed, -torch.inf)
    some = allowed.any(-1, keepdim=True)
    return scores.masked_fill(~some, 0.0).softmax(-1) * some


def divide(whole: int, parts: int) -> int:
    """whole / parts. ValueError if it does not divide."""
    if parts < 1 or whole % parts:
        raise ValueError(f"{parts} heads do not divide {whole}; choose a divisor of {whole}")
    return whole // parts


def _rows(distance: Distance | None, rows: Tensor) -> Distance | None:
    if distance is None or distance.query is None:
        return distance
    return Distance(distance.query[:, :, rows], *distance[1:])
