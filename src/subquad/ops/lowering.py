"""What engines need to know of a pattern, and the way back from its text.

lower(p)                the band of distances around p, and what is left to test inside it
distances(p, limit)     the few distances that hold p, if they are few
terms(p)                disjoint patterns whose union is p, none of them an Or
split_heads(p, H)       [(first head, last head + 1, pattern without PerHead)]
without(p, ...)         p for tokens that carry no labels or no marks
parse(text)             the pattern that `str` printed (parsed, never evaluated)
"""

import ast
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from subquad.ops import patterns
from subquad.ops.pattern import And, Coords, Minus, Or, Pattern, PerHead, least
from subquad.ops.patterns import Causal, Full, Marked, SameLabel, Strided, Window

__all__ = ["Band", "candidates", "distances", "lower", "parse", "split_heads", "terms", "without"]


class Band(NamedTuple):
    """Distances `dilation * j`, -ahead <= j <= behind (None = unbounded); `rest` decides inside.

    `rest` is None where the band is the whole pattern.
    """

    behind: int | None
    ahead: int | None
    dilation: int
    rest: Pattern | None


def lower(p: Pattern) -> Band:
    """The narrowest band of distances that we know to hold `p`, and what is left to test in it."""
    if isinstance(p, Window):
        return Band(p.behind, p.ahead, p.dilation, None)
    if isinstance(p, Strided):
        return Band(None, None, p.stride, None)
    if isinstance(p, Full | Causal):
        return Band(*p.reach(), 1, None)
    if isinstance(p, And):
        both = _intersect(lower(p.a), lower(p.b))
        if both is not None:
            rest = [x for x in (lower(p.a).rest, lower(p.b).rest) if x is not None]
            return Band(*both, None if not rest else rest[0] if len(rest) == 1 else p)
    if isinstance(p, Minus):
        a, b = lower(p.a), lower(p.b)
        plain = a.dilation == b.dilation and a.rest is None and b.rest is None
        if plain and a.ahead == b.ahead == 0 and b.behind is not None:
            return Band(a.behind, -b.behind - 1, a.dilation, None)
        return a._replace(rest=p)
    return Band(*p.reach(), 1, p)


def terms(p: Pattern) -> list[Pattern]:
    """Disjoint patterns whose union is `p`; none contains an Or on its positive side."""
    if isinstance(p, Or):
        first = terms(p.a)
        return first + [Minus(t, p.a) for t in terms(p.b)]
    if isinstance(p, And):
        return [_and(a, b) for a in terms(p.a) for b in terms(p.b)]
    if isinstance(p, Minus):
        return [Minus(t, p.b) for t in terms(p.a)]
    return [p]


def distances(p: Pattern, limit: int) -> tuple[int, ...] | None:
    """A few distances that hold all those of `p` up to `limit` both ways; None if not known few.

    They are all allowed where distance decides; elsewhere `p` must still be tested.
    """
    few = candidates(p, limit)
    if few is None or not p.by_distance:
        return few
    at = torch.tensor(few, dtype=torch.int64)
    allowed = p.allowed(Coords(at), Coords(torch.zeros_like(at)))
    return tuple(d for d, yes in zip(few, allowed.tolist(), strict=True) if yes)


def candidates(p: Pattern, limit: int) -> tuple[int, ...] | None:
    """`distances`, and perhaps some that `p` forbids: what can be told without a tensor."""
    if isinstance(p, And):
        a, b = candidates(p.a, limit), candidates(p.b, limit)
        if a is None or b is None:
            return b if a is None else a
        inside = set(b)
        return tuple(d for d in a if d in inside)
    if isinstance(p, Or):
        a, b = candidates(p.a, limit), candidates(p.b, limit)
        return None if a is None or b is None else tuple(sorted({*a, *b}))
    return candidates(p.a, limit) if isinstance(p, Minus) else p.offsets(limit)


def split_heads(p: Pattern, num_heads: int) -> list[tuple[int, int, Pattern]]:
    """`p` without PerHead: runs of equal heads as (first, last + 1, pattern)."""
    runs: list[tuple[int, int, Pattern]] = []
    for h in range(num_heads):
        one = _at_head(p, h, num_heads)
        if runs and runs[-1][2] == one:
            runs[-1] = (runs[-1][0], h + 1, one)
        else:
            runs.append((h, h + 1, one))
    return runs


