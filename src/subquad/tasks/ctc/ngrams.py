"""N-grams: a language model as a table, read from an ARPA file or counted from texts.

    p(w | h) = table(h w)                              if the table holds it
             = exp backoff(h) p(w | h without its first word)     else

Counted, the table is that of interpolated Kneser-Ney (Kneser and Ney, 1995; Chen and Goodman, 1999,
section 3), one discount D = n1 / (n1 + 2 n2) for each length of n-gram,

    p(w | h) = max(c(h w) - D, 0) / c(h .) + D N(h .) / c(h .) p(w | h without its first word)

c counts occurrences for the longest n-grams and those that begin a text, and for all others the
different words that stand before; N(h .) the different words that follow h. Single words are mixed
with the uniform distribution over the vocabulary and the end, so no word of it is impossible.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

__all__ = ["Ngrams", "counted"]

_TENTH = math.log(10.0)
_UNKNOWN = -7 * _TENTH  # nats of a word that is nowhere, in a table without a word for it

Gram = tuple[str, ...]


class Ngrams:
    """A table of n-grams: each with its nats, and what a backoff from it costs."""

    BEGIN: ClassVar[str] = "<s>"
    END: ClassVar[str] = "</s>"
    UNKNOWN: ClassVar[str] = "<unk>"

    def __init__(self, table: Mapping[Gram, tuple[float, float]]) -> None:
        self.table = table
        self.order = max(map(len, table), default=1)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words that it knows, without begin, end and unknown."""
        special = {self.BEGIN, self.END, self.UNKNOWN}
        return frozenset(gram[0] for gram in self.table if len(gram) == 1) - special

    @property
    def begin(self) -> Gram:
        """The past of the first word."""
        return (self.BEGIN,)[: self.order - 1]

    def after(self, past: Gram, word: str) -> Gram:
        """As much of the past as matters for what follows `word`."""
        word = self._known(word)
        keep = self.order - 1
        return (*past, word)[-keep:] if keep else ()

    def nats(self, past: Gram, word: str) -> float:
        """log p(word | past)"""
        word = self._known(word)
        cost = 0.0
        for begin in range(len(past) + 1):
            found = self.table.get((*past[begin:], word))
            if found is not None:
                return cost + found[0]
            cost += self.table.get(past[begin:], (0.0, 0.0))[1]
        return cost + _UNKNOWN

    def _known(self, word: str) -> str:
        known = (word,) in self.table or (self.UNKNOWN,) not in self.table
        return word if known else self.UNKNOWN

    # --- ARPA ---------------------------------------------------------------------------------

    @classmethod
    def read(cls, path: Path) -> "Ngrams":
        """An ARPA file. ValueError for what is none, with the line."""
        table: dict[Gram, tuple[float, float]] = {}
        order, promised = 0, {}
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                said = line.strip()
                if size := re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", said):
                    promised[int(size[1])] = int(size[2])
                elif head := re.fullmatch(r"\\(\d+)-grams:", said):
                    order = int(head[1])
                elif said == "\\end\\":
                    break
                elif said and order:
                    gram, numbers = _entry(said, order, f"{path}, line {number}")
                    table[gram] = numbers
        found = Counter(map(len, table))
        # some tables say of lengths that they have none of them
        if not found or found != {n: many for n, many in promised.items() if many}:
            raise ValueError(
                f"{path} is no whole ARPA file: it promises {_sizes(promised)} and holds "
                f"{_sizes(found)}"
            )
        return cls(table)

    def write(self, path: Path) -> None:
        """Write an ARPA file."""
        by_length: dict[int, list[Gram]] = defaultdict(list)
        for gram in self.table:
            by_length[len(gram)].append(gram)
        lines = ["\\data\\", *(f"ngram {n}={len(by_length[n])}" for n in sorted(by_length))]
        for n in sorted(by_length):
            lines += ["", f"\\{n}-grams:"]
            for gram in by_length[n]:
                nats, backoff = self.table[gram]
                end = f"\t{backoff / _TENTH:.7g}" if n < self.order else ""
                lines.append(f"{nats / _TENTH:.7g}\t{' '.join(gram)}{end}")
        path.write_text("\n".join([*lines, "", "\\end\\", ""]), encoding="utf-8")


def _entry(said: str, order: int, where: str) -> tuple[Gram, tuple[float, float]]:
    parts = said.split()
    try:
        nats = float(parts[0]) * _TENTH
        backoff = float(parts[order + 1]) * _TENTH if len(parts) > order + 1 else 0.0
    except ValueError:
        parts = []
    if not order + 1 <= len(parts) <= order + 2:
        raise ValueError(f"{where} is no {order}-gram with its numbers: {said[:60]!r}")
    return tuple(parts[1 : order + 1]), (nats, backoff)


def _sizes(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{counts[n]:,} {n}-grams" for n in sorted(counts)) or "nothing"


# --- counting ---------------------------------------------------------------------------------


def counted(texts: Iterable[Sequence[str]], order: int, words: Iterable[str] = ()) -> Ngrams:
    """The n-grams up to `order` of texts, as interpolated Kneser-Ney.

    words: what the vocabulary holds besides what occurs.
    """
    if order < 1:
        raise ValueError(f"n-grams of {order} words; at least 1")
    counts = _counts(texts, order)
    every = {gram[0] for gram in counts[0]} | set(words) | {Ngrams.END}
    table: dict[Gram, tuple[float, float]] = {(Ngrams.BEGIN,): (-99 * _TENTH, 0.0)}
    lower: dict[Gram, float] = {(): 1.0 / len(every)}
    # words that never occur are n-grams too, of one word
    counts[0].update({(word,): 0 for word in sorted(every)})
    for n, grams in enumerate(counts, 1):
        discount = _discount(grams)
        totals: Counter[Gram] = Counter()
        kinds: Counter[Gram] = Counter()
        for gram, count in grams.items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]] += count > 0
        # what a past leaves to the words that are not seen behind it
        left = {
            past: discount * kinds[past] / total if total else 1.0 for past, total in totals.items()
        }
        now = {}
        for gram, count in grams.items():
            past = gram[:-1]
            own = max(count - discount, 0.0) / totals[past] if count else 0.0
            now[gram] = own + left[past] * lower[gram[1:] if n > 1 else ()]
        if n > 1:
            table |= {past: (table[past][0], math.log(share)) for past, share in left.items()}
        table |= {gram: (math.log(p), 0.0) for gram, p in now.items()}
        lower = now
    return Ngrams(table)


def _counts(texts: Iterable[Sequence[str]], order: int) -> list[Counter[Gram]]:
    """Counts of the n-grams of each length, as Kneser-Ney takes them."""
    seen: Counter[Gram] = Counter()
    for text in texts:
        words = (Ngrams.BEGIN, *text, Ngrams.END)
        for n in range(1, order + 1):
            seen.update(words[i : i + n] for i in range(len(words) - n + 1))
    del seen[(Ngrams.BEGIN,)]
    by_length: list[Counter[Gram]] = [Counter() for _ in range(order)]
    for gram, count in seen.items():
        n = len(gram)
        if n == order or gram[0] == Ngrams.BEGIN:
            by_length[n - 1][gram] += count
        if n > 1:
            by_length[n - 2][gram[1:]] += 1
    return by_length


def _discount(grams: Counter[Gram]) -> float:
    """n1 / (n1 + 2 n2), which leaves something to what was not seen; a half where none is once."""
    once, twice = (sum(count == k for count in grams.values()) for k in (1, 2))
    return once / (once + 2 * twice) if once and twice else 0.5
