"""Attention: softmax attention of tokens among themselves, over a pattern.

    y = W_o softmax(scale q k^T + distance) v      over the keys that the pattern allows

O(N reach) time for patterns of finite reach, O(N^2) otherwise; memory O(N) either way.

Axes: B batch, N queries, M keys, H heads, G key heads, R rows, D head width, C model width.
"""

import torch
from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, check_state, merge_heads, split_heads
from subquad.nn.past import KV, Memory, Past, Seen
from subquad.nn.position import Position
from subquad.ops.attend import Engine, attend
from subquad.ops.later import behind, forgets, later, step
from subquad.ops.lowering import without
from subquad.ops.partial import EMPTY, Distance, Where
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Window

__all__ = ["Attention"]


class Attention(Mixer):
    """Self-attention over a pattern. It streams if the pattern never looks ahead, or by
    chunks (`step`) if it looks no farther than its own.

    The state holds the keys and values that later queries may reach: all for `Causal()`, the last
    `behind` (and the marked ones) for windows; in training a Memory of layer inputs stands for it.
    `num_kv_heads` below `num_heads` shares keys among heads; `head_dim` is the width of a query and
    key, `value_dim` that of a value, each by default the head's share. ValueError if the heads do
    not divide the width.
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
        value_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        engine: Engine | None = None,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_dim = head_dim or divide(dim, num_heads)
        self.value_dim = value_dim or self.head_dim
        divide(num_heads, self.num_kv_heads)
        self.pattern, self.dropout, self.engine = pattern, dropout, engine
        self.position = position or Position()
        self.scale = self.head_dim**-0.5
        self.query: nn.Module = nn.Linear(dim, num_heads * self.head_dim, bias=bias)
        self.key: nn.Module = nn.Linear(dim, self.num_kv_heads * self.head_dim, bias=bias)
        self.value = nn.Linear(dim, self.num_kv_heads * self.value_dim, bias=bias)
        self.out = nn.Linear(num_heads * self.value_dim, dim, bias=bias)

    def forward(
        self, x: Tensor, context: Context, state: Past | None = None
    ) -> tuple[Tensor, Past | None]:
        """y (B, N, C) and, if a state came in, the state after these tokens."""
        x = context.clean(x)
        seen, after = self.remember(x, context, state)
        y = self.output(self.look(x, context, seen))
        if after is not None:
            rest = without(self.sight, labels=True, marks=False)
            tail = 0 if rest is None else self._tail(rest, context)
            needed = self._needed(rest, after)
            after = after.trim(tail, context.valid is not None, needed)
        return y, after

    def remember(self, x: Tensor, context: Context, state: Past | None) -> tuple[Seen, Past | None]:
        """What queries at x (B, N, C), clean, may look at, and the state with these tokens."""
        if state is None:
            return Seen(*self._keys(x, context), context.coords(), context.valid), None
        check_state(self, state, Past)
        seen, after = state.extend(x, context, self._keys)
        if state.count == 0:
            # not the row of positions per batch that a state keeps, but the context's own
            seen = seen._replace(at=context.coords(), valid=context.valid)
        return seen, after

    def look(self, x: Tensor, context: Context, seen: Seen) -> Tensor:
        """What the tokens x (B, N, C), clean, the last ones seen, find: (B, H, N, D)."""
        if seen.at.mark is not None and seen.k.shape[2] > x.shape[1] and self.position.scores:
            raise ValueError(
                f"{type(self.position).__name__} scores distances, and a stream with marked "
                "tokens keeps tokens from far apart; take rotary positions"
            )
        # one object for both where queries are the very keys: so engines know causal goes by slot
        at = seen.at if seen.k.shape[2] == x.shape[1] else context.coords()
        q, sight = self._queries(x, context), self.sight
        q, distance = self.position.lower(q, self.scale, *_span(sight, seen.k.shape[2]), x)
        return attend(
            q,
            seen.k,
            seen.v,
            sight,
            valid=seen.valid,
            where=(at, seen.at),
            distance=distance,
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
            engine=self.engine,
        )

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        x = context.clean(x)
        seen = Seen(*self._keys(x, context), context.coords(), context.valid)
        return self.weights_of(x, context, seen, rows)

    def weights_of(
        self, x: Tensor, context: Context, seen: Seen, rows: Tensor | None = None
    ) -> Tensor:
        """The matrix that `look` multiplies by, (B, H, N, M), or its rows (R,)."""
        q = self._queries(x, context)
        # over the whole pattern: what `sight` leaves out must come out as zero
        q, distance = self.position.lower(q, self.scale, *_span(self.pattern, seen.k.shape[2]), x)
        rows = torch.arange(x.shape[1], device=x.device) if rows is None else rows
        where = Where(context.rows(rows).coords(), seen.at, seen.valid)
        distance = None if distance is None else distance.rows(rows)
        return softmax_matrix(q[:, :, rows], seen.k, self.pattern, where, self.scale, distance)

    def values(self, x: Tensor, context: Context) -> Tensor:
        v = self._keys(context.clean(x), context)[1]
        return v.repeat_interleave(self.num_heads // self.num_kv_heads, 1)

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    @property
    def streams(self) -> bool:
        return self.step == 1

    @property
    def step(self) -> int | None:
        return step(self.pattern)

    @property
    def sight(self) -> Pattern:
        """The pattern, no farther than the position reaches now."""
        far = self.position.reach()
        return self.pattern if far is None else self.pattern & Window(far, far)

    def init_state(self, batch: int) -> KV:
        self._check_streams()
        widths = (self.head_dim, self.value_dim)
        return KV.empty(batch, self.num_kv_heads, widths, self.value.weight)

    def init_memory(self, batch: int) -> Past:
        self._check_streams()
        return Memory.empty(batch, self.value.in_features, self.value.weight)

    def _check_streams(self) -> None:
        if self.step is None:
            raise ValueError(f"attention over {self.pattern} looks ahead, so it cannot stream")

    def _queries(self, x: Tensor, context: Context) -> Tensor:
        return self.position.turn(split_heads(self.query(x), self.num_heads), context.pos)

    def _keys(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        k = split_heads(self.key(x), self.num_kv_heads)
        v = split_heads(self.value(x), self.num_kv_heads)
        return self.position.turn(k, context.pos), v

    def _tail(self, rest: Pattern, context: Context) -> int | None:
        """How many tokens back from here later queries may look, if bounded."""
        known = context.valid is None and context.pos.shape[1] > 0
        if not known or torch.compiler.is_compiling():
            return rest.reach()[0]
        return behind(rest, context.pos[:, -1] + 1)

    def _needed(self, rest: Pattern | None, after: Past) -> Tensor | None:
        """Which kept tokens (B or 1, M) later queries may look at, if not all, nor by reach alone.

        Positions that score distances need them without gaps, and so does a graph.
        """
        if rest is None or rest.reach()[0] is not None or not forgets(rest):
            return None
        if self.position.scores or torch.compiler.is_compiling() or after.count == 0:
            return None
        pos = after.pos if after.valid is None else after.pos.masked_fill(~after.valid, -1)
        needed = later(rest, after.coords(), pos.amax(1)[:, None, None] + 1).any(1)
        return None if needed.all() else needed


def softmax_matrix(
    q: Tensor, k: Tensor, pattern: Pattern, where: Where, scale: float, distance: Distance | None
) -> Tensor:
    """softmax(scale q k^T + distance) over allowed pairs: (B, H, N, M); empty rows are 0."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = scale * torch.einsum("bhnd,bhmd->bhnm", q, k)
    if distance is not None:
        scores = scores + distance.scores(where.distances())
    # a bias of EMPTY forbids as well
    allowed = where.allowed(pattern) & ~(scores < EMPTY / 2)
    scores = scores.masked_fill(~allowed, -torch.inf)
    some = allowed.any(-1, keepdim=True)
    return scores.masked_fill(~some, 0.0).softmax(-1) * some


def _span(pattern: Pattern, keys: int) -> tuple[int, int]:
    """The farthest distances that can meet among this many keys."""
    behind, ahead = pattern.reach()
    far = max(keys - 1, 0)
    return min(far if behind is None else behind, far), min(far if ahead is None else ahead, far)


def divide(whole: int, parts: int) -> int:
    """whole / parts. ValueError if it does not divide."""
    if parts < 1 or whole % parts:
        raise ValueError(f"{parts} heads do not divide {whole}; choose a divisor of {whole}")
    return whole // parts
