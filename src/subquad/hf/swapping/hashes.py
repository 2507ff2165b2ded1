"""Hashed attention inside a pretrained model: `subquad swap --mixer lsh`.

    out_i = sum_{j in A(i)} softmax_j(scale q_i . k_j) v_j,    A(i): `subquad.ops.alike`

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451, with the scores that the model
has: its queries are not its keys, as the Reformer's are. Both are hashed by the same rotations, so
that a key that points where a query points is likely to be found. A key counts by its direction
alone then, though long keys have large scores; what is missed is for recovery to make up, or for
layers that stay exact.

Axes: B batch, N queries, M keys, H heads, G key heads, D head width, K listed keys.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from subquad.hf.swapping.parts import Call
from subquad.hf.swapping.replacements import Replacement
from subquad.ops.alike import alike
from subquad.ops.attend import attend
from subquad.ops.gather import gather_listed
from subquad.ops.hashing import check_buckets, hash_labels, rotations
from subquad.ops.lsh import check_window
from subquad.ops.partial import EMPTY, Partial, Scoring, Where
from subquad.ops.pattern import Pattern
from subquad.ops.patterns import Full

__all__ = ["Hashes", "Hashing"]


@dataclass(frozen=True)
class Hashes(Replacement):
    """Keys of a query's bucket, in any of `rounds` hashes, and its own.

    buckets: even factors of their number.  window: keys of a bucket, the nearest before a query
    (and after it, where a model looks both ways).  seed: each layer draws its own rotations from
    it. A stream keeps all keys. ValueError for an odd factor, no round or no window.
    """

    rounds: int = 4
    buckets: tuple[int, ...] = (16,)
    window: int = 32
    seed: int = 0
    kind: ClassVar[str] = "hashes"

    def __post_init__(self) -> None:
        object.__setattr__(self, "buckets", tuple(self.buckets))  # JSON has lists
        check_buckets(self.buckets)
        check_window(self.window)
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, not {self.rounds}")

    def build(self, num_heads: int, head_dim: int, index: int) -> nn.Module:
        return Hashing(self, head_dim, self.seed + 1_000_003 * index)


class Hashing(nn.Module):
    """Exact attention to the keys that hashing lists; rotations come from a seed and are saved."""

    directions: Tensor

    def __init__(self, made: Hashes, head_dim: int, seed: int) -> None:
        super().__init__()
        self.made = made
        drawn = rotations(made.rounds, made.buckets, head_dim, seed)
        # where torch makes parameters by default: a model may be built on the meta device
        self.register_buffer("directions", drawn.to(torch.get_default_device()))

    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, None]:
        """out (B, H, N, D) of q (B, H, N, D) at the end of k and v (B, G, M, D), and no sums."""
        call.check(None, 0)
        listed = self.keys(q, k, call)

        def engine(
            q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
        ) -> Partial:
            return gather_listed(q, k, v, listed, where, scoring)

        how = {"scale": call.scale, "dropout": call.dropout}
        return attend(q, k, v, Full(), valid=call.valid, engine=engine, **how), None

    def keys(self, q: Tensor, k: Tensor, call: Call) -> Tensor:
        """The slots of the keys that queries look at, (B, H, N, K), -1 for none."""
        how = self.directions, self.made.buckets
        mine, labels = hash_labels(q, *how), hash_labels(k, *how, call.valid)
        labels = labels.repeat_interleave(q.shape[1] // k.shape[1], 1)
        return alike(mine, labels, self.made.window, causal=call.causal)

    def weights(self, q: Tensor, k: Tensor, call: Call, rows: Tensor) -> Tensor:
        """Rows (R,) of the matrix that forward multiplies by: (B, H, R, M)."""
        listed, m = self.keys(q, k, call)[:, :, rows], k.shape[2]
        seen = torch.zeros(*listed.shape[:3], m + 1, dtype=torch.bool, device=q.device)
        # what is no key stands behind the last, and is cut off
        seen = seen.scatter_(-1, torch.where(listed < 0, m, listed), True)[..., :m]
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = call.scale * (q[:, :, rows] @ k.mT)
        return scores.masked_fill(~seen, EMPTY).softmax(-1) * seen
