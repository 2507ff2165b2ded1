"""ListOps: nested lists of digits under MIN, MAX, MED and SM; the answer is one digit.

    [MAX 2 9 [MIN 4 7 ] 0 ]  ->  9

MED is the median without its fraction, SM the sum modulo 10. A node above depth 10 is an operator
over 2 to 10 nodes (uniform) with probability 1/4, otherwise, and at depth 10, a digit; operator and
digit are uniform. The root has depth 1. A digit is 1 long, a node 2 and its children, which is how
many tokens it has. Trees are drawn until one fits: shortest < length < longest.

Nangia and Bowman, 2018, https://arxiv.org/abs/1804.06028; lengths and rules as in Long Range Arena,
Tay et al., 2021, https://arxiv.org/abs/2011.04006. Ours differs in that a tree depends on its own
draws alone and is not looked up among all others: two may be alike, though hardly at these lengths.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.data.made import Made
from subquad.data.vocabulary import Symbols

__all__ = ["TOKENS", "ListOps", "Tokens", "evaluate"]

DEPTH, ARGUMENTS, SHARE = 10, 10, 0.25
OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
END = "]"
TOKENS = (*OPERATORS, END, *map(str, range(10)))
_NUMBER = {token: number for number, token in enumerate(TOKENS)}


class Tokens(Symbols):
    """Each operator with its bracket, the closing bracket, and each digit: 15 symbols.

    Round brackets, which the public files add around every argument, are read over.
    """

    def __init__(self) -> None:
        super().__init__("ListOps tokens", len(TOKENS))

    def encode(self, text: bytes) -> np.ndarray:
        """Token numbers of an expression. ValueError that names what is none, and where."""
        return np.asarray([_NUMBER[word] for word in _words(text.decode())], self.dtype)

    def _words(self) -> list[str]:
        return [*TOKENS]


@dataclass(frozen=True)
class ListOps(Made):
    """Rows {"text": expression, "label": its value}, both str; shortest < tokens < longest."""

    shortest: int = 500
    longest: int = 2000

    def __post_init__(self) -> None:
        super().__post_init__()
        # the shortest list has 4 tokens; a span too narrow to be met would be drawn for without end
        if self.longest < 2 * self.shortest or self.shortest < 2 or self.longest > 10_000:
            raise ValueError(
                f"trees longer than {self.shortest} and shorter than {self.longest} are drawn too "
                "seldom; take shortest >= 2 and 2 shortest <= longest <= 10000"
            )

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        while not (levels := self._shape(draw)):
            pass
        text = " ".join(_written([iter(_filled(draw, level)) for level in levels]))
        return {"text": text, "label": str(evaluate(text))}

    def _shape(self, draw: np.random.Generator) -> list[np.ndarray]:
        """The number of arguments (0: a digit) of the nodes at each depth; nothing if none fits."""
        levels: list[np.ndarray] = []
        # the root is an operator: a digit alone would be drawn again
        arguments, length = draw.integers(2, ARGUMENTS + 1, 1), 2
        while length < self.longest:
            levels.append(arguments)
            nodes = int(arguments.sum())
            if not nodes:
                return levels if length > self.shortest else []
            lists = draw.random(nodes) <= (SHARE if len(levels) + 1 < DEPTH else -1)
            arguments = lists * draw.integers(2, ARGUMENTS + 1, nodes)
            length += nodes + int(lists.sum())
        return []


def _filled(draw: np.random.Generator, level: np.ndarray) -> list[tuple[int, str]]:
    """(arguments, token) of each node."""
    operators = draw.integers(len(OPERATORS), size=len(level))
    digits = draw.integers(10, size=len(level))
    return [
        (many, OPERATORS[operator] if many else str(digit))
        for many, operator, digit in zip(
            level.tolist(), operators.tolist(), digits.tolist(), strict=True
        )
    ]


def _written(levels: list[Iterator[tuple[int, str]]], depth: int = 0) -> list[str]:
    """The tokens of the next tree at a depth: children stand in their level as parents do."""
    many, token = next(levels[depth])
    if not many:
        return [token]
    tokens = [token]
    for _ in range(many):
        tokens += _written(levels, depth + 1)
    return [*tokens, END]


def evaluate(text: str) -> int:
    """The value of an expression. ValueError that says what is wrong, and where."""
    lists: list[tuple[str, list[int]]] = []  # those that are open, each with its values so far
    value: int | None = None
    for place, word in enumerate(_words(text), 1):
        if value is not None:
            raise ValueError(f"{word!r}, at token {place}, stands behind the end of the expression")
        if word in OPERATORS:
            lists.append((word, []))
            continue
        if word == END:
            if not lists or not lists[-1][1]:
                what = "closes a list without values" if lists else "closes no list"
                raise ValueError(f"']', at token {place}, {what}")
            done = _value(*lists.pop())
        else:
            done = int(word)
        if lists:
            lists[-1][1].append(done)
        else:
            value = done
    if value is None:
        raise ValueError(f"the expression ends with {len(lists)} lists open, and has no value")
    return value


def _value(operator: str, values: list[int]) -> int:
    if operator == "[MIN":
        return min(values)
    if operator == "[MAX":
        return max(values)
    if operator == "[SM":
        return sum(values) % 10
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) // 2


def _words(text: str) -> Iterable[str]:
    """The tokens, without round brackets."""
    for place, word in enumerate(text.split(), 1):
        if word in ("(", ")"):
            continue
        if word not in _NUMBER:
            known = " ".join(TOKENS)
            raise ValueError(f"{word!r}, at place {place}, is no token of ListOps: {known}")
        yield word
