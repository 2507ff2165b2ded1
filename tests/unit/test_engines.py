"""Every engine against the dense one: outputs, log-sum-exps and all gradients, in float64.

Axes: B batch, N queries, M keys, H heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import subquad.ops.plan as plans
from any_pattern import ANY
from subquad.ops.attend import attend
from subquad.ops.band import band
from subquad.ops.columns import columns
from subquad.ops.dense import dense
from subquad.ops.drawn import drawn
from subquad.ops.flex import flex
from subquad.ops.flops import pairs
from subquad.ops.gather import gather, gather_listed
from subquad.ops.lowering import terms
from subquad.ops.marked import marked, rows
from subquad.ops.masks import Mask
from subquad.ops.partial import EMPTY, Distance, Partial, Scoring, Where, merge
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
from subquad.ops.plan import plan
from subquad.ops.sdpa import sdpa
from subquad.ops.shifts import shifts

CLOSE = 1e-10


pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Case:
    """Inputs of one comparison; `places` says how positions run."""

    n: int = 63
    m: int = 63
    b: int = 2
    h: int = 4
    d: int = 59
    dv: int = 7
    places: str = "plain"  # plain, moved (another start in each row), gaps
    padded: bool = True
    dropout: float = 0.0
    span: int = 0  # rows of the tables of distances, 0 for none
    table_heads: int = 4
    per_head: bool = False  # coordinates differ by head
    ends: bool = False  # every query has a span of its own

    def inputs(self) -> list[Tensor]:
        """q, k, v and, where distances count, the relative query, its table and bias, and spans."""
        b, h, n, m = self.b, self.h, self.n, self.m
        shapes = [(b, h, n, self.d), (b, h, m, self.d), (b, h, m, self.dv)]
        if self.span:
            shapes += [(b, h, n, self.d), (self.table_heads, self.span, self.d)]
            shapes += [(h + 1 - self.table_heads, self.span + 3)]
        made = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
        if self.ends:  # some below 0: a query that looks at nothing
            made.append((20 * torch.rand(b, h, n).double() - 8).requires_grad_())
        return made

    def where(self) -> Where:
        """Coordinates, labels, marks and validity, the queries at the last keys."""
        lead = (self.b, self.h if self.per_head else 1, self.m)
        steps = torch.randint(1, 5, lead) if self.places == "gaps" else torch.ones(lead).long()
        pos = steps.cumsum(-1)
        if self.places == "moved":
            pos += torch.randint(0, 50, (*lead[:2], 1))
        label, mark = torch.randint(0, 3, lead).sort(-1).values, torch.rand(lead) < 0.1
        k = Coords(pos, label, mark)
        valid = None
        if self.padded:  # a row with no key at all, and one with a tail missing
            valid = torch.arange(self.m) < torch.tensor([0, self.m - self.m // 4])[: self.b, None]
        return Where(k.each(lambda t: t[..., self.m - self.n :]), k, valid)


def run(engine, inputs: list[Tensor], pattern: Pattern, where: Where, dropout: float) -> Partial:
    q, k, v, *rel = inputs
    rel, ends = rel[:3], rel[3] if len(rel) > 3 else None
    distance = Distance(*rel, zero=11, span=ends, ramp=6.5) if rel else None
    scoring = Scoring(0.2, distance, dropout, torch.tensor(5))
    return engine(q, k, v, pattern, where, scoring)


def all_parts(q, k, v, pattern, where, scoring) -> Partial:
    """What the plan would run at a great length, merged."""
    long = torch.empty(q.shape[0], q.shape[1], 4096, q.shape[3])
    parts = plan(long, long, pattern, where, scoring)
    return merge([p.engine(q, k, v, p.pattern, where, scoring) for p in parts])


def assert_equals_dense(engine, pattern: Pattern, case: Case) -> None:
    inputs, where = case.inputs(), case.where()
    expected = run(dense, inputs, pattern, where, case.dropout)
    found = run(engine, inputs, pattern, where, case.dropout)
    assert found.out.shape == expected.out.shape
    assert torch.isfinite(found.out).all()
    some = expected.lse > EMPTY / 2
    assert ((found.lse > EMPTY / 2) == some).all()
    grads = torch.randn_like(expected.out), torch.randn_like(expected.lse) * some
    results = []
    for part in (expected, found):
        lse = part.lse.where(some, 0.0)
        results.append([part.out, lse, *torch.autograd.grad((part.out, part.lse), inputs, grads)])
    names = ["out", "lse", "q", "k", "v", "rel_query", "rel_table", "rel_bias", "ends"]
    for name, a, b in zip(names, *results, strict=False):
        error = (a - b).abs().max().item() if a.numel() else 0.0
        assert error < CLOSE, f"{name} differs by {error:.1e}"


STRIPES = Causal() & (Strided(5) - Window(6))
BAND = [
    Window(3, 2),
    Window(9, -1),
    Window(4, 2, 3),
    Strided(5),
    STRIPES,
    Causal(),
    Full(),
    SameLabel() & Causal(),
    SameLabel() & Window(3, 1, 4),
    Blocks(9) | Window(4),
    Chunks(7, 1),
    Chunks(5, 1, 2),
    Segments(8, 5),
    Causal() - Window(4),
]
FEW = [
    LogSteps(),
    LogSteps(3, 16),
    Window(3, 2),
    LogSteps(2) & SameLabel(),
    LogSteps(5) - Window(2, 1, 2),
]
MARKS = [Marked(), Causal() & Marked(), Marked() - Window(5, 5), SameLabel() & Marked()]
HELD = [
    Columns(9, 2),
    Causal() & (Columns(7, 2, 3) - Blocks(7)),
    Columns(5, 1) & Window(20, 3) & SameLabel(),
    (Columns(6, 4) & Columns(9, 3)) - Window(4, 4),
]
DRAWN = [
    RandomBlocks(4, 3),
    Causal() & RandomBlocks(5, 2, 9),
    (RandomBlocks(3, 4, 1) & SameLabel()) - Chunks(3, 1, 1),
    (RandomBlocks(9, 1) & RandomBlocks(2, 9)) - Marked(),
]
UNIONS = [
    Chunks(8, 1, 1) | RandomBlocks(8, 2) | Marked(),
    Causal() & (Blocks(8) | Columns(8, 2, 1)),
    Window(6, 6) | Marked(),
    Causal() & (Window(12) | Strided(16)),
    Causal() & (Window(3) | LogSteps() | Marked()),
    Causal() & (Blocks(8) | Strided(8)),
]
RUNS = [
    *((band, p) for p in BAND),
    *((shifts, p) for p in FEW),
    *((gather, p) for p in FEW),
    *((marked, p) for p in MARKS),
    *((columns, p) for p in HELD),
    *((drawn, p) for p in DRAWN),
    *((gather, p) for p in DRAWN),
    *((all_parts, p) for p in UNIONS),
]


def ids(value) -> str:
    return getattr(value, "__name__", None) or str(value)


@pytest.mark.parametrize("case", [Case(), Case(n=37, places="moved"), Case(places="gaps")], ids=str)
@pytest.mark.parametrize(("engine", "pattern"), RUNS, ids=ids)
def test_equals_dense(engine, pattern: Pattern, case: Case):
    assert_equals_dense(engine, pattern, case)


@pytest.mark.parametrize(("engine", "pattern"), RUNS, ids=ids)
def test_distances_and_dropout_equal_dense(engine, pattern: Pattern):
    """Tables shorter than the reach, so that distances clamp; queries at the last keys."""
    case = Case(n=37, places="moved", span=30, dropout=0.3)
    assert_equals_dense(engine, pattern, case)
    assert_equals_dense(engine, pattern, replace(case, n=63, span=200, table_heads=1))


@pytest.mark.parametrize(("engine", "pattern"), RUNS, ids=ids)
def test_a_span_for_every_query_equals_dense(engine, pattern: Pattern):
    case = Case(n=37, d=6, places="moved", span=30, dropout=0.2, ends=True)
    assert_equals_dense(engine, pattern, case)
    if engine not in (band, all_parts):
        assert_equals_dense(engine, pattern, replace(case, places="gaps", per_head=True))


def test_spans_over_many_blocks():
    case = Case(n=500, m=500, b=1, h=2, d=4, padded=False, span=9, table_heads=2, ends=True)
    for pattern in (Window(40, -1), Causal() & Strided(3), Window(20, 20)):
        assert_equals_dense(band, pattern, case)


@pytest.mark.parametrize(("engine", "pattern"), RUNS[::2], ids=ids)
def test_coordinates_by_head(engine, pattern: Pattern):
    assert_equals_dense(engine, pattern, Case(places="gaps", per_head=True, dropout=0.2))


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (1, 63), (65, 65), (127, 127)])
@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, Window(40, 3)),
        (band, STRIPES),
        (shifts, LogSteps()),
        (marked, Marked()),
        (columns, Causal() & Columns(5, 2)),
        (drawn, RandomBlocks(4, 2)),
    ],
    ids=ids,
)
def test_odd_lengths(engine, pattern: Pattern, n: int, m: int):
    assert_equals_dense(engine, pattern, Case(n=n, m=m, d=5, padded=False, span=9))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, Window(30, 30)),  # many blocks inside, and edges
        (band, Window(9, 0, 3)),
        (band, Chunks(16, 1)),
        (shifts, LogSteps(4)),
        (marked, Marked() - Window(30, 30)),
        (columns, Causal() & (Columns(32, 9) - Blocks(32))),
        (drawn, RandomBlocks(32, 3) - Chunks(32, 1, 1)),
    ],
    ids=ids,
)
def test_a_thousand_and_twenty_five(engine, pattern: Pattern, padded: bool):
    case = Case(n=1025, m=1025, b=2, h=2, d=8, dv=8, padded=padded, dropout=0.1, span=40)
    assert_equals_dense(engine, pattern, replace(case, table_heads=2))


@pytest.mark.parametrize("pattern", [Window(30, 30), Window(9, 0, 3) & SameLabel(), Causal()])
def test_band_over_gaps_of_many_blocks(pattern: Pattern):
    assert_equals_dense(band, pattern, Case(n=500, m=517, h=2, d=8, places="gaps"))


@pytest.mark.parametrize("engine", [band, shifts, gather])
@pytest.mark.parametrize(("n", "m", "start"), [(20, 50, 0), (50, 20, 7)])
def test_queries_at_places_of_their_own(engine, n: int, m: int, start: int):
    q, k, v = (torch.randn(2, 2, x, 8, dtype=torch.float64) for x in (n, m, m))
    at = Coords(torch.arange(n).view(1, 1, n) * 2 + start)
    where = Where(at, Coords(torch.arange(m).view(1, 1, m)))
    for pattern in (Window(3, 4), Window(2, 2, 3)):
        a, b = (e(q, k, v, pattern, where, Scoring(0.3)) for e in (dense, engine))
        assert (a.out - b.out).abs().max() < CLOSE


@pytest.mark.parametrize(("batch", "n"), [(0, 5), (2, 0)])
@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, STRIPES),
        (shifts, LogSteps()),
        (marked, Marked()),
        (columns, Columns(4, 1)),
        (columns, Columns(4, 1) & Window(9, 9)),
        (drawn, RandomBlocks(4, 1)),
    ],
    ids=ids,
)
def test_nothing_to_do(engine, pattern: Pattern, batch: int, n: int):
    for m in (n, 7, 2100):
        case = Case(n=n, m=m, b=batch, d=4, padded=False)
        inputs, where = case.inputs(), case.where()
        part = run(engine, inputs, pattern, where, 0.0)
        assert part.out.shape == (batch, 4, n, 7)
        assert all(g.abs().sum() == 0 for g in torch.autograd.grad(part.out.sum(), inputs))


def test_no_mark_at_all():
    where = Case(padded=False).where()
    mark = torch.zeros_like(where.k.mark)
    where = where._replace(q=where.q._replace(mark=mark), k=where.k._replace(mark=mark))
    inputs = Case().inputs()
    part = run(marked, inputs, Marked(), where, 0.0)
    assert (part.out == 0).all()
    assert (part.lse == EMPTY).all()
    assert all((g == 0).all() for g in torch.autograd.grad(part.out.sum(), inputs))


def test_rows_alone():
    """Marked rows against all keys that the pattern allows; all other rows look at nothing."""
    case = Case(n=37, dropout=0.2, span=20)
    inputs, where = case.inputs(), case.where()
    mark = torch.rand(2, 1, 37) < 0.3

    def engine(q, k, v, pattern, where, scoring):
        return rows(q, k, v, mark, pattern, where, scoring)

    expected = run(dense, inputs, Causal(), where, 0.2)
    found = run(engine, inputs, Causal(), where, 0.2)
    assert torch.allclose(found.out, expected.out * mark[..., None], atol=CLOSE)
    assert torch.equal(found.lse == EMPTY, ~mark | (expected.lse == EMPTY))
    grad = torch.randn_like(found.out)
    a = torch.autograd.grad(expected.out, inputs, grad * mark[..., None])
    b = torch.autograd.grad(found.out, inputs, grad)
    assert max((x - y).abs().max() for x, y in zip(a, b, strict=True)) < CLOSE


@dataclass(frozen=True)
class Halves(Pattern):
    """The keys at half and at a third of a query's position: no distance, but a list."""

    def allowed(self, q: Coords, k: Coords) -> Tensor:
        return (k.pos == q.pos // 2) | (k.pos == q.pos // 3)

    def keys(self, q: Tensor, total: int) -> Tensor:
        half, third = q // 2, q // 3
        return torch.stack((half, third.where(third != half, -1)), -1)


@pytest.mark.parametrize("pattern", [Halves(), Halves() & SameLabel(), Halves() - Window(5)])
def test_gather_takes_lists_of_patterns(pattern: Pattern):
    assert_equals_dense(gather, pattern, Case(span=20, dropout=0.1))
    assert_equals_dense(gather, pattern, Case(places="gaps", per_head=True))


def test_gather_listed_by_head():
    q, k, v = (torch.randn(2, 3, 9, 4, dtype=torch.float64) for _ in range(3))
    keys = torch.stack([torch.randperm(9)[:4] for _ in range(2 * 3 * 9)]).view(2, 3, 9, 4)
    keys[:, :, 3] = -1
    where = Case(n=9, m=9, padded=False).where()
    out = gather_listed(q, k, v, keys, where, Scoring(0.3)).out
    allowed = torch.zeros(2, 3, 9, 9).bool().scatter_(-1, keys.clamp(min=0), keys >= 0)
    scores = (0.3 * q @ k.mT).masked_fill(~allowed, EMPTY)
    assert torch.allclose(out, scores.softmax(-1) * allowed @ v, atol=CLOSE)


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (shifts, Causal()),
        (shifts, Blocks(4)),
        (gather, SameLabel()),
        (gather, Full()),
        (columns, Causal() & (Columns(4, 1) | Blocks(4))),
        (drawn, RandomBlocks(4, 1) | Blocks(4)),
    ],
    ids=ids,
)
def test_what_cannot_be_listed_raises(engine, pattern: Pattern):
    with pytest.raises(ValueError, match="use the band engine"):
        run(engine, Case().inputs(), pattern, Case().where(), 0.0)