def without(p: Pattern, *, labels: bool, marks: bool) -> Pattern | None:
    """`p` for tokens that carry no labels or no marks; None if nothing is left."""
    if isinstance(p, SameLabel) and not labels:
        return Full()
    if isinstance(p, Marked) and not marks:
        return None
    if isinstance(p, PerHead):
        groups = [(h, without(x, labels=labels, marks=marks)) for h, x in p.groups]
        return PerHead(*((h, x if x is not None else _NOTHING) for h, x in groups))
    if not isinstance(p, And | Or | Minus):
        return p
    a = without(p.a, labels=labels, marks=marks)
    b = without(p.b, labels=labels, marks=marks)
    if isinstance(p, Or):
        return a if b is None else b if a is None else Or(a, b)
    if isinstance(p, And):
        return None if a is None or b is None else _and(a, b)
    return None if a is None else a if b is None else Minus(a, b)


def parse(text: str) -> Pattern:
    """The pattern that `text` describes, such as `Causal() & (Window(64) | Strided(64))`.

    The text is parsed and never evaluated. ValueError names what is wrong and the nearest name.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"pattern {text!r} does not parse: {error.msg}") from None
    return _build(tree.body, text)


_NOTHING = Minus(Full(), Full())
_NAMES = {n: getattr(patterns, n) for n in patterns.__all__}
_NAMES["PerHead"] = PerHead
_OPERATORS = {ast.BitAnd: And, ast.BitOr: Or, ast.Sub: Minus}


def _build(node: ast.expr, text: str) -> Pattern:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_build(node.left, text), _build(node.right, text))
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"pattern {text!r}: expected Name(...) joined by &, | or -")
    name = node.func.id
    if name not in _NAMES:
        near = get_close_matches(name, _NAMES, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(_NAMES))}"
        raise ValueError(f"pattern {text!r}: no pattern is called {name}{hint}")
    try:
        if name == "PerHead":
            pairs = [a.elts if isinstance(a, ast.Tuple) else [] for a in node.args]
            if node.keywords or any(len(pair) != 2 for pair in pairs):
                raise TypeError("PerHead takes (heads, pattern) pairs")
            return PerHead(*((_number(h, text), _build(p, text)) for h, p in pairs))
        args = [_number(a, text) for a in node.args]
        words = {k.arg or "": _number(k.value, text) for k in node.keywords}
        return _NAMES[name](*args, **words)
    except TypeError as error:
        raise ValueError(f"pattern {text!r}: {error}") from None


def _number(node: ast.expr, text: str) -> Any:
    value: object
    try:
        value = ast.literal_eval(node)
    except ValueError:
        value = node
    if value is not None and not isinstance(value, int):
        raise ValueError(f"pattern {text!r}: arguments must be whole numbers")
    return value


def _and(a: Pattern, b: Pattern) -> Pattern:
    if isinstance(a, Full):
        return b
    return a if isinstance(b, Full) else And(a, b)


def _at_head(p: Pattern, h: int, num_heads: int) -> Pattern:
    if isinstance(p, PerHead):
        if p.num_heads != num_heads:
            raise ValueError(f"{p} describes {p.num_heads} heads, but there are {num_heads}")
        for heads, one in p.groups:
            if h < heads:
                return _at_head(one, h, heads)
            h -= heads
    if isinstance(p, And | Or | Minus):
        return type(p)(_at_head(p.a, h, num_heads), _at_head(p.b, h, num_heads))
    return p


def _intersect(a: Band, b: Band) -> tuple[int | None, int | None, int] | None:
    """The band inside both, if their dilations agree or one of them is 1."""
    if a.dilation != b.dilation and 1 not in (a.dilation, b.dilation):
        return None
    step = max(a.dilation, b.dilation)
    sides = []
    for x, y in ((a.behind, b.behind), (a.ahead, b.ahead)):
        x = None if x is None else x * a.dilation // step
        y = None if y is None else y * b.dilation // step
        sides.append(least(x, y))
    return sides[0], sides[1], step
