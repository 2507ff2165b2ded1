"""What engines share: where tokens are, how a pair is scored, and how partial results merge.

    score(i, j) = scale * q_i . k_j + r_i . table[d] + bias[d],   d = distance(i, j) + zero
    out_i = sum_j softmax_j(score(i, j)) v_j
    lse_i = log sum_j exp(score(i, j))

Partials over disjoint keys merge exactly: weigh each by exp(lse - merged lse).

Axes: B batch, N queries, M keys, H heads, D head width, S rows of a table of distances.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from subquad.ops.pattern import Coords, Pattern

__all__ = [
    "EMPTY",
    "Distance",
    "Partial",
    "Scoring",
    "Where",
    "keep",
    "log_ramp",
    "merge",
    "mix",
    "ramp_slope",
]

#: the log-sum-exp of a row that looks at nothing: finite, so that sums and gradients stay so
EMPTY = -1e30


class Distance(NamedTuple):
    """What distance adds to a score; distance d (query minus key) reads row clamp(d + zero).

    `query` (B, H, N, D) with `table` (H or 1, S, D), `bias` (H or 1, S); either may be None. A bias
    of EMPTY forbids the pair. `span` (B, H, N): how far back (or ahead) each query looks, with a
    soft end of `ramp` tokens (`log_ramp`); float32 or wider.
    """

    query: Tensor | None
    table: Tensor | None
    bias: Tensor | None
    zero: int
    span: Tensor | None = None
    ramp: float = 1.0

    def scores(self, d: Tensor) -> Tensor:
        """The additions for distances `d` (B or 1, H or 1, N, M): (B, H, N, M)."""
        total = torch.zeros((), device=d.device)
        if self.bias is not None:
            rows = self.bias.shape[1]
            index = (d + self.zero).clamp(0, rows - 1)
            heads = max(self.bias.shape[0], index.shape[1])
            index = index.expand(-1, heads, -1, -1)
            table = self.bias[None, :, None].expand(index.shape[0], heads, index.shape[2], rows)
            total = total + table.gather(-1, index)
        if self.query is not None and self.table is not None:
            every = self.query @ self.table.mT
            index = (d + self.zero).clamp(0, every.shape[-1] - 1)
            total = total + every.gather(-1, index.expand(*every.shape[:2], -1, -1))
        if self.span is not None:
            left = self.ramp + self.span.unsqueeze(-1) - d.abs()
            total = total + log_ramp(left, self.ramp)
        return total

    def rows(self, rows: Tensor) -> "Distance":
        """What distance adds to the scores of some queries, by their index (R,)."""
        query, span = (None if t is None else t[:, :, rows] for t in (self.query, self.span))
        return self._replace(query=query, span=span)

    def heads(self, first: int, last: int) -> "Distance":
        """What it adds to the scores of some heads."""

        def cut(t: Tensor | None, axis: int) -> Tensor | None:
            return t if t is None or t.shape[axis] == 1 else t.narrow(axis, first, last - first)

        return Distance(
            cut(self.query, 1),
            cut(self.table, 0),
            cut(self.bias, 0),
            self.zero,
            cut(self.span, 1),
            self.ramp,
        )


def log_ramp(left: Tensor, ramp: float) -> Tensor:
    """log clamp(left / ramp, 0, 1), EMPTY for 0; gradient `ramp_slope`, never NaN.

    The soft end of a span: left = ramp + span - distance (Sukhbaatar et al., arXiv 1905.07799,
    section 2.2).
    """
    some = left > 0
    return torch.where(some, left / ramp, 1.0).clamp(max=1.0).log().where(some, EMPTY)


def ramp_slope(left: Tensor, ramp: float) -> Tensor:
    """The derivative of `log_ramp`: 1 / left on the ramp, 0 off it."""
    return torch.where((left > 0) & (left <= ramp), 1.0 / left, 0.0)


class Scoring(NamedTuple):
    """How a pair is scored; `seed` (an int64 scalar) makes the dropout of normalised weights."""

    scale: float
    distance: Distance | None = None
    dropout: float = 0.0
    seed: Tensor | None = None


class Where(NamedTuple):
    """Coordinates of queries and keys, and which keys exist (B, M) or None for all.

    Positions increase strictly along each row, and the last query stands at the last key.
    """

    q: Coords
    k: Coords
    valid: Tensor | None = None

    def allowed(self, pattern: Pattern) -> Tensor:
        """Which pairs count: (B or 1, H or 1, N, M)."""
        pairs = pattern.allowed(self.q.queries(), self.k.keys())
        return pairs if self.valid is None else pairs & self.valid[:, None, None]

    def distances(self) -> Tensor:
        """Query position minus key position: (B or 1, H or 1, N, M)."""
        return self.q.pos.unsqueeze(-1) - self.k.pos.unsqueeze(-2)

    def heads(self, first: int, last: int) -> "Where":
        """The coordinates of some heads, where they differ by head."""

        def cut(t: Tensor) -> Tensor:
            return t if t.shape[1] == 1 else t[:, first:last]

        return Where(self.q.each(cut), self.k.each(cut), self.valid)


class Partial(NamedTuple):
    """Output (B, H, N, D) over some of the keys, and its log-sum-exp (B, H, N), float32 or wider.

    Rows that look at nothing hold zeros and EMPTY. An engine that can only run alone gives no lse.
    """

    out: Tensor
    lse: Tensor | None


def merge(parts: list[Partial]) -> Partial:
    """The partial over all the keys of `parts`, which must be disjoint."""
    if len(parts) == 1:
        return parts[0]
    lses = torch.stack([p.lse for p in parts if p.lse is not None])
    if len(lses) != len(parts):
        raise ValueError("an engine without a log-sum-exp cannot be merged with others")
    lse = lses.logsumexp(0)
    first, *weights = (lses - lse).exp().unsqueeze(-1)
    out = first * parts[0].out
    for weight, part in zip(weights, parts[1:], strict=True):
        out = torch.addcmul(out, weight, part.out.to(out.dtype))
    return Partial(out, lse)


def keep(seed: Tensor, rate: float, shape: torch.Size, q0: int, k0: int) -> Tensor:
    """The dropout factors, 0 or 1 / (1 - rate), of a tile of weights.

    `shape` is (B, H, N, M) with B and H whole; the tile starts at query slot `q0`, key slot `k0`.
    Every factor is a hash of (seed, row of the batch, head, query, key) alone, so any engine and
    any tiling draws the same ones, forward, backward and in recomputation.
    """
    b, h, n, m = shape
    at = seed.device
    lanes = torch.arange(b * h, device=at).view(b, h, 1, 1)
    rows = torch.arange(q0, q0 + n, device=at).view(n, 1)
    columns = torch.arange(k0, k0 + m, device=at)
    return factors(seed, rate, lanes, rows, columns)


def factors(seed: Tensor, rate: float, lanes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Dropout factors where lane (b * H + h), query slot and key slot broadcast."""
    x = mix(mix(lanes * 0x9E3779B1 + seed) + rows * 0x85EBCA77)
    # by pair in 32 bits and in place: int64 has no fast product on a CPU
    pairs = _signed(x) + _signed((columns * 0xC2B2AE3D) & 0xFFFFFFFF)
    pairs = pairs.bitwise_xor_((pairs >> 16).bitwise_and_(0xFFFF)).mul_(0x85EBCA6B - 2**32)
    pairs = pairs.bitwise_xor_((pairs >> 13).bitwise_and_(0x7FFFF)).mul_(0xC2B2AE35 - 2**32)
    return (pairs >= int(rate * 2**32) - 2**31) / (1.0 - rate)


def _signed(x: Tensor) -> Tensor:
    """Words of 32 bits, as int64, in int32."""
    return (x - ((x >> 31) << 32)).to(torch.int32)


def mix(x: Tensor) -> Tensor:
    """A 32-bit finaliser (murmur3's constants), on int64."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums of `dtype` are kept in: float64 stays, all others are float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32
