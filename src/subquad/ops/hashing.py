"""Locality-sensitive hashing by random rotations: vectors that point alike get equal labels.

    h(x) = argmax [x R; -x R],   R (D, b / 2) normal: one of b buckets

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451, section 2;
Andoni et al., https://arxiv.org/abs/1509.02897.

A tuple of bucket counts multiplies: `(16, 16)` hashes twice and numbers the 256 pairs, at the price
of 32 directions instead of 256: O(N D sum(buckets)). Labels carry no gradient; where a token does
not exist the label is ABSENT, which nothing matches.

Axes: B batch, H heads, R rounds, N tokens, D head width, L lanes (rows of a batch by heads),
F = L N tokens in a row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from subquad.ops.partial import wide

__all__ = ["ABSENT", "Runs", "check_buckets", "hash_labels", "rotations", "runs"]

#: the label of a token that does not exist
ABSENT = -1
#: projections formed at a time: 16 MiB of float32
BUDGET = 1 << 22


def check_buckets(buckets: Sequence[int]) -> None:
    """ValueError unless every factor is an even number, at least 2."""
    if not buckets:
        raise ValueError("buckets () names no factor; give at least one even number, such as (16,)")
    for b in buckets:
        if b < 2 or b % 2:
            raise ValueError(
                f"buckets {tuple(buckets)}: {b} is not an even number of at least 2, since every "
                f"direction comes with its opposite; take {max(2, b + b % 2)}"
            )


def rotations(rounds: int, buckets: Sequence[int], head_dim: int, seed: int) -> Tensor:
    """The directions of every round, (R, D, sum(buckets) / 2) float32 on the CPU.

    Drawn round after round, so that more rounds begin with the same ones. ValueError for an odd
    bucket count, or no round.
    """
    check_buckets(buckets)
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    generator = Generator(device="cpu").manual_seed(seed)
    shape = (head_dim, sum(buckets) // 2)

    def draw() -> Tensor:
        # a model may be made under another default dtype, and these are drawn in one alone
        return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)

    return torch.stack([draw() for _ in range(rounds)])


@torch.no_grad()
def hash_labels(
    x: Tensor, directions: Tensor, buckets: Sequence[int], valid: Tensor | None = None
) -> Tensor:
    """The label of every token in every round: (B, H, R, N) int64, below the product of buckets.

    x: (B, H, N, D).  directions: (R, D, sum(buckets) / 2), as `rotations` drew them.
    valid: (B, N), True where a token exists; the others get ABSENT.
    """
    b, h, n, _ = x.shape
    rounds, d, half = directions.shape
    with torch.autocast(x.device.type, enabled=False):
        kind = wide(x.dtype)
        flat = directions.to(kind).transpose(0, 1).reshape(d, rounds * half)

        def hashed(part: Tensor) -> Tensor:
            y = (part.to(kind) @ flat).unflatten(-1, (rounds, half))
            return _nearest(y, buckets).transpose(2, 3)

        if torch.compiler.is_compiling():
            labels = hashed(x)  # one graph for every length
        else:
            labels = torch.zeros(b, h, rounds, n, dtype=torch.int64, device=x.device)
            step = max(1, BUDGET // max(1, b * h * rounds * half))
            for start in range(0, n, step):
                part = slice(start, start + step)
                labels[..., part] = hashed(x[:, :, part])
    return labels if valid is None else labels.masked_fill_(~valid[:, None, None], ABSENT)


def _nearest(y: Tensor, buckets: Sequence[int]) -> Tensor:
    """Labels of projections y (..., sum(buckets) / 2)."""
    total = torch.zeros(y.shape[:-1], dtype=torch.int64, device=y.device)
    for b, part in zip(buckets, y.split([b // 2 for b in buckets], -1), strict=True):
        # the largest of [y; -y] is the largest without its sign
        index = part.abs().argmax(-1, keepdim=True)
        opposite = part.gather(-1, index) < 0
        total = total * b + (index + opposite * (b // 2)).squeeze(-1)
    return total


class Runs(NamedTuple):
    """Tokens of all lanes sorted by (lane, label, position); tokens of one label form a run.

    token (F,): the token lane * N + slot at each place.  number (F,): the run there, from 0.
    first, stop (F,): where that run begins and ends.  real (F,): does the token there exist?
    """

    token: Tensor
    number: Tensor
    first: Tensor
    stop: Tensor
    real: Tensor


def runs(labels: Tensor) -> Runs:
    """The runs of labels (L, N)."""
    lanes, n = labels.shape
    count = lanes * n
    spread = int(labels.max()) + 2 if count else 2
    key = labels + 1 + torch.arange(lanes, device=labels.device)[:, None] * spread
    # one row of whole numbers is sorted digit by digit, several times faster than rows
    key, order = key.flatten().sort(stable=True)
    begins = torch.ones(count, dtype=torch.bool, device=labels.device)
    torch.ne(key[1:], key[:-1], out=begins[1:])
    starts = begins.nonzero().squeeze(-1)
    number = begins.cumsum(0) - 1
    ends = torch.cat((starts[1:], starts.new_full((min(1, count),), count)))
    return Runs(order, number, starts[number], ends[number], key % spread != 0)
