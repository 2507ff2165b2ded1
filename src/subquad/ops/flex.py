"""The flex engine: torch's flex_attention, which compiles a pattern into one GPU kernel.

The pattern's own predicate is the mask: it is traced on the coordinates of one pair. Which blocks
of pairs are visited, and in which of them no pair need be asked, follows from the ends of the
blocks (`touching`), O(N) and a few numbers for each block of pairs, where torch's own
`create_block_mask` asks all N M pairs. A mask is kept for as long as the same pattern meets the
same coordinates, as it does in every layer of a model. One graph serves all lengths. Distances
enter as a bias by distance; a relative query, dropout and gradients on a CPU are beyond it.

Time O(allowed blocks), memory O(N) and the blocks.

Axes: B batch, N queries, M keys, H heads, D head width, I blocks of queries, J blocks of keys.
"""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from subquad.ops.partial import EMPTY, Distance, Partial, Scoring, Where, wide
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.touching import Ends, ends, in_blocks, touches

__all__ = ["block_mask", "flex", "takes"]

#: tokens of a block, as torch's kernels like them
BLOCK = 128
#: masks that are kept, with the coordinates that they were made from
KEPT = 32


def flex(
    q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, where: Where, scoring: Scoring
) -> Partial:
    """Attention over the pairs that `pattern` allows.

    q (B, H, N, D), k (B, H, M, D), v (B, H, M, Dv) -> out (B, H, N, Dv), lse (B, H, N).
    ValueError where weights are dropped, a relative query scores distances, or a gradient is wanted
    on a CPU; there the forward pass alone runs, and holds the N x M scores.
    """
    _check(q, k, v, scoring)
    b, h, n, m = *q.shape[:3], k.shape[2]
    if 0 in (b, n, m):
        lse = torch.full((b, h, n), EMPTY, dtype=wide(q.dtype), device=q.device)
        return Partial(q.new_zeros(b, h, n, v.shape[-1]), lse)
    gpu = q.device.type != "cpu"
    blocks = _kept(pattern, where)
    add = None if scoring.distance is None else _addition(scoring.distance, where)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        out, aux = _run(gpu)(
            *(q, k, v), add, blocks, scale=scoring.scale, return_aux=AuxRequest(lse=True)
        )
    some = aux.lse > EMPTY / 2
    return Partial(torch.where(some.unsqueeze(-1), out, 0.0), torch.where(some, aux.lse, EMPTY))


@cache
def _run(compiled: bool) -> Callable[..., Any]:
    attention: Any = flex_attention
    return torch.compile(attention, dynamic=True) if compiled else attention


def takes(q: Tensor, scoring: Scoring) -> bool:
    """Can the compiled engine score these? Types, widths, and what is added to scores."""
    d = scoring.distance
    plain = scoring.dropout == 0 and (d is None or (d.query is None and d.span is None))
    types = (torch.float32, torch.float16, torch.bfloat16)
    return plain and q.dtype in types and 16 <= q.shape[-1] <= 256


def block_mask(pattern: Pattern, where: Where) -> BlockMask:
    """Which blocks of pairs are visited, and in which of them all pairs count."""
    n, m = where.q.pos.shape[-1], where.k.pos.shape[-1]
    q, k = ends(where.q, BLOCK), ends(where.k, BLOCK)
    some, every = touches(pattern, Ends(*(c.queries() for c in q)), Ends(*(c.keys() for c in k)))
    if where.valid is not None:
        exist = in_blocks(where.valid[:, None], BLOCK).unsqueeze(2)
        some, every = some & exist.any(-1), every & exist.all(-1)
    # behind the last token nothing counts
    whole = [torch.arange(BLOCK, t + BLOCK, BLOCK, device=some.device) <= t for t in (n, m)]
    every = every & whole[0].unsqueeze(-1) & whole[1]
    return BlockMask.from_kv_blocks(
        *(*_listed(some & ~every), *_listed(every)),
        BLOCK_SIZE=BLOCK,
        mask_mod=_allowed(pattern, where),
        seq_lengths=(n, m),
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and which, those first: int32."""
    order = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.to(torch.int32)


_masks: OrderedDict[tuple, tuple[BlockMask, Where]] = OrderedDict()


def _kept(pattern: Pattern, where: Where) -> BlockMask:
    """The mask, made anew only where pattern or coordinates are others than before.

    Coordinates are the same if they are the same memory, unchanged: the kept ones hold on to it.
    """
    given = [t for t in (*where.q, *where.k, where.valid) if t is not None]
    if torch.compiler.is_compiling() or any(t.is_inference() for t in given):
        return block_mask(pattern, where)
    names = tuple(t is None for t in (*where.q, *where.k, where.valid))
    same = tuple(
        (t.data_ptr(), t._version, t.device, t.dtype, tuple(t.shape), t.stride()) for t in given
    )
    key = (pattern, names, same)
    if key not in _masks:
        _masks[key] = (block_mask(pattern, where), where)
    _masks.move_to_end(key)
    while len(_masks) > KEPT:
        _masks.popitem(last=False)
    return _masks[key][0]


def _check(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> None:
    d = scoring.distance
    if scoring.dropout > 0:
        raise ValueError(
            f"the flex engine drops no weights, and dropout is {scoring.dropout}; use band"
        )
    if d is not None and (d.query is not None or d.span is not None):
        what = "relative query" if d.query is not None else "span by query"
        raise ValueError(f"the flex engine takes a bias by distance, no {what}; use band")
    given = [q, k, v] if d is None or d.bias is None else [q, k, v, d.bias]
    if q.device.type == "cpu" and torch.is_grad_enabled() and any(t.requires_grad for t in given):
        raise ValueError(
            "the flex engine has no gradient on a CPU; use the band engine, no_grad() or a GPU"
        )


def _allowed(pattern: Pattern, where: Where) -> Callable[..., Tensor]:
    """The predicate of one pair, as flex_attention asks for it."""

    def allowed(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        q, k = _at(where.q, b, h, i), _at(where.k, b, h, j)
        yes = pattern.allowed(q, k)
        return yes if where.valid is None else yes & where.valid[b, j]

    return allowed


def _addition(distance: Distance, where: Where) -> Callable[..., Tensor] | None:
    bias, zero = distance.bias, distance.zero
    if bias is None:
        return None

    def add(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        d = _at(where.q, b, h, i).pos - _at(where.k, b, h, j).pos
        row = (d + zero).clamp(0, bias.shape[1] - 1)
        return score + bias[h if bias.shape[0] > 1 else 0, row]

    return add


def _at(c: Coords, b: Tensor, h: Tensor, n: Tensor) -> Coords:
    """The coordinates of one token."""
    return c.each(lambda t: t[b if t.shape[0] > 1 else 0, h if t.shape[1] > 1 else 0, n])
