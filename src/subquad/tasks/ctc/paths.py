"""Paths: a number of the vocabulary for each frame, and the text that they stand for.

collapse takes repeats for one and leaves blanks out; the best path takes the likeliest number of
each frame; the best alignment is the likeliest of all paths that collapse to given tokens,

    best(n, s) = log p(z_s | x_n) + max(best(n - 1, s), best(n - 1, s - 1), best(n - 1, s - 2))

over z = blank y_1 blank y_2 ... blank, the last term only where z_s is no blank and not z_{s - 2}
(Graves et al., 2006, section 4.1, with max in place of the sum). Time O(N S), memory O(N S) bytes.

Axes: N frames, S tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Placed", "align", "best_path", "collapse"]


@dataclass(frozen=True)
class Placed:
    """A token, and the frames at which it is said: `first` to `last`, both among them."""

    token: int
    first: int
    last: int


def collapse(path: Sequence[int], blank: int) -> list[Placed]:
    """The tokens of a path, with their frames."""
    found: list[Placed] = []
    before = blank
    for n, token in enumerate(path):
        if token == blank:
            pass
        elif token == before:
            found[-1] = Placed(token, found[-1].first, n)
        else:
            found.append(Placed(token, n, n))
        before = token
    return found


def best_path(log_probs: Tensor, blank: int) -> list[Placed]:
    """The tokens of the likeliest path through log_probs (N, V): greedy decoding."""
    return collapse(log_probs.argmax(-1).tolist(), blank)


def align(log_probs: Tensor, tokens: Sequence[int], blank: int) -> list[Placed]:
    """Where in log_probs (N, V) tokens (S,) are said, by the likeliest path of those that say them.

    ValueError if there are too few frames for any.
    """
    if not tokens:
        return []
    needed = len(tokens) + sum(a == b for a, b in zip(tokens[1:], tokens, strict=False))
    if needed > len(log_probs):
        raise ValueError(f"{len(log_probs)} frames cannot say tokens that need {needed}")
    z = torch.full((2 * len(tokens) + 1,), blank, dtype=torch.int64)
    z[1::2] = torch.tensor(tokens)
    skips = torch.zeros(len(z), dtype=torch.bool)
    skips[3::2] = z[3::2] != z[1:-2:2]
    emit = log_probs.double().cpu()[:, z]
    best = torch.full_like(emit[0], -torch.inf)
    best[:2] = emit[0, :2]
    steps = torch.zeros(emit.shape, dtype=torch.int8)
    for n in range(1, len(emit)):
        one, two = _later(best, 1), _later(best, 2).masked_fill(~skips, -torch.inf)
        best, steps[n] = torch.stack((best, one, two)).max(0)
        best = best + emit[n]
    s = len(z) - 1 if best[-1] >= best[-2] else len(z) - 2
    path = []
    for n in range(len(emit) - 1, -1, -1):
        path.append(s)
        s -= int(steps[n, s])
    return _placed(path[::-1], tokens)


def _later(best: Tensor, by: int) -> Tensor:
    return torch.cat((best.new_full((by,), -torch.inf), best[:-by]))


def _placed(path: list[int], tokens: Sequence[int]) -> list[Placed]:
    frames: dict[int, list[int]] = {}
    for n, s in enumerate(path):
        if s % 2:
            frames.setdefault(s // 2, []).append(n)
    return [Placed(token, frames[i][0], frames[i][-1]) for i, token in enumerate(tokens)]
