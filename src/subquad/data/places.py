"""Tokens of a text, and where each stands in it."""

import numpy as np

from subquad.data.panics import failing
from subquad.data.vocabulary import Subwords, Vocabulary

__all__ = ["placed", "tokens_of"]


def placed(words: Vocabulary, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n,) of a text, and the characters (n, 2) from and to which each stands for."""
    if isinstance(words, Subwords):
        with failing(words.name, "read a text"):
            found = words.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(found.ids, np.int64), np.asarray(found.offsets, np.int64).reshape(-1, 2)
    sizes = [len(character.encode()) for character in text]
    at = np.repeat(np.arange(len(text)), sizes)
    return words.encode(text.encode()).astype(np.int64), np.stack([at, at + 1], 1)


def tokens_of(where: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The first and the last token that touch the characters start to end - 1; None without any."""
    touched = np.flatnonzero((where[:, 0] < end) & (where[:, 1] > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None
