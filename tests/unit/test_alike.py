"""Keys by the labels of queries: the listing against counting, pair by pair."""

import pytest
import torch

import subquad as sq
from subquad.hf.swapping.hashes import Hashes
from subquad.hf.swapping.parts import Call
from subquad.ops.alike import alike
from subquad.ops.hashing import ABSENT


def labels(*shape, kinds=3, absent=0.2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    found = torch.randint(kinds, shape, generator=draw)
    gone = torch.rand(shape[0], 1, 1, shape[-1], generator=draw) < absent
    return found.masked_fill(gone, ABSENT)


def counted(q_labels, k_labels, window, causal):
    """Which keys each query looks at, from the definition: (B, H, N, M) bool."""
    n, m = q_labels.shape[-1], k_labels.shape[-1]
    rows, slots = torch.arange(m - n, m)[:, None], torch.arange(m)
    there = k_labels[:, :, 0, None] != ABSENT
    near = (slots == rows) & there
    for mine, label in zip(q_labels.unbind(2), k_labels.unbind(2), strict=True):
        same = (mine[..., None] == label[..., None, :]) & there
        for side, before in ((slots <= rows, True), (slots > rows, False)):
            some = same & side
            some_in_order = some.flip(-1) if before else some
            kept = some_in_order & (some_in_order.cumsum(-1) <= window)
            if before or not causal:
                near = near | (kept.flip(-1) if before else kept)
    return near


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
@pytest.mark.parametrize("window", [1, 3, 100])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 2), (63, 63), (5, 65), (1, 40), (0, 0), (0, 3)])
def test_listed_are_those_counted(n, m, window, causal):
    k_labels = labels(2, 3, 2, m)
    q_labels = labels(2, 3, 2, n, absent=0.0, seed=1)
    keys = alike(q_labels, k_labels, window, causal=causal)
    width = min(window, m) * (1 if causal else 2) if n else 0
    assert keys.shape == (2, 3, n, 1 + 2 * width)
    found = torch.zeros(2, 3, n, m + 1, dtype=torch.int64)
    found.scatter_add_(-1, keys.where(keys >= 0, m), torch.ones_like(keys))
    assert found[..., :m].max() <= 1 if found[..., :m].numel() else True  # each key once
    assert torch.equal(found[..., :m].bool(), counted(q_labels, k_labels, window, causal))


def call(causal, valid=None, scale=0.5):
    return Call(scale, causal, None, valid)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_the_part_is_softmax_over_what_is_listed(causal):
    """Outputs and gradients in float64, key heads shared, rows of a batch padded with NaN."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(2, h, 21, 5, generator=draw, dtype=torch.float64).requires_grad_()
        for h in (4, 2, 2)
    )
    valid = torch.arange(21) >= torch.tensor([[0], [6]])
    part = Hashes(3, (4,), 2, seed=5).build(4, 5, 1)
    gone = ~valid[:, None, :, None]
    dirty = [t.masked_fill(gone, torch.nan) for t in (k, v)]
    out, state = part(q, *dirty, call(causal, valid))
    assert state is None
    listed = part.keys(q, k, call(causal, valid))
    near = torch.zeros(2, 4, 21, 22, dtype=torch.bool)
    near = near.scatter(-1, listed.where(listed >= 0, 21), True)[..., :21]
    wide_k, wide_v = (t.repeat_interleave(2, 1) for t in (k, v))
    scores = (0.5 * q @ wide_k.mT).masked_fill(~near, -torch.inf)
    wanted = scores.softmax(-1).nan_to_num() @ wide_v
    real = valid[:, None, :, None].expand_as(out)
    torch.testing.assert_close(out[real], wanted[real], rtol=0, atol=1e-10)
    weights = torch.randn(out.shape, generator=draw, dtype=torch.float64).masked_fill(~real, 0.0)
    for a, b in zip(
        torch.autograd.grad((out * weights).sum(), (q, k, v)),
        torch.autograd.grad((wanted * weights).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both"])
def test_one_bucket_and_a_long_window_are_the_original(causal, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 33, 8, generator=draw, dtype=torch.float64) for _ in range(3))
    one = lambda x, *_: torch.zeros(*x.shape[:2], 1, x.shape[2], dtype=torch.int64)  # noqa: E731
    monkeypatch.setattr("subquad.hf.swapping.hashes.hash_labels", one)
    out, _ = Hashes(1, (2,), 33).build(4, 8, 0)(q, k, v, call(causal))
    wanted = sq.attend(q, k, v, sq.Causal() if causal else sq.Full(), scale=0.5)
    torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)


def test_hashing_finds_keys_that_point_where_a_query_points():
    """Of 256 keys, the one most like each query is listed far more often than by chance."""
    draw = torch.Generator().manual_seed(0)
    k = torch.randn(1, 1, 256, 16, generator=draw)
    best = torch.randperm(256, generator=draw)
    q = k[:, :, best] + 0.2 * torch.randn(1, 1, 256, 16, generator=draw)
    listed = Hashes(4, (16,), 16).build(1, 16, 0).keys(q, k, call(False))
    share = (listed >= 0).sum(-1).double().mean() / 256  # what chance would find
    found = (listed == best[:, None]).any(-1).double().mean()
    assert found > 0.9 > 2 * share


def test_rotations_come_from_the_seed_layer_by_layer():
    first, again, other = (Hashes(seed=3).build(2, 8, i).directions for i in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"buckets": (5,)}, "5 is not an even number of at least 2"),
        ({"window": 0}, "window must be at least 1 token of a bucket, not 0"),
    ],
)
def test_what_cannot_be(fields, says):
    with pytest.raises(ValueError, match=says):
        Hashes(**fields)
