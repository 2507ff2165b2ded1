"""Augmentation: pictures moved and mirrored, so that what they show is learnt, not where it is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from subquad.data.rows import Shuffled

__all__ = ["Augment", "Augmented"]


@dataclass(frozen=True)
class Augment:
    """Moves a picture by up to `shift` pixels each way, black coming in, and mirrors it left to
    right with probability `flip`.
    """

    shift: int = 0
    flip: float = 0.0

    def __call__(self, image: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Another (H, W, C) of the same kind."""
        if draw.random() < self.flip:
            image = image[:, ::-1]
        if self.shift:
            height, width = image.shape[:2]
            wide = np.pad(image, ((self.shift, self.shift), (self.shift, self.shift), (0, 0)))
            y, x = draw.integers(2 * self.shift + 1, size=2)
            image = wide[y : y + height, x : x + width]
        return image


class Augmented(Dataset):
    """`count` items in the order of `Shuffled`, each from a row and draws of its own.

    Item i depends on (seed, i) alone.
    """

    def __init__(
        self,
        item: Callable[[int, np.random.Generator], dict[str, Any]],
        sizes: Sequence[int],
        count: int,
        seed: int,
    ) -> None:
        self.item, self.seed = item, seed
        self.order = Shuffled(lambda row: row, sizes, count, seed)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> dict[str, Any]:
        # the order of an epoch is drawn with this key too, from a counter that begins lower
        bits = np.random.Philox(key=[self.seed, index], counter=[0, 0, 0, 1])
        return self.item(self.order[index], np.random.Generator(bits))
