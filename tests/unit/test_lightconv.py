"""Lightweight and dynamic convolution by their definition; dropped taps, halves, refusals."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from subquad import nn
from subquad.model import build
from subquad.nn.context import Context
from subquad.nn.conv import Tail
from subquad.nn.kinds import KINDS
from subquad.nn.state import nbytes
from subquad.ops.conv import Taps
from subquad.ops.dynamic import dynamic

pytestmark = pytest.mark.usefixtures("one_thread")

TAPS = [Taps(0), Taps.behind(4), Taps(2, 3), Taps(15, 15), Taps(0, 2)]
LENGTHS = [0, 1, 2, 13, 63, 65, 127]


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def by_definition(x, weight, taps, past=None):
    """Token by token, channel by channel, tap by tap."""
    batch, tokens, width = x.shape
    heads = weight.shape[2]
    out = []
    for n in range(tokens):
        for c in range(width):
            total = x.new_zeros(batch)
            for t in range(taps.kernel):
                at, w = n + t - taps.left, weight[:, n, c * heads // width, t]
                if 0 <= at < tokens:
                    total = total + w * x[:, at, c]
                elif at < 0 and past is not None:
                    total = total + w * past[:, at + taps.left, c]
            out.append(total)
    return torch.stack(out, 1).view(batch, tokens, width)


def gradients(y, pull, given):
    """Zeros for what takes no part: a kernel of one tap is 1, and has no past."""
    return torch.autograd.grad((y * pull).sum(), given, materialize_grads=True)


@pytest.mark.parametrize("taps", TAPS, ids=str)
def test_dynamic_is_the_sum_over_the_taps(taps):
    for tokens, width, heads in ((1, 2, 1), (2, 4, 2), (9, 3, 3)):
        x = numbers(2, tokens, width).requires_grad_()
        past = numbers(2, taps.left, width).requires_grad_()
        weight = numbers(2, tokens, heads, taps.kernel).requires_grad_()
        pull = numbers(2, tokens, width)
        for before in (None, past):
            found = dynamic(x, weight, taps, before)
            wanted = by_definition(x, weight, taps, before)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            given = [x, weight, *([] if before is None else [before])]
            grads = [gradients(y, pull, given) for y in (found, wanted)]
            torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_dynamic_at_any_length(tokens):
    """Against one shifted copy of x for each tap; the same weights everywhere are a plain one."""
    for taps in TAPS:
        x, weight = numbers(2, tokens, 6), numbers(2, tokens, 3, taps.kernel)
        row = torch.nn.functional.pad(x, (0, 0, taps.left, taps.right))
        wanted = torch.zeros_like(x)
        for t in range(taps.kernel):
            wanted += weight[..., t].repeat_interleave(2, 2) * row[:, t : t + tokens]
        torch.testing.assert_close(dynamic(x, weight, taps), wanted, rtol=1e-12, atol=1e-12)


def test_dynamic_costs_two_kernels_a_token():
    x, weight = torch.randn(2, 300, 12), torch.randn(2, 300, 3, 8)
    with FlopCounterMode(display=False) as count:
        dynamic(x, weight, Taps.behind(8))
    tiles = -(-300 // 8)
    assert count.get_total_flops() == 2 * 2 * tiles * 8 * 12 * (8 + 8 - 1)


def mixer(kind, taps, **options):
    torch.manual_seed(2)
    made = kind(8, 2, taps, **options).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return made


@pytest.mark.parametrize("gate", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("kind", [nn.LightConv, nn.DynamicConv])
@pytest.mark.parametrize("taps", TAPS[:3], ids=str)
def test_a_mixer_is_its_equation(kind, taps, gate):
    """In, softmax of kernels, sum over taps, out: written down a second time, gradients too."""
    m = mixer(kind, taps, enter=nn.GatedLinear(8) if gate else None)
    x, pull, found = numbers(2, 9, 8).requires_grad_(), numbers(2, 9, 8), []
    inside = x @ (m.enter.up if gate else m.enter).weight.mT
    inside = inside + (m.enter.up if gate else m.enter).bias
    v = inside[..., :8] * torch.sigmoid(inside[..., 8:]) if gate else inside
    if kind is nn.LightConv:
        logits = m.kernel.weight.expand(2, 9, 2, -1)
    else:
        logits = (v @ m.kernel.weight.mT).view(2, 9, 2, -1)
    weight = logits.exp() / logits.exp().sum(-1, keepdim=True)
    wanted = by_definition(v, weight, taps) @ m.out.weight.mT + m.out.bias
    for y in (m(x, Context.of(x))[0], wanted):
        found.append([y, *gradients(y, pull, [x, *m.parameters()])])
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", [nn.LightConv, nn.DynamicConv])
def test_taps_that_are_missing_raise_no_others(kind):
    m = mixer(kind, Taps.behind(5))
    x = numbers(1, 12, 8)
    sums = m.weights(x, Context.of(x)).sum(-1)
    assert (sums[..., :4] < 1).all()
    torch.testing.assert_close(sums[..., 4:], torch.ones_like(sums[..., 4:]))
    # so what is read later, in front of a stream or behind a prefix, changes nothing
    state = m(x[:, :3], Context.of(x[:, :3]), m.init_state(1))[1]
    assert isinstance(state, Tail)
    assert state.x.shape == (1, 4, 8)
    assert not state.x[:, 0].any()
    assert state.x[:, 1:].all()


@pytest.mark.parametrize("kind", [nn.LightConv, nn.DynamicConv])
def test_taps_are_dropped_in_training_alone(kind):
    m, x = mixer(kind, Taps(1, 1), dropout=0.5), numbers(3, 40, 8)
    full = m.eval().taps_of(x)
    torch.testing.assert_close(full.sum(-1), torch.ones_like(full.sum(-1)))
    m.train()
    torch.manual_seed(1)
    some = [m.taps_of(x) for _ in range(40)]
    for taps in some:
        assert ((taps == 0) | torch.isclose(taps, 2 * full)).all()
    share = torch.stack([(taps == 0).double().mean() for taps in some]).mean()
    # 40 draws of at least 6 taps: five deviations of a fair coin's mean
    assert abs(share - 0.5) < 5 * 0.5 / (40 * full.numel()) ** 0.5


def test_a_half_knows_nothing_of_the_other():
    half = nn.Attention(4, 2, sq.Causal()), nn.DynamicConv(4, 2, Taps.behind(3))
    m = nn.Split(8, *half).double()
    x = numbers(2, 7, 8)
    y = m(x, at := Context.of(x))[0]
    assert torch.equal(y[..., :4], half[0](x[..., :4], at)[0])
    assert torch.equal(y[..., 4:], half[1](x[..., 4:], at)[0])
    first, second = m.init_memory(2)
    assert type(first) is type(half[0].init_memory(2))
    assert isinstance(second, Tail)


@pytest.mark.parametrize("preset", ["tiny", "tiny-light"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_far_half_may_be_any_kind(kind, preset):
    torch.manual_seed(3)
    fields = {**vars(sq.ARCHS["lite_transformer"].PRESETS[preset]), "mixer": kind}
    m = build("lite_transformer", fields, vocab_size=20).double().eval()
    ids, sizes = torch.randint(0, 20, (2, 60)), []
    whole, state, parts = m(ids)[0], m.init_state(2), []
    for piece in ids.split(20, 1):
        y, state = m(piece, state=state)
        parts.append(y)
        sizes.append(nbytes(state))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    assert (sizes[2] > sizes[1]) == (kind == "full")  # the others keep as much of any past
    both = build("lite_transformer", {**fields, "causal": False}, vocab_size=20)
    assert [b.mixers[0].second.taps for b in both.backbone.blocks] == [Taps(1, 1), Taps(2, 3)]
    assert [b.mixers[0].second.taps for b in m.backbone.blocks] == [Taps(2), Taps(5)]


def test_layers_beyond_the_last_kernel_have_as_many_taps():
    lite = sq.ARCHS["lite_transformer"]
    made = lite.build(lite.Config(dim=16, ffn_dim=16, num_layers=6, num_heads=2))
    taps = [block.mixers[0].second.taps.kernel for block in made.blocks]
    assert taps == [3, 7, 15, 31, 31, 31]


def test_what_is_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        nn.LightConv(8, 3, Taps(1))
    with pytest.raises(ValueError, match="look ahead by chunks"):
        nn.DynamicConv(8, 2, Taps.around(5, chunk=4))
    with pytest.raises(ValueError, match="looks ahead: it cannot stream"):
        nn.LightConv(8, 2, Taps(1, 1)).init_state(1)
    x = torch.randn(1, 4, 8)
    label = Context(torch.arange(4)[None], label=torch.zeros(1, 1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="does not keep packed documents apart"):
        nn.LightConv(8, 2, Taps(1))(x, label)
    with pytest.raises(ValueError, match="keeps a Tail and was given a tuple"):
        nn.LightConv(8, 2, Taps(1))(x, Context.of(x), ())
    with pytest.raises(ValueError, match=r"weights of 4 taps do not go with Taps\(left=1"):
        dynamic(x, torch.randn(1, 4, 2, 4), Taps(1, 1))
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        dynamic(x, torch.randn(1, 4, 3, 3), Taps(1, 1))
    conv = nn.LightConv(4, 2, Taps(1))
    with pytest.raises(ValueError, match="a width of 9 has no halves"):
        nn.Split(9, conv, conv)
    with pytest.raises(ValueError, match="the heads of the halves are 1 and 2 wide"):
        nn.Split(8, nn.Attention(4, 4, sq.Causal()), conv)
    with pytest.raises(ValueError, match="keeps a tuple and was given a Tail"):
        nn.Split(8, conv, conv)(x, Context.of(x), conv.init_state(1))
    lite = sq.ARCHS["lite_transformer"]
    for wrong in ((), (3, 0)):
        with pytest.raises(ValueError, match="name one or more, each of at least 1 tap"):
            lite.build(lite.Config(kernels=wrong))
    with pytest.raises(ValueError, match="no convolution is called 'dynamical'; did you mean"):
        lite.build(lite.Config(conv="dynamical"))
