"""The loops of causal kernel attention over chunks: forward, and the two passes of backward.

The past enters a chunk as one state S = sum_j phi(k_j) [v_j, 1]^T; pairs inside a chunk are a
C x C tile. With random features the key j keeps its log-scale c_j, S is kept at the running
maximum M of c, and the pair (i, j) has the factor exp(c_j - M_i) <= 1: no position sees a later
one, not even through a common scale. Equivalently for each head of the group that shares a key.

Backward reads the positions twice. Forward in time the states come back and give dq; backward in
time the adjoint state sum_i phi(q_i) dout'_i^T, kept at the M of the chunk's end, gives dk and
dv. With dout' = [dout, -dout.out] / den the two sums of the quotient are one.

Axes: B batch, N positions, H heads, K key heads, R = H / K, D head width, E value width,
F features, C chunk (n in the last one), G = b k lanes of a block.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from subquad.ops.linear_chunk import CHUNK, Lift, Scratch, blocks, quotient_gradient, spans
from subquad.ops.linear_tiles import Tiles

__all__ = ["Adjoint", "Block", "forward_block", "key_pass", "query_pass", "run"]


class Block:
    """One block of lanes: q (b, k, R, N, D), k and v (b, k, N, ...), valid (b, N) or None."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, lift: Lift):
        self.lift, self.spans = lift, spans(q.shape[3], CHUNK)
        self.scratch = Scratch(k.shape[:2], lift.dtype, q.device)
        self.widths = (q.shape[2], q.shape[4], v.shape[3], lift.count(q.shape[4]))
        self.inputs = list(zip(*(t.split(CHUNK, -2) for t in (q, k, v)), strict=True))
        self.valid = None if valid is None else valid.split(CHUNK, 1)
        self.kept: dict[int, Tiles] = {}

    def chunk(self, i: int) -> Tiles:
        """Load chunk i into the tiles of its length."""
        a, b = self.spans[i]
        if b - a not in self.kept:
            like = self.scratch.new("like", 0)
            self.kept[b - a] = Tiles(b - a, self.scratch.lanes, self.widths, like)
        tiles = self.kept[b - a]
        q, k, v = self.inputs[i]
        tiles.load(q, k, v, None if self.valid is None else self.valid[i], self.lift)
        return tiles

    def state(self, name: str, kv: Tensor) -> Tensor:
        """Copy kv (b, k, F, E + 1) to (G, E + 1, F): products run faster along the long F."""
        return self.scratch.load(name, kv.mT, kv.shape[3], kv.shape[2])

    def as_kv(self, state: Tensor) -> Tensor:
        """View (G, E + 1, F) as (b, k, F, E + 1)."""
        return state.unflatten(0, self.scratch.lanes).mT


def run(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, lift: Lift):
    """Yield each block with its place in (B, K, ...); none where there is no position."""
    if not q.shape[2]:
        return
    q = q.unflatten(1, (k.shape[1], -1))
    for rows, heads in blocks(q.shape[0], k.shape[1], q.shape[2], q.device.type):
        at = (rows, heads)
        yield at, Block(q[at], k[at], v[at], None if valid is None else valid[rows], lift)


def forward_block(block: Block, state: Tensor, top: Tensor, out, den, log) -> Tensor:
    """Fill out (b,k,R,N,E), den (b,k,R,N,1), log = M (b,k,N); advance the state; return M at N."""
    results = zip(out.split(CHUNK, -2), den.split(CHUNK, -2), log.split(CHUNK, -1), strict=True)
    for i, (out_in, den_in, log_in) in enumerate(results):
        t = block.chunk(i)
        t.scale(top, None)
        torch.bmm(t.query, t.key.mT, out=t.scores)
        t.by_row(t.scores).mul_(t.pair)
        torch.bmm(t.query, state.mT, out=t.sums)
        t.by_row(t.sums).mul_(t.read)
        t.sums.baddbmm_(t.scores, t.values)
        t.absorb(state)
        top = t.last
        # a query with nothing to look at divides by infinity: zeros, and zero gradients
        torch.threshold_(t.weight, 0, math.inf)
        den_in.copy_(t.weight)
        log_in.copy_(t.top_in)
        torch.div(t.number, t.weight, out=out_in)
    return top


@dataclass
class Adjoint:
    """What backward knows of a block: dout, out (b,k,R,N,E), den (b,k,R,N), log (b,k,N), M_0."""

    dout: Tensor
    out: Tensor
    den: Tensor
    log: Tensor
    first: Tensor

    def load(self, block: Block, tiles: Tiles, i: int) -> Tensor:
        """Set the factors of chunk i; return the gradient of its sums (G, R n, E + 1)."""
        a, b = block.spans[i]
        tiles.scale(self.log[..., a - 1].flatten() if a else self.first, self.log[..., a:b])
        out, dout = self.out[..., a:b, :], self.dout[..., a:b, :]
        return quotient_gradient(block.scratch, dout, out, self.den[..., a:b])


def query_pass(block: Block, adjoint: Adjoint, state: Tensor, dq: Tensor) -> None:
    """Fill dq (b, k, R, N, D); the state (G, E + 1, F) runs from the first to the last."""
    for i, dq_in in enumerate(dq.split(CHUNK, -2)):
        t = block.chunk(i)
        dsums = adjoint.load(block, t, i)
        torch.bmm(dsums, t.values.mT, out=t.scores)
        t.by_row(t.scores).mul_(t.pair)
        dphi = torch.bmm(dsums, state, out=block.scratch.new("dphi", *t.query.shape))
        t.by_row(dphi).mul_(t.read)
        dphi.baddbmm_(t.scores, t.key)
        dx = block.lift.row_gradient(t.x_query, t.phi_query, dphi.flatten(0, 1), keys=False)
        dq_in.copy_(dx.view(dq_in.shape))
        t.absorb(state)


def key_pass(block: Block, adjoint: Adjoint, dstate: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Fill dk, dv (b, k, N, ...) backward in time; dstate goes from the last M to the first."""
    s, dks, dvs = block.scratch, dk.split(CHUNK, -2), dv.split(CHUNK, -2)
    for i in reversed(range(len(block.spans))):
        t = block.chunk(i)
        dsums = adjoint.load(block, t, i)
        torch.bmm(t.query, t.key.mT, out=t.scores)
        t.by_row(t.scores).mul_(t.pair)
        dvalues = torch.bmm(t.key, dstate.mT, out=s.new("dvalues", *t.values.shape))
        dvalues.mul_(t.add).baddbmm_(t.scores.mT, dsums)
        dvs[i].copy_(dvalues[..., :-1].view(dvs[i].shape))
        torch.bmm(dsums, t.values.mT, out=t.scores)
        t.by_row(t.scores).mul_(t.pair)
        torch.mul(t.values, t.add, out=t.weighted)
        dphi = torch.bmm(t.weighted, dstate, out=s.new("dphi", *t.key.shape))
        dphi.baddbmm_(t.scores.mT, t.query)
        dx = block.lift.row_gradient(t.x_key, t.phi_key, dphi.flatten(0, 1), keys=True)
        dks[i].copy_(dx.view(dks[i].shape))
        t.by_row(dsums).mul_(t.read)
        dstate.mul_(t.keep).baddbmm_(dsums.mT, t.query)
