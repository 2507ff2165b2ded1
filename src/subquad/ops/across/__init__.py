"""One sequence held by several processes, piece by piece: what each layer must send, and no more.

    ranks = Ranks.of(tokens, group)                  once for each batch
    attend(q, k, v, pattern, ranks)                  halo, gathered marks, or a ring
    kernel_attention(q, k, v, feature_map, ranks)    a state handed on, or summed
    halo(x, ranks, behind, ahead)                    neighbours' tokens, for a convolution

Every process of the group calls the same functions in the same order, and backward through all of
them; results and gradients are those of one process (float64: to rounding). Gradients of what all
processes share (weights, a projection) are parts of a sum: reduce them over the group, as in data
parallelism.

Axes: B batch, N queries and keys of this process, H heads, D head width.
"""

from subquad.ops.across.attend import attend
from subquad.ops.across.kernel import kernel_attention
from subquad.ops.across.ranks import Ranks
from subquad.ops.across.window import halo

__all__ = ["Ranks", "attend", "halo", "kernel_attention"]
