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
from typing import NamedTuple

import torch
from torch import Tensor

from .linear_chunk import CHUNK, Lift, Scratch, blocks, hide_future, quotient_gradient, spans


class Block:
    """One block of lanes: q (b, k, R, N, D), k and v (b, k, N, ...), valid (b, N) or None."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, lift: Lift):
        self.q, self.k, self.v, self.valid, self.lift = q, k, v, valid, lift
        self.group, self.length, self.depth = q.shape[2:]
        self.features = lift.count(self.depth)
        self.scratch = Scratch(k.shape[:2], lift.dtype, q.device)

    def chunk(self, a: int, b: int) -> "Chunk":
        """Copy positions a to b into buffers, and lift them."""
        s, n, width = self.scratch, b - a, self.v.shape[-1]
        cut = s.count * n * self.group
        # one buffer for queries and keys, so that one product lifts both
        x = s.new("x", cut + s.count * n, self.depth)
        values = s.new("values", s.count, n, width + 1, fill=1.0)
        queries, keys, v = self.q[..., a:b, :], self.k[..., a:b, :], self.v[..., a:b, :]
        x[:cut].view(queries.shape).copy_(queries)
        x[cut:].view(keys.shape).copy_(keys)
        values[..., :width].view(v.shape).copy_(v)
        if self.valid is not None:
            absent = ~self.valid[:, None, a:b]
            x[cut:].view(keys.shape).masked_fill_(absent[..., None], 0)
            values[..., :width].view(v.shape).masked_fill_(absent[..., None], 0)
        phi = s.new("phi", x.shape[0], self.features)
        peak = self.lift.features(x, phi)
        c = self.lift.log_scale(x[cut:], None if peak is None else peak[cut:])
        if self.valid is not None:
            c.view(keys.shape[:-1]).masked_fill_(absent, -math.inf)
        queries, keys = phi[:cut].view(s.count, -1, self.features), phi[cut:]
        return Chunk(x[:cut], x[cut:], queries, keys.view(s.count, n, -1), values, c.view(-1, n))

    def pairs(self, name: str, left: Tensor, right: Tensor, tile: Tensor) -> Tensor:
        """Return left right^T times the tile, for every head of a group (G, R n, n)."""
        size = (left.shape[0], left.shape[1], right.shape[1])
        scores = torch.bmm(left, right.transpose(1, 2), out=self.scratch.new(name, *size))
        self.by_row(scores).mul_(tile[:, None])
        return scores

    def by_row(self, lanes: Tensor) -> Tensor:
        """View (G, R n, ...) as (G, R, n, ...), where factors of positions apply."""
        return lanes.unflatten(1, (self.group, lanes.shape[1] // self.group))

    def tile(self, c: Tensor, top: Tensor) -> Tensor:
        """Return exp(c_j - M_i) (G, n, n), exactly 0 for j > i."""
        n = c.shape[-1]
        factor = self.scratch.new("factor", self.scratch.count, n, n)
        torch.sub(c[:, None, :], top[:, :, None], out=factor)
        return hide_future(factor).exp2_()

    def absorb(self, kv: Tensor, chunk: "Chunk", ends: Tensor) -> None:
        """Add a chunk's keys to the state; `ends` is M before and after it (G, 2)."""
        weighted = self.scratch.new("weighted", *chunk.values.shape)
        torch.mul(chunk.values, (chunk.c - ends[:, 1:]).exp2_()[..., None], out=weighted)
        kv.mul_((ends[:, :1] - ends[:, 1:]).exp2_()[..., None])
        kv.baddbmm_(chunk.key.transpose(1, 2), weighted)


class Chunk(NamedTuple):
    """Rows (G R n, D) and (G n, D), features (G, R n, F) and (G, n, F), values, log-scales."""

    x_query: Tensor
    x_key: Tensor
    query: Tensor
    key: Tensor
    values: Tensor
    c: Tensor


def run(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, lift: Lift):
    """Yield each block with its place in (B, K, ...)."""
    q = q.unflatten(1, (k.shape[1], -1))
    for rows, heads in blocks(q.shape[0], k.shape[1], q.shape[2], q.device.type):
        at = (rows, heads)
        yield at, Block(q[at], k[at], v[at], None if valid is None else valid[rows], lift)


