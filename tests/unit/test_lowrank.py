"""Low-rank attention: what slots hold, what is shared, and what is saved of what is shared."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from subquad import nn
from subquad.hf import SubquadConfig, SubquadForMaskedLM, SubquadModel
from subquad.model import build, load, save
from subquad.nn.context import Context
from subquad.nn.lowrank import LowRankAttention, Projection
from subquad.nn.position import PositionError

ARCH = sq.ARCHS["linformer"]
DIM, HEADS, LONGEST = 24, 4, 40


def mixer(rank: int = 6, **options) -> LowRankAttention:
    torch.manual_seed(3)
    made = LowRankAttention(
        DIM, HEADS, Projection(rank, LONGEST), Projection(rank, LONGEST), **options
    )
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return made.double().eval()


def words(n: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, n, DIM, dtype=torch.float64)


def written_out(m: LowRankAttention, x: torch.Tensor) -> torch.Tensor:
    """The paper's equation 7, head by head."""
    n, width, heads = x.shape[1], DIM // HEADS, []
    e, f = m.project_keys.weight[:, :n], m.project_values.weight[:, :n]
    for h in range(HEADS):
        cut = slice(h * width, (h + 1) * width)
        q, k, v = (part(x)[..., cut] for part in (m.query, m.key, m.value))
        p = torch.softmax(q @ (e @ k).mT / width**0.5, -1)
        heads.append(p @ (f @ v))
    return m.out(torch.cat(heads, -1))


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 39, 40])
def test_it_is_the_equation_of_the_paper(n: int):
    m, x = mixer(), words(n)
    torch.testing.assert_close(m(x, Context.of(x))[0], written_out(m, x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", [None, nn.Rotary(DIM // HEADS)])
def test_the_matrix_over_tokens_multiplies_values_before_they_are_projected(position):
    m, x = mixer(position=position), words(33)
    valid = torch.arange(33) < torch.tensor([33, 20])[:, None]
    at = Context.of(x, valid)
    v = at.clean(m.value(x)).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    over_tokens = m.matrix(x, at)
    torch.testing.assert_close(m.output(over_tokens @ v), m(x, at)[0], rtol=1e-10, atol=1e-10)
    assert (over_tokens < 0).any(), "blends are of either sign"
    assert (over_tokens[1, :, :, 20:] == 0).all()
    rows = torch.tensor([0, 7])
    torch.testing.assert_close(m.matrix(x, at, rows), over_tokens[:, :, rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [4, 33])
@pytest.mark.parametrize("bias", [True, False])
def test_blending_first_is_the_same_product(n: int, bias: bool):
    """Whatever the number of tokens: fewer than slots are projected first, more are blended first.

    Gradients too, and by a position that turns nothing, which cannot be told from none.
    """

    class Still(nn.Position):
        def turn(self, x, pos):
            return x

    m, x = mixer(bias=bias), words(n).requires_grad_()
    still = mixer(bias=bias, position=Still())
    at = Context.of(x, torch.arange(n) < torch.tensor([n, n - 2])[:, None])
    found = []
    for one in (m, still):
        y = one(x, at)[0]
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, *one.parameters()])])
    for pair in zip(*found, strict=True):
        torch.testing.assert_close(*pair, rtol=1e-10, atol=1e-10)


def test_slots_are_projected_in_place_of_tokens():
    n, rank = 400, 8
    both = Projection(rank, n)
    m, x = LowRankAttention(DIM, 1, both, both, bias=False), torch.randn(1, n, DIM)
    with FlopCounterMode(display=False) as count, torch.no_grad():
        m(x, Context.of(x))
    blend, slots, tokens = 2 * n * rank * DIM, 2 * 2 * rank * DIM**2, 2 * 2 * n * DIM**2
    scored = 2 * 2 * n * rank * DIM
    # torch counts no product inside its own attention on a CPU
    assert count.get_total_flops() in (blend + slots + tokens, blend + slots + tokens + scored)


def test_padding_may_stand_beyond_what_is_learned():
    m, x = mixer(), words(70)
    valid = torch.arange(70) < torch.tensor([LONGEST, 9])[:, None]
    y = m(x.masked_fill(~valid[..., None], torch.nan), Context.of(x, valid))[0]
    assert y.shape == x.shape
    for b, n in enumerate((LONGEST, 9)):
        alone = x[b : b + 1, :n]
        torch.testing.assert_close(
            y[b : b + 1, :n], m(alone, Context.of(alone))[0], rtol=1e-10, atol=1e-10
        )
    at = Context.of(x, valid)
    again = m.output(m.weights(x, at) @ m.values(x, at))
    torch.testing.assert_close(y[valid], again[valid], rtol=1e-10, atol=1e-10)
    assert m.matrix(x, at).shape == (2, HEADS, 70, 70)


def test_a_row_without_tokens_looks_at_nothing():
    m, x = mixer(), words(5)
    valid = torch.tensor([[True] * 5, [False] * 5])
    y = m(x, Context.of(x, valid))[0]
    torch.testing.assert_close(y[1], m.out.bias.expand(5, -1), rtol=0, atol=1e-12)


