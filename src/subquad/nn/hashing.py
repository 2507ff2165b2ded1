"""What mixers by hashing share: one projection for queries and keys, values, and the hash.

    k_j = q_j / |q_j|,   label_r(i) = argmax [q_i R_r; -q_i R_r]

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451

Rotations come from a seed, are the same for all heads and are saved with the weights. Labels are
decided without gradient and can be handed from one run of a layer to the next.

Axes: B batch, N tokens, H heads, R rounds, D head width, C model width.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from subquad.nn.attention import divide
from subquad.nn.context import Context
from subquad.nn.mixer import Mixer, merge_heads, split_heads
from subquad.ops.hashing import ABSENT, hash_labels, rotations

__all__ = ["Hashed"]


class Hashed(Mixer):
    """Base of the mixers that hash; `rounds` None puts all tokens into one bucket.

    ValueError for a factor of `buckets` that is not even, or heads that do not divide the width.
    """

    directions: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        rounds: int | None,
        buckets: Sequence[int],
        *,
        head_dim: int | None,
        causal: bool,
        seed: int,
        bias: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim or divide(dim, num_heads)
        self.rounds, self.buckets = rounds, tuple(buckets)
        self.causal, self.seed, self.dropout = causal, seed, dropout
        width = num_heads * self.head_dim
        self.query_key = nn.Linear(dim, width, bias=bias)
        self.value = nn.Linear(dim, width, bias=bias)
        self.out = nn.Linear(width, dim, bias=bias)
        # where torch makes parameters by default: a model may be built on the meta device
        self.register_buffer("directions", self.draw().to(torch.get_default_device()))

    def draw(self, seed: int | None = None) -> Tensor:
        """The directions (R, D, sum(buckets) / 2) of a seed, default its own, on the CPU."""
        seed = self.seed if seed is None else seed
        if self.rounds is None:
            return rotations(1, self.buckets, self.head_dim, seed)[:0]
        return rotations(self.rounds, self.buckets, self.head_dim, seed)

    def set_rounds(self, rounds: int | None) -> None:
        """Hash in another number of rounds, or into a single bucket (None); weights stay.

        The rotations are those of the seed; more rounds begin with those of fewer. A state of
        another number of rounds is refused afterwards.
        """
        before, self.rounds = self.rounds, rounds
        try:
            self.directions = self.draw().to(self.directions)
        except ValueError:
            self.rounds = before
            raise

    @torch.no_grad()
    def reset(self) -> None:
        """Write the rotations of the seed into the buffer, for a model that was built on meta."""
        self.directions.copy_(self.draw())

    @torch.no_grad()
    def redraw(self, seed: int) -> None:
        """Take the rotations of another seed. For training loops; forward never draws."""
        self.directions.copy_(self.draw(seed))

    @torch.no_grad()
    def hash(self, x: Tensor, context: Context) -> Tensor:
        """The labels (B, H, R, N) int64 by which `forward` sorts x (B, N, C).

        Who runs forward again on inputs that are equal up to rounding only (reversible layers)
        gives both runs the same labels. Documents with a label of their own share no bucket.
        """
        qk = split_heads(self.query_key(context.clean(x)), self.num_heads)
        return self.label(qk, context, None)

    def label(self, qk: Tensor, context: Context, given: Tensor | None) -> Tensor:
        """The labels of qk (B, H, N, D), or those given. ValueError if they do not fit."""
        b, h, n, _ = qk.shape
        rounds = 1 if self.rounds is None else self.rounds
        if given is not None:
            if given.shape != (b, h, rounds, n):
                raise ValueError(
                    f"labels are {tuple(given.shape)} and this call needs {(b, h, rounds, n)}: "
                    "(batch, heads, rounds, length); hash the same tokens in as many rounds"
                )
            return given
        if self.rounds is None:
            labels = torch.zeros(b, h, 1, n, dtype=torch.int64, device=qk.device)
        else:
            labels = hash_labels(qk, self.directions, self.buckets)
        if context.label is not None and n:
            document = context.label - context.label.amin(-1, keepdim=True)
            labels = labels + (document * prod(self.buckets)).unsqueeze(2)
        if context.valid is not None:
            labels = labels.masked_fill(~context.valid[:, None, None], ABSENT)
        return labels

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Queries, which as unit vectors are the keys too, and values: (B, H, N, D) both."""
        heads = self.num_heads
        return split_heads(self.query_key(x), heads), split_heads(self.value(x), heads)

    def values(self, x: Tensor, context: Context) -> Tensor:
        return self.project(context.clean(x))[1]

    def output(self, mixed: Tensor) -> Tensor:
        return self.out(merge_heads(mixed))

    def extra_repr(self) -> str:
        """The constants, for printing."""
        hashes = f"rounds={self.rounds}, buckets={self.buckets}, seed={self.seed}"
        return f"{hashes}, causal={self.causal}"
