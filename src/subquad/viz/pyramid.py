"""Pyramids: a map at several scales, in tiles, so that one may look from the whole to one token.

The coarsest level shows everything in at most 256 cells on a side; each further level halves a
block twice, down to single tokens. Of levels that do not fit whole, the tiles that hold most weight
are kept; tiles without any are never kept. Numbers are rounded to 32,767 steps of their root, by
the largest of their level: what a page shows, not what is computed with.

Axes: B batch, N queries, M keys, H heads, R rows, G cells on a side.
"""

import base64
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from subquad.viz.maps import by_rows, joined
from subquad.viz.seen import Sight

__all__ = ["SIDE", "Head", "Source", "as_text", "drawn", "of_array", "of_sight", "packed", "scales"]

#: cells on a side of a tile, and of the whole at its coarsest
SIDE = 256
_STEPS = 32_767

#: (first, piece (H, R, M)) of rows, as `by_rows` gives them
Rows = Callable[[Sequence[int]], Any]


@dataclass(frozen=True)
class Source:
    """Where the rows of a matrix come from: its sizes, how many heads, and whether its queries and
    keys are the same tokens."""

    queries: int
    keys: int
    heads: int
    square: bool
    rows: Rows


@dataclass
class Head:
    """One head: its whole (G, G), numbers about it, and levels as a page holds them.

    entropy: bits, the mean over queries; distance: from query to key, the mean by weight. None
    where they mean nothing.
    """

    whole: np.ndarray
    entropy: float | None
    distance: float | None
    levels: list[dict[str, Any]]
    rows: dict[int, tuple[str, float]]


def of_sight(sight: Sight, heads: Sequence[int], memory: int) -> Source:
    """The rows of a mixer's matrix, formed again at each pass."""
    square = sight.queries_are == sight.keys_are

    def rows(asked: Sequence[int]) -> Any:
        return by_rows(sight, heads, asked, memory)

    return Source(sight.queries, sight.keys, len(heads), square, rows)


def of_array(weights: np.ndarray, square: bool) -> Source:
    """The rows of matrices (H, N, M) that are there already."""
    held = torch.from_numpy(weights)

    def rows(asked: Sequence[int]) -> Any:
        yield 0, held[:, list(asked)]

    return Source(held.shape[1], held.shape[2], len(held), square, rows)


