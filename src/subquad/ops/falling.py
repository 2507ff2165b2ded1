"""A table of distances as tiles of a band read it: by falling distance, laid out once for all.

The pair (t, s) of a tile of T queries and S keys reads row T - 1 - t + s of L = T + S - 1, so each
tile reads a stretch of one long table, and adds its gradient to a stretch.

Axes: H heads, R rows of the table, L distances of a tile, X pieces, D head width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from subquad.ops.partial import wide
from subquad.ops.pieces import ROWS, Piece

__all__ = ["Falling"]


class Falling:
    """Rows of `table` (H or 1, R, ...) for the distances from `high` down to `low`, in steps.

    Distance 0 stands in row `zero`; distances beyond the table count as its ends.
    """

    def __init__(self, table: Tensor, high: int, low: int, step: int, zero: int) -> None:
        d = torch.arange(high, low - 1, -1, device=table.device) * step + zero
        self.high, self.size = high, table.shape[1]
        self.index = d.clamp(0, self.size - 1)
        self.table = table[:, self.index]
        self._sums: Tensor | None = None

    @classmethod
    def of(
        cls, q: Tensor, k: Tensor, reach: tuple[int, int], step: int, zero: int
    ) -> Callable[[Tensor], "Falling"]:
        """For the tiles of q (B, H, N, D) and k (B, H, M, D) within (behind, ahead) steps."""
        n, m = q.shape[2], k.shape[2]
        behind, ahead = (min(side, m - 1) + min(n, ROWS) for side in reach)
        return lambda table: cls(table, behind, -ahead, step, zero)

    def rows(self, piece: Piece) -> Tensor:
        """Those of the distances of a piece: (X or 1, L, ...)."""
        return piece.of_heads(self._stretch(self.table, piece))

    def add(self, piece: Piece, part: Tensor) -> None:
        """Add the gradients (X, L, ...) of the rows of a piece."""
        if self._sums is None:
            self._sums = torch.zeros_like(self.table, dtype=wide(self.table.dtype))
        piece.add_rows(self._stretch(self._sums, piece), part)

    def gradient(self) -> Tensor:
        """The table's (H or 1, R, ...), of all that was added."""
        like = self.table.new_zeros(self.table.shape[0], self.size, *self.table.shape[2:])
        total = like.to(wide(like.dtype))
        return total if self._sums is None else total.index_add_(1, self.index, self._sums)

    def _stretch(self, t: Tensor, piece: Piece) -> Tensor:
        first = self.high - (piece.rows - 1 + piece.lead)
        return t[:, first : first + piece.rows + piece.keys - 1]
