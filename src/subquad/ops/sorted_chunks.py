"""LSH attention as the Reformer paper has it: sorted tokens are cut into chunks.

    s = the order of round r by (label, position);  chunk_r(i) = place of i in s // m
    P_r(i) = { j : chunk_r(i) - 1 <= chunk_r(j) <= chunk_r(i),  label_r(j) = label_r(i) if asked }
    out_i = sum_r sum_{j in P_r(i)} exp(q_i . k_j / sqrt(D) - log N_ij) v_j / normaliser

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451, equations 5 and 16. N_ij is
how many rounds hold the pair, so that it counts once. A token sees itself only if nothing else.

O(N rounds m D) time, O(N rounds D) memory: scores are formed again in backward. NOT STRICTLY
CAUSAL: with `causal` a token looks at earlier ones only, but which ones depends on where chunks
end, and that on later tokens. Nothing stands before the first chunk, unless they go round in a
circle.

Axes: B batch, H heads, R rounds, N tokens, K chunks, m tokens of a chunk, D head width.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as nnf
from torch import Tensor

from subquad.ops.chunk_tiles import Round, attend_round
from subquad.ops.hashing import ABSENT
from subquad.ops.partial import EMPTY, Partial, factors, merge, wide

__all__ = ["Chunking", "attend_chunks", "last_chunks", "places"]


class Chunking(NamedTuple):
    """How sorted tokens are cut: `size` tokens in a chunk.

    same_bucket: keys of other buckets in the same chunks do not count (other code lets them).
    count_once: a pair that meets in several rounds counts once (other code counts it each time).
    circle: before the first chunk of a round stands the last of the round before it, and before the
    first of all the last of all; other code has it. Then neither of the two above goes.
    unit_scale: scores are not divided by sqrt(D).  key_eps: k = q / sqrt(|q|^2 + D key_eps).
    """

    size: int = 128
    same_bucket: bool = True
    count_once: bool = True
    circle: bool = False
    unit_scale: bool = False
    key_eps: float = 0.0

    def check(self) -> None:
        """ValueError for a chunk without tokens, and for a circle that would have to count."""
        if self.size < 1:
            raise ValueError(f"a chunk must hold at least 1 token, not {self.size}")
        if self.circle and (self.same_bucket or self.count_once):
            raise ValueError(
                "chunks in a circle join rounds: same_bucket and count_once must be False there"
            )


def places(labels: Tensor) -> Tensor:
    """The place of each token in the order by (label, position), (..., N); absent ones are last."""
    last = labels.amax(-1, keepdim=True) + 1 if labels.shape[-1] else labels
    order = torch.where(labels == ABSENT, last, labels).sort(dim=-1, stable=True).indices
    slots = torch.arange(labels.shape[-1], device=labels.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, slots)


def attend_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    labels: Tensor,
    cut: Chunking,
    *,
    causal: bool,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of each token to its own chunk and the one before, in every round.

    q, k: (B, H, N, D).  v: (B, H, N, Dv).  labels: (B, H, R, N), ABSENT where no token exists.

    Returns (B, H, N, Dv). ValueError as `Chunking.check`.
    """
    cut.check()
    n = q.shape[2]
    if n == 0:
        return v.clone()
    place, ends = places(labels), last_chunks(labels, cut.size)
    seed = torch.randint(2**31, (), device=q.device)
    kind = wide(q.dtype)
    flat = _Flat(place, labels, cut, causal, (dropout, seed), kind)
    q, k, v_rows = (nnf.pad(t.to(kind), (0, 0, 0, 1)).flatten(0, 2) for t in (q, k, v))
    owns = [_own(one, cut.size, n) for one in place.unbind(2)]
    parts = []
    for r, own in enumerate(owns):
        first = _chunk(owns[r - 1], ends[:, :, r - 1]) if cut.circle else None
        one = attend_round(q, k, v_rows, flat.round(r, *_tokens(own, n, first)))
        there = (t.unflatten(0, own.shape[:3]).flatten(2, 3) for t in one)
        parts.append(Partial(*(_take(t, place[:, :, r]) for t in there)))
    out, found = merge(parts)
    own = v[:, :, :n]
    if dropout > 0:
        lanes = torch.arange(v.shape[0] * v.shape[1], device=v.device).view(*v.shape[:2], 1)
        slots = torch.arange(n, device=v.device)
        own = own * factors(seed, dropout, lanes, slots, slots).unsqueeze(-1).to(own.dtype)
    assert found is not None
    return torch.where((found > EMPTY / 2).unsqueeze(-1), out.to(v.dtype), own)


