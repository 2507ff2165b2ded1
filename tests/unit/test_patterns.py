"""Patterns: their algebra, what they claim of themselves, their text, and their disjoint terms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from any_pattern import ANY, LEAVES
from subquad.ops.lowering import (
    candidates,
    distances,
    lower,
    parse,
    split_heads,
    terms,
    without,
)
from subquad.ops.pattern import Coords, Pattern, PerHead
from subquad.ops.patterns import (
    Blocks,
    Causal,
    Chunks,
    Columns,
    Full,
    LogSteps,
    Marked,
    RandomBlocks,
    SameLabel,
    Segments,
    Strided,
    Window,
)

N = 41


def coords(heads: int = 1) -> Coords:
    """Positions that do not start at 0, three labels, a few marks."""
    draw = torch.Generator().manual_seed(3)
    pos = torch.arange(7, 7 + N).expand(1, heads, N)
    label = torch.randint(0, 3, (1, heads, N), generator=draw).sort(-1).values
    return Coords(pos, label, torch.rand(1, heads, N, generator=draw) < 0.15)


def matrix(p: Pattern, at: Coords | None = None) -> torch.Tensor:
    """The whole matrix (N, N) of allowed pairs, of head 0."""
    at = at or coords()
    return p.allowed(at.queries(), at.keys()).expand(1, at.pos.shape[1], N, N)[0, 0]


def allowed_distances(p: Pattern) -> set[int]:
    at = coords().pos[0, 0]
    return set((at[:, None] - at)[matrix(p)].tolist())


def test_each_pattern_is_what_it_says():
    """Counted by hand on positions 0..7, from the papers' words."""
    at = Coords(torch.arange(8).view(1, 1, 8))

    def rows(p: Pattern) -> list[str]:
        yes = p.allowed(at.queries(), at.keys())[0, 0]
        return ["".join(".x"[int(x)] for x in row) for row in yes]

    assert rows(Causal())[2] == "xxx....."
    assert rows(Window(2, 1))[4] == "..xxxx.."
    assert rows(Window(2, 0, 3))[7] == ".x..x..x"
    assert rows(Window(3, -1))[4] == ".xxx...."
    assert rows(Strided(3))[4] == ".x..x..x"
    assert rows(Blocks(3))[4] == "...xxx.."
    assert rows(Columns(4, 2))[1] == "..xx..xx"
    assert rows(Columns(4, 1, 2))[5] == ".x...x.."
    assert rows(Segments(3, 1))[4] == "..xxx..."
    assert rows(Segments(3, 0))[5] == "...xxx.."
    assert rows(Chunks(2, 1))[5] == "..xxxx.."
    assert rows(Chunks(2, 1, 1))[3] == "xxxxxx.."
    assert rows(LogSteps())[7] == "...x.xxx"
    assert rows(LogSteps(2))[7] == ".x.xxxxx"
    assert rows(LogSteps(0, 4))[7] == ".xxx.xxx"


@given(LEAVES, LEAVES)
def test_algebra_is_that_of_sets(a: Pattern, b: Pattern):
    x, y = matrix(a), matrix(b)
    assert torch.equal(matrix(a & b), x & y)
    assert torch.equal(matrix(a | b), x | y)
    assert torch.equal(matrix(a - b), x & ~y)


@given(ANY)
def test_reach_and_bands_hold_what_is_allowed(p: Pattern):
    found = allowed_distances(p)
    for behind, ahead, step in ((*p.reach(), 1), lower(p)[:3]):
        assert all(d % step == 0 for d in found)
        assert behind is None or all(d <= behind * step for d in found)
        assert ahead is None or all(d >= -ahead * step for d in found)
    if lower(p).rest is None:
        behind, ahead, step, _ = lower(p)
        inside = [
            d
            for d in range(1 - N, N)
            if d % step == 0
            and (behind is None or d <= behind * step)
            and (ahead is None or d >= -ahead * step)
        ]
        assert found == set(inside)


@given(ANY)
def test_distances_hold_what_is_allowed(p: Pattern):
    for few in (p.offsets(N - 1), distances(p, N - 1), candidates(p, N - 1)):
        if few is not None:
            assert allowed_distances(p) <= set(few)
            assert len(set(few)) == len(few)
    for few in (p.offsets(N - 1), distances(p, N - 1)):
        if few is not None and p.by_distance:
            assert {d for d in few if abs(d) < N} == allowed_distances(p)


@given(ANY)
def test_keys_are_those_allowed(p: Pattern):
    at = Coords(torch.arange(N).view(1, 1, N))
    keys = p.keys(at.pos[0, 0], N)
    if keys is None:
        return
    yes = torch.zeros(N, N + 1, dtype=torch.bool).scatter_(1, keys % (N + 1), True)[:, :N]
    assert torch.equal(yes, p.allowed(at.queries(), at.keys())[0, 0])


@given(ANY)
def test_by_distance_means_that_distance_decides(p: Pattern):
    if p.by_distance:
        yes = matrix(p)
        assert torch.equal(yes[1:, 1:], yes[:-1, :-1])


@given(ANY)
def test_text_parses_back(p: Pattern):
    assert parse(str(p)) == p
    assert p.text() == str(p)
    assert hash(parse(str(p))) == hash(p)


@given(ANY)
def test_terms_are_disjoint_and_whole(p: Pattern):
    count = sum(matrix(t).int() for t in terms(p))
    assert torch.equal(count, matrix(p).int())