def forward_block(block: Block, kv: Tensor, top: Tensor, out, den, log) -> Tensor:
    """Fill out (b,k,R,N,E), den (b,k,R,N), log = M (b,k,N); advance kv; return the last M."""
    s = block.scratch
    for a, b in spans(block.length, CHUNK):
        chunk = block.chunk(a, b)
        tops = torch.cat((top, chunk.c), 1).cummax(1).values
        now, ends = tops[:, 1:], tops[:, :: b - a]
        scores = block.pairs("scores", chunk.query, chunk.key, block.tile(chunk.c, now))
        size = (s.count, scores.shape[1], kv.shape[-1])
        sums = torch.bmm(chunk.query, kv, out=s.new("sums", *size))
        block.by_row(sums).mul_((top - now).exp2_()[:, None, :, None])
        sums.baddbmm_(scores, chunk.values)
        block.absorb(kv, chunk, ends)
        top = ends[:, 1:]
        weight = sums[..., -1:]
        # a query with nothing to look at divides by infinity: zeros, and zero gradients
        weight.masked_fill_(weight == 0, math.inf)
        target = out[..., a:b, :]
        den[..., a:b] = weight.view(target.shape[:-1])
        log[..., a:b] = now.view(*s.lanes, -1)
        rows = sums.view(*target.shape[:-1], -1)
        torch.div(rows[..., :-1], rows[..., -1:], out=target)
    return top


@dataclass
class Adjoint:
    """What backward knows of a block: dout, out (b,k,R,N,E), den (b,k,R,N), log (b,k,N), M_0."""

    dout: Tensor
    out: Tensor
    den: Tensor
    log: Tensor
    first: Tensor

    def sums(self, s: Scratch, a: int, b: int) -> Tensor:
        """Return the gradient of the sums of a chunk, (G, R n, E + 1)."""
        out, dout = self.out[..., a:b, :], self.dout[..., a:b, :]
        return quotient_gradient(s, dout, out, self.den[..., a:b])

    def tops(self, s: Scratch, a: int, b: int) -> tuple[Tensor, Tensor]:
        """Return M (G, n) of a chunk, and M before and at its end (G, 2)."""
        now = s.load("log", self.log[..., a:b], b - a)
        before = self.log[..., a - 1].reshape(-1, 1) if a else self.first
        return now, torch.cat((before, now[:, -1:]), 1)


def query_pass(block: Block, adjoint: Adjoint, kv: Tensor, dq: Tensor) -> None:
    """Fill dq (b, k, R, N, D); the state kv (G, F, E + 1) runs from the first to the last."""
    s = block.scratch
    for a, b in spans(block.length, CHUNK):
        chunk, dsums = block.chunk(a, b), adjoint.sums(s, a, b)
        now, ends = adjoint.tops(s, a, b)
        dscores = block.pairs("scores", dsums, chunk.values, block.tile(chunk.c, now))
        dphi = torch.bmm(dsums, kv.transpose(1, 2), out=s.new("dphi", *chunk.query.shape))
        block.by_row(dphi).mul_((ends[:, :1] - now).exp2_()[:, None, :, None])
        dphi.baddbmm_(dscores, chunk.key)
        rows = (chunk.query.flatten(0, 1), dphi.flatten(0, 1))
        target = dq[..., a:b, :]
        target.copy_(block.lift.row_gradient(chunk.x_query, *rows, keys=False).view(target.shape))
        block.absorb(kv, chunk, ends)


def key_pass(block: Block, adjoint: Adjoint, dkv: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Fill dk, dv (b, k, N, ...) backward in time; dkv goes from the last M to the first."""
    s = block.scratch
    for a, b in reversed(spans(block.length, CHUNK)):
        chunk, dsums = block.chunk(a, b), adjoint.sums(s, a, b)
        now, ends = adjoint.tops(s, a, b)
        tile, weight = block.tile(chunk.c, now), (chunk.c - ends[:, 1:]).exp2_()[..., None]
        dscores = block.pairs("dscores", dsums, chunk.values, tile)
        scores = block.pairs("scores", chunk.query, chunk.key, tile)
        dvalues = torch.bmm(chunk.key, dkv, out=s.new("dvalues", *chunk.values.shape))
        dvalues.mul_(weight).baddbmm_(scores.transpose(1, 2), dsums)
        dv[..., a:b, :] = dvalues[..., :-1].view(dv[..., a:b, :].shape)
        weighted = torch.mul(chunk.values, weight, out=s.new("weighted", *chunk.values.shape))
        dphi = torch.bmm(weighted, dkv.transpose(1, 2), out=s.new("dphi_key", *chunk.key.shape))
        dphi.baddbmm_(dscores.transpose(1, 2), chunk.query)
        rows = (chunk.key.flatten(0, 1), dphi.flatten(0, 1))
        target = dk[..., a:b, :]
        target.copy_(block.lift.row_gradient(chunk.x_key, *rows, keys=True).view(target.shape))
        block.by_row(dsums).mul_((ends[:, :1] - now).exp2_()[:, None, :, None])
        dkv.mul_((ends[:, :1] - ends[:, 1:]).exp2_()[..., None])
        dkv.baddbmm_(chunk.query.transpose(1, 2), dsums)
