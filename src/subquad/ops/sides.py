"""A side of a product: some tokens of a row, by their slots.

Axes: B batch, N tokens, H heads, K tokens of a list.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Side"]


@dataclass
class Side:
    """Some slots of a row of tokens, the same number everywhere: all, or a padded list of them.

    `slots` (B or 1, H or 1, K) are distinct; `real` tells those meant from the padding.
    """

    slots: Tensor | None = None
    real: Tensor | None = None

    @staticmethod
    def of(mark: Tensor) -> "Side":
        """The slots where `mark` (B or 1, H or 1, N) is set."""
        count = int(mark.sum(-1).max()) if mark.numel() else 0
        order = mark.to(torch.int8).argsort(dim=-1, descending=True, stable=True)[..., :count]
        return Side(order, mark.gather(-1, order))

    def take(self, t: Tensor) -> Tensor:
        """The slots of `t` (B or 1, H or 1, N, ...)."""
        if self.slots is None:
            return t
        index = self._index(t)
        return t.expand(*index.shape[:2], *t.shape[2:]).gather(2, index)

    def add(self, total: Tensor, part: Tensor) -> None:
        """Add `part`, as `take` gave it, to `total`; the padding must hold zeros."""
        if self.slots is None:
            total += part
        else:
            total.scatter_add_(2, self._index(total), part.to(total.dtype))

    def put(self, total: Tensor, part: Tensor) -> None:
        """Write `part` over its slots of `total`."""
        total.scatter_(2, self._index(total), part)

    def _index(self, t: Tensor) -> Tensor:
        assert self.slots is not None
        lead = torch.broadcast_shapes(self.slots.shape[:2], t.shape[:2])
        index = self.slots.view(*self.slots.shape, *[1] * (t.dim() - 3))
        return index.expand(*lead, -1, *t.shape[3:])
