"""What the product of a mixer is made of: matrix, values, and the map behind, by positions.

Columns of the same token are added (the second projections of marked queries); blends of all tokens
are multiplied out (low rank: A = softmax(q (E k)^T) F beside v).

Axes: B batch, N queries, M keys, H heads, R rows asked for, D head width.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.lowrank import LowRankAttention
from subquad.nn.lowrank_cross import LowRankCrossAttention
from subquad.nn.mixer import Mixer
from subquad.nn.past import Seen
from subquad.nn.read import Read

__all__ = ["Factors", "of_mixer", "of_read", "pull"]


class Factors(NamedTuple):
    """What a mixer's product is made of: rows of its matrix as it is, (H, R, M), values (H, M, D),
    the map behind, and the position of each column (M,). Values are None where gradients are those
    of the matrix itself.

    product: the product (1, H, N, D) itself, where the map behind it is not linear.
    window: of windows side by side the one that the last position's output comes from, and its
    first position; no other decides that output, so the factors are of this one.
    """

    weights: Callable[[Tensor], Tensor]
    values: Callable[[], Tensor] | None
    output: Callable[[Tensor], Tensor] | None
    columns: Tensor
    product: Callable[[], Tensor] | None = None
    window: tuple[int, int] | None = None


def of_mixer(mixer: Mixer, x: Tensor, context: Context) -> Factors:
    """Of a mixer of x (1, N, C)."""
    matrix, values = mixer.weights, mixer.values
    if isinstance(mixer, LowRankAttention | LowRankCrossAttention):
        # by tokens, for slots are no positions
        matrix, values = mixer.matrix, mixer.token_values
        columns = torch.arange(values(x, context).shape[2], device=x.device)
    else:
        columns = mixer.columns(x, context)
    return Factors(
        lambda rows: matrix(x, context, rows)[0],
        lambda: values(x, context)[0],
        mixer.output,
        columns,
    )


def of_read(read: Read, x: Tensor, context: Context, seen: Seen) -> Factors:
    """Of a reading of those seen by x (1, N, C)."""
    share = read.mixer.num_heads // seen.v.shape[1]
    return Factors(
        lambda rows: read.weights(x, context, seen, rows)[0],
        lambda: seen.v[0].repeat_interleave(share, 0),
        partial(read.output, x, context),
        torch.arange(seen.k.shape[2], device=x.device),
        partial(read.product, x, context, seen),
    )


def pull(found: Tensor, columns: Tensor, count: int) -> Tensor:
    """Columns (H, R, M) added up by the position (M,) that each is, to (H, R, N)."""
    if len(columns) == count and torch.equal(columns, torch.arange(count, device=columns.device)):
        return found
    there = columns >= 0
    out = found.new_zeros(*found.shape[:2], count)
    return out.index_add_(2, columns[there], found[..., there])
