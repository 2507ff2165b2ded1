"""What the operators cost, told to torch's FLOP counter, which cannot look inside them.

    forward    2 P (D + Dv)             P allowed pairs of the batch and all heads
    backward   2 P (3 D + 2 Dv)         scores again, then dv, dp, dq and dk
    with a relative query: 2 P D more forward, 3 times that in backward

P counts pairs by distance, with positions that run on by one and the queries at the last keys: what
labels, blocks and validity take away is data and is not taken off; `columns` and `drawn` count by
position, blocks taken off. How many tokens are marked is data too: `marked` and `rows` count one
marked token in each row of the batch.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

import torch
from torch.utils.flop_counter import register_flop_formula

from subquad.ops.grid import Columns
from subquad.ops.lowering import distances, parse, without
from subquad.ops.pattern import Coords
from subquad.ops.random_blocks import RandomBlocks

__all__ = ["pairs", "register"]

Shape = torch.Size


def pairs(name: str, n: int, m: int, text: str, numbers: list[int], listed: Shape | None) -> int:
    """Pairs of one head that the op `name` scores, n queries at the last of m keys."""
    if name in ("marked", "rows"):
        return (n if name == "marked" else 0) + m
    if listed is not None:
        return n * listed[-1]
    if name == "columns":
        return _in_columns(n, m, text, numbers)
    if name == "drawn":
        return _in_drawn(n, m, text, numbers)
    d = torch.arange(1 - n, m)  # every distance, and how often it occurs
    often = torch.clamp(m - 1 + d, max=m - 1) - torch.clamp(d, min=m - n) + 1
    inside = torch.ones_like(d, dtype=torch.bool)
    pattern = parse(text) if text else None
    if name == "band":
        behind, ahead, step = numbers
        inside = (d <= behind * step) & (d >= -ahead * step) & (d % step == 0)
    elif pattern is not None:
        few = torch.tensor(distances(pattern, m) or (), dtype=torch.int64)
        inside = torch.isin(d, few)
    if pattern is not None and pattern.by_distance:
        inside = inside & pattern.allowed(Coords(d), Coords(torch.zeros_like(d)))
    return int((often * inside).sum())


def _in_columns(n: int, m: int, text: str, numbers: list[int]) -> int:
    """Pairs whose keys stand in columns, labels and marks apart."""
    pattern = without(parse(text), labels=False, marks=False)
    pos = torch.arange(m)
    held = pos[Columns(*numbers).holds(pos)]
    if pattern is None or not len(held):
        return 0
    rows = pos[m - n :, None].split(max(1, (1 << 22) // len(held)))
    return int(sum(pattern.allowed(Coords(r), Coords(held)).sum() for r in rows))


def _in_drawn(n: int, m: int, text: str, numbers: list[int]) -> int:
    """Pairs whose keys stand in drawn blocks, labels and marks apart."""
    pattern = without(parse(text), labels=False, marks=False)
    if pattern is None:
        return 0
    q = torch.arange(m - n, m).unsqueeze(-1)
    keys = RandomBlocks(*numbers).keys(q.squeeze(-1), m)
    return int((pattern.allowed(Coords(q), Coords(keys)) & (keys >= 0)).sum())


def register(name: str) -> None:
    """Tell the counter what `subquad::name` and its backward cost."""

    def count(shapes: tuple, forward: bool) -> int:
        q, k, v, *_ = shapes
        rel, listed, text, numbers = shapes[7], shapes[10], shapes[11], shapes[12]
        p = q[0] * q[1] * pairs(name, q[2], k[2], text, numbers, listed)
        d, dv, relative = q[3], v[3], 0 if rel is None else q[3]
        if forward:
            return 2 * p * (d + dv + relative)
        return 2 * p * (3 * d + 2 * dv + 3 * relative)

    @register_flop_formula(getattr(torch.ops.subquad, name))
    def _(*shapes, out_shape=None, **_):
        return count(shapes, True)

    @register_flop_formula(getattr(torch.ops.subquad, f"{name}_backward"))
    def _(grad, lse, delta, *shapes, out_shape=None, **_):
        return count(shapes, False)