@pytest.mark.parametrize(
    "pattern", [Window(30, 30), Window(4, 2, 3), SameLabel() & Causal()], ids=str
)
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("span", [9, 300])
def test_band_scores_distances_over_gaps(pattern: Pattern, heads: int, span: int):
    ends = {"span": span, "table_heads": heads, "ends": True, "dropout": 0.3}
    assert_equals_dense(band, pattern, Case(places="gaps", **ends))
    assert_equals_dense(band, pattern, Case(places="gaps", n=37, m=150, per_head=True, **ends))


def test_band_over_gaps_goes_head_by_head(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("subquad.ops.pieces.BUDGET", 1)
    for heads in (1, 4):
        case = Case(places="gaps", span=9, table_heads=heads, ends=True)
        assert_equals_dense(band, SameLabel() & Window(9, 3), case)


@pytest.mark.parametrize(
    "pattern", [Segments(16, 16) & SameLabel(), Causal() & Window(30) & SameLabel()], ids=str
)
@pytest.mark.parametrize("budget", [1, 1600, 4000, 9000])
def test_large_tiles_of_masked_bands_take_heads_together(pattern, budget, monkeypatch):
    """One head, two and all five of a row, several rows: 15 lanes have 11,280 pairs."""
    monkeypatch.setattr("subquad.ops.pieces.BUDGET", budget)
    for heads in (1, 5):
        ends = {"span": 40, "table_heads": heads, "dropout": 0.3}
        case = Case(b=3, h=5, n=150, m=171, d=7, padded=False, **ends)
        assert_equals_dense(band, pattern, case)
        assert_equals_dense(band, pattern, replace(case, b=2, places="moved", padded=True))


@pytest.mark.parametrize(
    ("pattern", "n", "m"),
    [
        (Window(100, -90), 5, 5),
        (Causal() - Window(300), 40, 40),
        (Window(9, -7), 0, 5),
        (Window(9, 2), 0, 0),
        (Full(), 194, 64),
        (Full() & SameLabel(), 194, 64),
        (Full(), 400, 10),
    ],
    ids=str,
)
def test_tables_of_bands_that_hold_nothing_and_of_more_queries_than_keys(pattern, n, m):
    case = Case(n=n, m=m, padded=False, span=9)
    inputs = case.inputs()
    at = [Coords(torch.arange(a, a + c).view(1, 1, c)) for a, c in ((0, n), (n - m, m))]
    at = [c._replace(label=torch.zeros_like(c.pos)) for c in at]
    found, expected = (run(e, inputs, pattern, Where(*at), 0.0) for e in (band, dense))
    for whole in (found.out, expected.out):
        assert whole.shape == (2, 4, n, 7)
    grads = torch.randn_like(expected.out)
    torch.testing.assert_close(found.out, expected.out, rtol=CLOSE, atol=CLOSE)
    back = (torch.autograd.grad(p.out, inputs, grads) for p in (found, expected))
    for a, b in zip(*back, strict=True):
        torch.testing.assert_close(a, b, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize(
    ("engine", "pattern", "bare"),
    [
        (columns, Causal() & Columns(4, 2), True),
        (columns, Causal() & (Columns(8, 3, 1) - Blocks(8)) & SameLabel(), True),
        (columns, Columns(4, 2), True),
        (marked, Causal() & Marked() & SameLabel(), False),
        (marked, Marked(), True),
    ],
    ids=ids,
)
@pytest.mark.parametrize("padded", [False, True])
def test_tiles_whose_ends_tell_that_all_is_allowed_have_no_mask(
    engine, pattern, bare, padded, monkeypatch
):
    """`bare`: some tile has none. Of labels that run on, and rows of which one lacks its tail."""
    for name in ("masks", "products"):
        monkeypatch.setattr(f"subquad.ops.{name}.LARGE", 1)
    monkeypatch.setattr("subquad.ops.products.BUDGET", 1 << 14)
    made = []

    def bias(self, cut, ask=Mask.bias):
        made.append(ask(self, cut))
        return made[-1]

    monkeypatch.setattr(Mask, "bias", bias)
    for case in (Case(n=137, m=250), Case(n=91, m=91, places="moved", span=9)):
        assert_equals_dense(engine, pattern, replace(case, b=1, padded=False))
        assert_equals_dense(engine, pattern, replace(case, padded=padded))
    assert made
    assert any(one is None for one in made) or not bare


@pytest.mark.parametrize("n", [64, 512])
def test_attend_takes_distances_over_gaps_at_any_length(n: int):
    case = Case(n=n, m=n, b=1, d=8, dv=8, h=2, places="gaps", padded=False, span=9, table_heads=2)
    (q, k, v, *rel), where = case.inputs(), case.where()
    given = {"where": where[:2], "distance": Distance(*rel, zero=4)}
    for pattern in (Causal(), Causal() & (Window(12) | Strided(16)), Window(6, 6) | Marked()):
        a, b = (attend(q, k, v, pattern, **given, engine=e) for e in (dense, None))
        assert (a - b).abs().max() < CLOSE


@pytest.mark.parametrize("pattern", UNIONS, ids=str)
def test_terms_are_disjoint_and_whole(pattern: Pattern):
    where = Case(padded=False, per_head=True).where()
    count = sum(where.allowed(p).int() for p in terms(pattern))
    assert torch.equal(count, where.allowed(pattern).int())


# --- attend -------------------------------------------------------------------------------------


PATTERNS = [
    *UNIONS,
    Causal(),
    Full(),
    PerHead((1, Window(20, 20)), (1, Window(5, 0, 4)), (2, Full() | Marked())),
    PerHead((2, Window(6, 6) | Marked()), (2, Causal() & LogSteps())),
]


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("n", [63, 300])
def test_attend_chooses_rightly(pattern: Pattern, n: int):
    """Grouped queries, padding whose content is NaN, a row that is all padding."""
    case = Case(n=n, m=n, d=8, padded=True, places="moved")
    where = case.where()
    q = torch.randn(2, 4, n, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 2, n, w, dtype=torch.float64) for w in (8, 5))
    hole = ~where.valid[:, None, :, None]
    bad_k, bad_v = (t.masked_fill(hole, float("nan")).requires_grad_() for t in (k, v))
    at = (where.q, where.k)
    out = attend(q, bad_k, bad_v, pattern, valid=where.valid, where=at)
    heads = [t.repeat_interleave(2, 1) for t in (k, v)]
    parts = pattern.groups if isinstance(pattern, PerHead) else ((4, pattern),)
    expected, first = [], 0
    for count, part in parts:
        cut = slice(first, first + count)
        inputs = q[:, cut], heads[0][:, cut], heads[1][:, cut]
        expected.append(dense(*inputs, part, where, Scoring(8**-0.5)).out)
        first += count
    assert (out - torch.cat(expected, 1)).abs().max() < CLOSE
    grads = torch.autograd.grad(out.square().sum(), (q, bad_k, bad_v))
    wanted = torch.autograd.grad(torch.cat(expected, 1).square().sum(), q)
    assert (grads[0] - wanted[0]).abs().max() < CLOSE
    assert all((g * hole).abs().sum() == 0 for g in grads[1:])


@pytest.mark.parametrize("pattern", [Causal(), Window(20, 20) | Marked()], ids=str)
def test_attend_at_the_last_keys(pattern: Pattern):
    q, k = (torch.randn(2, 2, n, 8, dtype=torch.float64) for n in (300, 300))
    mark = torch.zeros(1, 1, 300, dtype=torch.bool)
    mark[..., [3, 290]] = True
    pos = torch.arange(300).view(1, 1, -1)
    at = Coords(pos, None, mark)
    whole = attend(q, k, k, pattern, where=(at, at))
    last = attend(q[:, :, 20:], k, k, pattern, where=(at.each(lambda t: t[..., 20:]), at))
    assert (whole[:, :, 20:] - last).abs().max() < CLOSE


@pytest.mark.parametrize(
    ("engine", "pattern"),
    [
        (band, Window(20, 20)),
        (band, STRIPES),
        (shifts, LogSteps(4)),
        (marked, Marked()),
        (columns, Causal() & Columns(9, 2)),
        (drawn, RandomBlocks(8, 3)),
    ],
    ids=ids,
)
def test_bf16_errs_at_most_twice_as_much_as_torch(engine, pattern: Pattern):
    case = Case(n=127, m=127, d=64, dv=64, padded=False, span=30)
    inputs, where = case.inputs(), case.where()
    exact = run(dense, inputs, pattern, where, 0.0)
    grad = torch.randn_like(exact.out)
    low = [t.detach().bfloat16().requires_grad_() for t in inputs]
    q, k, v, r, table, bias = low

    # the same in plain torch: products in bf16, softmax as torch does it
    d = Distance(r, table, bias, 11).scores(where.distances())
    scores = (0.2 * q @ k.mT + d).masked_fill(~where.allowed(pattern), EMPTY)
    some = where.allowed(pattern).any(-1, keepdim=True)
    plain = scores.softmax(-1).to(v.dtype) @ v * some
    ours = run(engine, low, pattern, where, 0.0).out
    assert ours.dtype == torch.bfloat16

    truth = [exact.out, *torch.autograd.grad(exact.out, inputs, grad)]
    results = [
        [out, *torch.autograd.grad(out, low, grad.bfloat16(), allow_unused=True)]
        for out in (ours, plain)
    ]
    for true, a, b in zip(truth, *results, strict=True):
        error, allowed = ((x.double() - true).norm() / true.norm() for x in (a, b))
        assert error <= 2 * allowed + 1e-4


@pytest.mark.parametrize("scale", [0.0, -0.5, 1e-30, 3.0])
@pytest.mark.parametrize("pattern", [Causal(), Full()], ids=str)
def test_sdpa_leaves_padding_out_at_any_scale(pattern: Pattern, scale: float):
    case = Case(d=8, dv=8)
    (q, k, v), where = case.inputs(), case.where()
    where = where._replace(q=where.k)
    a, b = (e(q, k, v, pattern, where, Scoring(scale)).out for e in (dense, sdpa))
    assert (a - b).abs().max() < CLOSE
    grad = torch.randn_like(a)
    for x, y in zip(*(torch.autograd.grad(o, (q, k, v), grad) for o in (a, b)), strict=True):
        assert (x - y).abs().max() < CLOSE


@pytest.mark.parametrize("places", ["plain", "gaps"])
def test_no_distance_at_all(places: str):
    """A set of distances may be empty: zeros, whatever the engine and the length."""
    where = Case(n=700, m=700, b=1, places=places, padded=False).where()
    x = torch.randn(1, 1, 700, 4, requires_grad=True)
    nothing = LogSteps() & Window(7, -5)
    for engine in (None, shifts, gather, band):
        out = attend(x, x, x, nothing, where=where[:2], engine=engine)
        assert not out.any()
        assert not torch.autograd.grad(out.sum(), x)[0].any()
    assert pairs("shifts", 700, 700, str(nothing), [0], None) == 0


def test_a_stride_beyond_the_last_key_costs_no_padding():
    """It would be 2^40 slots: this ends only if they are not laid out."""
    for pattern in (Strided(2**40), Window(3, 2, 2**40), Causal() & Strided(2**40)):
        assert_equals_dense(band, pattern, Case())
        assert_equals_dense(band, pattern, Case(n=37, dropout=0.3, span=20, ends=True))


def test_no_query_at_all_among_keys_with_gaps():
    where = Case(b=1, n=0, places="gaps", padded=False).where()
    k = torch.randn(1, 1, where.k.pos.shape[-1], 4)
    out = gather(k[:, :, :0], k, k, Window(3), where, Scoring(0.3)).out
    assert out.shape == (1, 1, 0, 4)


def test_sdpa_equals_dense():
    for pattern in (Causal(), Full(), Window(3)):
        for padded in (False, True):
            case = Case(padded=padded, d=8, dv=8)
            inputs, where = case.inputs(), case.where()
            where = where._replace(q=where.k)
            a, b = (run(e, inputs, pattern, where, 0.0) for e in (dense, sdpa))
            assert (a.out - b.out).abs().max() < CLOSE


@pytest.mark.parametrize("start", [plans.START, -(10**6)], ids=["chosen", "in parts"])
def test_any_pattern_whole_or_in_parts(start: int, monkeypatch: pytest.MonkeyPatch):
    """Random patterns, at a length where `attend` leaves the dense engine."""
    monkeypatch.setattr(plans, "START", start)
    monkeypatch.setattr(plans, "FEW_PAIRS", 0)

    @settings(max_examples=25)
    @given(ANY, st.sampled_from(["moved", "gaps"]), st.booleans())
    def check(pattern: Pattern, places: str, padded: bool) -> None:
        case = Case(n=120, m=131, d=4, places=places, padded=padded)
        inputs, where = case.inputs(), case.where()
        same = {"valid": where.valid, "where": (where.q, where.k), "seed": torch.tensor(3)}
        outs = [attend(*inputs, pattern, dropout=0.2, engine=e, **same) for e in (None, dense)]
        assert (outs[0] - outs[1]).abs().max() < CLOSE
        if outs[0].requires_grad:
            a, b = (torch.autograd.grad(o.square().sum(), inputs) for o in outs)
            assert max((x - y).abs().max() for x, y in zip(a, b, strict=True)) < CLOSE

    check()


# --- flex on a CPU ------------------------------------------------------------------------------


@pytest.mark.no_poison
@pytest.mark.parametrize("pattern", [*BAND, *MARKS, *UNIONS, LogSteps()], ids=str)
def test_flex_equals_dense_without_gradients(pattern: Pattern):
    case = Case(n=37, d=8, dv=8)
    inputs, where = [t.detach().float() for t in case.inputs()], case.where()
    bias = torch.randn(4, 30)
    scoring = Scoring(0.2, Distance(None, None, bias, 11))
    expected, found = (e(*inputs, pattern, where, scoring) for e in (dense, flex))
    assert torch.allclose(found.out, expected.out, atol=1e-5)
    assert torch.allclose(found.lse, expected.lse, atol=1e-5)


@pytest.mark.parametrize(
    ("span", "dropout", "message"),
    [
        (0, 0.0, "no gradient on a CPU; use the band engine"),
        (0, 0.5, r"drops no weights, and dropout is 0\.5"),
        (9, 0.0, "no relative query"),
    ],
)
def test_flex_says_what_it_cannot_do(span: int, dropout: float, message: str):
    case = Case(span=span)
    with pytest.raises(ValueError, match=message):
        run(flex, case.inputs(), Causal(), case.where(), dropout)


def test_flex_takes_no_span_by_query():
    q = torch.randn(1, 2, 5, 4)
    distance = Distance(None, None, None, 0, torch.ones(1, 2, 5), 2.0)
    where = Case(n=5, m=5, padded=False).where()
    with pytest.raises(ValueError, match="no span by query; use band"):
        flex(q, q, q, Causal(), where, Scoring(0.2, distance))
