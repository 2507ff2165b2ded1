"""Puzzles: sequences whose second half follows from the first, made as they are asked for.

copy         a palindrome: w, then w backwards. Answers: the second half.
duplication  0 w 0 w, as in the Reformer's experiment. Answers: the second w.
recall       N / 4 pairs of a key and its value, then the same pairs in another order: a key is a
             question, the value behind it the answer. A key has one value in a sequence.

Symbols are drawn independently and uniformly: w from `symbols` of them, the keys of recall from
`symbols` others than its values. Item i of a set depends on (seed, set, i) alone, so no set is ever
stored, and the sets train, valid and test never share a draw. Before each sequence stands the
boundary token, so N tokens go in and N are compared with targets, those that are no answer ignored.

Kitaev et al., 2020, section 5, https://arxiv.org/abs/2001.04451 (duplication); Hawthorne et al.,
2022, https://arxiv.org/abs/2202.07765 (copy, a palindrome in the released code); Ba et al., 2016,
section 4.1, https://arxiv.org/abs/1610.06258 (recall, there with one question).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from subquad.data.made import draws
from subquad.data.vocabulary import Symbols

__all__ = ["PUZZLES", "Puzzle", "Puzzles"]


@dataclass(frozen=True)
class Puzzle:
    """One kind of sequence.

    make(draw, length, symbols) -> (sequence, where its answers are).  every: what must divide a
    length.  least: the shortest.  count(symbols): tokens.  free(length): symbols that are drawn, at
    least.
    """

    make: Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
    every: int
    least: int
    count: Callable[[int], int]
    free: Callable[[int], int]


def _copy(draw: np.random.Generator, length: int, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    word = draw.integers(symbols, size=length // 2)
    return np.concatenate([word, word[::-1]]), np.arange(length) >= length // 2


def _duplication(
    draw: np.random.Generator, length: int, symbols: int
) -> tuple[np.ndarray, np.ndarray]:
    half = np.concatenate([[0], 1 + draw.integers(symbols, size=length // 2 - 1)])
    return np.concatenate([half, half]), np.arange(length) > length // 2


def _recall(draw: np.random.Generator, length: int, symbols: int) -> tuple[np.ndarray, np.ndarray]:
    value_of = symbols + draw.integers(symbols, size=symbols)
    keys = draw.integers(symbols, size=length // 4)
    keys = np.concatenate([keys, draw.permutation(keys)])
    place = np.arange(length)
    return np.stack([keys, value_of[keys]], 1).reshape(-1), (place >= length // 2) & place % 2 == 1


PUZZLES: Mapping[str, Puzzle] = {
    "copy": Puzzle(_copy, 2, 2, lambda symbols: symbols, lambda length: length // 2),
    "duplication": Puzzle(_duplication, 2, 4, lambda s: s + 1, lambda length: length // 2 - 1),
    "recall": Puzzle(_recall, 4, 4, lambda symbols: 2 * symbols, lambda length: length // 4),
}


class Puzzles(Dataset):
    """`count` items of a kind, of the set train, valid or test of a seed."""

    def __init__(
        self, kind: str, length: int, symbols: int, *, count: int, seed: int, part: str
    ) -> None:
        self.puzzle, self.length, self.symbols = PUZZLES[kind], length, symbols
        self.count, self.seed, self.part = count, seed, part
        self.words = Symbols("symbols", self.puzzle.count(symbols))

    def __len__(self) -> int:
        return self.count

    def sequence(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """(N,) tokens and (N,) bool, True at the answers."""
        return self.puzzle.make(draws(self.seed, self.part, index), self.length, self.symbols)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """input_ids and targets, both (N,) int64; -100 where the target is no answer."""
        tokens, answers = self.sequence(index)
        targets = np.where(answers, tokens, -100)
        ids = np.concatenate([[self.words.boundary], tokens[:-1]])
        return {"input_ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}
