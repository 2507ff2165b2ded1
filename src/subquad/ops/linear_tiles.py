"""The buffers of one chunk of causal kernel attention, with every view the loop takes of them.

The loop is short, and a call of torch costs some microseconds whatever its size, so the views are
made once a block. One tile of factors serves all: with c_0 = M before the chunk and c_j the
log-scales of its keys, factor (i, j) = exp(c_j - M_i), 0 for j > i. Its column 0 rescales what the
queries read from the state, its last row what the keys add to the state, its corner the state.

Axes: B batch, N positions, H heads, K key heads, R = H / K, D head width, E value width,
F features, n positions of the chunk, G = b k lanes of a block.
"""

import math

import torch
from torch import Tensor

from subquad.ops.linear_chunk import Lift

__all__ = ["Tiles"]


class Tiles:
    """Buffers for n positions of `lanes` (b, k), R heads a lane; widths D, E and F."""

    def __init__(self, n: int, lanes: torch.Size, widths: tuple[int, int, int, int], like: Tensor):
        self.n, self.lanes, self.count = n, lanes, math.prod(lanes)
        self.group, self.depth, self.width, self.features = widths
        self.like = like
        self._rows()
        self._factors()
        self._sums()

    def new(self, *shape: int) -> Tensor:
        """Return a fresh buffer in the type of the sums."""
        return self.like.new_empty(shape)

    def _rows(self) -> None:
        G, R, n = self.count, self.group, self.n
        cut = G * R * n
        # queries and keys share a buffer, so that one product lifts both
        self.x, self.phi = self.new(cut + G * n, self.depth), self.new(cut + G * n, self.features)
        self.x_query, self.x_key = self.x[:cut], self.x[cut:]
        self.query_in = self.x_query.view(*self.lanes, R, n, self.depth)
        self.key_in = self.x_key.view(*self.lanes, n, self.depth)
        self.phi_query, self.phi_key = self.phi[:cut], self.phi[cut:]
        self.query = self.phi_query.view(G, R * n, self.features)
        self.key = self.phi_key.view(G, n, self.features)
        self.values = self.new(G, n, self.width + 1).fill_(1)
        self.value_in = self.values[..., :-1].view(*self.lanes, n, self.width)

    def _factors(self) -> None:
        G, n = self.count, self.n
        self.scales, self.tops = self.new(G, n + 1), self.new(G, n + 1)
        self.where = self.scales.new_empty(G, n + 1, dtype=torch.long)
        self.before, self.c = self.scales[:, 0], self.scales[:, 1:]
        self.c_in = self.c.view(*self.lanes, n)
        self.top_in, self.last = self.tops[:, 1:].view(*self.lanes, n), self.tops[:, -1]
        self.earlier, self.now = self.scales[:, None, :], self.tops[:, 1:, None]
        self.factor = self.new(G, n, n + 1)
        self.pair, self.read = self.factor[:, None, :, 1:], self.factor[:, None, :, :1]
        self.add, self.keep = self.factor[:, -1, 1:, None], self.factor[:, -1:, :1]

    def _sums(self) -> None:
        G, R, n, width = self.count, self.group, self.n, self.width + 1
        self.scores, self.sums = self.new(G, R * n, n), self.new(G, R * n, width)
        self.weighted = self.new(G, n, width)
        self.number = self.sums[..., :-1].view(*self.lanes, R, n, self.width)
        self.weight = self.sums[..., -1:].view(*self.lanes, R, n, 1)

    def by_row(self, lanes: Tensor) -> Tensor:
        """View (G, R n, W) as (G, R, n, W), where factors of positions apply."""
        return lanes.view(self.count, self.group, self.n, lanes.shape[-1])

    def load(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, lift: Lift) -> None:
        """Copy q (b, k, R, n, D), k, v (b, k, n, ...), valid (b, n); lift them; set c."""
        self.query_in.copy_(q)
        self.key_in.copy_(k)
        self.value_in.copy_(v)
        absent = None if valid is None else ~valid[:, None]
        if absent is not None:
            self.key_in.masked_fill_(absent[..., None], 0)
            self.value_in.masked_fill_(absent[..., None], 0)
        peak = lift.features(self.x, self.phi)
        if peak is None:
            self.c.zero_()
        else:
            lift.log_scale(self.x_key, peak[self.x_query.shape[0] :], out=self.c)
        if absent is not None:
            self.c_in.masked_fill_(absent, -math.inf)

    def scale(self, before: Tensor, log: Tensor | None) -> None:
        """Set the factors from M before the chunk (G,) and M in it (b, k, n), found if None."""
        self.before.copy_(before)
        if log is None:
            torch.cummax(self.scales, 1, out=(self.tops, self.where))
        else:
            self.top_in.copy_(log)
        torch.sub(self.earlier, self.now, out=self.factor)
        # the logarithms of later keys are finite, but their factors may overflow: cut, not times 0
        self.factor.exp2_().tril_(1)

    def absorb(self, state: Tensor) -> None:
        """Add the chunk's keys to the state (G, E + 1, F)."""
        torch.mul(self.values, self.add, out=self.weighted)
        state.mul_(self.keep).baddbmm_(self.weighted.mT, self.key)
