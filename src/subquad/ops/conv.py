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
    weight = weight.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    before = x.new_zeros(batch, taps.left, width) if past is None else past.to(x.dtype)
    row = torch.cat((before, x), 1)
    if taps.chunk is None or taps.right == 0:
        return _slide(F.pad(row, (0, 0, 0, taps.right)), weight, bias)
    size = taps.chunk
    count = -(-tokens // size)
    # what stands after a token in its chunk, and then nothing
    own = F.pad(x, (0, 0, 0, count * size - tokens)).unflatten(1, (count, size)).flatten(0, 1)
    after = _slide(F.pad(own[:, 1:], (0, 0, 0, taps.right)), weight[:, taps.left + 1 :], None)
    after = after.unflatten(0, (batch, count)).flatten(1, 2)[:, :tokens]
    return _slide(row, weight[:, : taps.left + 1], bias) + after


def _slide(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (B, N + K - 1, C) under weight (C, K), plus bias: (B, N, C).

    As a picture one row high whose channels lie side by side in memory, as they do in x: torch has
    kernels for that, and a convolution of rows would first copy x.
    """
    row = x.mT.unsqueeze(2)
    return F.conv2d(row, weight[:, None, None], bias, groups=x.shape[2]).squeeze(2).mT