def last_chunks(labels: Tensor, size: int) -> Tensor:
    """The chunk that the last real token stands in, (B, H, R), for labels (B, H, R, N)."""
    return ((labels != ABSENT).sum(-1).clamp(min=1) - 1) // size


def _own(place: Tensor, chunk: int, n: int) -> Tensor:
    """Slots of the tokens of each chunk (B, H, K, m), n for none."""
    count = -(-n // chunk)
    slots = torch.arange(n, device=place.device).expand_as(place)
    order = place.new_full((*place.shape[:2], count * chunk), n).scatter_(-1, place, slots)
    return order.unflatten(-1, (count, chunk))


def _chunk(own: Tensor, which: Tensor) -> Tensor:
    """The chunks `which` (B, H) of own (B, H, K, m): (B, H, 1, m)."""
    index = which[:, :, None, None].expand(-1, -1, 1, own.shape[-1])
    return own.gather(2, index)


def _tokens(own: Tensor, n: int, first: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slots of queries (B, H, K, m) and of their keys (B, H, K, 2 m), n for none; `first`
    (B, H, 1, m) stands before the first chunk.
    """
    if first is None:
        before = nnf.pad(own, (0, 0, 1, 0), value=n)[:, :, :-1]
    else:
        before = torch.cat((first, own[:, :, :-1]), 2)
    return own, torch.cat((before, own), -1)


class _Flat:
    """Places (B, H, R, N) and labels of all lanes in a row, one slot more for no token each."""

    def __init__(self, place, labels, cut: Chunking, causal: bool, drop, kind) -> None:
        self.cut, self.causal, self.drop = cut, causal, drop
        self.zero = torch.zeros((), dtype=kind, device=labels.device)
        self.slots = place.shape[-1] + 1
        # of no token: no chunk, no label
        self.chunks = nnf.pad(place // cut.size, (0, 1), value=-2).transpose(1, 2).flatten(2)
        self.labels = nnf.pad(labels, (0, 1), value=ABSENT).transpose(1, 2).flatten(2)
        # (B, R, H S) to (R, B H S)
        self.chunks, self.labels = (
            t.transpose(0, 1).flatten(1) for t in (self.chunks, self.labels)
        )

    def round(self, r: int, i: Tensor, j: Tensor) -> Round:
        """Round r of queries i (B, H, K, m) and keys j (B, H, K, 2 m), slots of their lanes."""
        lanes = i.shape[0] * i.shape[1]
        base = torch.arange(lanes, device=i.device).view(*i.shape[:2], 1, 1) * self.slots
        i, j = ((t + base).flatten(0, 2) for t in (i, j))
        return Round(
            i, j, lambda i, j: self._weigh(r, i, j), self._factors if self.drop[0] else None
        )

    def _weigh(self, r: int, i: Tensor, j: Tensor) -> Tensor:
        """0 where round r counts a pair, minus the logarithm of how many count it, or EMPTY."""
        real = self.labels[r] != ABSENT
        # one comparison: nothing is before a query that does not exist, nor a key that does not
        at, to = torch.where(real[i], i, -1), torch.where(real[j], j, real.numel())
        allowed = to < at if self.causal else (to != at) & (at >= 0) & (to < real.numel())
        if self.cut.count_once:
            held = torch.stack([self._meet(one, i, j) for one in range(len(self.labels))])
            allowed, times = allowed & held[r], held.sum(0).clamp(min=1)
            return torch.where(allowed, -times.to(self.zero.dtype).log(), EMPTY)
        if self.cut.same_bucket:
            allowed = allowed & self._meet(r, i, j)
        return torch.where(allowed, self.zero, EMPTY)

    def _meet(self, r: int, i: Tensor, j: Tensor) -> Tensor:
        """Which pairs round r holds."""
        step = self.chunks[r][i] - self.chunks[r][j]
        held = (step == 0) | (step == 1)
        return held & (self.labels[r][i] == self.labels[r][j]) if self.cut.same_bucket else held

    def _factors(self, i: Tensor, j: Tensor) -> Tensor:
        rate, seed = self.drop
        return factors(seed, rate, i // self.slots, i % self.slots, j % self.slots)


def _take(t: Tensor, index: Tensor) -> Tensor:
    """Slots `index` (B, H, ...) of t (B, H, N) or (B, H, N, D)."""
    flat = index.flatten(2)
    if t.dim() == 3:
        return t.gather(2, flat).view(index.shape)
    found = t.gather(2, flat.unsqueeze(-1).expand(-1, -1, -1, t.shape[-1]))
    return found.view(*index.shape, t.shape[-1])
