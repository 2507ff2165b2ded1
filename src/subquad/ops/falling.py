"""A table of distances as tiles of a band read it: by falling distance, laid out once for all.

The pair (t, s) of a tile of T queries and S keys reads row T - 1 - t + s of L = T + S - 1, so each
tile reads a stretch of one long table, and adds its gradient to a stretch.

Axes: H heads, N queries, M keys, R rows of the table, L distances of a tile, X pieces.
"""

import torch
from torch import Tensor

from subquad.ops.partial import wide
from subquad.ops.pieces import ROWS, Piece

__all__ = ["Falling"]


class Falling:
    """Rows of `table` (H or 1, R, ...) for every distance that a tile of the band holds.

    lengths: N and M. reach: behind and ahead, in steps of so many tokens. Distance 0 stands in row
    `zero`; distances beyond the table count as its ends.
    """

    def __init__(
        self,
        table: Tensor,
        lengths: tuple[int, int],
        reach: tuple[int, int],
        step: int,
        zero: int,
    ) -> None:
        (n, m), edge = lengths, min(lengths[0], ROWS)
        self.high = min(reach[0], m - 1) + edge
        low = min(-min(reach[1], n - 1) - edge, self.high)
        d = torch.arange(self.high, low - 1, -1, device=table.device) * step + zero
        self.size = table.shape[1]
        self.index = d.clamp(0, self.size - 1)
        self.table = table[:, self.index]
        self._sums: Tensor | None = None

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
        shape = self.table.shape[0], self.size, *self.table.shape[2:]
        total = self.table.new_zeros(shape, dtype=wide(self.table.dtype))
        return total if self._sums is None else total.index_add_(1, self.index, self._sums)

    def _stretch(self, t: Tensor, piece: Piece) -> Tensor:
        return t.narrow(1, self.high - (piece.rows - 1 + piece.lead), piece.rows + piece.keys - 1)
