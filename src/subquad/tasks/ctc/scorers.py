"""Scorers: what a language model says of a prefix, token by token, in natural logarithms.

A scorer sees the tokens of a transcript one at a time and keeps a state of its own. `units` counts
what it has scored: tokens, or words; a bonus for each makes up for what every further one costs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from subquad.nn.state import ModelState
from subquad.tasks.ctc.ngrams import Ngrams

__all__ = ["ByTokens", "ByWords", "Reader", "Scorer", "Silent"]


class Scorer(Protocol):
    """A language model over the tokens of a transcript."""

    def start(self) -> Any:
        """The state before the first token."""

    def extend(self, state: Any, token: int) -> tuple[Any, float, int]:
        """The state after one more token, and the nats and units that it added."""

    def finish(self, state: Any) -> tuple[float, int]:
        """Nats and units that the end of the transcript adds."""


class Silent:
    """No language model: every text is as good as every other, tokens are counted."""

    def start(self) -> None:
        return None

    def extend(self, state: None, token: int) -> tuple[None, float, int]:
        return None, 0.0, 1

    def finish(self, state: None) -> tuple[float, int]:
        return 0.0, 0


@dataclass(frozen=True)
class ByTokens:
    """An n-gram whose words are the tokens; `names` are those of all numbers."""

    ngrams: Ngrams
    names: Sequence[str]

    def start(self) -> tuple[str, ...]:
        return self.ngrams.begin

    def extend(self, state: tuple[str, ...], token: int) -> tuple[tuple[str, ...], float, int]:
        name = self.names[token]
        return self.ngrams.after(state, name), self.ngrams.nats(state, name), 1

    def finish(self, state: tuple[str, ...]) -> tuple[float, int]:
        return self.ngrams.nats(state, self.ngrams.END), 0


@dataclass(frozen=True)
class ByWords:
    """An n-gram of words, each scored when it is complete: at the next one, or at the end.

    `text(tokens)` writes tokens out, with spaces between words.
    """

    ngrams: Ngrams
    text: Callable[[Sequence[int]], str]

    def start(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        return self.ngrams.begin, ()

    def extend(self, state: Any, token: int) -> tuple[Any, float, int]:
        past, open_word = state
        more = (*open_word, token)
        words = self._split(more)
        if len(words) < 2:  # nothing is complete
            return (past, more), 0.0, 0
        # what comes before the last space is complete; the token begins what follows
        nats = self.ngrams.nats(past, words[0])
        rest = (token,) if words[1] else ()
        return (self.ngrams.after(past, words[0]), rest), nats, 1

    def finish(self, state: Any) -> tuple[float, int]:
        past, open_word = state
        word = self.text(open_word).strip()
        if not word:
            return self.ngrams.nats(past, self.ngrams.END), 0
        nats = self.ngrams.nats(past, word)
        return nats + self.ngrams.nats(self.ngrams.after(past, word), self.ngrams.END), 1

    def _split(self, tokens: tuple[int, ...]) -> list[str]:
        """The word before a space, and what follows it; one part where there is no such space."""
        # spaces before the word are none of its own
        word, space, rest = self.text(tokens).lstrip(" ").partition(" ")
        return [word, rest] if space else [word]


class Reader:
    """A language model of this library over bytes, read on by its streaming state.

    `raw(token)` are the bytes that a token writes. A prefix that is tried again is not read again:
    its state knows the log-probabilities of the byte that follows.
    """

    def __init__(self, model: Any, boundary: int, raw: Callable[[int], bytes]) -> None:
        self.model, self.boundary, self.raw = model, boundary, raw

    def start(self) -> "_Read":
        return self._read(self.model.init_state(1), self.boundary)

    def extend(self, state: "_Read", token: int) -> tuple["_Read", float, int]:
        nats = 0.0
        for byte in self.raw(token):
            nats += float(state.known[byte])
            state = _Read(self, state, byte)
        return state, nats, 1

    def finish(self, state: "_Read") -> tuple[float, int]:
        return float(state.known[self.boundary]), 0

    @torch.no_grad()
    def _read(self, before: ModelState, token: int) -> "_Read":
        at = next(self.model.parameters()).device
        logits, after = self.model(torch.tensor([[token]], device=at), state=before)
        made = _Read(self, None, token)
        made.after, made.next = after, logits[0, -1].double().log_softmax(-1)
        return made


class _Read:
    """What is known after a byte; the byte is read when somebody asks what follows it."""

    __slots__ = ("after", "before", "byte", "next", "reader")

    def __init__(self, reader: Reader, before: "_Read | None", byte: int) -> None:
        self.reader, self.before, self.byte = reader, before, byte
        self.after: ModelState | None = None
        self.next: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """Log-probabilities of the token that follows (V,)."""
        if self.next is None:
            assert self.before is not None
            _ = self.before.known
            assert self.before.after is not None
            read = self.reader._read(self.before.after, self.byte)
            self.after, self.next, self.before = read.after, read.next, None
        assert self.next is not None
        return self.next
