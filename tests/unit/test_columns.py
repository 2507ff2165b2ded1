"""The Sparse Transformer's patterns: which pairs, how they are run, and what a stream must keep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from any_pattern import ANY
from subquad import nn
from subquad.model import build
from subquad.nn.context import Context
from subquad.nn.state import nbytes
from subquad.ops.band import band
from subquad.ops.columns import columns, columns_of
from subquad.ops.later import forgets, later
from subquad.ops.partial import Scoring, Where
from subquad.ops.pattern import Coords, PerHead
from subquad.ops.patterns import Blocks, Causal, Columns, Full, Strided, Window
from subquad.ops.plan import plan
from subquad.ops.products import Product

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = sq.ARCHS["sparse_transformer"]
FIXED = Causal() & (Blocks(8) | Columns(8, 2))


def place(n: int) -> Where:
    at = Coords(torch.arange(n).view(1, 1, n))
    return Where(at, at)


def pairs(pattern, n: int, head: int = 0) -> torch.Tensor:
    whole = place(n).allowed(pattern)[0]
    return whole[min(head, len(whole) - 1)]


# --- the paper's index sets ---------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["alternate", "merged", "heads"])
@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_index_sets_are_those_of_the_paper(kind: str, combine: str):
    n, l, c = 41, 8, 2
    config = ARCH.Config(kind=kind, combine=combine, stride=l, columns=c, num_heads=4)

    def near(i: int, j: int) -> bool:
        return max(0, i - l) <= j if kind == "strided" else j // l == i // l

    def far(i: int, j: int, h: int) -> bool:
        if kind == "strided":
            return (i - j) % l == 0
        return l - (h + 1) * c <= j % l < l - h * c

    for layer in range(3):
        found = Causal() & ARCH.pattern(config, layer)
        for head in range(4):
            # by heads, the two of the second half take the first two columns
            parts = {
                "alternate": (layer % 2 == 0, layer % 2 == 1, head),
                "merged": (True, True, head),
                "heads": (head < 2, head >= 2, head - 2),
            }
            one, two, column = parts[combine]
            wanted = [
                [j <= i and ((one and near(i, j)) or (two and far(i, j, column))) for j in range(n)]
                for i in range(n)
            ]
            assert pairs(found, n, head).tolist() == wanted


@pytest.mark.parametrize("kind", ["strided", "fixed"])
def test_two_hops_reach_everything(kind: str):
    """What the second pattern sees has seen, by the first, everything before it."""
    config = ARCH.Config(kind=kind, combine="alternate", stride=8, columns=1, num_heads=1)
    first, second = (pairs(Causal() & ARCH.pattern(config, i), 60).int() for i in (0, 1))
    both = second @ first + first > 0
    assert both.equal(torch.ones(60, 60).bool().tril())


def test_heads_share_columns_when_a_block_has_no_more():
    config = ARCH.Config(num_heads=8, stride=128, columns=32)
    found = ARCH.pattern(config, 0)
    assert isinstance(found, PerHead)
    assert [(heads, p.b.skip) for heads, p in found.groups] == [(2, 0), (2, 32), (2, 64), (2, 96)]
    alone = ARCH.pattern(ARCH.Config(num_heads=8, stride=32, columns=32), 0)
    assert alone == Blocks(32) | Columns(32, 32)


# --- the engine ---------------------------------------------------------------------------------


def engines(pattern, n: int) -> list:
    q = torch.empty(1, 2, n, 8)
    return [part.engine for part in plan(q, q, pattern, place(n), Scoring(1.0))]


def test_attend_counts_pairs():
    assert engines(Causal() & (Blocks(128) | Columns(128, 32)), 4096) == [band, columns]
    assert engines(Causal() & (Window(64) | Strided(64)), 4096) == [band, band]
    assert engines(Causal() & Columns(128, 32) & Window(200), 4096) == [band]  # 201 < 1024
    assert engines(Causal() & (Blocks(8) | Columns(8, 7)), 512) == [band]  # the whole is cheaper
    assert columns_of(Full() & (Columns(8, 2) - Blocks(8))) == Columns(8, 2)
    assert columns_of(Columns(8, 2) & Columns(9, 1)) == Columns(9, 1)
    assert columns_of(Columns(8, 2) | Blocks(8)) is None


def test_tiles_that_causality_empties_are_skipped(monkeypatch: pytest.MonkeyPatch):
    scored = []
    tile = Product._tile

    def counting(self, cut):
        b, h, t, s = cut
        scored.append((t.stop - t.start) * (s.stop - s.start))
        return tile(self, cut)

    monkeypatch.setattr(Product, "_tile", counting)
    n = 4096
    q = torch.randn(1, 1, n, 8)
    columns(q, q, q, Causal() & (Columns(64, 16) - Blocks(64)), place(n), Scoring(1.0))
    assert 0.5 * n * n / 4 <= sum(scored) <= 0.56 * n * n / 4
    scored.clear()
    columns(q, q, q, Columns(64, 16) & Window(128, 128), place(n), Scoring(1.0))
    assert sum(scored) <= n * (2 * 128 + 256 + 64) / 4


def peak(pattern, n: int) -> int:
    """The most bytes held at once by one training step of a layer, beyond what there was."""
    model = nn.Attention(32, 2, Causal() & pattern)
    x = torch.randn(1, n, 32, requires_grad=True)

    def step() -> None:
        model(x, Context(torch.arange(n)[None]))[0].sum().backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.no_poison
@pytest.mark.parametrize(
    "pattern", [Blocks(64) | Columns(64, 16), Window(64) | Strided(64)], ids=str
)
def test_training_at_4096_never_holds_the_matrix(pattern):
    small, large = peak(pattern, 4096), peak(pattern, 8192)
    assert large <= 2.1 * small
    assert large < 0.1 * 4 * 2 * 8192**2


def test_flops_of_a_layer_are_those_of_its_pairs():
    config = ARCH.Config(dim=32, num_layers=1, num_heads=2, ffn_dim=64, stride=64, columns=16)
    m = ARCH.build(config)
    n = 700
    with FlopCounterMode(display=False) as count, torch.no_grad():
        m(torch.randn(1, n, 32), Context(torch.arange(n)[None]))
    found = Causal() & ARCH.pattern(config, 0)
    exact = sum(int(pairs(found, n, head).sum()) for head in range(2))
    blocks = int(pairs(Causal() & Blocks(64), n).sum())
    band_of_64 = sum(min(i + 1, 64) for i in range(n))
    # the band's count is by distance: blocks are not taken off
    scored = exact + 2 * (band_of_64 - blocks)
    linear = 2 * n * (4 * 32 * 32 + 2 * 32 * 64)
    assert count.get_total_flops() == linear + 2 * 2 * 16 * scored


# --- streaming ----------------------------------------------------------------------------------


@given(ANY, st.integers(1, 40))
def test_what_is_forgotten_is_never_looked_at(pattern, first: int):
    at = Coords(torch.arange(41).view(1, 1, -1))
    if "Marked" in str(pattern):
        return
    needed = later(pattern, at, torch.tensor([[[first]]])).expand(1, 1, 41)[0, 0]
    seen = pattern.allowed(at.queries(), at.keys()).expand(1, 1, 41, 41)[0, 0]
    assert not (seen[first:, :first].any(0) & ~needed[:first]).any()
    if not forgets(pattern):
        assert needed.all()


def stream(m: nn.Attention, x: torch.Tensor, cut: int, memory: bool = False):
    state, outs, start = (m.init_memory if memory else m.init_state)(len(x)), [], 0
    for part in x.split(cut, 1):
        pos = torch.arange(start, start + part.shape[1])[None]
        y, state = m(part, Context(pos), state)
        outs.append(y)
        start += part.shape[1]
    return torch.cat(outs, 1), state


@pytest.mark.parametrize("cut", [1, 5, 8, 60])
@pytest.mark.parametrize("memory", [False, True])
def test_a_stream_keeps_columns_and_the_block_begun(cut: int, memory: bool):
    m = nn.Attention(12, 2, FIXED, position=nn.Rotary(6)).double()
    x = torch.randn(2, 60, 12).double()
    streamed, state = stream(m, x, cut, memory)
    whole = m(x, Context(torch.arange(60)[None]))[0]
    torch.testing.assert_close(streamed, whole, rtol=1e-10, atol=1e-10)
    kept = [*(p for p in range(56) if p % 8 >= 6), *range(56, 60)]
    assert state.pos.tolist() == [kept] * 2


def test_a_stream_without_columns_keeps_all():
    for pattern, position in (
        (Causal() & (Window(8) | Strided(8)), None),
        (FIXED, nn.ALiBi(2)),  # distances are scored without gaps
        (Causal() & PerHead((1, Columns(4, 2)), (1, Columns(4, 2, 2))), None),
    ):
        m = nn.Attention(12, 2, pattern, position=position).double()
        x = torch.randn(1, 40, 12).double()
        streamed, state = stream(m, x, 7)
        whole = m(x, Context(torch.arange(40)[None]))[0]
        torch.testing.assert_close(streamed, whole, rtol=1e-10, atol=1e-10)
        assert state.count == 40


def test_rows_of_different_lengths_forget_their_own_blocks():
    m = nn.Attention(12, 2, FIXED).double()
    x = torch.randn(2, 30, 12).double()
    valid = torch.arange(30) < torch.tensor([30, 17])[:, None]
    state = m(x, Context(torch.arange(30)[None], valid), m.init_state(2))[1]
    more = torch.randn(2, 9, 12).double()
    pos = torch.tensor([[30], [17]]) + torch.arange(9)
    found = m(more, Context(pos), state)[0]
    for b, n in enumerate((30, 17)):
        row = torch.cat((x[b, :n], more[b]))[None]
        whole = m(row, Context(torch.arange(n + 9)[None]))[0][0, n:]
        torch.testing.assert_close(found[b], whole, rtol=1e-10, atol=1e-10)


def test_marked_tokens_are_not_forgotten():
    m = nn.Attention(12, 2, Causal() & (Blocks(8) | Columns(8, 2) | sq.Marked())).double()
    x = torch.randn(1, 40, 12).double()
    mark = torch.zeros(1, 40, dtype=torch.bool)
    mark[:, [1, 3]] = True
    pos = torch.arange(40)[None]
    whole = m(x, Context(pos, mark=mark))[0]
    state, parts = m.init_state(1), []
    for a in range(0, 40, 8):
        cut = slice(a, a + 8)
        y, state = m(x[:, cut], Context(pos[:, cut], mark=mark[:, cut]), state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    assert {1, 3, 6, 7} <= set(state.pos[0].tolist())
    assert state.count == 12


# --- the architecture ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("enwik8", 30 * 12 * 512**2 / 1e6), ("cifar10", 59), ("imagenet64", 152)],
)
def test_parameters_are_those_of_the_paper(preset: str, millions: float):
    with torch.device("meta"):
        made = ARCH.build(ARCH.PRESETS[preset])
    assert sum(p.numel() for p in made.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("tie", [True, False])
def test_weights_start_as_in_the_paper(tie: bool):
    fields = {"dim": 256, "num_layers": 8, "num_heads": 4, "ffn_dim": 512}
    m = build("sparse_transformer", fields, vocab_size=500, tie=tie)
    attention, mlp = m.backbone.blocks[3].mixers[0], m.backbone.blocks[3].mlp
    near = {
        m.stem.embedding: 0.125 / 256**0.5,
        attention.query: 0.125 / 256**0.5,
        mlp.up: 0.125 / 256**0.5,
        attention.out: 0.125 / 256**0.5 / 4,
        mlp.down: 0.125 / 512**0.5 / 4,
    }
    for module, std in near.items():
        assert module.weight.std().item() == pytest.approx(std, rel=0.05)
        assert module.init_std == pytest.approx(std)
    assert (m.head.project.weight is m.stem.embedding.weight) == tie
    assert m.head.project.init_std == (m.stem.embedding.init_std if tie else 0)
    assert tie or (m.head.project.weight == 0).all()


def test_the_block_is_the_papers():
    """H + a + b with a = attention(norm H) and b = ff(norm(H + a)): equations 9 to 14."""
    m = build("sparse_transformer", dict(vars(ARCH.PRESETS["tiny"])), vocab_size=9).double()
    block, x = m.backbone.blocks[0], torch.randn(1, 20, 32).double()
    at = Context(torch.arange(20)[None])
    a = block.mixers[0](block.norms[0](x), at)[0]
    b = block.mlp(block.norms[1](x + a))
    torch.testing.assert_close(block(x, at)[0], x + a + b, rtol=1e-12, atol=1e-12)
    h = torch.randn(7).double()
    torch.testing.assert_close(block.mlp.activation(h), h / (1 + (-1.702 * h).exp()))


def test_a_state_of_shared_columns_is_smaller():
    fields = {"dim": 32, "num_layers": 1, "num_heads": 1, "ffn_dim": 32, "stride": 64, "columns": 8}
    sizes = []
    for kind in ("fixed", "strided"):
        m = build("sparse_transformer", {**fields, "kind": kind, "dropout": 0.0}, vocab_size=9)
        ids = torch.randint(0, 9, (1, 1024))
        with torch.no_grad():
            sizes.append(nbytes(m(ids, state=m.init_state(1))[1].layers))
    assert sizes[0] < sizes[1] / 7.5


def test_what_does_not_fit_is_said():
    def built(**fields):
        return ARCH.build(ARCH.Config(dim=32, num_layers=1, num_heads=2, ffn_dim=32, **fields))

    with pytest.raises(ValueError, match="no kind of pattern is called 'stride'; did"):
        built(kind="stride")
    with pytest.raises(ValueError, match="no way to combine is called 'merge'; did"):
        built(combine="merge")
    for width in (0, 9):
        with pytest.raises(ValueError, match=f"columns is {width}; of a block of stride 8"):
            built(stride=8, columns=width)
    built(kind="strided", stride=8, columns=9)  # has no columns
    for kind in ("strided", "fixed"):
        with pytest.raises(ValueError, match="stride is 0; it must be at least 1 token"):
            built(kind=kind, stride=0)
    with pytest.raises(ValueError, match="2 heads do not divide 15"):
        built(key_dim=15)
    with pytest.raises(ValueError, match="wants at least 2 heads, and num_heads is 1"):
        ARCH.build(ARCH.Config(dim=32, num_heads=1, combine="heads"))


def test_large_tiles_in_the_past_ask_no_pair(monkeypatch):
    """Of all keys in columns only those near the diagonal are asked pair by pair."""
    asked = []

    def allowed(self, q, k):
        made = Causal.allowed_before(self, q, k)
        asked.append(made.numel())
        return made

    monkeypatch.setattr(Causal, "allowed_before", Causal.allowed, raising=False)
    monkeypatch.setattr(Causal, "allowed", allowed)
    q = torch.randn(1, 1, 4096, 8)
    columns(q, q, q, Causal() & Columns(16, 8), place(4096), Scoring(1.0, None, 0.0, None))
    assert 0 < sum(asked) < 4096 * 2048 / 4
