"""The laws for mixers that read a memory: weights, streaming, padding, an empty memory."""

import pytest
import torch

from catalog import DIM, HEADS, WIDTH, inputs
from subquad import nn
from subquad.nn.state import select

CROSS = {
    "attention": lambda: nn.CrossAttention(DIM, HEADS, memory_dim=10),
    "kernel": lambda: nn.KernelCrossAttention(
        DIM, HEADS, nn.PositiveRandomFeatures(WIDTH, 32), memory_dim=10
    ),
    "low-rank": lambda: nn.LowRankCrossAttention(
        DIM, HEADS, nn.Projection(6, 20), nn.Projection(6, 18), memory_dim=10
    ),
}


def mixer(name):
    torch.manual_seed(7)
    made = CROSS[name]().double().eval()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return made


def context(length, lengths=(17, 5), memory_len=17):
    memory = torch.randn(2, memory_len, 10, dtype=torch.float64)
    valid = torch.arange(memory_len) < torch.tensor(lengths)[:, None]
    memory = memory.masked_fill(~valid[..., None], torch.nan)
    return nn.Context(torch.arange(length)[None], memory=memory, memory_valid=valid)


@pytest.mark.parametrize("length", [1, 2, 63, 65])
@pytest.mark.parametrize("name", CROSS)
def test_forward_is_weights_times_values(name, length):
    m, x, at = mixer(name), inputs(2, length).requires_grad_(), context(length)
    grad = torch.randn(2, length, DIM, dtype=torch.float64)
    found = []
    for y in (m(x, at)[0], m.output(m.weights(x, at) @ m.values(x, at))):
        found.append([y, *torch.autograd.grad((y * grad).sum(), [x, *m.parameters()])])
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    rows = torch.tensor([0, length - 1])
    torch.testing.assert_close(m.weights(x, at, rows), m.weights(x, at)[:, :, rows])


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_matrix_of_blends_by_tokens(side):
    """What weighs tokens rather than slots; padding weighs nothing, on either side."""
    m, x, at = mixer("low-rank"), inputs(2, 9), context(9)
    if side == "left":
        memory, valid = at.memory.flip(1), at.memory_valid.flip(1)
        at = nn.Context(at.pos, memory=memory, memory_valid=valid)
    found = m.matrix(x, at)
    torch.testing.assert_close(
        m.output(found @ m.token_values(x, at)), m(x, at)[0], rtol=1e-10, atol=1e-10
    )
    assert not found.masked_select(~at.memory_valid[:, None, None]).any()
    rows = torch.tensor([8, 0])
    torch.testing.assert_close(m.matrix(x, at, rows), found[:, :, rows])
    # more slots than projections hold, of which only as many are real
    long = nn.Context(
        at.pos,
        memory=torch.cat((at.memory, at.memory), 1)[:, 4:],
        memory_valid=torch.cat((at.memory_valid, at.memory_valid & False), 1)[:, 4:],
    )
    torch.testing.assert_close(
        m.output(m.matrix(x, long) @ m.token_values(x, long)), m(x, long)[0], rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("name", CROSS)
def test_the_memory_is_read_once(name):
    m, x, at = mixer(name), inputs(2, 20), context(20)
    whole = m(x, at)[0]
    first, state = m(x[:, :6], at, m.init_state(2))
    later = nn.Context(torch.arange(6, 20)[None])
    rest, state = m(x[:, 6:], later, state)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, rtol=1e-10, atol=1e-10)
    index = torch.tensor([1, 1, 0])
    picked = m(x[index, 6:], later, select(state, index))[0]
    torch.testing.assert_close(picked, rest[index], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CROSS)
def test_padding_and_an_empty_memory(name):
    m, x = mixer(name), inputs(2, 9)
    at = context(9, lengths=(17, 0))
    y = m(x, at)[0]
    short = nn.Context(at.pos, memory=at.memory[:1, :17], memory_valid=None)
    torch.testing.assert_close(m(x[:1], short)[0], y[:1], rtol=1e-10, atol=1e-10)
    assert torch.equal(y[1], m.output(torch.zeros(1, HEADS, 9, WIDTH, dtype=torch.float64))[0])
    with pytest.raises(ValueError, match=r"needs Context\.memory"):
        m(x, nn.Context(at.pos))


def test_slots_count_tokens_without_their_padding():
    m, x = mixer("low-rank"), inputs(2, 9)
    memory = torch.randn(2, 30, 10, dtype=torch.float64)
    valid = torch.zeros(2, 30, dtype=torch.bool)
    valid[0, 12:30] = True
    valid[1, [3, 7, 8]] = True
    hidden = memory.masked_fill(~valid[..., None], torch.nan)
    at = torch.arange(9)[None]
    y = m(x, nn.Context(at, memory=hidden, memory_valid=valid))[0]
    for b in range(2):
        alone = m(x[b : b + 1], nn.Context(at, memory=memory[b][valid[b]][None]))[0]
        torch.testing.assert_close(y[b : b + 1], alone, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match=r"a memory of 30 tokens, .* up to max_len = 18"):
        m(x, nn.Context(at, memory=memory))
    with pytest.raises(ValueError, match="to 3 slots and values to 4; the ranks must agree"):
        nn.LowRankCrossAttention(DIM, HEADS, nn.Projection(3, 9), nn.Projection(4, 9))
