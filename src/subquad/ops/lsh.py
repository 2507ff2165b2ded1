"""LSH attention: every token looks at the last few tokens whose vectors point the same way.

    out_i = sum_{j in A(i)} softmax_j(q_i . k_j / sqrt(D)) v_j,   k_j = q_j / |q_j|
    A_r(i) = the last w earlier tokens with i's label in round r;   A(i) = their union over rounds
    out_i = v_i where A(i) is empty

Kitaev, Kaiser, Levskaya, Reformer, https://arxiv.org/abs/2001.04451

O(N (sum(buckets) + rounds window) D) time, O(N (D + rounds)) memory, forward and backward.
Ours differs: in the paper, sorted tokens are cut into chunks whose borders later tokens move; here
each bucket has a sliding window of its own, so that nothing depends on what comes later. The union
is one softmax: a pair that meets in several rounds counts once.

Axes: B batch, H heads, N queries, M keys, R rounds, D head width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as nnf
from torch import Tensor

from subquad.ops.hashing import ABSENT, hash_labels, rotations
from subquad.ops.lsh_call import lsh
from subquad.ops.partial import EMPTY, keep, wide

__all__ = ["attend_labels", "check_window", "compare", "lsh_attention", "unit"]

#: up to this many queries are compared with every key: less work than sorting all keys
FEW = 4


def lsh_attention(
    qk: Tensor,
    v: Tensor,
    rounds: int = 4,
    buckets: Sequence[int] = (16, 16),
    window: int = 64,
    causal: bool = True,
    seed: int = 0,
    *,
    valid: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of every token to the last `window` tokens of its bucket, in any of the rounds.

    qk: (B, H, N, D), queries and, as unit vectors, keys.  v: (B, H, N, Dv).
    rounds: how often tokens are hashed.  buckets: even factors of the number of buckets.
    causal: look back only; otherwise at `window` tokens on each side.
    seed: fixes the rotations.  valid: (B, N), True where a token exists.
    dropout: rate at which normalised weights are dropped.

    Returns (B, H, N, Dv); a token that finds no other gets its own value. ValueError for an odd
    bucket count, no rounds, no window, or shapes that do not fit.
    """
    check_window(window)
    _check(qk, v, valid)
    if valid is not None:
        gone = ~valid[:, None, :, None]
        qk, v = qk.masked_fill(gone, 0.0), v.masked_fill(gone, 0.0)
    directions = rotations(rounds, buckets, qk.shape[-1], seed).to(qk.device)
    labels = hash_labels(qk, directions, buckets, valid)
    return attend_labels(qk, v, labels, window, causal=causal, dropout=dropout)


def unit(x: Tensor) -> Tensor:
    """x (..., D) made unit vectors; zero stays zero."""
    return nnf.normalize(x.to(wide(x.dtype)), dim=-1).to(x.dtype)


def attend_labels(
    qk: Tensor,
    v: Tensor,
    labels: Tensor,
    window: int | None,
    *,
    queries: int | None = None,
    causal: bool = True,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """LSH attention by labels that are already known.

    qk: (B, H, M, D), queries and, as unit vectors, keys.  v: (B, H, M, Dv).
    labels: (B, H, R, M) integers, ABSENT where no token exists.  window: None for no limit.
    queries: how many tokens at the end look; None for all.
    dropout: rate at which normalised weights are dropped; `seed`, an int64 scalar, fixes which.

    Returns (B, H, N, Dv), N queries.
    """
    m = qk.shape[2]
    n = m if queries is None else queries
    behind = m if window is None else min(window, m)
    if dropout > 0 and seed is None:
        seed = torch.randint(2**31, (), device=qk.device)
    seed = seed if dropout > 0 else None
    if causal and n < m and n <= FEW:
        return compare(qk, v, labels, n, (behind, 0), dropout, seed)[0]
    return lsh(qk, v, labels, seed, n, behind, 0 if causal else behind, dropout)[0]


def _check(q: Tensor, v: Tensor, valid: Tensor | None) -> None:
    """ValueError unless qk (B, H, N, D), v (B, H, N, Dv) and valid (B, N) fit."""
    if q.dim() != 4 or v.dim() != 4 or q.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"qk and v must be (batch, heads, length, width) and agree but for the width, "
            f"not {tuple(q.shape)} and {tuple(v.shape)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != q.shape[::2][:2]):
        raise ValueError(
            f"valid must be bool of shape {(q.shape[0], q.shape[2])}, True for tokens that exist, "
            f"not {valid.dtype} of shape {tuple(valid.shape)}"
        )


def check_window(window: int) -> None:
    """ValueError unless the window holds a token."""
    if window < 1:
        raise ValueError(f"window must be at least 1 token of a bucket, not {window}")


def compare(
    qk: Tensor,
    v: Tensor,
    labels: Tensor,
    n: int,
    reach: tuple[int, int],
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """LSH attention of the last n of many tokens: every label is compared, nothing is sorted.

    Shapes as in `attend_labels`; reach: how many tokens of a bucket are seen before and after.

    Returns out (B, H, N, Dv), and lse (B, H, N), EMPTY for those who find nothing.
    """
    b, h, m, d = qk.shape
    slots = torch.arange(m, device=qk.device)
    at = slots[m - n :, None]
    mine = labels[..., m - n :, None]
    same = (labels.unsqueeze(-2) == mine) & (mine != ABSENT)
    near = _nearest(same & (slots < at), reach[0], later=False)
    if reach[1]:
        near = near | _nearest(same & (slots > at), reach[1], later=True)
    some = near.any(-1, keepdim=True)
    allowed = near | ((slots == at) & ~some)
    q = qk[:, :, m - n :].to(wide(qk.dtype)) * d**-0.5
    scores = (q @ unit(qk).to(q.dtype).mT).masked_fill(~allowed, -torch.inf)
    p = scores.softmax(-1)
    if seed is not None:
        p = p * keep(seed, dropout, torch.Size((b, h, n, m)), 0, 0).to(p.dtype)
    lse = scores.logsumexp(-1).masked_fill(~some.squeeze(-1), EMPTY)
    return (p @ v.to(p.dtype)).to(v.dtype), lse


def _nearest(same: Tensor, most: int, *, later: bool) -> Tensor:
    """Which pairs (B, H, N, M) are among the `most` nearest of one bucket on one side, in any of
    the rounds; same (B, H, R, N, M).
    """
    # how many of the bucket stand from a key to the query
    rank = same.cumsum(-1, dtype=torch.int32)
    rank = rank if later else rank[..., -1:] - rank + 1
    return (same & (rank <= most)).any(2)
