"""Rows in the order of training, and how rows of different lengths become one batch."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["Bucketed", "Shuffled", "alike", "padded", "spread"]

_POOL, _GROUP = 1024, 16


class Shuffled(Dataset):
    """`count` items: epoch after epoch over `len(sizes)` rows, each epoch in an order of its own.

    Rows of about the same size stand beside each other in groups, so that batches hold little
    padding. Item i depends on (seed, i) alone.
    """

    def __init__(
        self, item: Callable[[int], dict[str, Tensor]], sizes: Sequence[int], count: int, seed: int
    ) -> None:
        self.item, self.sizes, self.count, self.seed = item, np.asarray(sizes), count, seed
        self._order = lru_cache(maxsize=2)(self._draw)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self.sizes))
        return self.item(int(self._order(epoch)[place]))

    def _draw(self, epoch: int) -> np.ndarray:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = draw.permutation(len(self.sizes))
        parts = []
        for at in range(0, len(order), _POOL):
            pool = order[at : at + _POOL]
            pool = pool[np.argsort(self.sizes[pool], kind="stable")]
            groups = [pool[i : i + _GROUP] for i in range(0, len(pool), _GROUP)]
            parts += [groups[i] for i in draw.permutation(len(groups))]
        return np.concatenate(parts)


class Bucketed(Dataset):
    """`count` batches: epoch after epoch over `len(sizes)` rows, in batches of about equal sizes.

    A batch holds as many rows as fit into `tokens` elements if each is as large as the largest, at
    least one; where a size is a sum, as of texts that are read and written, the longest of each may
    together be more. Each epoch shuffles rows of one size among themselves, and the batches. Batch
    i depends on (seed, i) alone.  mean: the elements of a batch that are no padding.
    """

    def __init__(
        self,
        batch: Callable[[list[int]], dict[str, Tensor]],
        sizes: Sequence[int],
        count: int,
        seed: int,
        tokens: int,
    ) -> None:
        self.batch, self.sizes, self.count, self.seed = batch, np.asarray(sizes), count, seed
        # places in the order of sizes: the same for every order of equal ones
        ends = np.cumsum([len(group) for group in alike(sizes, tokens)])
        self._bounds = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
        self.mean = round(float(self.sizes.sum() / len(self._bounds)))
        self._order = lru_cache(maxsize=2)(self._draw)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        epoch, place = divmod(index, len(self._bounds))
        rows, batches = self._order(epoch)
        start, end = self._bounds[batches[place]]
        return self.batch(rows[start:end].tolist())

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
        order = draw.permutation(len(self.sizes))
        rows = order[np.argsort(self.sizes[order], kind="stable")]
        return rows, draw.permutation(len(self._bounds))


def alike(sizes: Sequence[int], most: int) -> list[list[int]]:
    """All rows in batches of rows that are alike in size, each at most `most` elements with padding
    (but at least one row)."""
    batches: list[list[int]] = []
    for i in np.argsort(np.asarray(sizes), kind="stable").tolist():
        if batches and (len(batches[-1]) + 1) * max(sizes[i], 1) <= most:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def spread(length: int, most: int) -> list[int]:
    """At most so many of `length` places, about evenly apart, always the same ones.

    One is drawn from each of as many equal stretches: at equal distances, rows whose labels take
    turns would give one label alone.
    """
    count = min(length, most)
    ends = np.arange(count + 1) * length // max(count, 1)
    draw = np.random.Generator(np.random.Philox(key=[length, count]))
    return draw.integers(ends[:-1], ends[1:]).tolist()


def padded(items: Sequence[Mapping[str, Tensor]], fill: Mapping[str, int]) -> dict[str, Tensor]:
    """Tensors of one name joined, each extended on the right to the longest by what `fill` says.

    ValueError for a name that differs in length and has nothing to be filled with.
    """
    batch = {}
    for name in items[0]:
        rows = [item[name] for item in items]
        longest = max((row.shape[0] for row in rows if row.dim()), default=0)
        if all(row.dim() == 0 or row.shape[0] == longest for row in rows):
            batch[name] = torch.stack(rows)
            continue
        if name not in fill:
            raise ValueError(f"rows differ in their length of {name}, and nothing fills the rest")
        batch[name] = torch.stack(
            [
                torch.cat((row, row.new_full((longest - len(row), *row.shape[1:]), fill[name])))
                for row in rows
            ]
        )
    return batch
