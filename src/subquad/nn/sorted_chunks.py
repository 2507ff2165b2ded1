"""LSH attention over sorted chunks, as in the Reformer paper: for converted checkpoints.

    y = W_o out;   out as `subquad.ops.sorted_chunks` has it: each token looks at its own chunk of
    the order by (label, position) and at the one before, in every round

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451

O(N rounds chunk D) time, O(N rounds D) memory. NOT STRICTLY CAUSAL: chunk borders depend on later
tokens.

Axes: B batch, N queries, M keys, H heads, R rounds, D head width, C model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.hashing import Hashed
from subquad.nn.position import Position
from subquad.ops.hashing import ABSENT
from subquad.ops.lsh import unit
from subquad.ops.partial import wide
from subquad.ops.sorted_chunks import Chunking, attend_chunks, last_chunks

__all__ = ["Chunking", "SortedChunkAttention"]

PAPER = Chunking()


class SortedChunkAttention(Hashed):
    """Attention inside chunks of sorted tokens. NOT STRICTLY CAUSAL, whatever `causal` says.

    With `causal` a token looks at earlier ones only, but later ones move the chunk borders, and so
    decide which; therefore it does not stream, and training it to predict leaks a little. New
    models take `HashedAttention`; this one runs what was trained this way.

    `chunks` says how long they are, and what counts inside; `position` may turn what has been
    hashed (rotary).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        rounds: int = 4,
        buckets: Sequence[int] = (16, 16),
        chunks: Chunking = PAPER,
        causal: bool = True,
        seed: int = 0,
        head_dim: int | None = None,
        bias: bool = True,
        dropout: float = 0.0,
        position: Position | None = None,
    ) -> None:
        _check_rounds(rounds)
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
        chunks.check()
        self.chunks, self.position = chunks, position or Position()
        if self.position.scores:
            raise ValueError(
                f"{type(self.position).__name__} adds to scores by distance, and sorted tokens "
                "stand at no distance: take Rotary, or positions added by the stem"
            )

    def set_rounds(self, rounds: int | None) -> None:
        """Hash in another number of rounds. ValueError for None: chunks are always hashed."""
        _check_rounds(rounds)
        super().set_rounds(rounds)

    def forward(
        self, x: Tensor, context: Context, state: None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """y (B, N, C); a state is refused.  labels (B, H, R, N): what `hash` gave."""
        if state is not None:
            raise ValueError("SortedChunkAttention sorts the whole input, so it cannot stream")
        qk, v = self.project(context.clean(x))
        out = attend_chunks(
            *self._pair(qk, context),
            v,
            self.label(qk, context, labels),
            self.chunks,
            causal=self.causal,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.output(out), None

    def weights(self, x: Tensor, context: Context, rows: Tensor | None = None) -> Tensor:
        qk, _ = self.project(context.clean(x))
        labels = self.label(qk, context, None)
        slots = torch.arange(x.shape[1], device=x.device)
        rows = slots if rows is None else rows
        times = torch.zeros((), dtype=torch.int64, device=x.device)
        chunks = [self._chunks(label) for label in labels.unbind(2)]
        ends = last_chunks(labels, self.chunks.size)
        for r, (label, chunk) in enumerate(zip(labels.unbind(2), chunks, strict=True)):
            step = chunk[..., rows, None] - chunk.unsqueeze(-2)
            held = (step == 0) | (step == 1)
            if self.chunks.circle:
                last = chunks[r - 1] == ends[:, :, r - 1, None]
                times = times + ((chunk[..., rows, None] == 0) & last.unsqueeze(-2))
            if self.chunks.same_bucket:
                held = held & (label[..., rows, None] == label.unsqueeze(-2))
            times = times + held
        away = slots < rows[:, None] if self.causal else slots != rows[:, None]
        real = labels[:, :, 0] != ABSENT
        times = times * (away & real[..., rows, None] & real.unsqueeze(-2))
        times = times.clamp(max=1) if self.chunks.count_once else times
        times = times + (slots == rows[:, None]) * (times.sum(-1, keepdim=True) == 0)
        q, k = self._pair(qk, context)
        scores = self.head_dim**-0.5 * q[:, :, rows] @ k.mT
        return (scores + times.to(scores.dtype).log()).softmax(-1)

    def _pair(self, qk: Tensor, context: Context) -> tuple[Tensor, Tensor]:
        """Queries, which are still divided by sqrt(D), and keys."""
        qk = self.position.turn(qk, context.pos)
        q = qk * self.head_dim**0.5 if self.chunks.unit_scale else qk
        if not self.chunks.key_eps:
            return q, unit(qk)
        square = qk.to(wide(qk.dtype)).square().sum(-1, keepdim=True)
        return q, qk * (square + self.head_dim * self.chunks.key_eps).rsqrt().to(qk.dtype)

    def _chunks(self, label: Tensor) -> Tensor:
        """The chunk of each token (B, H, N), by its place in the order; what is absent is last."""
        bucket = label.to(torch.int64).masked_fill(label == ABSENT, torch.iinfo(torch.int64).max)
        order = bucket.argsort(dim=-1, stable=True)
        return order.argsort(-1) // self.chunks.size


def _check_rounds(rounds: int | None) -> None:
    if rounds is None:
        raise ValueError(
            "rounds=None: sorted chunks have no full attention; HashedAttention has one, with the "
            "same weights"
        )
