"""Depthwise convolution over positions: every channel by itself, taps on both sides or one.

    y_n = sum_t w_t x_(n + t - left)      over the taps t = 0 .. left + right that may be read

Time O(N K), memory O(N). What lies before the first token is zero, or what a stream has kept of it.

Axes: B batch, N tokens, K taps, C channels, P tokens kept from before.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Taps", "depthwise"]


@dataclass(frozen=True)
class Taps:
    """The tokens that a convolution reads: `left` before, the token itself, `right` after.

    `chunk`: of those after, only the ones in the token's own chunk of so many tokens.
    """

    left: int
    right: int = 0
    chunk: int | None = None

    def __post_init__(self) -> None:
        if min(self.left, self.right) < 0 or (self.chunk is not None and self.chunk < 1):
            raise ValueError(
                f"{self} is no choice of taps: left and right are at least 0 and chunk at least 1"
            )

    @classmethod
    def around(cls, kernel: int, chunk: int | None = None) -> "Taps":
        """As many taps on both sides; an even kernel has one more on the left."""
        return cls(kernel // 2, kernel - 1 - kernel // 2, chunk)

    @classmethod
    def behind(cls, kernel: int) -> "Taps":
        """The token itself is the last tap."""
        return cls(kernel - 1)

    @property
    def kernel(self) -> int:
        """How many taps there are."""
        return self.left + 1 + self.right

    @property
    def step(self) -> int | None:
        """How many tokens of a stream must come together; None if it cannot be fed by pieces."""
        return self.chunk if self.right else 1


def depthwise(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    taps: Taps,
    past: Tensor | None = None,
) -> Tensor:
    """The convolution of x (B, N, C) by weight (C, K), plus bias (C,): (B, N, C).

    past (B, left, C): the tokens before x, by default zeros. Chunks are counted from the first
    token of x on.
    """
    batch, tokens, width = x.shape
    if tokens == 0:
        return x
    before = x.new_zeros(batch, taps.left, width) if past is None else past.to(x.dtype)
    row = torch.cat((before, x), 1).mT  # (B, C, left + N)
    size = tokens if taps.chunk is None or not taps.right else taps.chunk
    count = -(-tokens // size)
    row = F.pad(row, (0, count * size - tokens))
    # (B, C, chunks, left + size): a chunk with what stands before it, then nothing after it
    row = row.unfold(2, taps.left + size, size).transpose(1, 2).flatten(0, 1)
    kernel = weight.unsqueeze(1).to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    y = F.conv1d(F.pad(row, (0, taps.right)), kernel, bias, groups=width)
    return y.unflatten(0, (batch, count)).transpose(2, 3).flatten(1, 2)[:, :tokens]
