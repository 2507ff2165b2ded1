"""Sentences drawn by chance, in English and in a made-up tongue (`subquad.data.tongue`).

A hash of the English sentence says to which of the parts train, valid and test it goes, so none
stands in two.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.data.documents import PARTS, by_hash
from subquad.data.examples import Examples
from subquad.data.made import Made
from subquad.data.tongue import (
    ADJECTIVES,
    COUNTS,
    NOUNS,
    PLACES,
    QUANTITIES,
    TENSES,
    TIMES,
    VERBS,
    Noun,
    Sentence,
    english,
    tongue,
)

__all__ = ["Sentences", "sentences"]


@dataclass(frozen=True)
class Sentences(Made):
    """Rows {"text": English, "translation": the tongue}."""

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        floats = _floats(draw)
        while True:
            said = _drawn(floats)
            text = english(said)
            if by_hash([text], 0.2, 0.2)[0] == PARTS.index(self.part):
                return {"text": text, "translation": tongue(said)}


def _drawn(draw: Iterator[float]) -> Sentence:
    def one(names: Any) -> Any:
        return [*names][int(next(draw) * len(names))]

    def noun() -> Noun:
        plural, about = next(draw) < 0.5, list[str]()
        while len(about) < 2 and next(draw) < 0.4:
            about.append(one([word for word in ADJECTIVES if word not in about]))
        return Noun(one(NOUNS), plural, one(COUNTS if plural else QUANTITIES), tuple(about))

    tense = one(TENSES)
    place = (one(PLACES), noun()) if next(draw) < 0.5 else None
    time = one(TIMES[tense]) if next(draw) < 0.5 else ""
    negated, asked = next(draw) < 0.3, next(draw) < 0.25
    return Sentence(noun(), one(VERBS), noun(), tense, negated, asked, place, time)


def _floats(draw: np.random.Generator) -> Iterator[float]:
    while True:
        yield from draw.random(64).tolist()


def sentences(sizes: Mapping[str, int]) -> Examples:
    """Examples of so many rows of each part."""
    rows = {part: Sentences(count, 0, part) for part, count in sizes.items()}
    told = ", ".join(f"{count:,} {part}" for part, count in sizes.items())
    return Examples(rows, f"English into a made-up tongue ({told})", "tongue-1")
