"""Lanes: a corpus read on and on, for models that carry a memory from batch to batch.

    lane l of L begins at place (turn + l S / L) of the stream of S tokens; its segment n follows
    its segment n - 1, and the stream closes to a ring

so every lane meets the whole text in the end, and no lane ever jumps: where the ring closes stands
a boundary, as between any two documents. Memory passes over boundaries, as windows of training do:
the boundary tells the model. Segment n of lane l is item n L + l: batches of b on each of p
processes, L = b p, then go on with the same lanes in the same rows, however often they accumulate.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from subquad.data.corpus import Corpus

__all__ = ["Lanes"]


class Lanes(Dataset):
    """`count` segments of `context` tokens in `lanes` lanes, each token with the one that follows.

    Item i depends on (seed, i) and the number of lanes alone; the seed turns the ring.
    """

    def __init__(self, corpus: Corpus, context: int, count: int, seed: int, lanes: int) -> None:
        if lanes < 1:
            raise ValueError(f"a text is read in at least 1 lane, not {lanes}")
        self.corpus, self.context, self.count, self.lanes = corpus, context, count, lanes
        self.turn = int(np.random.Generator(np.random.Philox(key=[seed, 0])).integers(len(corpus)))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """input_ids and targets, both (context,) int64: targets[j] follows input_ids[j]."""
        segment, lane = divmod(index, self.lanes)
        around = len(self.corpus)
        at = (self.turn + lane * around // self.lanes + segment * self.context) % around
        parts, left = [], self.context + 1
        while left:
            parts.append(self.corpus.read(at, min(left, around - at)))
            left -= len(parts[-1])
            at = 0
        ids = torch.from_numpy(np.concatenate(parts))
        return {"input_ids": ids[:-1], "targets": ids[1:]}
