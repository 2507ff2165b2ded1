"""Maps: what each head of a model looks at, as arrays, of any length in bounded memory.

A map is made row by row from `Sight.look`. Where the whole would not fit, tokens are joined to
blocks: a cell is then the weight that a query of its rows gives to all keys of its columns, the
mean over these queries. Rows of a map sum to the same, whatever the block; blocks of one token are
the matrix itself. N x N numbers are never held unless they are asked for.

Axes: B batch, N queries, M keys, H heads, R rows, G cells on a side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.viz.seen import Inputs, Sight, sights

__all__ = ["Map", "by_rows", "check_numbers", "chosen", "joined", "maps", "reduced"]

#: arrays of the size of its result that a call of `weights` holds at once, at most
_AT_ONCE = 10


@dataclass(frozen=True)
class Map:
    """What one layer looks at.

    layer, heads: numbers from 1 on.  name: of the module.  kind: its class.
    weights: (H, R, M) float64, of either sign for low-rank mixers only.
    queries, keys: the first position of each row (R,) and column (M,).
    queries_are, keys_are: what the axes stand for: tokens, latents, source, ...
    block: tokens that a row and a column stand for.
    """

    layer: int
    heads: tuple[int, ...]
    name: str
    kind: str
    weights: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    queries_are: str
    keys_are: str
    block: int = 1


def maps(
    model: nn.Module,
    inputs: Inputs,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    memory: int | None = None,
) -> list[Map]:
    """A map of each layer of a model that has run on `inputs`.

    inputs: a batch of one row, as the model takes it: a tensor, or arguments by name.
    layers, heads: numbers from 1 on; default: all.  rows: only these queries, from 0 on.
    memory: bytes that matrices may take, those returned among them; tokens are then joined to
    blocks, the fewest that fit. Default: as much as there are.

    ValueError for a model without mixers, a batch of several rows, numbers out of range (which is
    named), or a memory too small for a single row.
    """
    found = chosen(sights(model, inputs), layers)
    numbers = {n: check_numbers("head", heads, sight.heads) for n, sight in found}
    budget = None if memory is None else memory // 2
    share = None if budget is None else budget // max(1, len(found))
    made = []
    for n, sight in found:
        pick = numbers[n]
        asked = None if rows is None else _within(rows, sight)
        block = 1 if share is None else _block(sight, len(pick), asked, share)
        at = torch.arange(sight.queries) if asked is None else torch.tensor(asked)
        cells = reduced(sight, pick, block, rows=asked, memory=budget)
        made.append(
            Map(
                n,
                pick,
                sight.name,
                sight.kind,
                cells,
                (at if asked is not None else at[::block]).numpy(),
                np.arange(0, sight.keys, block),
                sight.queries_are,
                sight.keys_are,
                block,
            )
        )
    return made


def chosen(found: Sequence[Sight], layers: Sequence[int] | None) -> list[tuple[int, Sight]]:
    """The sights of some layers, with their numbers from 1 on. ValueError if there is none such."""
    return [(n, found[n - 1]) for n in check_numbers("layer", layers, len(found))]


def check_numbers(what: str, asked: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """Numbers from 1 to `count`: those asked for, or all. ValueError names the range."""
    if asked is None:
        return tuple(range(1, count + 1))
    for number in asked:
        if not 1 <= number <= count:
            raise ValueError(f"there is no {what} {number}; they are 1 to {count}")
    return tuple(asked)


def reduced(
    sight: Sight,
    heads: Sequence[int],
    block: int,
    *,
    rows: Sequence[int] | None = None,
    memory: int | None = None,
) -> np.ndarray:
    """The map of some heads, (H, R, M) float64, by blocks; only its columns for chosen `rows`."""
    across = -(-sight.keys // block)
    asked = range(sight.queries) if rows is None else rows
    cell = torch.arange(len(asked)) // (block if rows is None else 1)
    counts = torch.bincount(cell)
    out = torch.zeros(len(heads), len(counts), across, dtype=torch.float64)
    for first, found in by_rows(sight, heads, asked, memory):
        out.index_add_(1, cell[first : first + found.shape[1]], joined(found, block))
    return (out / counts[:, None]).numpy()


@torch.no_grad()
def by_rows(
    sight: Sight, heads: Sequence[int], rows: Sequence[int], memory: int | None
) -> Iterator[tuple[int, Tensor]]:
    """Pieces (H, R, M) float64 of the rows of some heads, and the place among `rows` of each first.

    ValueError if not even one row fits the memory.
    """
    each = sight.heads * max(1, sight.keys) * 8 * _AT_ONCE
    if memory is not None and each > memory:
        raise ValueError(
            f"a row of {sight.keys:,} keys in {sight.heads} heads takes {each / 2**20:,.1f} MiB "
            f"to form, and {memory / 2**20:,.1f} MiB are allowed: allow more memory"
        )
    some = len(rows) if memory is None else memory // each
    pick = torch.tensor(heads, dtype=torch.int64) - 1
    at, device = torch.tensor(rows, dtype=torch.int64), sight.x.device
    for first in range(0, len(rows), max(1, some)):
        found = sight.look(at[first : first + some].to(device))
        yield first, found[pick.to(device)].double().cpu()


def joined(found: Tensor, block: int) -> Tensor:
    """Sums (H, R, G) of (H, R, M) over blocks of columns."""
    if block == 1:
        return found
    return F.pad(found, (0, -found.shape[-1] % block)).unflatten(-1, (-1, block)).sum(-1)


def _block(sight: Sight, heads: int, rows: Sequence[int] | None, memory: int) -> int:
    """The fewest tokens to a cell, a power of two, by which a map fits."""
    block = 1
    while True:
        down = -(-sight.queries // block) if rows is None else len(rows)
        size = heads * down * -(-sight.keys // block) * 8
        if size <= memory or block >= max(sight.keys, sight.queries):
            return block
        block *= 2


def _within(rows: Sequence[int], sight: Sight) -> list[int]:
    for row in rows:
        if not 0 <= row < sight.queries:
            raise ValueError(
                f"there is no query {row}; the {sight.queries_are} of {sight.name} are 0 to "
                f"{sight.queries - 1}"
            )
    return [*rows]
