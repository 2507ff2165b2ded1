"""Patterns as pictures, with what they cost.

    shown = gallery(pattern, length)       which query may look at which key, and how many pairs

Pairs are counted one by one, from the definition, never by the engine that skips the others.

Axes: N queries, M keys, H heads.
"""

from collections.abc import Sequence

import numpy as np
import torch

from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Coords, Pattern
from subquad.ops.plan import plan
from subquad.viz.pyramid import drawn, of_array
from subquad.viz.shown import Layer, Shown

__all__ = ["allowed", "cost", "gallery"]

_ROWS = 1 << 22  # pairs tested at once
#: the length that engines are named for: long enough that a mask of all pairs is no choice
_LONG = 4096


def gallery(
    pattern: Pattern, length: int, *, marks: Sequence[int] = (), documents: int = 1
) -> Shown:
    """A pattern over `length` tokens, as one layer whose weights are 1 where it allows.

    marks: tokens that are marked.  documents: how many equal ones the tokens belong to.
    ValueError for lengths below 1, or marks beyond them.
    """
    if length < 1 or not 1 <= documents <= length:
        raise ValueError(
            f"length {length} must be at least 1, and documents {documents} 1 to the length"
        )
    for mark in marks:
        if not 0 <= mark < length:
            raise ValueError(f"there is no token {mark} to mark; they are 0 to {length - 1}")
    cells = allowed(pattern, length, marks, documents)
    heads = drawn(of_array(cells.astype(np.float64), square=True), tiles=64)
    for head in heads:
        head.entropy = head.distance = None
    told = cost(pattern, length, marks, documents)
    layer = Layer(
        "pattern", str(pattern), f"pairs: {told['pairs']}", "1 where a query may look at a key",
        length, length, "tokens", "tokens", tuple(range(1, len(heads) + 1)), heads,
    )  # fmt: skip
    return Shown(str(pattern), [layer], {}, None, told)


def allowed(
    pattern: Pattern, length: int, marks: Sequence[int] = (), documents: int = 1
) -> np.ndarray:
    """Which pairs a pattern allows: (H, N, N) bool."""
    rows = _pieces(pattern, length, marks, documents)
    return torch.cat([*rows], 1).numpy()


def cost(
    pattern: Pattern, length: int, marks: Sequence[int] = (), documents: int = 1
) -> dict[str, str]:
    """What a pattern costs, in words: pairs here and at twice the length, reach, engines."""
    here = _count(pattern, length, marks, documents)
    twice = _count(pattern, 2 * length, marks, documents)
    behind, ahead = pattern.reach()
    q = torch.zeros(1, max(1, _heads(pattern)), _LONG, 8)
    at = _coords(_LONG, marks, documents)
    parts = plan(q, q, pattern, Where(at, at, None), Scoring(1.0))
    found = {
        "pairs": f"{here:,} of {length * length:,}, {100 * here / length**2:.2f} %",
        "keys of a query": f"{here / length:,.1f}, the mean",
        "growth": f"{twice / max(here, 1):.2f} times as many pairs at {2 * length:,} tokens "
        f"(2: linear, 4: quadratic)",
        "looks back": "to the first token" if behind is None else f"{behind:,} tokens",
        "looks ahead": "to the last token" if ahead is None else f"{max(ahead, 0):,} tokens",
        f"computed at {_LONG:,} tokens by": "; ".join(
            f"{part.engine.__name__}: {part.pattern}" for part in parts
        ),
    }
    if marks:
        found["marked tokens"] = ", ".join(map(str, marks))
    if documents > 1:
        found["documents"] = f"{documents} of equal length"
    return found


def _heads(pattern: Pattern) -> int:
    at = _coords(1, (), 1)
    return pattern.allowed(at.queries(), at.keys()).shape[1]


def _count(pattern: Pattern, length: int, marks: Sequence[int], documents: int) -> int:
    """Allowed pairs of a head, the mean over heads."""
    rows = _pieces(pattern, length, marks, documents)
    counts = sum(piece.sum((1, 2)).double() for piece in rows)
    return round(float(torch.as_tensor(counts).mean()))


def _pieces(pattern: Pattern, length: int, marks: Sequence[int], documents: int):
    at = _coords(length, marks, documents)
    for rows in torch.arange(length).split(max(1, _ROWS // length)):
        some = at.each(lambda t, rows=rows: t[..., rows])
        piece = pattern.allowed(some.queries(), at.keys())[0]
        yield piece.expand(-1, len(rows), length)


def _coords(length: int, marks: Sequence[int], documents: int) -> Coords:
    pos = torch.arange(length)
    mark = torch.zeros(length, dtype=torch.bool)
    mark[[m for m in marks if m < length]] = True
    label = pos * documents // length
    return Coords(pos[None, None], label[None, None], mark[None, None])
