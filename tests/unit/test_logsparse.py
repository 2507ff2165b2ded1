"""LogSparse: its pattern's counts, convolutional queries and keys, what it never holds."""

import pytest
import torch
import torch.nn.functional as F

import subquad as sq
from catalog import DIM, HEADS, context, inputs, mixer, tiny
from peak import largest
from subquad.model import build
from subquad.nn.state import nbytes
from subquad.ops.shifts import shifts

pytestmark = pytest.mark.usefixtures("one_thread")

ARCH = sq.ARCHS["logsparse"]


# --- the pattern --------------------------------------------------------------------------------


def seen(pattern, length):
    pos = torch.arange(length)
    at = sq.ops.pattern.Coords(pos)
    return pattern.allowed(at.each(lambda t: t[:, None]), at.each(lambda t: t[None]))


@pytest.mark.parametrize(
    ("length", "bare", "local", "restarted"),
    [(256, 2049, 3997, 9012), (768, 7425, 14202, 33072), (1024, 10241, 20326, 47080)],
)
def test_pairs(length, bare, local, restarted):
    """Without variants, with a local window of floor(log2 L), and with restarts at L / 4 too."""
    near = length.bit_length() - 1
    variants = [sq.LogSteps(), sq.LogSteps(near), sq.LogSteps(near, length // 4)]
    for pattern, count in zip(variants, (bare, local, restarted), strict=True):
        pairs = seen(pattern, length)
        assert int(pairs.sum()) == count == sum(length - d for d in pattern.offsets(length - 1))
        assert not pairs.triu(1).any()


@pytest.mark.parametrize("length", [2, 63, 256])
def test_as_many_layers_as_the_paper_proves_join_any_two_positions(length):
    step = seen(sq.LogSteps(), length).double()
    joined = torch.linalg.matrix_power(step, length.bit_length())  # floor(log2 L) + 1
    assert torch.equal(joined > 0, torch.ones(length, length).tril().bool())


# --- queries and keys ---------------------------------------------------------------------------


def test_by_its_definition():
    m, x = mixer("conv"), inputs(2, 33)
    padded = F.pad(x, (0, 0, 2, 0))
    q, k = (
        sum(padded[:, t : t + 33] @ part.weight[..., t].T for t in range(3)) + part.bias
        for part in (m.query, m.key)
    )
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, m.value(x)))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = m.out(y.transpose(1, 2).flatten(2))
    torch.testing.assert_close(m(x, context(x))[0], expected, rtol=1e-12, atol=1e-12)


def test_a_kernel_of_one_is_plain_attention():
    plain = sq.nn.Attention(DIM, HEADS, sq.LogSteps(3, 20)).double()
    conv = sq.nn.ConvAttention(DIM, HEADS, sq.LogSteps(3, 20), kernel=1).double()
    words = plain.state_dict()
    for name in ("query.weight", "key.weight"):
        words[name] = words[name].unsqueeze(-1)
    conv.load_state_dict(words)
    x = inputs(2, 50)
    torch.testing.assert_close(conv(x, context(x))[0], plain(x, context(x))[0])
    assert conv.init_state(2).tail.x.shape == (2, 0, DIM)


def test_what_a_state_holds():
    m = mixer("conv-logsteps")
    state = m(inputs(2, 30), context(inputs(2, 30)), m.init_state(2))[1]
    assert state.tail.x.shape == (2, 3, DIM)
    assert nbytes(state) == 8 * 2 * (30 * (2 * DIM + 1) + 3 * DIM)


def test_the_other_arm_sees_all_that_came_before():
    fields = {**tiny("logsparse"), "pattern": "full", "kernel": 1}
    torch.manual_seed(2)
    full = build("logsparse", fields, vocab_size=9).double().eval()
    fields = {**tiny("transformer"), "position": "none"}
    plain = build("transformer", fields, vocab_size=9).double().eval()
    words = full.state_dict()
    for name, t in words.items():
        words[name] = t.squeeze(-1) if t.dim() == 3 else t
    plain.load_state_dict(words)
    ids = torch.randint(0, 9, (2, 40))
    torch.testing.assert_close(full(ids)[0], plain(ids)[0])


# --- memory -------------------------------------------------------------------------------------


@pytest.mark.no_poison
def test_no_tensor_holds_the_keys_of_every_query():
    """Neither forward nor backward: what is largest is what the convolutions read and give."""
    n, dim, heads = 4096, 64, 4
    m = sq.nn.ConvAttention(dim, heads, sq.LogSteps(4), kernel=3, engine=shifts)
    x = torch.randn(1, n, dim, requires_grad=True)
    columns = len(sq.LogSteps(4).offsets(n - 1))
    assert columns == 17

    def both():
        m(x, context(x))[0].sum().backward()

    both()
    # queries, keys and values side by side, and a convolution's inputs laid out by taps
    assert largest(both) <= 4 * n * 3 * dim < 4 * n * columns * dim / 5


# --- errors -------------------------------------------------------------------------------------


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match="logsparse only predicts"):
        ARCH.build(ARCH.Config(**{**tiny("logsparse"), "causal": False}))
    with pytest.raises(ValueError, match="'step'; did you mean 'steps'"):
        ARCH.build(ARCH.Config(**{**tiny("logsparse"), "pattern": "step"}))
    with pytest.raises(ValueError, match="kernel is 0; a convolution has at least 1 tap"):
        sq.nn.ConvAttention(DIM, HEADS, sq.Causal(), kernel=0)
    m, x = mixer("conv"), inputs(1, 5)
    packed = sq.nn.Context(torch.arange(5)[None], label=torch.zeros(1, 1, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="does not keep packed documents apart"):
        m(x, packed)
    with pytest.raises(ValueError, match="keeps a KVTail and was given a KV"):
        m(x, context(x), mixer("causal").init_state(1))
