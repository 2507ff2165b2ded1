"""Adaptive span: the paper's mask by brute force, the reach that follows it, what it saves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from subquad import nn
from subquad.model import Model, build
from subquad.nn.context import Context
from subquad.nn.mixer import after_step, penalty, split_heads
from subquad.nn.state import nbytes
from subquad.ops.attend import attend
from subquad.ops.band import band
from subquad.ops.dense import dense
from subquad.ops.gather import gather
from subquad.ops.partial import EMPTY, Distance
from subquad.ops.shifts import shifts

pytestmark = pytest.mark.usefixtures("one_thread")

DIM, HEADS, SPAN, RAMP = 12, 3, 20, 6


def attention(spans: list[float], ramp: int = RAMP, engine=None, **options) -> nn.Attention:
    """Bias-free attention in float64 whose heads have these spans, in tokens."""
    table = nn.RelativeTable(DIM // HEADS, SPAN)
    at = nn.SpanRamp(HEADS, SPAN, ramp=ramp, table=table, **options)
    made = nn.Attention(
        DIM, HEADS, sq.Window(SPAN, -1), position=at, bias=False, engine=engine
    ).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    with torch.no_grad():
        at.span.copy_(torch.tensor(spans, dtype=torch.float64)[:, None] / SPAN)
    return made


def context(n: int) -> Context:
    return Context(torch.arange(n)[None])


def by_hand(m: nn.Attention, x: torch.Tensor) -> torch.Tensor:
    """The paper's equations: exponentials times the mask, divided by their sum."""
    q, k, v = (split_heads(f(x), HEADS) for f in (m.query, m.key, m.value))
    n, width = x.shape[1], DIM // HEADS
    rows = []
    for i in range(n):
        keys = range(max(0, i - SPAN), i)
        if not keys:
            rows.append(torch.zeros_like(v[:, :, 0]))
            continue
        distance = torch.tensor([i - j for j in keys], dtype=torch.float64)
        place = k[:, :, list(keys)] + m.position.table.weight[(distance - 1).long()]
        e = ((q[:, :, i, None] * place).sum(-1) / width**0.5).exp()
        if isinstance(m.position, nn.DynamicSpan):
            z = m.position.spans(x)[:, :, i, None]
        else:
            z = m.position.span * SPAN
        # relu: where the mask is 0 just now, the gradient is that of 0
        e = e * ((m.position.ramp + z - distance) / m.position.ramp).clamp(max=1.0).relu()
        a = e / e.sum(-1, keepdim=True)
        rows.append((a.nan_to_num(0.0).unsqueeze(-1) * v[:, :, list(keys)]).sum(2))
    return m.out(torch.stack(rows, 1).flatten(2))


