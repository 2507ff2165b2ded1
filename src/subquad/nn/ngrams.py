"""N-grams: each token's vector, and those of the short strings that end with it, found by hashing.

    x_i = (E[t_i] + sum_n E_n[hash(t_(i-n+1) .. t_i) mod rows]) / (1 + number of sizes n)

Pagnoni et al., Byte Latent Transformer, 2024, https://arxiv.org/abs/2412.09871, section 3.2.1
(equations 3 to 5). So a model of bytes sees pieces of words from its first layer on. O(N) time and
memory; nothing looks ahead. Ours differs: strings that begin before the first token have a vector
too, as if numbers that are no token stood there; two strings may share one, in each size.

Axes: B batch, N tokens, M kept tokens, S sizes, C model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.nn.state import register

__all__ = ["HeldTokens", "NGrams"]

#: an odd number of 64 bits for each step of the hash: the fractional part of the golden ratio, and
#: one of the mixing constants of splitmix64 (Steele et al., 2014), as signed integers
STEP, MIX = -0x61C8864680B583EB, -0x40A7B892E31B1A47


@register
@dataclass(frozen=True)
class HeldTokens:
    """The last tokens of each row, (B, M) int64: numbers plus one, and 0 where there was none."""

    tokens: Tensor

    def end(self) -> tuple[Tensor, "HeldTokens"]:
        """No more tokens; nothing is withheld."""
        return self.tokens[:, :0], self


class NGrams(nn.Module):
    """The sum of the vectors (B, N, C) of the n-grams that end at each token, for `sizes` of n.

    ValueError for sizes that do not rise from 2 on, or without a row.
    """

    def __init__(self, dim: int, *, sizes: tuple[int, ...] = (3, 4, 5), rows: int = 20_000) -> None:
        super().__init__()
        if list(sizes) != sorted({n for n in sizes if n > 1}) or not sizes or rows < 1:
            raise ValueError(
                f"n-grams of sizes {list(sizes)} in tables of {rows} rows: sizes must rise from 2 "
                "on, and rows be positive"
            )
        self.sizes, self.rows = tuple(sizes), rows
        self.table = nn.Embedding(rows * len(sizes), dim)

    def begin(self, batch: int) -> HeldTokens:
        """What is held before the first token of `batch` rows."""
        device = self.table.weight.device
        return HeldTokens(torch.zeros(batch, self.sizes[-1] - 1, dtype=torch.int64, device=device))

    def forward(
        self, tokens: Tensor, valid: Tensor | None, held: HeldTokens
    ) -> tuple[Tensor, HeldTokens]:
        """Sums (B, N, C) for tokens (B, N) that follow `held`, padding on the right, and what is
        held after them.
        """
        batch, length = tokens.shape
        joined = torch.cat((held.tokens, tokens + 1), 1)
        slots = self.places(joined).view(batch * length, len(self.sizes))
        found = F.embedding_bag(slots, self.table.weight, mode="sum")
        real = tokens.new_full((batch,), length) if valid is None else valid.sum(1)
        last = real[:, None] + torch.arange(held.tokens.shape[1], device=tokens.device)
        return found.unflatten(0, (batch, length)), HeldTokens(joined.gather(1, last))

    def places(self, joined: Tensor) -> Tensor:
        """Rows (B, N, S) of the table for numbers (B, M + N), M = the largest size - 1."""
        most = self.sizes[-1]
        length = joined.shape[1] - most + 1
        mixed, found = torch.zeros_like(joined[:, :length]), list[Tensor]()
        for back in range(most):
            mixed = (mixed + joined[:, most - 1 - back :][:, :length]) * STEP
            if back + 1 in self.sizes:
                # the low bits of a product know nothing of the high ones, so they are mixed
                spread = (mixed ^ (mixed >> 31)) * MIX
                found.append((spread ^ (spread >> 29)) % self.rows + self.rows * len(found))
        return torch.stack(found, -1)