def test_what_does_not_fit_is_said():
    m, x = mixer(), words(41)
    said = "a row of 41 tokens, but projections over positions are learned up to max_len = 40"
    with pytest.raises(PositionError, match=said):
        m(x, Context.of(x))
    with pytest.raises(ValueError, match=said):
        m(words(60), Context.of(words(60), torch.arange(60) < torch.tensor([[41], [3]])))
    at = Context.of(x[:, :9])
    with pytest.raises(ValueError, match="mixes the whole length, so it cannot stream"):
        m(x[:, :9], at, object())
    with pytest.raises(ValueError, match="looks ahead, so it cannot stream"):
        m.init_state(1)
    with pytest.raises(ValueError, match="cannot keep labelled documents apart"):
        m(x[:, :9], Context(at.pos, label=at.pos[:, None]))
    with pytest.raises(ValueError, match="ALiBi adds to scores by distance and slots stand now"):
        mixer(position=nn.ALiBi(HEADS))
    with pytest.raises(ValueError, match="keys are projected to 3 slots and values to 4"):
        LowRankAttention(DIM, HEADS, Projection(3, 9), Projection(4, 9))
    with pytest.raises(ValueError, match="rank = 0 and max_len = 9; both must be at least 1"):
        Projection(0, 9)


# --- the architecture ---------------------------------------------------------------------------


def fields(sharing: str, **more) -> dict:
    return {**vars(ARCH.PRESETS["tiny"]), "sharing": sharing, "max_len": 50, **more}


@pytest.mark.parametrize(
    ("sharing", "count"), [("headwise", 24), ("key_value", 12), ("layerwise", 1)]
)
def test_twelve_layers_share_as_the_paper_counts(sharing: str, count: int):
    backbone = ARCH.build(ARCH.Config(**fields(sharing, num_layers=12)))
    found = [p for m in backbone.modules() if isinstance(m, Projection) for p in m.parameters()]
    assert len(found) == count
    widths = {"headwise": 24, "key_value": 12, "layerwise": 1}[sharing] * 16 * 50
    assert sum(p.numel() for p in found) == widths


def test_ranks_may_fall_with_the_layers():
    config = ARCH.Config(**fields("headwise", ranks=(9, 4)))
    ranks = [block.mixers[0].project_values.rank for block in ARCH.build(config).blocks]
    assert ranks == [9, 4]
    said = r"sharing = 'layerwise' has one projection and ranks = \(9, 4\) are several"
    with pytest.raises(ValueError, match=said):
        ARCH.build(ARCH.Config(**fields("layerwise", ranks=(9, 4))))
    with pytest.raises(ValueError, match="ranks has 3 entries and the model 2 layers"):
        ARCH.build(ARCH.Config(**fields("headwise", ranks=(9, 4, 2))))
    with pytest.raises(ValueError, match=r"'layer_wise'; did you mean 'layerwise'"):
        ARCH.build(ARCH.Config(**fields("layer_wise")))


def test_the_shape_of_the_paper():
    for name, rank in (("paper_512", 128), ("paper_1024", 256)):
        config = ARCH.PRESETS[name]
        with torch.device("meta"):
            backbone = ARCH.build(config)
        shared = rank * config.max_len
        layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
        assert sum(p.numel() for p in backbone.parameters()) == 12 * layer + shared


@pytest.mark.parametrize("sharing", ["headwise", "key_value", "layerwise"])
def test_what_is_shared_is_saved_once_and_comes_back_shared(sharing: str, tmp_path):
    torch.manual_seed(1)
    given = fields(sharing)
    m = build("linformer", given, vocab_size=20).eval()
    save(m, tmp_path, {"arch": "linformer", "model": given, "vocab_size": 20})
    again = load(tmp_path).eval()
    ids = torch.randint(0, 20, (1, 33))
    assert torch.equal(m(ids)[0], again(ids)[0])
    assert len(list(again.parameters())) == len(list(m.parameters()))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("sharing", ["headwise", "key_value", "layerwise"])
def test_the_shell_saves_and_loads_what_layers_share(sharing: str, tie: bool, tmp_path, caplog):
    torch.manual_seed(1)
    config = SubquadConfig(
        arch="linformer", model=fields(sharing), vocab_size=20, tie_word_embeddings=tie
    )
    m = SubquadForMaskedLM(config).eval()
    m.save_pretrained(tmp_path)
    again, report = SubquadForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    ids = torch.randint(0, 20, (1, 33))
    assert torch.equal(again(ids).logits, m(ids).logits)
    assert len(list(again.parameters())) == len(list(m.parameters()))
    one, other = (block.mixers[0] for block in again.model.backbone.blocks)
    assert (one.project_keys.weight is other.project_values.weight) == (sharing == "layerwise")
    assert (one.project_keys.weight is one.project_values.weight) == (sharing != "headwise")
    bare = SubquadModel.from_pretrained(tmp_path)
    assert torch.equal(bare.stem.embedding.weight, m.model.stem.embedding.weight)
    bare.save_pretrained(tmp_path / "bare")
    features = SubquadModel.from_pretrained(tmp_path / "bare")(ids).last_hidden_state
    assert torch.equal(again.model.head(features), m(ids).logits)
