"""Recall: how often a search finds, among its first k, one of what belongs to what was asked.

Rows belong together if they have one caption, or one picture: in sets like Flickr30k a picture has
five captions. A row is found at k if, of the rows that do not belong to it, fewer than k are as
near as the nearest one that does: of equally near rows the wrong ones come first.
"""

import math
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["AT", "SUMS", "found_at", "measured", "searched"]

AT = (1, 10)
SUMS = 1 + 3 * len(AT)
_ASKED = 1024  # rows that are compared with all others at once


def found_at(asked: Tensor, pool: Tensor, which: Tensor, at: Sequence[int] = AT) -> list[int]:
    """How many rows of `asked` (n, W) find one of their kind among the first k of `pool` (n, W).

    which (n, kinds): rows are of one kind that have any of these in common.
    """
    found = torch.zeros(len(at), dtype=torch.int64)
    for some, kind in zip(asked.split(_ASKED), which.split(_ASKED), strict=True):
        near, right = some @ pool.T, (kind[:, None] == which).any(-1)
        best = near.masked_fill(~right, -math.inf).amax(1, keepdim=True)
        # what is no number stands before all, so that weights that diverged find nothing
        before = (~(near < best) & ~right).sum(1)
        found += torch.stack([(before < k).sum() for k in at])
    return found.tolist()


def searched(
    images: Tensor, texts: Tensor, captions: Sequence[Hashable], pictures: Sequence[Hashable]
) -> Tensor:
    """(`SUMS`,) float64: how many rows, and how many are found at each k: pictures (n, W) by texts
    (n, W), texts by pictures, and, as expected, by a blind draw. captions and pictures: of each
    row, equal where they are the same."""
    both = [*zip(captions, pictures, strict=True)]
    caption, picture, pair = map(_numbered, (captions, pictures, both))
    which = torch.stack((caption, picture), 1)
    ways = (found_at(texts, images, which), found_at(images, texts, which))
    own = (one.bincount()[one] for one in (caption, picture, pair))
    right, rows = (next(own) + next(own) - next(own)).tolist(), len(captions)
    chance = [sum(1 - _missed(rows, n, k) for n in right) for k in AT]
    return torch.tensor([rows, *ways[0], *ways[1], *chance], dtype=torch.float64)


def _numbered(values: Sequence[Hashable]) -> Tensor:
    """(n,) int64, equal where the values are."""
    numbers: dict[Hashable, int] = {}
    return torch.tensor([numbers.setdefault(value, len(numbers)) for value in values])


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
