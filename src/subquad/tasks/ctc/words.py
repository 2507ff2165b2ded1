"""Words and their times, from tokens and the frames at which they are said."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from subquad.tasks.ctc.paths import Placed

__all__ = ["Word", "words"]


@dataclass(frozen=True)
class Word:
    """A word, and where it is said, in seconds: from the first of its frames to the end of the
    last."""

    word: str
    start: float
    end: float


def words(placed: Iterable[Placed], raw: Callable[[int], bytes], step: float) -> Iterator[Word]:
    """The words of tokens that write `raw(token)`, spaces among it; a frame lasts `step` seconds.

    A token within which a word ends and another begins counts for both.
    """
    said, first, last = b"", 0, 0
    for one in placed:
        for number, part in enumerate(raw(one.token).split(b" ")):
            if number and said:  # there is a space before it
                yield _word(said, first, last, step)
                said = b""
            if part:
                first = first if said else one.first
                said, last = said + part, one.last
    if said:
        yield _word(said, first, last, step)


def _word(said: bytes, first: int, last: int, step: float) -> Word:
    return Word(said.decode(errors="replace"), round(first * step, 3), round((last + 1) * step, 3))
