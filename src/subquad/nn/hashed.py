"""LSH attention: every token looks at the last few tokens whose vectors point the same way.

    y = W_o out,   out_i = sum_{j in A(i)} softmax_j(q_i . k_j / sqrt(D)) v_j,   k_j = q_j / |q_j|
    A(i) = union over rounds of the last w earlier tokens in i's bucket, or {i} if there are none

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451

O(N (sum(buckets) + rounds window) D) time, O(N (D + rounds)) memory. Ours differs: windows slide
inside each bucket, so that no token depends on a later one and the mixer streams exactly
(`subquad.nn.sorted_chunks` has the paper's chunks); rotations come from a seed and are saved.

Axes: B batch, N queries, M keys, H heads, R rounds, D head width, C model width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.hashing import Hashed
from subquad.nn.mixer import check_state
from subquad.nn.state import register
from subquad.ops.hashing import ABSENT, runs
from subquad.ops.lsh import attend_labels, check_window, unit

__all__ = ["HashedAttention", "HashedPast"]


class HashedAttention(Hashed):
    """Attention to the last `window` tokens of the same bucket, in any of `rounds` hashes.

    With `causal` it looks back only and streams; otherwise it looks at `window` tokens on each
    side. `buckets` are even factors of their number. `set_rounds` hashes in another number of
    rounds, or looks at everything (None), with the same weights. The state keeps at most
    rounds x prod(buckets) x window tokens a head (`limit`): those that a later token may see.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        rounds: int | None = 4,
        buckets: Sequence[int] = (16, 16),
        window: int = 64,
        causal: bool = True,
        seed: int = 0,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            rounds,
            buckets,
            head_dim=head_dim,
            causal=causal,
            seed=seed,
            bias=bias,
            dropout=dropout,
        )
        check_window(window)
        self.window = window

    def forward(
        self,
        x: Tensor,
        context: Context,
        state: "HashedPast | None" = None,
        labels: Tensor | None = None,
    ) -> tuple[Tensor, "HashedPast | None"]:
        """y (B, N, C) and, if a state came in, the state after these tokens.

        labels: what `hash` gave for these tokens, (B, H, R, N); by default they are hashed here.
        """
        qk, v = self.project(context.clean(x))
        labels = self.label(qk, context, labels)
        after = None
        if state is not None:
            check_state(self, state, HashedPast)
            if context.label is not None:
                raise ValueError(
                    "a stream of hashed attention cannot keep labelled documents apart, its state "
                    "would grow with their number; give each document a state of its own"
                )
            after = state.append(qk, v, labels)
            qk, v, labels = after.qk, after.v, after.labels
        out = attend_labels(
            qk,
            v,
            labels,
            self.reach,
            queries=x.shape[1],
            causal=self.causal,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(out), None if after is None else after.trim(self.window, self.limit)

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        qk, _ = self.project(context.clean(x))
        labels = self.label(qk, context, None)
        rows = torch.arange(x.shape[1], device=x.device) if rows is None else rows
        near = self._near(labels, rows)
        scores = self.head_dim**-0.5 * qk[:, :, rows] @ unit(qk).mT
        return scores.masked_fill(~near, -torch.inf).softmax(-1)

    @property
    def reach(self) -> int | None:
        """How many tokens of a bucket are seen; None for all."""
        return None if self.rounds is None else self.window

    @property
    def limit(self) -> int | None:
        """The most tokens that a state keeps for a head; None: all."""
        return None if self.rounds is None else self.rounds * prod(self.buckets) * self.window

    @property
    def streams(self) -> bool:
        return self.causal

    def init_state(self, batch: int) -> "HashedPast":
        if not self.causal:
            raise ValueError("hashed attention with causal=False looks ahead, so it cannot stream")
        like = self.value.weight
        none = like.new_zeros(batch, self.num_heads, 0, self.head_dim)
        rounds = 1 if self.rounds is None else self.rounds
        return HashedPast(
            none, none, none.new_zeros(batch, self.num_heads, rounds, 0, dtype=torch.int32)
        )

    def _near(self, labels: Tensor, rows: Tensor) -> Tensor:
        """Which tokens are in A(i), by counting: (B, H, N, M)."""
        slots = torch.arange(labels.shape[-1], device=labels.device)
        at = slots == rows[:, None]
        near = torch.zeros((), dtype=torch.bool, device=labels.device)
        for label in labels.unbind(2):
            mine, label = label[..., rows, None], label.unsqueeze(-2)
            same = (label == mine) & (label != ABSENT)
            sides = [(same & (slots < rows[:, None])).flip(-1)]
            sides += [] if self.causal else [same & (slots > rows[:, None])]
            for side, flip in zip(sides, (True, False), strict=False):
                near_side = side & (side.cumsum(-1) <= (self.reach or len(slots)))
                near = near | (near_side.flip(-1) if flip else near_side)
        return near | (at & ~near.any(-1, keepdim=True))


@register
@dataclass(frozen=True)
class HashedPast:
    """Tokens that later ones may see, once for all rounds, other ones in each head.

    qk, v (B, H, M, D) in order; labels (B, H, R, M) int32, ABSENT in slots that hold none.
    """

    qk: Tensor
    v: Tensor
    labels: Tensor

    def append(self, qk: Tensor, v: Tensor, labels: Tensor) -> "HashedPast":
        """This state followed by new tokens. ValueError if rows or rounds do not agree."""
        for what, axis in (("rows", 0), ("rounds", 2)):
            mine, new = self.labels.shape[axis], labels.shape[axis]
            if mine != new:
                raise ValueError(
                    f"the state holds {mine} {what} and the call has {new}; they must agree: "
                    "start from a fresh state"
                )
        qk, v = (torch.cat(pair, 2) for pair in ((self.qk, qk), (self.v, v)))
        return HashedPast(qk, v, torch.cat((self.labels, labels.to(torch.int32)), 3))

    def trim(self, window: int, limit: int | None) -> "HashedPast":
        """Without the tokens that no later one sees, if there are more than `limit`."""
        b, h, rounds, m = self.labels.shape
        if limit is None or m <= limit:
            return self
        keep = torch.zeros(b * h * m, dtype=torch.bool, device=self.qk.device)
        for label in self.labels.unbind(2):
            order = runs(label.reshape(b * h, m))
            place = torch.arange(b * h * m, device=self.qk.device)
            keep[order.token[(order.stop - place <= window) & order.real]] = True
        keep = keep.view(b, h, m)
        width = int(keep.sum(-1).max())
        slots = keep.to(torch.int8).argsort(dim=-1, stable=True)[..., m - width :]
        labels = self.labels.masked_fill(~keep.unsqueeze(2), ABSENT)
        rows = slots.unsqueeze(-1).expand(-1, -1, -1, self.qk.shape[-1])
        return HashedPast(
            self.qk.gather(2, rows),
            self.v.gather(2, rows),
            labels.gather(3, slots.unsqueeze(2).expand(-1, -1, rounds, -1)),
        )