@given(ANY, st.booleans(), st.booleans())
def test_without_labels_or_marks(p: Pattern, labels: bool, marks: bool):
    at = coords()
    at = Coords(at.pos, at.label if labels else None, at.mark if marks else None)
    less = without(p, labels=labels, marks=marks)
    expected = matrix(p, at)
    assert not expected.any() if less is None else torch.equal(matrix(less, at), expected)


def test_per_head():
    p = PerHead((1, Window(2)), (2, Full() - Causal())) & SameLabel()
    at = coords(heads=3)
    whole = p.allowed(at.queries(), at.keys())[0]
    runs = split_heads(p, 3)
    assert [(a, b) for a, b, _ in runs] == [(0, 1), (1, 3)]
    for first, last, part in runs:
        assert "PerHead" not in str(part)
        assert torch.equal(part.allowed(at.queries(), at.keys())[0, first:last], whole[first:last])
    assert parse(str(p)) == p
    assert p.reach() == (None, None)
    assert PerHead((1, Window(2)), (1, Window(1, 3))).reach() == (2, 3)


@pytest.mark.parametrize(
    "p",
    [
        PerHead((2, PerHead((1, Window(1)), (1, Window(9))) & Causal()), (1, Window(2, 2))),
        PerHead((1, Window(2, 2)), (2, PerHead((1, Window(1)), (1, Window(9))))),
        PerHead((1, Full()), (2, Causal() - PerHead((1, Window(1)), (1, Window(9))))),
    ],
    ids=str,
)
def test_per_head_inside_per_head(p: Pattern):
    at = coords(heads=3)
    whole = p.allowed(at.queries(), at.keys())[0]
    for first, last, part in split_heads(p, 3):
        assert "PerHead" not in str(part)
        assert torch.equal(part.allowed(at.queries(), at.keys())[0, first:last], whole[first:last])


def test_wide_windows_list_no_more_than_there_is():
    far = Window(10**15, 10**15, 3)
    assert far.offsets(7) == (-6, -3, 0, 3, 6)
    assert Window(10**15, -2).offsets(4) == (2, 3, 4)
    assert Window(-5, 10**15).offsets(4) == ()
    assert not (LogSteps(0) & Window(7, -5)).keys(torch.arange(2), 2).numel()


def test_parse_takes_keywords_and_spaces():
    assert parse(" Window( 64, dilation = 4 )|Marked( ) ") == Window(64, dilation=4) | Marked()
    assert parse("Window(3, -1)") == Window(3, -1)
    assert parse("PerHead((2, Causal()), (1, Full()))") == PerHead((2, Causal()), (1, Full()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Windw(3)", "no pattern is called Windw; did you mean Window?"),
        ("Q()", "no pattern is called Q; known: Blocks, Causal"),
        ("Window(3", "does not parse"),
        ("Window(3) + Full()", "joined by &, | or -"),
        ("Window", "expected Name"),
        ("Window('a')", "arguments must be whole numbers"),
        ("Window(x)", "arguments must be whole numbers"),
        ("Window(1.5)", "arguments must be whole numbers"),
        ("Window(3, size=2)", "unexpected keyword argument 'size'"),
        ("Full(**{'a': 1})", "arguments must be whole numbers"),
        ("Window()", "missing 1 required positional argument"),
        ("PerHead(Full())", "PerHead takes (heads, pattern) pairs"),
        ("Window(-5, 2)", "holds no distance"),
        ("__import__('os')", "no pattern is called __import__"),
    ],
)
def test_parse_says_what_is_wrong(text: str, message: str):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Window(2, -3), "behind=2, ahead=-3"),
        (lambda: Window(2, 0, 0), "dilation must be a whole number of at least 1, not 0"),
        (lambda: Window(1.5), "behind must be a whole number, not 1.5"),
        (lambda: Window(3, True), "ahead must be a whole number, not True"),
        (lambda: Window(2**70), "behind=1180591620717411303424 in steps of 1 is farther than"),
        (lambda: Window(2**50, 0, 2**20), "in steps of 1048576 is farther than"),
        (lambda: Strided(0), "stride must be"),
        (lambda: Blocks(2.0), "size must be a whole number of at least 1, not 2.0"),
        (lambda: Columns(4, 0), "width must be a whole number of at least 1, not 0"),
        (lambda: Columns(4, 3, 2), "width and skip together are 5, and at most size"),
        (lambda: Segments(4, -1), "memory must be a whole number of at least 0, not -1"),
        (lambda: Chunks(True, 0), "size must be a whole number of at least 1, not True"),
        (lambda: Chunks(3, 0, -1), "right must be a whole number of at least 0, not -1"),
        (lambda: RandomBlocks(0, 1), "size must be a whole number of at least 1, not 0"),
        (lambda: RandomBlocks(4, 0), "count must be a whole number of at least 1, not 0"),
        (lambda: RandomBlocks(4, 1, -1), "seed must be a whole number of at least 0, not -1"),
        (lambda: RandomBlocks(4, 17), "count is 17, and the first blocks draw from 16 blocks"),
        (lambda: LogSteps(0, 0), "restart must be"),
        (lambda: PerHead((0, Full())), "PerHead takes (heads, pattern) pairs"),
        (lambda: split_heads(PerHead((2, Full())), 3), "describes 2 heads, but there are 3"),
    ],
)
def test_wrong_numbers_are_named(make, message: str):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
