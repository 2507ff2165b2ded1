"""Recall: how often a search finds, among its first k, one of what belongs to what was asked.

A row is found at k if, of the rows with another caption, fewer than k are as near as the nearest
one with its caption: of equally near rows the wrong ones come first.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["AT", "SUMS", "found_at", "measured", "searched"]

AT = (1, 10)
SUMS = 1 + 3 * len(AT)
_ASKED = 1024  # rows that are compared with all others at once


def found_at(asked: Tensor, pool: Tensor, which: Tensor, at: Sequence[int] = AT) -> list[int]:
    """How many rows of `asked` (n, W) find one of their kind among the first k of `pool` (n, W).

    which (n,): the kind of each row.
    """
    found = torch.zeros(len(at), dtype=torch.int64)
    for some, kind in zip(asked.split(_ASKED), which.split(_ASKED), strict=True):
        near, right = some @ pool.T, kind[:, None] == which
        best = near.masked_fill(~right, -math.inf).amax(1, keepdim=True)
        # what is no number stands before all, so that weights that diverged find nothing
        before = (~(near < best) & ~right).sum(1)
        found += torch.stack([(before < k).sum() for k in at])
    return found.tolist()


def searched(images: Tensor, texts: Tensor, captions: Sequence[str]) -> Tensor:
    """(`SUMS`,) float64: how many rows, and how many are found at each k: pictures (n, W) by texts
    (n, W), texts by pictures, and, as expected, by a blind draw."""
    kinds: dict[str, int] = {}
    which = torch.tensor([kinds.setdefault(caption, len(kinds)) for caption in captions])
    ways = (found_at(texts, images, which), found_at(images, texts, which))
    right, rows = which.bincount()[which].tolist(), len(captions)
    chance = [sum(1 - _missed(rows, n, k) for n in right) for k in AT]
    return torch.tensor([rows, *ways[0], *ways[1], *chance], dtype=torch.float64)


def measured(counts: Tensor) -> dict[str, float]:
    """The numbers of what `searched` counted; `recall` is the mean of both ways."""
    by_text, by_image, chance = (counts[1:] / counts[0]).view(3, len(AT)).tolist()
    numbers = {}
    for i, k in enumerate(AT):
        numbers[f"recall_at_{k}"] = (by_text[i] + by_image[i]) / 2
        numbers[f"text_to_image_at_{k}"] = by_text[i]
        numbers[f"image_to_text_at_{k}"] = by_image[i]
        numbers[f"chance_at_{k}"] = chance[i]
    return numbers


def _missed(rows: int, right: int, k: int) -> float:
    """The probability that k of so many rows, drawn blindly, hold none of the right ones."""
    k = min(k, rows)
    return math.comb(rows - right, k) / math.comb(rows, k)