@pytest.mark.parametrize("spans", [[0, 0, 0], [3.3, 20, 0], [11.7, 1, 2]], ids=str)
@pytest.mark.parametrize("engine", [None, dense, band, shifts])
def test_the_papers_mask(engine, spans):
    m, x = attention(spans, engine=engine), torch.randn(2, 43, DIM).double().requires_grad_()
    found = []
    for y in (m(x, context(43))[0], by_hand(m, x)):
        grads = torch.autograd.grad(y.square().sum(), [x, *m.parameters()])
        assert all(torch.isfinite(g).all() for g in grads)
        found.append([y, *grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert found[0][1 + [*dict(m.named_parameters())].index("position.span")].abs().min() > 0


@pytest.mark.parametrize("engine", [None, dense, band, shifts, gather])
def test_a_bias_of_empty_forbids(engine):
    q, k, v = (torch.randn(1, 2, 30, 4).double().requires_grad_() for _ in range(3))
    bias = torch.where(torch.arange(9) < 4, 0.3, EMPTY).double()[None].requires_grad_()
    found = [
        attend(q, k, v, sq.Window(9, -1), distance=Distance(None, None, bias, -1), engine=engine),
        attend(q, k, v, sq.Window(4, -1)),
    ]
    grads = [torch.autograd.grad(y.square().sum(), (q, k, v), retain_graph=True) for y in found]
    for a, b in zip(*([y, *g] for y, g in zip(found, grads, strict=True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert (torch.autograd.grad(found[0].square().sum(), bias)[0][0, 4:] == 0).all()


def test_the_gradient_of_a_span():
    m, x = attention([2.4, 7.1, 0.3]), torch.randn(1, 21, DIM).double()

    def run(span: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(m, {"position.span": span}, (x, context(21)))[0]

    assert torch.autograd.gradcheck(run, m.position.span)


@pytest.mark.parametrize("engine", [None, dense, band])
def test_a_head_that_sees_nothing_gives_zeros(engine):
    """Spans of 0 with a ramp of 1: the documented meaning of a span of 0 everywhere."""
    m, x = attention([0, 5, 0], ramp=1, engine=engine), torch.randn(1, 30, DIM).double()
    m.out.weight.data.copy_(torch.eye(DIM))
    y = m(x, context(30))[0].view(30, HEADS, -1)
    assert (y[:, [0, 2]] == 0).all()
    assert (y[1:, 1] != 0).all()
    m.position.span.data.zero_()
    assert m.position.reach() == 0
    y = m(x, context(30))[0]
    assert (y == 0).all()
    grads = torch.autograd.grad(y.sum(), list(m.parameters()), allow_unused=True)
    assert all(g is None or torch.isfinite(g).all() for g in grads)


def test_the_reach_follows_the_widest_span():
    m, x = attention([0, 0, 0]), torch.randn(1, 60, DIM).double()
    at = m.position

    def follows(reach: int) -> None:
        assert at.reach() == reach
        assert m.sight.reach() == (reach, -1)
        whole = m.output(m.weights(x, context(60)) @ m.values(x, context(60)))
        torch.testing.assert_close(m(x, context(60))[0], whole, rtol=1e-10, atol=1e-10)
        state, parts = m.init_state(1), []
        for start, part in enumerate(x.split(1, 1)):
            y, state = m(part, Context(torch.tensor([[start]])), state)
            assert state.count <= reach
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)

    follows(RAMP - 1)
    with torch.no_grad():
        at.span[1] = 4 / SPAN  # a whole number of tokens: the last of the ramp counts for nothing
    follows(RAMP + 3)
    with torch.no_grad():
        at.span[1] = 4.01 / SPAN
    follows(RAMP + 4)
    wide = attention([0, 17.5, 3])
    m.load_state_dict(wide.state_dict())
    follows(20)
    at.span.data = torch.tensor([[0.25], [-0.5], [0.125]]).double()
    follows(RAMP + 4)
    at.span.data[2] = 1.7
    after_step(m, 1)
    assert at.spans().tolist() == [5.0, 0.0, 20.0]
    follows(20)
    at.span.data.fill_(torch.nan)
    assert at.reach() == SPAN


def test_memory_in_training_keeps_what_spans_reach():
    m, x = attention([2, 9, 4.5]), torch.randn(1, 60, DIM).double()
    whole, state, parts = m(x, context(60))[0], m.init_memory(1), []
    for start in range(0, 60, 15):
        y, state = m(
            x[:, start : start + 15], Context(torch.arange(start, start + 15)[None]), state
        )
        assert state.count == m.position.reach() == 14
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)


def test_the_price_of_a_span():
    two = torch.nn.ModuleList([attention([2, 4, 12], cost=0.5), attention([0, 0, 3], cost=0.5)])
    assert penalty(two).item() == pytest.approx(0.5 * 6 + 0.5 * 1)
    grads = torch.autograd.grad(penalty(two), [m.position.span for m in two])
    assert all(g.tolist() == [[0.5 * SPAN / HEADS]] * HEADS for g in grads)


# --- a span for every token ---------------------------------------------------------------------


def dynamic(**options) -> nn.Attention:
    at = nn.DynamicSpan(DIM, HEADS, SPAN, ramp=RAMP, table=nn.RelativeTable(4, SPAN), **options)
    made = nn.Attention(DIM, HEADS, sq.Window(SPAN, -1), position=at, bias=False).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


@pytest.mark.parametrize("engine", [None, dense, band, shifts, gather])
def test_the_papers_mask_by_token(engine):
    m, x = dynamic(), torch.randn(2, 43, DIM).double().requires_grad_()
    m.engine = engine
    found = []
    for y in (m(x, context(43))[0], by_hand(m, x)):
        grads = torch.autograd.grad(y.square().sum(), [x, *m.parameters()])
        found.append([y, *grads])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    names = [*dict(m.named_parameters())]
    for name in ("position.weight", "position.offset"):
        assert found[0][1 + names.index(name)].abs().min() > 0


def test_spans_of_tokens_and_their_price():
    m, x = dynamic(cost=0.5), torch.randn(2, 9, DIM).double()
    at = m.position
    z = SPAN / (1 + (-(x @ at.weight.T + at.offset)).exp())
    torch.testing.assert_close(at.spans(x), z.transpose(1, 2))
    assert at.reach() is None
    assert m.sight == m.pattern
    m.eval()(x, context(9))
    assert penalty(torch.nn.ModuleList([m])) == 0
    m.train()(x, context(9))
    copy.deepcopy(m)  # what it keeps of the batch has a graph
    price = penalty(torch.nn.ModuleList([m]))
    torch.testing.assert_close(price, 0.5 * z.mean())
    assert torch.autograd.grad(price, at.offset)[0].abs().min() > 0
    assert penalty(torch.nn.ModuleList([m])) == 0  # asked once for each batch


def test_dynamic_spans_stream_and_learn():
    fields = {**vars(sq.ARCHS["adaptive_span"].PRESETS["tiny"]), "position": "dynamic_span"}
    m = build("adaptive_span", fields, vocab_size=50).double()
    offsets = [b.mixers[0].position.offset for b in m.backbone.blocks]
    assert all((offset == -4).all() for offset in offsets)
    ids = torch.randint(0, 50, (2, 50))
    whole = m(ids)[0]
    for start in (m.init_state, m.init_memory):
        state, parts = start(2), []
        for part in ids.split(9, 1):
            y, state = m(part, state=state)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
        assert all(kept[0].count == 12 for kept in state.layers)
    (whole.square().mean() + penalty(m)).backward()
    assert all(p.grad is not None and p.grad.any() for p in m.parameters())


@pytest.mark.slow
@pytest.mark.no_poison
def test_dynamic_spans_compile():
    torch._dynamo.reset()
    m = dynamic()
    compiled = torch.compile(m, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (70, 90):
        x = torch.randn(2, n, DIM).double().requires_grad_()
        ys = [f(x, context(n))[0] for f in (compiled, m)]
        grads = [torch.autograd.grad(y.square().sum(), [x, *m.parameters()]) for y in ys]
        for a, b in zip((ys[0], *grads[0]), (ys[1], *grads[1]), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- what it saves ------------------------------------------------------------------------------


def model(max_span: int, share: float = 0.0, **fields) -> Model:
    """A small model all of whose spans are this share of the farthest."""
    fields = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 64, "dropout": 0.0, **fields}
    made = build("adaptive_span", {**fields, "max_span": max_span}, vocab_size=50).eval()
    for block in made.backbone.blocks:
        block.mixers[0].position.span.data.fill_(share)
    return made


def flops(m: Model) -> int:
    ids = torch.randint(0, 50, (1, 1500))
    with FlopCounterMode(display=False) as count, torch.no_grad():
        m(ids)
    return count.get_total_flops()


def test_what_is_not_looked_at_costs_nothing():
    """All spans 0: a farthest span of 8,192 costs what one of 64 costs."""
    near, far = flops(model(64)), flops(model(8192))
    assert far == near
    wider = flops(model(8192, 500 / 8192)) - far
    # products with k, v and the table, for all heads of 2 layers
    pairs = sum(min(i, 31 + 500) - min(i, 31) for i in range(1500))
    assert wider == 2 * 2 * 3 * 32 * pairs


@pytest.mark.parametrize("start", ["init_state", "init_memory"])
def test_a_state_holds_what_spans_reach(start: str):
    ids = torch.randint(0, 50, (1, 700))
    sizes = []
    for share in (0.0, 0.1, 0.5):
        m = model(1000, share)
        with torch.no_grad():
            state = m(ids, state=getattr(m, start)(1))[1]
        assert all(kept[0].count == 31 + 1000 * share for kept in state.layers)
        sizes.append(nbytes(state))
    assert sizes[0] < sizes[1] / 4 < sizes[2] / 16


@pytest.mark.parametrize(
    ("preset", "millions"), [("small", 37.7 + 0.5), ("large", 207.6 + 0.8)], ids=str
)
def test_parameters_are_those_of_the_paper(preset: str, millions: float):
    arch = sq.ARCHS["adaptive_span"]
    with torch.device("meta"):
        made = arch.build(arch.PRESETS[preset])
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


def test_layers_share_one_table():
    m = model(64)
    tables = {n: p for n, p in m.named_parameters() if p.shape == (64, 8)}
    assert list(tables) == ["backbone.blocks.0.mixers.0.position.table.weight"]
    first, second = (block.mixers[0].position.table for block in m.backbone.blocks)
    assert second.table is first


def test_a_graph_holds_the_whole_window():
    at = nn.SpanRamp(HEADS, SPAN)
    assert at.reach() == SPAN  # the ramp of 32 alone is longer
    at.ramp = 3
    assert at.reach() == 2
    torch._dynamo.reset()
    assert torch.compile(at.reach, backend="eager", fullgraph=True)() == SPAN


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="max_span 0 and ramp 32 must be at least 1"):
        nn.SpanRamp(2, 0)
    with pytest.raises(ValueError, match="max_span 9 and ramp -1 must be at least 1"):
        nn.DynamicSpan(8, 2, 9, ramp=-1)
    with pytest.raises(ValueError, match="max_span 9 and ramp 0 must be at least 1"):
        nn.SpanRamp(2, 9, ramp=0)
    for kind in (
        lambda: nn.SpanRamp(2, 9, cost=-1e-6),
        lambda: nn.DynamicSpan(8, 2, 9, cost=-1e-6),
    ):
        with pytest.raises(ValueError, match="cost is -1e-06; spans have a price"):
            kind()
    adaptive = sq.ARCHS["adaptive_span"]
    with pytest.raises(ValueError, match="max_span 0 and ramp 32 must be at least 1"):
        adaptive.build(adaptive.Config(dim=16, num_heads=2, max_span=0))
    with pytest.raises(ValueError, match=r"distances 0 to 3 are asked for.*holds 1 to 9"):
        nn.RelativeTable(4, 9).rows(3, 0)
    with pytest.raises(ValueError, match=r"distances 0 to 9 are asked for.*holds 0 to 8"):
        nn.RelativeTable(4, 9, nearest=0).rows(9, 0)
    with pytest.raises(ValueError, match="past alone, so causal must be True, not False"):
        model(64, causal=False)
    with pytest.raises(ValueError, match="no position is called 'spam'; did you mean 'span'"):
        model(64, position="spam")
