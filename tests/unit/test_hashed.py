"""The mixers that hash: streams, rounds, labels handed on, the paper's sorted chunks."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from subquad import nn
from subquad.nn.context import Context
from subquad.nn.hashed import HashedPast
from subquad.nn.mixer import Mixer
from subquad.nn.state import nbytes, select
from subquad.ops import chunk_tiles
from subquad.ops.hashing import ABSENT
from subquad.ops.lsh import unit
from subquad.ops.sorted_chunks import attend_chunks, places

pytestmark = pytest.mark.usefixtures("one_thread")

DIM, HEADS = 12, 2


def hashed(kind=torch.float64, make: type[Mixer] = nn.HashedAttention, **options) -> Mixer:
    torch.manual_seed(3)
    made = make(DIM, HEADS, **{"rounds": 3, "buckets": (2, 2), **options}).to(kind).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


def tokens(batch: int, length: int, kind=torch.float64) -> Tensor:
    return torch.randn(batch, length, DIM, dtype=kind)


def at(x: Tensor, start: int = 0, lengths: list[int] | None = None) -> Context:
    valid = None
    if lengths is not None:
        valid = torch.arange(x.shape[1]) < torch.tensor(lengths)[:, None]
    return Context.of(x, valid, torch.full((len(x),), start))


def stream(m: Mixer, x: Tensor, sizes: list[int]) -> tuple[Tensor, HashedPast]:
    state, outs, start = m.init_state(len(x)), [], 0
    for part in x.split(sizes, 1):
        y, state = m(part, at(part, start), state)
        outs.append(y)
        start += part.shape[1]
    return torch.cat(outs, 1), state


def assert_close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[1] * 200, [150, 50], [7] * 28 + [4], [90, 1, 1, 1, 107]])
@pytest.mark.parametrize("rounds", [1, 3])
def test_streamed_equals_whole_long_after_tokens_were_dropped(sizes, rounds):
    m = hashed(rounds=rounds, window=2)
    x = tokens(2, 200)
    y, state = stream(m, x, sizes)
    assert_close(y, m(x, at(x))[0])
    assert m.limit == rounds * 4 * 2
    assert state.qk.shape[2] <= m.limit < 50


@pytest.mark.parametrize(("rounds", "window", "piece"), [(1, 4, 1), (3, 2, 5), (2, 8, 64)])
def test_a_state_keeps_at_most_rounds_x_buckets_x_window_tokens_a_head(rounds, window, piece):
    m = hashed(torch.float32, rounds=rounds, window=window)
    x = tokens(1, 10 * 4 * window, torch.float32)
    state, most = m.init_state(1), rounds * 4 * window
    a_token = HEADS * (2 * 4 * m.head_dim + 4 * rounds)  # key, value, a label for each round
    for start in range(0, x.shape[1], piece):
        part = x[:, start : start + piece]
        state = m(part, at(part, start), state)[1]
        assert nbytes(state) <= most * a_token


def test_trimming_keeps_what_later_tokens_may_see_and_no_more():
    labels = torch.tensor([[0, 1, 0, 0, 1, 0], [5, 6, 5, 6, 5, ABSENT]]).view(1, 1, 2, 6)
    labels[..., 5] = torch.tensor([0, ABSENT])
    k = torch.arange(6.0).view(1, 1, 6, 1)
    kept = HashedPast(k, k, labels.int()).trim(1, 3)
    # the last of bucket 0 and of 1; of bucket 6 the fourth, of bucket 5 the fifth
    assert kept.qk.flatten().tolist() == [3, 4, 5]
    assert kept.labels[0, 0].tolist() == [[0, 1, 0], [6, 5, ABSENT]]
    assert HashedPast(k, k, labels.int()).trim(1, 6).qk.shape[2] == 6
    assert HashedPast(k, k, labels.int()).trim(1, None).qk.shape[2] == 6


def test_heads_and_rows_keep_other_tokens():
    m = hashed(window=1)
    x = tokens(3, 120)
    state = stream(m, x, [50, 70])[1].trim(1, 0)
    counts = set()
    for b in range(3):
        alone = stream(m, x[b : b + 1], [120])[1].trim(1, 0)
        for h in range(HEADS):
            found = state.qk[b, h, state.labels[b, h, 0] != ABSENT]
            assert_close(found, alone.qk[0, h, alone.labels[0, h, 0] != ABSENT])
            counts.add(len(found))
    assert len(counts) > 1


@pytest.mark.parametrize("sizes", [[1] * 8, [3, 5]])
def test_ragged_rows_stream_on(sizes):
    """Rows of 40, 11 and 1 tokens, then 8 more for each, of which the last row has 2 alone."""
    m = hashed(window=2)
    lengths, more, last = [40, 11, 1], tokens(3, 8), [8, 8, 2]
    x = tokens(3, 40)
    dirty = x.masked_fill(~at(x, 0, lengths).valid[..., None], torch.nan)
    _, state = m(dirty, at(dirty, 0, lengths), m.init_state(3))
    outs, start = [], 0
    for part in more.split(sizes, 1):
        real = [max(0, min(n - start, part.shape[1])) for n in last]
        y, state = m(part, at(part, start, real), state)
        outs.append(y)
        start += part.shape[1]
    y = torch.cat(outs, 1)
    for b, n in enumerate(lengths):
        whole = torch.cat((x[b : b + 1, :n], more[b : b + 1, : last[b]]), 1)
        assert_close(y[b : b + 1, : last[b]], m(whole, at(whole))[0][:, n:])


def test_gradients_reach_kept_tokens():
    m = hashed(window=3)
    x = tokens(1, 60).requires_grad_()
    grads = []
    for sizes in ([60], [25, 20, 15]):
        y = m(x, at(x))[0] if len(sizes) == 1 else stream(m, x, sizes)[0]
        grads.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert_close(*grads)


# --- rounds and labels --------------------------------------------------------------------------


def full(m: Mixer, x: Tensor, causal: bool) -> Tensor:
    """Shared queries and keys over everything, a token itself only if there is nothing else."""
    qk, v = m.project(x)
    n = x.shape[1]
    allowed = torch.ones(n, n, dtype=torch.bool)
    allowed = allowed.tril(-1) if causal else ~torch.eye(n, dtype=torch.bool)
    allowed |= torch.eye(n, dtype=torch.bool) & ~allowed.any(-1, keepdim=True)
    scores = qk @ unit(qk).mT * m.head_dim**-0.5
    return m.output(scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_no_rounds_are_full_attention(causal):
    m = hashed(causal=causal)
    x = tokens(2, 150)
    hashed_out = m(x, at(x))[0]
    m.set_rounds(None)
    assert_close(m(x, at(x))[0], full(m, x, causal))
    assert m.limit is None
    if causal:
        y, state = stream(m, x, [60, 1, 1, 88])
        assert_close(y, full(m, x, causal))
        assert state.qk.shape[2] == 150
    m.set_rounds(3)
    assert torch.equal(m(x, at(x))[0], hashed_out)


def test_another_number_of_rounds_is_another_mixer_with_the_same_weights():
    m, more = hashed(window=3), hashed(rounds=8, window=3)
    x = tokens(2, 90)
    assert torch.equal(m.directions, more.directions[:3])
    m.set_rounds(8)
    assert torch.equal(m(x, at(x))[0], more(x, at(x))[0])
    assert_close(m(x, at(x))[0], m.output(m.weights(x, at(x)) @ m.values(x, at(x))))
    with pytest.raises(ValueError, match="rounds must be at least 1, not 0"):
        m.set_rounds(0)
    assert m.rounds == 8


def test_rotations_are_saved_and_drawn_again():
    m, other = hashed(), hashed(seed=5)
    assert not torch.equal(m.directions, other.directions)
    other.load_state_dict(m.state_dict())
    assert torch.equal(m.directions, other.directions)
    other.reset()
    assert torch.equal(other.directions, hashed(seed=5).directions)
    other.redraw(0)
    assert torch.equal(other.directions, m.directions)
    with torch.device("meta"):
        bare = nn.HashedAttention(DIM, HEADS, rounds=3, buckets=(2, 2))
    assert bare.directions.is_meta
    low = hashed().bfloat16()
    assert low.hash(tokens(1, 9).bfloat16(), at(tokens(1, 9))).max() < 4


@pytest.mark.parametrize("make", [nn.HashedAttention, nn.SortedChunkAttention])
def test_labels_are_those_handed_in(make):
    m = hashed(make=make)
    x, other = tokens(2, 60), tokens(2, 60)
    context = at(x, 0, [60, 41])
    labels = m.hash(x, context)
    assert labels.shape == (2, HEADS, 3, 60)
    assert (labels[1, :, :, 41:] == ABSENT).all()
    whole = m(x, context)[0]
    assert torch.equal(m(x, context, labels=labels)[0], whole)
    # what a reversible layer does: inputs a rounding away, and the same labels
    near = m(x + 1e-14 * other, context, labels=labels)[0]
    assert_close(near, whole)
    assert (m(x, context, labels=m.hash(other, context))[0] - whole).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"\(2, 2, 3, 60\).*\(2, 2, 3, 50\)"):
        m(x[:, :50], at(x[:, :50]), labels=labels)


@pytest.mark.parametrize("make", [nn.HashedAttention, nn.SortedChunkAttention])
def test_labelled_documents_equal_documents_alone(make):
    """For chunks, if each of them is a single document."""
    chunk = {} if make is nn.HashedAttention else {"chunks": nn.Chunking(90), "rounds": 1}
    m = hashed(make=make, causal=False, **chunk)
    x = tokens(2, 90)
    label = torch.repeat_interleave(torch.tensor([9, -4, 2]), torch.tensor([30, 1, 59]))
    y = m(x, dataclasses.replace(at(x), label=label.expand(2, 1, -1)))[0]
    for part in (slice(0, 30), slice(30, 31), slice(31, 90)):
        assert_close(y[:, part], m(x[:, part], at(x[:, part]))[0])


def test_dropout_in_training_only():
    m = hashed(dropout=0.5)
    x = tokens(1, 40).expand(200, -1, -1)
    exact = m(x, at(x))[0][:1]
    assert torch.equal(exact, m(x, at(x))[0][:1])
    m.train()
    mean = m(x, at(x))[0].mean(0, keepdim=True)
    assert 0 < (mean - exact).norm() < 0.15 * exact.norm()


# --- the paper's chunks -------------------------------------------------------------------------


def chunk_sets(label: Tensor, chunk: int, causal: bool, same: bool) -> list[list[int]]:
    """P_r(i) of every token from its labels (N,) in one round."""
    order = sorted((int(a), i) for i, a in enumerate(label) if a != ABSENT)
    place = {i: p // chunk for p, (_, i) in enumerate(order)}

    def held(i: int, j: int) -> bool:
        near = place[j] in (place[i] - 1, place[i])
        return near and i != j and (j < i or not causal) and (label[i] == label[j] or not same)

    return [[j for j in place if i in place and held(i, j)] for i in range(len(label))]


@pytest.mark.parametrize(("circle", "once"), [(True, False), (False, True), (False, False)])
def test_sorted_chunks_alike_in_one_tile_in_many_and_in_a_graph(monkeypatch, circle, once):
    qk, v = (torch.randn(2, 2, 41, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.randint(0, 3, (2, 2, 3, 41))
    labels[1, :, :, 30:] = ABSENT
    cut, grad = nn.Chunking(5, once, once, circle), torch.randn_like(v)

    def found(budget: int) -> list[torch.Tensor]:
        monkeypatch.setattr(chunk_tiles, "BUDGET", budget)
        out = attend_chunks(qk, unit(qk), v, labels, cut, causal=True)
        return [out, *torch.autograd.grad(out, (qk, v), grad)]

    one = found(1 << 18)
    for a, b in zip(one, found(1), strict=True):
        assert_close(a, b)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for a, b in zip(one, found(1), strict=True):
        assert_close(a, b)


def test_sorted_chunks_keep_their_type_and_their_count_under_autocast():
    """Sums stay float32, backward inside of it included; every product is counted.

    What merges rounds may be bfloat16: 8 bits.
    """
    qk, v = (torch.randn(1, 2, 40, 6, requires_grad=True) for _ in range(2))
    labels, cut = torch.zeros(1, 2, 1, 40, dtype=torch.int64), nn.Chunking(40, False, False)

    def found() -> list[torch.Tensor]:
        out = attend_chunks(qk, unit(qk), v, labels, cut, causal=True)
        return [out, *torch.autograd.grad(out.sum(), (qk, v))]

    with FlopCounterMode(display=False) as count:
        plain = found()
    # two products forward and five in backward, of every query with its chunk and the one before
    assert count.get_total_flops() == 7 * 2 * 2 * 40 * 80 * 6
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = found()
    for a, b in zip(plain, low, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() <= 2**-7 * a.abs().max()


@pytest.mark.parametrize("once", [True, False], ids=["once", "often"])
@pytest.mark.parametrize("same", [True, False], ids=["same", "any"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize(("rounds", "n"), [(1, 41), (2, 41), (8, 41), (3, 2), (3, 1), (2, 0)])
def test_sorted_chunks_by_brute_force(rounds, n, causal, same, once):
    qk, v = (torch.randn(1, 2, n, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    labels = torch.randint(0, 2, (1, 2, rounds, n))
    labels[..., n - n // 10 :] = ABSENT
    times = torch.zeros(1, 2, n, n, dtype=torch.float64)
    for h in range(2):
        for r in range(rounds):
            for i, found in enumerate(chunk_sets(labels[0, h, r], 6, causal, same)):
                times[0, h, i, found] += 1
    if n == 41:
        assert (times > 1).any() == (rounds > 1)
    times = times.clamp(max=1) if once else times
    alone = times.sum(-1, keepdim=True) == 0
    times = times + torch.eye(n) * alone
    scores = qk @ unit(qk).mT * 6**-0.5 + times.log()
    expected = scores.softmax(-1) @ v
    cut = nn.Chunking(6, same, once)
    found = attend_chunks(qk, unit(qk), v, labels, cut, causal=causal)
    grad = torch.randn_like(v)
    for a, b in zip(
        (found, *torch.autograd.grad(found, (qk, v), grad, allow_unused=True)),
        (expected, *torch.autograd.grad(expected, (qk, v), grad)),
        strict=True,
    ):
        assert_close(torch.zeros_like(b) if a is None else a, b)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize(("rounds", "n"), [(1, 41), (3, 41), (3, 7), (2, 5), (2, 1), (2, 0)])
def test_chunks_in_a_circle_by_brute_force(rounds, n, causal):
    qk, v = (torch.randn(1, 1, n, 6, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, 2, (1, 1, rounds, n))
    labels[..., n - n // 10 :] = ABSENT
    order = [
        [i for _, i in sorted((int(a), i) for i, a in enumerate(label) if a != ABSENT)]
        for label in labels[0, 0]
    ]
    chunks = [[one[at : at + 6] for at in range(0, len(one), 6)] for one in order]
    row = [chunk for one in chunks for chunk in one]
    times = torch.zeros(n, n, dtype=torch.float64)
    for at, chunk in enumerate(row):
        for i in chunk:
            for j in chunk + row[at - 1]:
                times[i, j] += i != j and (j < i or not causal)
    times = times + torch.eye(n) * (times.sum(-1, keepdim=True) == 0)
    expected = (qk @ unit(qk).mT * 6**-0.5 + times.log()).softmax(-1) @ v
    cut = nn.Chunking(6, False, False, circle=True)
    assert_close(attend_chunks(qk, unit(qk), v, labels, cut, causal=causal), expected)


def test_a_circle_cannot_count():
    with pytest.raises(ValueError, match="chunks in a circle join rounds: same_bucket and count"):
        nn.SortedChunkAttention(12, 2, chunks=nn.Chunking(8, circle=True))


def test_later_tokens_move_the_borders_of_sorted_chunks():
    """Why it is called not strictly causal, and why there is another mixer."""
    m = hashed(make=nn.SortedChunkAttention, chunks=nn.Chunking(8))
    x = tokens(1, 64)
    changed = torch.cat((x[:, :40], tokens(1, 24)), 1)
    assert not torch.equal(m(x, at(x))[0][:, :40], m(changed, at(x))[0][:, :40])
    assert "NOT STRICTLY CAUSAL" in nn.SortedChunkAttention.__doc__
    assert not m.streams


def test_places():
    labels = torch.tensor([[2, ABSENT, 0, 2, 0]])
    assert places(labels).tolist() == [[2, 4, 0, 3, 1]]


def test_dropout_of_sorted_chunks_is_right_on_average():
    m = hashed(make=nn.SortedChunkAttention, chunks=nn.Chunking(8), dropout=0.5)
    x = tokens(1, 40).expand(200, -1, -1)
    exact = m(x, at(x))[0][:1]
    m.train()
    mean = m(x, at(x))[0].mean(0, keepdim=True)
    assert 0 < (mean - exact).norm() < 0.15 * exact.norm()


# --- messages -----------------------------------------------------------------------------------


def refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_messages():
    m, x = hashed(), tokens(2, 5)
    refused(lambda: hashed(buckets=(16, 7)), r"buckets \(16, 7\): 7 is not an even.*take 8")
    refused(lambda: hashed(window=0), "window must be at least 1 token of a bucket, not 0")
    refused(lambda: nn.HashedAttention(10, 4), "4 heads do not divide 10")
    refused(lambda: hashed(causal=False).init_state(1), "causal=False looks ahead")
    refused(lambda: m(x, at(x), ()), "keeps a HashedPast and was given a tuple")
    rows = "the state holds 3 rows and the call has 2"
    refused(lambda: m(x, at(x), m.init_state(3)), rows)
    rounds = "the state holds 8 rounds and the call has 3"
    refused(lambda: m(x, at(x), hashed(rounds=8).init_state(2)), rounds)
    label = dataclasses.replace(at(x), label=torch.zeros(2, 1, 5, dtype=torch.int64))
    refused(lambda: m(x, label, m.init_state(2)), "cannot keep labelled documents apart")
    chunks = hashed(make=nn.SortedChunkAttention)
    refused(lambda: chunks(x, at(x), m.init_state(2)), "cannot stream")
    refused(lambda: chunks.init_state(2), "cannot stream")
    refused(lambda: chunks.set_rounds(None), "rounds=None: sorted chunks have no full attention")
    refused(lambda: hashed(make=nn.SortedChunkAttention, rounds=None), "rounds=None")
    refused(
        lambda: hashed(make=nn.SortedChunkAttention, chunks=nn.Chunking(0)),
        "at least 1 token, not 0",
    )


def test_select_reorders_rows():
    m = hashed(window=2)
    x = tokens(3, 50)
    _, state = stream(m, x, [50])
    index, more = torch.tensor([2, 0, 0]), tokens(3, 4)
    y = m(more[index], at(more, 50), select(state, index))[0]
    assert torch.equal(y, m(more, at(more, 50), state)[0][index])
