"""Ends: the first and the last block of a row as its marked tokens, and all of a short row.

Zaheer et al., 2020, https://arxiv.org/abs/2007.14062, section 2, "internal" global tokens
    mark(i) = i < block  or  i >= block floor((n - 1) / block)  or  n <= whole_up_to      (n tokens)
Ours differs: the last block is that of a row's own last token, whatever padding its batch has, so
that batched equals alone.

Axes: B batch, N tokens.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from subquad.nn.context import Context

__all__ = ["Ends"]


@dataclass(frozen=True)
class Ends:
    """block: tokens of a block.  whole_up_to: rows of so many tokens or fewer are all marked.

    ValueError for a block without tokens.
    """

    block: int
    whole_up_to: int = 0

    def __post_init__(self) -> None:
        if self.block < 1 or self.whole_up_to < 0:
            raise ValueError(
                f"ends of {self.block} tokens, whole up to {self.whole_up_to}: a block has 1 or "
                "more, and a length 0 or more"
            )

    def __call__(self, tokens: Tensor, context: Context, start: Tensor | None) -> Context:
        """The context of tokens (B, N, ...) with marks (B, N). ValueError for rows in pieces."""
        if start is not None:
            raise ValueError(
                "which block of a row is its last is known at its end, so rows whose ends are "
                "marked come whole; for a stream build the stem with ends=0"
            )
        pos, real = context.pos, context.valid
        length = pos.new_full((1, 1), pos.shape[1]) if real is None else real.sum(1, keepdim=True)
        last = (length - 1) // self.block * self.block
        mark = (pos < self.block) | (pos >= last) | (length <= self.whole_up_to)
        mark = mark.expand(tokens.shape[:2])
        return replace(context, mark=mark if real is None else mark & real)
