"""LSH attention in plain torch: every label compared with every other, O(N M R).

Axes: B batch, H heads, N queries (the last tokens), M tokens, R rounds, D head width.
"""

from torch import Tensor

from subquad.ops.lsh import compare

__all__ = ["hashed"]


def hashed(
    qk: Tensor,
    v: Tensor,
    labels: Tensor,
    seed: Tensor | None,
    queries: int,
    behind: int,
    ahead: int,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    """Results of `subquad::lsh`: out (B, H, N, Dv) and lse (B, H, N)."""
    out, lse = compare(qk, v, labels, queries, (behind, ahead), dropout, seed)
    return out.transpose(1, 2).contiguous().transpose(1, 2), lse
