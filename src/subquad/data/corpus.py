"""Corpus: documents as token numbers, mapped from disk; windows of them for training.

One stream: before each document stands the boundary token, then its tokens. A window of the stream
may span documents; the boundary tells the model. Nothing of it is ever in memory as a whole.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from subquad.data import cache
from subquad.data.documents import Documents
from subquad.data.vocabulary import Bytes, Subwords, Symbols, Vocabulary, learn, vocabulary

__all__ = ["Corpus", "Windows", "tokenise", "words_of"]

_VERSION = 2  # of tokens that are kept in the cache


@dataclass(frozen=True)
class Corpus:
    """Document i is tokens[start[i]:end[i]]. `nbytes`: the bytes of text that all of them say."""

    tokens: np.ndarray
    start: np.ndarray
    end: np.ndarray
    boundary: int
    nbytes: int

    @cached_property
    def _first(self) -> np.ndarray:
        """Where each document's boundary stands in the stream, and the stream's length."""
        return np.concatenate([[0], np.cumsum(self.end - self.start + 1)])

    def __len__(self) -> int:
        """Tokens of the stream, boundaries included."""
        return int(self._first[-1])

    def read(self, at: int, count: int) -> np.ndarray:
        """`count` tokens of the stream from place `at` on, as int64."""
        out = np.empty(count, np.int64)
        number = int(np.searchsorted(self._first, at, "right")) - 1
        filled = 0
        while filled < count:
            inside = at + filled - int(self._first[number])
            if inside == 0:
                out[filled] = self.boundary
                filled, inside = filled + 1, 1
            start = int(self.start[number]) + inside - 1
            piece = self.tokens[start : min(int(self.end[number]), start + count - filled)]
            out[filled : filled + len(piece)] = piece
            filled, number = filled + len(piece), number + 1
        return out

    def starts(self, context: int) -> np.ndarray:
        """The places of documents' boundaries from which a whole window can be read."""
        return self._first[self._first + context < len(self)]

    def documents(self) -> list[tuple[int, int]]:
        """(place of the boundary in the stream, tokens without the boundary) of each document."""
        lengths = (self.end - self.start).tolist()
        return list(zip(self._first[:-1].tolist(), lengths, strict=True))


class Windows(Dataset):
    """`count` windows of `context` tokens at random places, each token with the one that follows.

    Item i depends on (seed, i) alone, so any process may form any item, at any time.
    starts: the places of the stream where a window may begin; None: all that leave a whole window.
    """

    def __init__(
        self,
        corpus: Corpus,
        context: int,
        count: int,
        seed: int,
        starts: np.ndarray | None = None,
    ) -> None:
        self.corpus, self.context, self.count, self.seed = corpus, context, count, seed
        self.starts = starts

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """input_ids and targets, both (context,) int64: targets[j] follows input_ids[j]."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        starts = self.starts
        at = int(draw.integers(len(self.corpus) - self.context if starts is None else len(starts)))
        at = at if starts is None else int(starts[at])
        ids = torch.from_numpy(self.corpus.read(at, self.context + 1))
        return {"input_ids": ids[:-1], "targets": ids[1:]}


def words_of(train: Documents, tokenizer: str) -> Vocabulary:
    """The documents' own vocabulary, or of text the one that `tokenizer` names.

    bytes; bpe:N, learnt from these documents; else as in `vocabulary`.
    """
    if (own := train.kind.words) is not None:
        if tokenizer != Bytes.name:
            raise ValueError(
                f"--task.tokenizer {tokenizer} is for text; {train.source} holds "
                f"{train.kind.says}, which have tokens of their own"
            )
        return own
    name, _, size = tokenizer.partition(":")
    if name != "bpe":
        found = vocabulary(tokenizer)
        if isinstance(found, Subwords):
            found.check(train.head(1 << 16).documents())
        return found
    if not size.isdigit():
        raise ValueError(f"bpe wants its size, as in bpe:1024, not {tokenizer!r}")
    return Subwords(learn(train.head(1 << 25).pieces(1 << 16), int(size)), tokenizer)


def tokenise(text: Documents, words: Vocabulary, *, keep: bool) -> Corpus:
    """The tokens of documents; `keep` writes subwords to the cache, else they stay in memory."""
    if isinstance(words, Symbols):
        return Corpus(text.raw, text.start, text.end, words.boundary, text.nbytes)
    if keep:
        digest = hashlib.sha256(f"{_VERSION}{words.tokenizer.to_str()}".encode()).hexdigest()[:16]
        folder = cache.entry("tokens", f"{text.key}-{digest}", lambda f: _write(text, words, f))
        with cache.reading(folder):
            tokens = np.memmap(folder / "tokens.bin", words.dtype, mode="r")
            ends = np.load(folder / "ends.npy", allow_pickle=False)
            if ends[-1] > len(tokens):
                raise ValueError(f"tokens.bin has {len(tokens)} tokens of {ends[-1]}")
    else:
        none = np.empty(0, words.dtype)
        parts = [np.concatenate([none, *_encode(d, words)]) for d in text.documents()]
        ends = np.cumsum([len(p) for p in parts])
        tokens = np.concatenate([none, *parts])
    start = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return Corpus(tokens, start, ends, words.boundary, text.nbytes)


def _write(text: Documents, words: Subwords, folder: Path) -> None:
    ends, at = [], 0
    with open(folder / "tokens.bin", "wb") as out:
        for start, end in zip(text.start, text.end, strict=True):
            for ids in _encode(text.raw[start:end], words):
                out.write(ids.tobytes())
                at += len(ids)
            ends.append(at)
    np.save(folder / "ends.npy", np.asarray(ends, np.int64))


def _encode(document: np.ndarray | bytes, words: Subwords, size: int = 1 << 20) -> Iterator:
    """Tokens of a document, about `size` bytes at a time, cut after a line."""
    at = 0
    while at < len(document):
        piece = bytes(document[at : at + size])
        if at + size < len(document):
            line = piece.rfind(b"\n") + 1
            piece = piece[: line or _whole(piece)]
        try:
            yield words.encode(piece)
        except ValueError as error:
            raise ValueError(f"in the document's part from byte {at} on: {error}") from None
        at += len(piece)


def _whole(piece: bytes) -> int:
    """How much of a piece ends with a whole UTF-8 character."""
    for back in range(1, min(4, len(piece))):
        if piece[-back] & 0xC0 != 0x80:
            return len(piece) - back
    return len(piece)
