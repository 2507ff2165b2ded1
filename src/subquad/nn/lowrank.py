"""Low-rank attention: keys and values are mixed over positions into a fixed number of slots.

    y = W_o softmax(q (E k)^T / sqrt(D)) (F v)      E and F learned, (S, longest input)

Wang et al., Linformer, https://arxiv.org/abs/2006.04768. O(N S) time, O(N + S) memory.

E and F are linear and so are W_k and W_v: where positions turn no keys, x is mixed first, and then
S slots are projected in place of N tokens. Padding is zero before it is mixed: it weighs nothing.

Axes: B batch, N queries, H heads, S slots, R rows asked for, D head width, C model width.
"""

import torch
from torch import Tensor, nn

from subquad.nn.attention import divide, softmax_matrix
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.nn.position import Position, PositionError
from subquad.ops.attend import attend
from subquad.ops.partial import Where
from subquad.ops.pattern import Coords
from subquad.ops.patterns import Full

__all__ = ["LowRankAttention", "Projection"]


class Projection(nn.Module):
    """A learned map over positions, from at most `max_len` tokens to `rank` slots.

    Given to several mixers, or twice to one, it is shared. Inputs shorter than `max_len` use its
    first columns. ValueError for sizes below 1.
    """

    def __init__(self, rank: int, max_len: int) -> None:
        super().__init__()
        if rank < 1 or max_len < 1:
            raise ValueError(f"rank = {rank} and max_len = {max_len}; both must be at least 1")
        self.rank, self.max_len = rank, max_len
        self.weight = nn.Parameter(torch.empty(rank, max_len))
        nn.init.normal_(self.weight, std=rank**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., N, D), zeros where there is no token, to (..., S, D)."""
        n = x.shape[-2]
        if torch.compiler.is_compiling():
            # a slice of all columns is laid out as no other is: a graph of its own
            return self.weight[:, torch.arange(n, device=x.device)] @ x
        return self.weight[:, :n] @ x


class LowRankAttention(Mixer):
    """Self-attention over slots: `project_keys` is E and `project_values` is F, perhaps the same.

    The columns of `weights` are slots, each a blend of all tokens, and no positions; `matrix` has
    one column for each token. A row may hold `max_len` tokens at most: PositionError beyond. It
    does not stream, since every slot holds the whole input.

    `position` may turn queries and keys (rotary), not add to scores: slots stand nowhere.
    ValueError if the heads do not divide the width, E and F have unequal ranks, or the position
    adds to scores.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        project_keys: Projection,
        project_values: Projection,
        *,
        position: Position | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, divide(dim, num_heads)
        self.dropout, self.scale = dropout, self.head_dim**-0.5
        self.position = position or Position()
        if self.position.scores:
            raise ValueError(
                f"{type(self.position).__name__} adds to scores by distance and slots stand "
                "nowhere: take Rotary, or positions added by the stem"
            )
        if project_keys.rank != project_values.rank:
            raise ValueError(
                f"keys are projected to {project_keys.rank} slots and values to "
                f"{project_values.rank}; the ranks must agree"
            )
        self.project_keys, self.project_values = project_keys, project_values
        self.query = nn.Linear(dim, dim, bias=bias)
        self.key = nn.Linear(dim, dim, bias=bias)
        self.value = nn.Linear(dim, dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    @property
    def max_len(self) -> int:
        """The most tokens that a row may hold."""
        return min(self.project_keys.max_len, self.project_values.max_len)

    def forward(self, x: Tensor, context: Context, state: None = None) -> tuple[Tensor, None]:
        """y (B, N, C); a state is refused."""
        if state is not None:
            raise ValueError("LowRankAttention mixes the whole length, so it cannot stream")
        if context.label is not None:
            raise ValueError(
                "low-rank attention blends all keys and cannot keep labelled documents apart; "
                "give each document a row of its own"
            )
        x = context.clean(x)
        q = self._queries(x, context)
        k, v = self._slots(*self._within(x, context))
        y = attend(
            q,
            k,
            v,
            Full(),
            where=(_nowhere(q), _nowhere(k)),
            scale=self.scale,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(y), None

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        """The matrix (B, H, N, S) over slots, or its rows (R,)."""
        q = self._queries(context.clean(x), context)
        q = q if rows is None else q[:, :, rows]
        k = self.project_keys(self._keys(*self._within(context.clean(x), context)))
        where = Where(_nowhere(q), _nowhere(k))
        return softmax_matrix(q, k, Full(), where, self.scale, None)

    def values(self, x: Tensor, context: Context) -> Tensor:
        """F v: (B, H, S, D)."""
        return self.project_values(self._values(*self._within(context.clean(x), context)))

    def columns(self, x: Tensor, context: Context) -> Tensor:
        return torch.full((self.project_values.rank,), -1, device=x.device)

    def matrix(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        """`weights` F, one column for each token: (B, H, N, N), of either sign, 0 for padding.

        What multiplies the values before they are projected: the picture of this mixer.
        """
        short, at = self._within(x, context)
        blend = short.new_zeros(x.shape[0], 1, self.project_values.rank, x.shape[1])
        blend[..., : short.shape[1]] = self.project_values.weight[:, : short.shape[1]]
        if at.valid is not None:
            blend[..., : short.shape[1]] *= at.valid[:, None, None]
        return self.weights(x, context, rows) @ blend

    def token_values(self, x: Tensor, context: Context) -> Tensor:
        """What `matrix` is multiplied with: v (B, H, N, D), zeros for padding."""
        return self._values(context.clean(x), context)

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    def _within(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        """x (B, N, C) and its context without the padding that stands beyond all columns."""
        longest = self.max_len
        if x.shape[1] <= longest:
            return x, context
        valid = context.valid
        if valid is None or valid[:, longest:].any():
            count = x.shape[1] if valid is None else int(valid.sum(1).max())
            raise PositionError(
                f"a row of {count} tokens, but projections over positions are learned up to "
                f"max_len = {longest}; cut the input or build with a larger max_len"
            )
        return x[:, :longest], context.rows(torch.arange(longest, device=x.device))

    def _slots(self, x: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """E k and F v, (B, H, S, D) each, the cheaper product of each first."""
        # one graph for every length
        few = not torch.compiler.is_compiling() and x.shape[1] <= self.project_keys.rank
        turns = type(self.position).turn is not Position.turn
        mixed = None
        if few or turns:
            k = self.project_keys(self._keys(x, context))
        else:
            mixed = self.project_keys(x)
            k = self._after(self.key, mixed, self.project_keys, x, context)
        if few:
            return k, self.project_values(self._values(x, context))
        if mixed is None or self.project_values is not self.project_keys:
            mixed = self.project_values(x)
        return k, self._after(self.value, mixed, self.project_values, x, context)

    def _after(
        self, linear: nn.Linear, mixed: Tensor, over: Projection, x: Tensor, context: Context
    ) -> Tensor:
        """What `over` makes of linear(x), from `mixed` (B, S, C), what it makes of x."""
        y = linear(mixed)
        if linear.bias is not None:
            # every token brings the bias once, and every slot holds tokens by their columns
            one = (
                x.new_ones(1, x.shape[1], 1) if context.valid is None else context.valid[..., None]
            )
            y = y + (over(one.to(x.dtype)) - 1) * linear.bias
        return split_heads(y, self.num_heads)

    def _queries(self, x: Tensor, context: Context) -> Tensor:
        return self.position.turn(split_heads(self.query(x), self.num_heads), context.pos)

    def _keys(self, x: Tensor, context: Context) -> Tensor:
        k = split_heads(context.clean(self.key(x)), self.num_heads)
        return self.position.turn(k, context.pos)

    def _values(self, x: Tensor, context: Context) -> Tensor:
        return split_heads(context.clean(self.value(x)), self.num_heads)


def _nowhere(t: Tensor) -> Coords:
    """Coordinates of queries or slots (B, H, N, D) that no distance tells apart."""
    zero = torch.zeros(1, 1, 1, dtype=torch.int64, device=t.device)
    return Coords(zero.expand(1, 1, t.shape[2]))
