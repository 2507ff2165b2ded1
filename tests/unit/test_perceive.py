"""Latents that read, think and are asked: queries, padding, shared weights, heads, cost."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from catalog import tiny
from subquad.archs import configure
from subquad.model import build
from subquad.nn import FieldHead, MeanAnswer, QueryHead, QueryStack
from subquad.nn.context import Context

BOTH = ["perceiver", "perceiver_io"]


def stack(arch="perceiver_io", **changed) -> QueryStack:
    torch.manual_seed(7)
    made = sq.ARCHS[arch].build(configure(arch, {**tiny(arch), **changed})).double().eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


def inputs(length, batch=2):
    return torch.randn(batch, length, 32, dtype=torch.float64)


def by_definition(m, x, valid, queries):
    """The stack written with the weights of its mixers, each a matrix."""

    def look(mixer, x, context):
        return mixer.output(mixer.weights(x, context) @ mixer.values(x, context))

    def cross(block, x, memory, valid):
        context = replace(Context.of(x), memory=block.norms[1](memory), memory_valid=valid)
        y = look(block.mixer, block.norms[0](x), context) + (x if block.residual else 0)
        return y + block.mlp(block.norms[2](y))

    z = m.latents.weight.expand(len(x), -1, -1)
    for read in m.rounds:
        z = z if read is None else cross(m.reads[read], z, x, valid)
        for block in m.blocks:
            z = z + look(block.mixers[0], block.norms[0](z), Context.of(z))
            z = z + block.mlp(block.norms[1](z))
    if isinstance(m.answer, MeanAnswer):
        return z.mean(1, keepdim=True).expand(-1, queries.shape[1], -1)
    return cross(m.answer, queries, z, None)


VARIANTS = [
    ("perceiver_io", {}),
    ("perceiver_io", {"repeats": 3, "key_dim": 16, "cross_heads": 2, "query_residual": False}),
    ("perceiver_io", {"latents": 1, "latent_dim": None, "norm": "rms", "mlp": "swiglu"}),
    ("perceiver", {}),
    ("perceiver", {"reads": 1, "num_layers": 2}),
    ("perceiver", {"answer": "mean"}),
]


@pytest.mark.parametrize("length", [1, 2, 63, 65, 127])
@pytest.mark.parametrize(("arch", "changed"), VARIANTS)
def test_equals_its_definition(arch, changed, length):
    m, x = stack(arch, **changed), inputs(length).requires_grad_()
    valid = torch.arange(length) < torch.tensor([length, max(1, length - 5)])[:, None]
    context = Context(torch.arange(length)[None], valid)
    found = []
    for y in (
        m(x, context)[0],
        by_definition(m, x * valid[..., None], valid, x * valid[..., None]),
    ):
        y = y * valid[..., None]
        grads = torch.autograd.grad(y.square().sum(), [x, *m.parameters()], allow_unused=True)
        found.append([y, *(torch.zeros(()) if g is None else g for g in grads)])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("arch", BOTH)
def test_asked_queries_are_answered_each_by_itself(arch):
    m, x = stack(arch), inputs(40)
    valid = torch.arange(40) < torch.tensor([40, 9])[:, None]
    queries = torch.randn(2, 7, 32, dtype=torch.float64)
    told = Context(torch.arange(40)[None], valid, queries=queries)
    hidden = x.masked_fill(~valid[..., None], torch.nan)
    y = m(hidden, told)[0]
    wanted = by_definition(m, x * valid[..., None], valid, queries)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)
    one = m(hidden, replace(told, queries=queries[:, 3:4]))[0]
    torch.testing.assert_close(one, y[:, 3:4], rtol=1e-10, atol=1e-10)
    # the same for every row, where the batch of queries is one
    every = m(hidden, replace(told, queries=queries[:1]))[0]
    torch.testing.assert_close(every[0], y[0], rtol=1e-10, atol=1e-10)
    # padding is no input: nothing of it reaches an answer
    alone = m(x[1:, :9], Context(told.pos[:, :9], queries=queries[1:]))[0]
    torch.testing.assert_close(alone, y[1:], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("arch", BOTH)
def test_the_last_outputs_alone(arch):
    m, x = stack(arch), inputs(20)
    context = Context.of(x)
    whole = m(x, context)[0]
    for last in (0, 1, 19, 20, 33):
        some = m(x, replace(context, last=last))[0]
        assert some.shape[1] == min(last, 20)
        torch.testing.assert_close(some, whole[:, 20 - min(last, 20) :], rtol=1e-12, atol=1e-12)


def test_weights_are_shared_as_in_the_papers():
    one, many = stack("perceiver", reads=2), stack("perceiver", reads=8)
    assert [p.shape for p in one.parameters()] == [p.shape for p in many.parameters()]
    assert (many.rounds, len(many.reads)) == ((0, 1, 1, 1, 1, 1, 1, 1), 2)
    assert stack("perceiver_io", repeats=3).rounds == (0, None, None)
    x = inputs(11)
    assert not torch.allclose(one(x, Context.of(x))[0], many(x, Context.of(x))[0])


@pytest.mark.parametrize("arch", BOTH)
def test_cost_grows_with_inputs_times_latents(arch):
    """From N to 2N, FLOPs grow by N alone: thinking costs the same for every length."""
    m, counts = stack(arch).float(), []
    for length in (500, 1000, 1500):
        x = torch.randn(1, length, 32)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            m(x, Context.of(x))
        counts.append(counter.get_total_flops())
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_head_asks_and_padding_is_not_rolled_into_answers(side):
    torch.manual_seed(7)
    head = {"kind": "query", "outputs": 12, "out_dim": 3}
    m = build("perceiver_io", tiny("perceiver_io"), vocab_size=50, head=head).double().eval()
    ids, lengths = torch.randint(0, 50, (3, 12)), torch.tensor([12, 5, 1])
    slots = torch.arange(12)
    valid = slots < lengths[:, None] if side == "right" else slots >= 12 - lengths[:, None]
    y, state = m(ids, valid=valid)  # as many answers as slots
    assert y.shape == (3, 12, 3)
    assert state is None
    for b in range(3):
        alone = m(ids[b][valid[b]][None])[0][0]
        torch.testing.assert_close(y[b], alone, rtol=1e-10, atol=1e-10)
    y.square().mean().backward()
    # softmax does not see a bias that all keys share
    still = [n for n, p in m.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(n.endswith("key.bias") for n in still), still


def test_what_does_not_fit_is_said():
    ids, ask = torch.randint(0, 50, (2, 9)), {"kind": "query"}
    with pytest.raises(ValueError, match="QueryHead asks queries and this backbone answers none"):
        build("transformer", tiny("transformer"), vocab_size=50, head=ask)(ids)
    mean = {**tiny("perceiver"), "answer": "mean"}
    with pytest.raises(ValueError, match="this backbone answers none; take perceiver_io"):
        build("perceiver", mean, vocab_size=50, head=ask)(ids)
    with pytest.raises(ValueError, match="no answer is called 'men'; did you mean 'mean'"):
        stack("perceiver", answer="men")
    m, x = stack(), inputs(9)
    with pytest.raises(ValueError, match="cannot keep labelled documents apart"):
        m(x, replace(Context.of(x), label=torch.zeros(2, 1, 9, dtype=torch.int64)))
    with pytest.raises(ValueError, match="queries are 31 wide and this stack answers 32 wide"):
        m(x, replace(Context.of(x), queries=torch.zeros(1, 2, 31).double()))
    with pytest.raises(ValueError, match=r"inputs that ask for themselves are 32 wide and .* 16 w"):
        stack(query_dim=16)(x, Context.of(x))
    with pytest.raises(ValueError, match="latents is 0; there must be at least 1"):
        stack(latents=0)
    with pytest.raises(ValueError, match="repeats is 0"):
        stack(repeats=0)
    with pytest.raises(ValueError, match="reads is 0"):
        stack("perceiver", reads=0)
    with pytest.raises(ValueError, match=r"rounds \(0, 2\) must name each of 2 reads"):
        QueryStack(list(stack("perceiver").reads), [], MeanAnswer(24), latents=3, rounds=(0, 2))
    with pytest.raises(ValueError, match="looks ahead"):
        build("perceiver_io", tiny("perceiver_io"), vocab_size=50).init_state(1)


def learn(m, batch, loss, steps, lr=3e-3):
    """The loss before, and after some steps on fresh batches."""
    optimizer = torch.optim.Adam(m.parameters(), lr)
    found = []
    for _ in range(steps):
        given, wanted = batch()
        optimizer.zero_grad()
        now = loss(m(given)[0], wanted)
        now.backward()
        optimizer.step()
        found.append(now.item())
    return found


def test_one_query_learns_a_label():
    """Which quarter of a noisy image is lit: with one learned query."""
    torch.manual_seed(3)
    stem = {"kind": "fourier", "resolution": [6, 6], "channels": 1, "bands": 4}
    head = {"kind": "query", "outputs": 1, "out_dim": 4}
    m = build("perceiver_io", tiny("perceiver_io"), vocab_size=1, stem=stem, head=head)

    def batch():
        label = torch.randint(0, 4, (32,))
        quarters = torch.eye(4)[label].view(32, 2, 1, 2, 1).expand(32, 2, 3, 2, 3)
        return quarters.reshape(32, 6, 6, 1) + 0.3 * torch.randn(32, 6, 6, 1), label

    def loss(y, label):
        return torch.nn.functional.cross_entropy(y[:, 0], label)

    found = learn(m, batch, loss, 80)
    assert sum(found[-10:]) / 10 < 0.1 < 1.2 < found[0]


def test_a_field_is_learned_and_asked_for_at_another_size():
    """Waves seen by patches, asked for at every pixel, and then on a finer grid."""
    torch.manual_seed(3)
    head = {"kind": "field", "shape": [8, 8], "out_dim": 1, "bands": 4, "resolution": [8, 8]}
    stem = {"kind": "patches", "patch": 2, "image_size": 8, "channels": 1, "class_tokens": 0}
    m = build("perceiver_io", tiny("perceiver_io"), vocab_size=1, stem=stem, head=head)

    def waves(side, slope):
        line = torch.linspace(-1, 1, side)
        return (slope[:, None, None] * line[:, None] + line).sin()

    def batch():
        slope = torch.randn(16)
        field = waves(8, slope)
        return field[:, None], field[..., None]

    def loss(y, field):
        assert y.shape == field.shape
        return (y - field).square().mean()

    found = learn(m, batch, loss, 120)
    assert sum(found[-10:]) / 10 < 0.1 * found[0]
    slope = torch.randn(16)
    m.head.shape = (15, 15)
    with torch.no_grad():
        finer = m(waves(8, slope)[:, None])[0][..., 0]
    assert finer.shape == (16, 15, 15)
    # every second place of the finer grid is one of the grid that was learned
    m.head.shape = (8, 8)
    with torch.no_grad():
        known = m(waves(8, slope)[:, None])[0][..., 0]
    torch.testing.assert_close(finer[:, ::2, ::2], known, rtol=1e-4, atol=1e-4)
    assert (finer - waves(15, slope)).square().mean() < 0.2 * found[0]


def test_heads_alone():
    torch.manual_seed(3)
    head = QueryHead(6, 3, 2).double()
    assert head.queries.shape == (1, 3, 6)
    assert head(torch.zeros(4, 3, 6).double()).shape == (4, 3, 2)
    field = FieldHead(6, (2, 5), 3).double()
    assert field.queries.shape == (1, 10, 6)
    assert field(torch.zeros(4, 10, 6).double()).shape == (4, 2, 5, 3)
