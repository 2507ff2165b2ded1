"""Crops: where the windows of training end, for models that train on their last positions alone.

Such a model meets early positions as targets only if windows have many lengths. An item cannot know
the batch that it will stand in, so each carries a share in [0, 1), and the first of a batch decides
for all (`subquad.tasks.causal`).
"""

import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["Crops"]


class Crops(Dataset):
    """Items of another set, each with `crop`, a share that depends on (seed, number) alone."""

    def __init__(self, items: Dataset, seed: int) -> None:
        self.items, self.seed = items, seed

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # counter-based: the items' own draws never reach the upper words
        bits = np.random.Philox(key=[self.seed, index], counter=[0, 0, 1, 0])
        share = torch.tensor(np.random.Generator(bits).random())
        return {**self.items[index], "crop": share}
