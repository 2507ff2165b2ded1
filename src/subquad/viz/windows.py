"""Windows of tokens side by side (Perceiver AR): each position's row is that of the window that its
output comes from.

Axes: N positions, M keys, H heads, R rows asked for, W tokens of a window, C model width.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from subquad.nn.context import Context
from subquad.nn.mixer import Mixer
from subquad.nn.past import Seen
from subquad.nn.read import Read
from subquad.ops.pattern import Coords
from subquad.viz.factors import Factors, of_mixer, of_read, pull

__all__ = ["Call", "of_windows"]


class Call(NamedTuple):
    """A call over windows: x (windows, W, C), their context, and what a read may look at."""

    x: Tensor
    context: Context
    seen: Seen | None


class Window(NamedTuple):
    """The factors of one window, the positions (W,) of its tokens and (M,) of its keys; -1 where
    there is none."""

    factors: Factors
    pos: Tensor
    keys: Tensor


def of_windows(
    module: Mixer | Read, calls: Sequence[Call], count: int
) -> tuple[Callable[[Tensor], Tensor], Factors]:
    """Of calls over windows of `count` positions: rows (R,) -> (H, R, N), each by the window that
    its output comes from, the first that holds it; and the factors of the last position's."""
    windows = [one for call in calls for one in _each(module, call, count)]
    heads = (module.mixer if isinstance(module, Read) else module).num_heads
    ends = torch.stack([one.pos[-1] for one in windows])

    def look(rows: Tensor) -> Tensor:
        owner = torch.searchsorted(ends, rows)
        out = calls[0].x.new_zeros(heads, len(rows), count)
        for w in owner.unique().tolist():
            one, here = windows[w], owner == w
            out[:, here] = pull(one.factors.weights(rows[here] - one.pos[0]), one.keys, count)
        return out

    number = int(torch.searchsorted(ends, count - 1))
    last, first = windows[number], int(windows[number].pos[0])

    def of_last(rows: Tensor) -> Tensor:
        out = calls[0].x.new_zeros(heads, len(rows), len(last.keys))
        out[:, rows >= first] = last.factors.weights(rows[rows >= first] - first)
        return out

    return look, last.factors._replace(weights=of_last, columns=last.keys, window=(number, first))


def _each(module: Mixer | Read, call: Call, count: int) -> Iterator[Window]:
    """The windows of a call, one by one."""
    every = call.context.pos.expand(len(call.x), -1)
    for w, pos in enumerate(every):
        x, context, keys = call.x[w : w + 1], Context(pos[None]), pos
        if isinstance(module, Read):
            assert call.seen is not None
            seen = _row(call.seen, w)
            factors, keys = of_read(module, x, context, seen), seen.at.pos[0, 0]
            keys = keys if seen.valid is None else keys.masked_fill(~seen.valid[0], -1)
        else:
            factors = of_mixer(module, x, context)
        # at least one position more than there are may stand in the last window: nobody asks for it
        yield Window(factors, pos, keys.masked_fill(keys >= count, -1))


def _row(seen: Seen, w: int) -> Seen:
    """What the window w may look at."""
    one = slice(w, w + 1)
    valid = None if seen.valid is None else seen.valid[one]
    return Seen(seen.k[one], seen.v[one], Coords(seen.at.pos[one]), valid)
