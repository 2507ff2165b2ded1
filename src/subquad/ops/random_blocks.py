"""Random blocks: every block of queries looks at a few blocks of keys that chance chose for it.

Zaheer et al., Big Bird, https://arxiv.org/abs/2007.14062, section 2. What block b draws depends on
b and a seed alone, never on how long the input is: more tokens, padding or a batch change nothing.
So it cannot draw evenly from an input whose end it does not know; it draws from the blocks below
the least power of two above b, which are at most twice as many as there are up to b.

Axes: B batch, N queries, M keys, H heads, K listed keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.leaf import Leaf, at_least, everywhere
from subquad.ops.partial import mix
from subquad.ops.pattern import Coords

__all__ = ["RandomBlocks"]

#: the first blocks draw from this many, a power of two: they too may look far
FIRST = 16


@dataclass(frozen=True)
class RandomBlocks(Leaf):
    """Keys in `count` different blocks of `size` tokens, drawn for the query's block by `seed`.

    A drawn block may be one that another part of a union holds, and may lie beyond the last key.
    """

    size: int
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("size", self.size, 1)
        at_least("count", self.count, 1)
        at_least("seed", self.seed, 0)
        if self.count > FIRST:
            raise ValueError(
                f"count is {self.count}, and the first blocks draw from {FIRST} blocks; "
                f"take at most {FIRST}, or larger blocks"
            )

    def drawn(self, block: Tensor, which: int) -> Tensor:
        """The block that each of `block` (...) draws as number `which`, from 0 on."""
        mask = block | (FIRST - 1)
        for shift in (1, 2, 4, 8, 16, 32):
            mask = mask | (mask >> shift)
        # a permutation of the blocks up to the mask, of which the first `count` are taken: odd
        # factors, sums and shifts to the right can each be undone
        draw, found = mix(block * 0x9E3779B1 + self.seed), torch.full_like(block, which)
        for _ in range(2):
            add = mix(draw + 1)
            found = (found * (draw | 1) + add) & mask
            found = found ^ (found >> 2)
            draw = mix(add + 1)
        return found

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        block, other = q.pos // self.size, k.pos // self.size
        found = everywhere(q, k, False)
        for which in range(self.count):
            found = found | (self.drawn(block, which) == other)
        return found

    def keys(self, q: Tensor, total: int) -> Tensor:
        """Positions (..., K) of the keys of queries at `q` (...) among `total`, -1 where none."""
        blocks = [self.drawn(q // self.size, which) for which in range(self.count)]
        place = torch.arange(self.size, device=q.device)
        keys = (torch.stack(blocks, -1).unsqueeze(-1) * self.size + place).flatten(-2)
        return keys.masked_fill(keys >= total, -1)
