"""Hidden tokens, drawn anew for every window: what a masked language model is asked.

Devlin et al., 2019, https://arxiv.org/abs/1810.04805, section 3.1: of ten chosen tokens eight are
hidden, one is another token, and one stays.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from subquad.data.corpus import Corpus, Windows
from subquad.data.vocabulary import Vocabulary

__all__ = ["MaskedWindows", "cut", "hide", "ordinary"]

_IGNORED = -100
_MASKS = 1  # of the counter's upper words: masks and windows share no draw


def ordinary(words: Vocabulary) -> np.ndarray:
    """The tokens that stand in documents."""
    special = [words.boundary, words.pad, words.hidden, words.mark]
    return np.setdiff1d(np.arange(words.size), special)


def hide(ids: Tensor, words: Vocabulary, rate: float, key: tuple[int, int]) -> dict[str, Tensor]:
    """input_ids and labels (N,) of the tokens ids (N,); labels are -100 where nothing is asked.

    The draw depends on the key alone; at least one token is chosen, if there are any.
    """
    draw = np.random.Generator(np.random.Philox(key=list(key), counter=[0, 0, 0, _MASKS]))
    place, how = (torch.from_numpy(draw.random(len(ids))) for _ in range(2))
    others = torch.from_numpy(draw.choice(ordinary(words), size=len(ids)))
    chosen = place < rate
    if len(ids):
        chosen[place.argmin()] = True
    ids = ids.long()
    asked = torch.where(how < 0.8, words.hidden, torch.where(how < 0.9, others, ids))
    return {
        "input_ids": torch.where(chosen, asked, ids),
        "labels": ids.masked_fill(~chosen, _IGNORED),
    }


class MaskedWindows(Dataset):
    """`count` windows of a corpus, their hidden tokens drawn anew for each."""

    def __init__(self, windows: Windows, words: Vocabulary, rate: float) -> None:
        self.windows, self.words, self.rate = windows, words, rate

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.windows[index]["input_ids"]
        return hide(ids, self.words, self.rate, (self.windows.seed, index))


def cut(corpus: Corpus, context: int) -> list[tuple[int, int]]:
    """(start, length) of the windows that cover each document once, side by side."""
    found = []
    for place, length in corpus.documents():
        for at in range(place + 1, place + 1 + length, context):
            found.append((at, min(context, place + 1 + length - at)))
    return found