def drawn(source: Source, *, tiles: int, rows: Sequence[int] = ()) -> list[Head]:
    """The heads of a source.

    tiles: of a level finer than the whole, kept for each head at most.  rows: queries whose
    weights are kept token by token, however long they are.
    """
    blocks = scales(source.queries, source.keys)
    whole, entropy, distance = _first(source, blocks[0])
    made = [
        Head(
            whole[h],
            None if entropy is None else float(entropy[h]),
            None if distance is None else float(distance[h]),
            [_level(blocks[0], whole[h].shape, _cut(whole[h]), True)],
            {},
        )
        for h in range(source.heads)
    ]
    for scale in blocks[1:]:
        every = [_heaviest(whole[h], blocks[0], scale) for h in range(source.heads)]
        found = _tiles(source, scale, [places[:tiles] for places in every])
        shape = (-(-source.queries // scale[0]), -(-source.keys // scale[1]))
        for head, one, places in zip(made, found, every, strict=True):
            head.levels.append(_level(scale, shape, one, len(places) <= tiles))
    asked = sorted({row for row in rows if row < source.queries})
    for first, piece in source.rows(asked) if asked and len(blocks) > 1 else ():
        for h, head in enumerate(made):
            for i, row in enumerate(piece[h].numpy()):
                most = float(np.abs(row).max(initial=0.0))
                head.rows[asked[first + i]] = packed(row, most), most
    return made


def scales(queries: int, keys: int) -> list[tuple[int, int]]:
    """Tokens of a cell, down and across, of each level, the coarsest first."""
    start = [4**k for size in (queries, keys) for k in range(16) if size <= SIDE * 4**k]
    down = min(b for b in start if queries <= SIDE * b)
    across = min(b for b in start if keys <= SIDE * b)
    found = [(down, across)]
    while down > 1 or across > 1:
        down, across = max(1, down // 4), max(1, across // 4)
        found.append((down, across))
    return found


def _first(
    source: Source, scale: tuple[int, int]
) -> tuple[np.ndarray, Tensor | None, Tensor | None]:
    """The whole (H, G, G), and of each head the entropy and the mean distance."""
    down, across = scale
    cell = torch.arange(source.queries) // down
    counts = torch.bincount(cell)
    out = torch.zeros(source.heads, len(counts), -(-source.keys // across), dtype=torch.float64)
    entropy, distance = (torch.zeros(source.heads, dtype=torch.float64) for _ in range(2))
    signed, keys = False, torch.arange(source.keys)
    for first, found in source.rows(range(source.queries)):
        here = torch.arange(first, first + found.shape[1])
        out.index_add_(1, cell[here], joined(found, across))
        signed = signed or bool((found < 0).any())
        entropy -= torch.special.xlogy(found.clamp(min=0), found.clamp(min=0)).sum((1, 2))
        if source.square:
            distance += (found * (here[:, None] - keys).abs()).sum((1, 2))
    whole = (out / counts[:, None]).numpy()
    if signed:
        return whole, None, None
    bits = entropy / np.log(2) / source.queries
    return whole, bits, distance / source.queries if source.square else None


def _cut(array: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """An array that is one tile."""
    return {(0, 0): array} if array.any() else {}


def _heaviest(
    whole: np.ndarray, coarse: tuple[int, int], fine: tuple[int, int]
) -> list[tuple[int, int]]:
    """The tiles of a finer level that hold any weight, told by the whole, the most first."""
    down, across = (max(1, SIDE * f // c) for f, c in zip(fine, coarse, strict=True))
    i, j = (np.arange(n) // step for n, step in zip(whole.shape, (down, across), strict=True))
    mass = np.zeros((i[-1] + 1, j[-1] + 1))
    np.add.at(mass, (i[:, None], j[None]), np.abs(whole))
    order = np.argsort(-mass, axis=None, kind="stable")
    places = (np.unravel_index(int(at), mass.shape) for at in order)
    return [(int(a), int(b)) for a, b in places if mass[a, b] > 0]


def _tiles(
    source: Source, scale: tuple[int, int], wanted: list[list[tuple[int, int]]]
) -> list[dict[tuple[int, int], np.ndarray]]:
    """Of each head the tiles that are wanted, formed band by band."""
    down, across = scale
    made: list[dict[tuple[int, int], np.ndarray]] = [{} for _ in wanted]
    for band in sorted({i for places in wanted for i, _ in places}):
        begin = band * SIDE * down
        rows = range(begin, min(begin + SIDE * down, source.queries))
        cell = torch.arange(len(rows)) // down
        counts = torch.bincount(cell)
        for first, found in source.rows(rows):
            here = cell[first : first + found.shape[1]]
            for h, places in enumerate(wanted):
                for j in (j for i, j in places if i == band):
                    part = found[h : h + 1, :, j * SIDE * across : (j + 1) * SIDE * across]
                    narrow = joined(part, across)[0]
                    blank = np.zeros((len(counts), narrow.shape[1]))
                    tile = torch.from_numpy(made[h].setdefault((band, j), blank))
                    tile.index_add_(0, here, narrow / counts[here, None])
    return made


def _level(
    scale: tuple[int, int],
    shape: tuple[int, ...],
    tiles: dict[tuple[int, int], np.ndarray],
    whole: bool,
) -> dict[str, Any]:
    """A level as a page holds it; `whole`: what is not among its tiles is zero."""
    most = max((float(np.abs(t).max()) for t in tiles.values()), default=0.0)
    every = -(-shape[0] // SIDE) * -(-shape[1] // SIDE)
    return {
        "down": scale[0],
        "across": scale[1],
        "max": most,
        "of": every,
        "whole": whole,
        "tiles": {f"{i},{j}": [*t.shape, packed(t, most)] for (i, j), t in tiles.items()},
    }


def packed(array: np.ndarray, most: float) -> str:
    """Roots of an array by the largest, rounded, of either sign: 16 bits each, as text."""
    share = np.sqrt(np.abs(array) / most) if most > 0 else np.zeros_like(array)
    return as_text(np.rint(np.sign(array) * share * _STEPS))


def as_text(numbers: np.ndarray) -> str:
    """Whole numbers of 16 bits, compressed, as text."""
    return base64.b64encode(zlib.compress(numbers.astype("<i2").tobytes(), 6)).decode()
