"""Prefix beam search: the likeliest text of a CTC model, all its paths counted together.

For each prefix y of what has been said, two numbers: the probability of all paths so far that
collapse to y and end in a blank, and of those that end in y's last token. A frame extends both,

    blank(y)  <- p(blank) (blank(y) + token(y))
    token(y)  <- p(y_last) token(y) + p(y_last) (blank(y') + [y_last is not y'_last] token(y'))

where y' is y without its last token. Kept are the likeliest prefixes by

    log(blank + token) + lm_weight log p_lm(y) + bonus units(y)

Hannun et al., 2014, First-pass large vocabulary continuous speech recognition,
https://arxiv.org/abs/1408.2873, algorithm 1; Graves, 2012. Time O(N beams tokens), where a frame
tries the tokens that are likelier than `least`. Ours differs: p_lm is that of the whole prefix, so
paths that meet in a prefix again share one score, whatever order they came in.

Axes: N frames, V vocabulary.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from subquad.tasks.ctc.scorers import Scorer, Silent

__all__ = ["Beams", "Found"]

_NEVER = -math.inf


@dataclass(frozen=True)
class Found:
    """A text as tokens. `nats`: its log-probability by the frames; `score`: that, the language
    model's and the bonus, by which it is ranked."""

    tokens: tuple[int, ...]
    nats: float
    score: float


@dataclass(slots=True)
class _Prefix:
    """What is known of a prefix whatever the frames say."""

    tokens: tuple[int, ...]
    heard: Any  # the state of the scorer
    worth: float  # language model and bonus
    children: dict[int, "_Prefix"] = field(default_factory=dict)


@dataclass(frozen=True)
class Beams:
    """Settings of the search: `width` prefixes are kept after each frame.

    least: tokens less probable than that at a frame are not tried there.
    """

    width: int = 16
    scorer: Scorer = field(default_factory=Silent)
    lm_weight: float = 0.5
    bonus: float = 0.0
    least: float = 1e-5

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"{self.width} beams: at least 1 is needed")

    def search(self, log_probs: Tensor, blank: int) -> list[Found]:
        """The texts that log_probs (N, V) may say, likeliest first, at most `width`."""
        root = _Prefix((), self.scorer.start(), 0.0)
        # (log-probability of paths that end in blank, in the last token)
        beams: list[tuple[_Prefix, float, float]] = [(root, 0.0, _NEVER)]
        floor = math.log(self.least) if self.least > 0 else _NEVER
        for frame in log_probs.double().cpu().tolist():
            tried = [v for v, p in enumerate(frame) if v != blank and p > floor]
            beams = self._frame(beams, frame, tried, blank)
        ended = [self._ended(prefix, _add(b, t)) for prefix, b, t in beams]
        return sorted(ended, key=lambda found: -found.score)

    def _frame(
        self,
        beams: list[tuple[_Prefix, float, float]],
        frame: list[float],
        tried: list[int],
        blank: int,
    ) -> list[tuple[_Prefix, float, float]]:
        """The beams after one more frame."""
        after: dict[tuple[int, ...], list[Any]] = {}

        def at(prefix: _Prefix) -> list[Any]:
            return after.setdefault(prefix.tokens, [prefix, _NEVER, _NEVER])

        for prefix, ended_blank, ended_token in beams:
            either = _add(ended_blank, ended_token)
            same = at(prefix)
            same[1] = _add(same[1], either + frame[blank])
            last = prefix.tokens[-1] if prefix.tokens else None
            if last is not None:
                same[2] = _add(same[2], ended_token + frame[last])
            for token in tried:
                # after itself a token is new only behind a blank
                before = ended_blank if token == last else either
                if before > _NEVER:
                    longer = at(self._child(prefix, token))
                    longer[2] = _add(longer[2], before + frame[token])
        ranked = sorted(after.values(), key=lambda one: -(_add(one[1], one[2]) + one[0].worth))
        return [(prefix, b, t) for prefix, b, t in ranked[: self.width]]

    def _child(self, prefix: _Prefix, token: int) -> _Prefix:
        found = prefix.children.get(token)
        if found is None:
            heard, nats, units = self.scorer.extend(prefix.heard, token)
            worth = prefix.worth + self.lm_weight * nats + self.bonus * units
            found = prefix.children[token] = _Prefix((*prefix.tokens, token), heard, worth)
        return found

    def _ended(self, prefix: _Prefix, nats: float) -> Found:
        last, units = self.scorer.finish(prefix.heard)
        worth = prefix.worth + self.lm_weight * last + self.bonus * units
        return Found(prefix.tokens, nats, nats + worth)


def _add(a: float, b: float) -> float:
    """log(exp a + exp b)"""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
