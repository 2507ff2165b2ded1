"""LSH attention against sets and a softmax, and the laws it must keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import subquad as sq
from subquad.ops.hashing import ABSENT, hash_labels, rotations, runs
from subquad.ops.lsh import FEW, attend_labels, unit
from subquad.ops.lsh_call import Call
from subquad.ops.partial import keep

pytestmark = pytest.mark.usefixtures("one_thread")


def sets(labels: Tensor, i: int, window: int, causal: bool) -> tuple[set[int], int]:
    """A(i) of one head from its labels (R, M), and how many pairs met in more than one round."""
    found: list[int] = []
    for label in labels.tolist():
        if label[i] != ABSENT:
            before = [j for j in range(i) if label[j] == label[i]]
            found += before[-window:]
            if not causal:
                found += [j for j in range(i + 1, len(label)) if label[j] == label[i]][:window]
    return set(found) or {i}, len(found) - len(set(found))


def allowed_pairs(labels: Tensor, n: int, window: int, causal: bool) -> tuple[Tensor, int]:
    """(B, H, N, M) for the last N tokens of labels (B, H, R, M)."""
    b, h, _, m = labels.shape
    allowed, again = torch.zeros(b, h, n, m, dtype=torch.bool), 0
    for at in ((x, y) for x in range(b) for y in range(h)):
        for row in range(n):
            found, twice = sets(labels[at], m - n + row, window, causal)
            allowed[at][row, sorted(found)] = True
            again += twice
    return allowed, again


def oracle(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, drop: Tensor | None = None) -> Tensor:
    scores = q @ k.mT * q.shape[-1] ** -0.5
    p = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    return (p if drop is None else p * drop) @ v


def draw(m: int, d: int = 6, b: int = 2, h: int = 2, kind=torch.float64) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(b, h, m, w, dtype=kind, requires_grad=True) for w in (d, 5))


def labels_of(qk: Tensor, rounds: int, buckets: tuple[int, ...], short: int = 0) -> Tensor:
    """Labels; the last row of the batch is `short` tokens shorter."""
    lengths = torch.tensor([qk.shape[2]] * (len(qk) - 1) + [qk.shape[2] - short])
    valid = torch.arange(qk.shape[2]) < lengths[:, None]
    return hash_labels(qk, rotations(rounds, buckets, qk.shape[-1], 3), buckets, valid)


def assert_close(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("window", [1, 5, 20])
@pytest.mark.parametrize("rounds", [1, 2, 8])
def test_union_softmax_by_brute_force(rounds, window, causal):
    """Two buckets, so that nearly every pair meets in several rounds."""
    qk, v = draw(63)
    labels = labels_of(qk, rounds, (2,), short=9)
    allowed, again = allowed_pairs(labels, 63, window, causal)
    assert (again > 1000) if rounds == 8 else (again > 0) == (rounds > 1)
    outs = [
        attend_labels(qk, v, labels, window, causal=causal),
        oracle(qk, unit(qk), v, allowed),
    ]
    grad = torch.randn_like(outs[0])
    assert_close(*([o, *torch.autograd.grad(o, (qk, v), grad)] for o in outs))


@pytest.mark.parametrize("n", [0, 1, 2, 63, 65, 127, 1025])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_any_length(n, causal):
    qk, v = draw(n, d=59, b=1, h=1 if n > 1000 else 2)
    labels = labels_of(qk, 2, (2, 4))
    out = attend_labels(qk, v, labels, 33, causal=causal)
    assert out.shape == v.shape
    if n:
        allowed, _ = allowed_pairs(labels, n, 33, causal)
        assert_close([out], [oracle(qk, unit(qk), v, allowed)])
    assert torch.autograd.grad(out.sum(), qk)[0].shape == qk.shape


@pytest.mark.parametrize(("n", "m"), [(1, 40), (FEW, 70), (FEW + 1, 70), (30, 70), (0, 9)])
def test_last_tokens_alone(n, m):
    """What streams ask: by comparing all labels for few queries, by sorting for more."""
    qk, v = draw(m)
    labels = labels_of(qk, 3, (2,), short=2)
    seed = torch.tensor(7)
    drop = keep(seed, 0.3, torch.Size((2, 2, n, m)), 0, 0)
    allowed, _ = allowed_pairs(labels, n, 4, True)
    q = qk[:, :, m - n :]
    for rate, factors in ((0.0, None), (0.3, drop)):
        outs = [
            attend_labels(qk, v, labels, 4, queries=n, dropout=rate, seed=seed),
            oracle(q, unit(qk), v, allowed, factors),
        ]
        grad = torch.randn_like(outs[0])
        assert_close(*([o, *torch.autograd.grad(o, (qk, v), grad, True)] for o in outs))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_dropout_equals_dense_with_that_mask(causal, monkeypatch):
    monkeypatch.setattr("subquad.ops.lsh_call.TOKENS", 100)  # several blocks of lanes
    qk, v = draw(50, b=3, h=3)
    labels, seed = labels_of(qk, 3, (2,), short=4), torch.tensor(11)
    drop = keep(seed, 0.4, torch.Size((3, 3, 50, 50)), 0, 0)
    allowed, _ = allowed_pairs(labels, 50, 6, causal)
    outs = [
        attend_labels(qk, v, labels, 6, causal=causal, dropout=0.4, seed=seed),
        oracle(qk, unit(qk), v, allowed, drop),
    ]
    grad = torch.randn_like(outs[0])
    assert_close(*([o, *torch.autograd.grad(o, (qk, v), grad)] for o in outs))


def test_no_limit_to_the_window():
    qk, v = draw(150)
    labels = labels_of(qk, 1, (2,))
    allowed, _ = allowed_pairs(labels, 150, 150, True)
    assert_close([attend_labels(qk, v, labels, None)], [oracle(qk, unit(qk), v, allowed)])


def test_prefix():
    qk, v = draw(1100, b=1)
    whole = sq.lsh_attention(qk, v, rounds=3, buckets=(2, 4), window=20)
    for n in (1, 100, 1000):
        part = sq.lsh_attention(qk[:, :, :n], v[:, :, :n], rounds=3, buckets=(2, 4), window=20)
        assert_close([part], [whole[:, :, :n]])


@pytest.mark.parametrize(
    ("n", "rounds", "buckets", "window", "d", "h"),
    [
        (200, 1, (2,), 3, 6, 2),
        (200, 8, (2,), 17, 64, 2),
        (513, 2, (8, 4), 100, 59, 2),
        (1000, 4, (4,), 64, 32, 2),
        (1000, 2, (4,), 300, 16, 1),
        (1000, 3, (2,), 17, 64, 8),  # the last row of a batch of tiles is a token's
    ],
)
def test_the_future_changes_nothing_bit_for_bit(n, rounds, buckets, window, d, h):
    """Later tokens move all later ones in the order, yet no bit of what is earlier."""
    qk, v = (t.detach() for t in draw(n, d=d, h=h, kind=torch.float32))
    settings = {"rounds": rounds, "buckets": buckets, "window": window}
    before = sq.lsh_attention(qk, v, **settings)
    for cut in (1, 17, n // 2, n - 1):
        changed, values = qk.clone(), v.clone()
        changed[:, :, cut:] = 30 * torch.randn_like(changed[:, :, cut:]).abs()
        values[:, :, cut:] = 1000 * torch.randn_like(values[:, :, cut:])
        after = sq.lsh_attention(changed, values, **settings)
        assert torch.equal(after[:, :, :cut], before[:, :, :cut])
        assert not torch.equal(after, before)


def test_a_token_without_others_keeps_its_own_value():
    qk, v = draw(40)
    labels = torch.arange(40).expand(2, 2, 3, 40)  # every token in a bucket of its own
    out = attend_labels(qk, v, labels, 5)
    assert torch.equal(out, v)
    dqk, dv = torch.autograd.grad(out.sum(), (qk, v))
    assert (dqk == 0).all()
    assert (dv == 1).all()
    labels = torch.full((2, 2, 1, 40), ABSENT)
    assert torch.equal(attend_labels(qk, v, labels, 5), v)


def test_a_zero_vector_is_a_key_of_no_direction():
    qk, v = draw(30)
    zero = qk.detach().clone()
    zero[:, :, ::3] = 0.0
    zero.requires_grad_()
    labels = labels_of(qk, 2, (2,))
    out = attend_labels(zero, v, labels, 8)
    allowed, _ = allowed_pairs(labels, 30, 8, True)
    assert_close([out], [oracle(zero, unit(zero), v, allowed)])
    assert torch.autograd.grad(out.square().sum(), zero)[0].abs().max() < 100


def test_padding_may_hold_nan():
    qk, v = (t.detach() for t in draw(60))
    valid = torch.arange(60) < torch.tensor([60, 33])[:, None]
    gone = ~valid[:, None, :, None]
    dirty = [t.masked_fill(gone, torch.nan).requires_grad_() for t in (qk, v)]
    out = sq.lsh_attention(*dirty, rounds=2, buckets=(4,), window=8, valid=valid)
    alone = sq.lsh_attention(qk[1:, :, :33], v[1:, :, :33], rounds=2, buckets=(4,), window=8)
    assert_close([out[1:, :, :33]], [alone])
    grads = torch.autograd.grad(out.masked_fill(gone, 0.0).sum(), dirty)
    assert all(torch.isfinite(g).all() and (g.masked_select(gone) == 0).all() for g in grads)


def test_bfloat16_errs_at_most_twice_as_much_as_plain_pytorch():
    qk, v = (t.detach() for t in draw(200, d=32))
    labels = labels_of(qk, 2, (4,))
    low, lower = qk.bfloat16(), v.bfloat16()
    allowed, _ = allowed_pairs(labels, 200, 16, True)
    exact = oracle(qk, unit(qk), v, allowed)
    plain = (oracle(low, unit(low), lower, allowed).double() - exact).abs()
    ours = attend_labels(low, lower, labels, 16)
    assert ours.dtype == torch.bfloat16
    error = (ours.double() - exact).abs()
    assert error.max() <= 2 * plain.max()
    assert error.mean() <= 2 * plain.mean()


# --- the hash -----------------------------------------------------------------------------------


def test_labels_are_the_nearest_of_the_directions_and_their_opposites():
    x = torch.randn(2, 3, 50, 8, requires_grad=True)
    directions = rotations(4, (4, 6), 8, 1)
    assert directions.shape == (4, 8, 5)
    expected = torch.zeros(2, 3, 4, 50, dtype=torch.int64)
    for r in range(4):
        for b, part in ((4, directions[r, :, :2]), (6, directions[r, :, 2:])):
            y = x @ part
            expected[:, :, r] = expected[:, :, r] * b + torch.cat((y, -y), -1).argmax(-1)
    labels = hash_labels(x, directions, (4, 6))
    assert torch.equal(labels, expected)
    assert not labels.requires_grad
    assert labels.dtype == torch.int64
    assert labels.max() < 24
    assert torch.equal(hash_labels(3 * x, directions, (4, 6)), labels)


def test_labels_do_not_depend_on_how_many_are_hashed_at_a_time(monkeypatch):
    x, directions = torch.randn(1, 2, 100, 8, dtype=torch.float64), rotations(3, (4,), 8, 1)
    whole = hash_labels(x, directions, (4,))
    monkeypatch.setattr("subquad.ops.hashing.BUDGET", 100)
    assert torch.equal(hash_labels(x, directions, (4,)), whole)


def test_rotations_follow_from_their_seed_round_by_round():
    assert torch.equal(rotations(8, (4, 4), 5, 9)[:3], rotations(3, (4, 4), 5, 9))
    assert not torch.equal(rotations(1, (4,), 5, 1), rotations(1, (4,), 5, 2))


def test_runs():
    labels = torch.tensor([[3, 0, ABSENT, 3, 0], [0, 0, 7, ABSENT, 0]])
    order = runs(labels)
    assert order.token.tolist() == [2, 1, 4, 0, 3, 8, 5, 6, 9, 7]
    assert order.first.tolist() == [0, 1, 1, 3, 3, 5, 6, 6, 6, 9]
    assert order.stop.tolist() == [1, 3, 3, 5, 5, 6, 9, 9, 9, 10]
    assert order.number.tolist() == [0, 1, 1, 2, 2, 3, 4, 4, 4, 5]
    assert order.real.tolist() == [False, *[True] * 4, False, *[True] * 4]


# --- the operator -------------------------------------------------------------------------------


def arguments(n=7, m=9, dropout=0.0, kind=torch.float32, batch=2) -> list:
    """What the operator takes."""
    qk, v = (torch.randn(batch, 2, m, w, dtype=kind, requires_grad=True) for w in (4, 3))
    labels = torch.randint(0, 2, (batch, 2, 2, m))
    return [qk, v, labels, torch.tensor(3) if dropout else None, n, 3, 0, dropout]


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_opcheck(dropout):
    torch.library.opcheck(torch.ops.subquad.lsh.default, tuple(arguments(dropout=dropout)))


def test_gradcheck_of_output_and_log_sum_exp():
    qk, v, *rest = arguments(4, 6, 0.2, torch.float64, batch=1)

    def run(qk, v):
        out, lse = torch.ops.subquad.lsh(qk, v, *rest)
        return out, lse.masked_fill(lse < -1e20, 0.0)

    assert torch.autograd.gradcheck(run, (qk, v), fast_mode=True)


@pytest.mark.no_poison
def test_compiles_to_one_graph():
    torch._dynamo.reset()
    directions = rotations(2, (4,), 6, 0)

    def run(qk, v):
        return attend_labels(qk, v, hash_labels(qk, directions, (4,)), 5)

    compiled = torch.compile(run, backend="eager", fullgraph=True, dynamic=True)
    for n in (40, 51):
        real = draw(n)
        outs = [f(*real) for f in (compiled, run)]
        assert_close(*([o, *torch.autograd.grad(o.square().sum(), real)] for o in outs))


def test_flops_are_those_of_full_windows():
    for n, m, behind, ahead, pairs in ((9, 9, 3, 0, 0 + 1 + 2 + 6 * 3), (2, 9, 3, 3, 6 + 1)):
        args = arguments(n, m)
        args[5:7] = behind, ahead
        with FlopCounterMode(display=False) as forward:
            out, _ = torch.ops.subquad.lsh(*args)
        with FlopCounterMode(display=False) as backward:
            out.sum().backward()
        lanes_and_rounds, d, dv = 4 * 2, 4, 3
        assert forward.get_total_flops() == 2 * lanes_and_rounds * pairs * (d + dv)
        assert backward.get_total_flops() == 2 * lanes_and_rounds * pairs * (3 * d + 2 * dv)


class Work(TorchDispatchMode):
    """The products formed, and the elements of the largest tensor that any operation returns."""

    products = 0
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("bmm", "baddbmm"):
            left, right = args[-2:]
            self.products += left.numel() * right.shape[-1]
        if isinstance(result, Tensor):
            self.largest = max(self.largest, result.numel())
        return result


@pytest.mark.no_poison
def test_work_is_linear_and_nothing_is_gathered_for_every_pair():
    work = []
    for n in (4096, 8192):
        qk, v = (torch.randn(1, 1, n, 16) for _ in range(2))
        labels = torch.randint(0, n // 64, (1, 1, 4, n))
        with Work() as seen, torch.no_grad():
            call = Call(qk, v, labels, None, n, 64, 0, 0.0)
            out, lse = call.forward()
            call.backward(out, lse, lse)
        work.append(seen)
    assert 1.9 < work[1].products / work[0].products < 2.1
    # buckets of 64 tokens: 32 pairs a token and round on average, tiles form at most 3 times that;
    # five products of width 16 forward and backward, and scores twice
    assert work[1].products < 3 * 32 * 4 * 8192 * 7 * 16
    assert work[1].largest <= 8192 * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"buckets": (16, 3)}, r"buckets \(16, 3\): 3 is not an even number.*take 4"),
        ({"buckets": (0,)}, r"0 is not an even number of at least 2.*take 2"),
        ({"buckets": ()}, r"buckets \(\) names no factor"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"window": 0}, "window must be at least 1 token of a bucket, not 0"),
        ({"v": torch.zeros(1, 2, 6, 3)}, r"\(1, 2, 5, 4\) and \(1, 2, 6, 3\)"),
        ({"valid": torch.ones(1, 4, dtype=torch.bool)}, r"\(1, 5\).*\(1, 4\)"),
        ({"valid": torch.ones(1, 5)}, r"bool.*torch.float32"),
    ],
)
def test_messages(change, message):
    given = {"qk": torch.zeros(1, 2, 5, 4), "v": torch.zeros(1, 2, 5, 3), **change}
    with pytest.raises(ValueError, match=message):
        sq.lsh_attention(**given)
