"""Maps of latents that read their prefix: each position's matrix is that of its own anchor."""

import numpy as np
import pytest
import torch

from prefixed import model, tokens
from subquad.nn import PrefixRead
from subquad.viz.factors import pull
from subquad.viz.maps import maps
from subquad.viz.rollout import gradients, rollout, weigher
from subquad.viz.seen import sights

N = 37


@pytest.fixture
def m():
    return model(16, 8)


def test_each_position_is_that_of_its_prefix_run_alone(m):
    ids, groups = tokens(1, N), m.backbone.groups
    read, *layers = maps(m, ids)
    assert read.kind == "PrefixRead"
    for one in (read, *layers):
        assert one.weights.shape == (4, N, N)
        np.testing.assert_allclose(one.weights.sum(-1), 1, atol=1e-12)
    for p in (0, 15, 16, 30, N - 1):
        for one, other in zip((read, *layers), maps(m, ids[:, : p + 1]), strict=True):
            row = one.weights[:, p]
            np.testing.assert_allclose(row[:, : p + 1], other.weights[:, p], atol=1e-12)
            assert not row[:, p + 1 :].any()
            assert one is read or not row[:, : groups.anchor(p)].any()


def test_reading_is_the_product_of_its_matrix(m):
    read, seen = m.backbone.read, {}
    read.register_forward_pre_hook(lambda _, args: seen.update(args=args))
    m(tokens(1, N))
    x, context, keys = seen["args"]
    y = x + read.mixer.output(read.weights(x, context, keys) @ keys.v)
    y = y + read.mlp(read.norms[2](y))
    torch.testing.assert_close(read(x, context, keys), y, rtol=1e-10, atol=1e-10)


def test_gradients_are_those_of_the_matrix(m, monkeypatch):
    ids, kept = tokens(1, N), []
    read, *_ = found = sights(m, ids)
    slope, *_ = gradients(m, ids, found)

    def multiplied(self, x, context, seen):
        weights = self.weights(x, context, seen)
        weights.retain_grad()
        kept.append((weights, seen, context.pos[:, 0].tolist()))
        return self.output(x, context, weights @ seen.v)

    monkeypatch.setattr(PrefixRead, "forward", multiplied)
    m(ids)[0][0, -1].max().backward()
    wanted = torch.zeros(4, N, N, dtype=torch.float64)
    for weights, seen, starts in kept:
        for w, first in enumerate(starts):
            each = (weights.grad * weights).detach()[w].clamp(min=0)
            some = pull(each, seen.at.pos[w, 0].masked_fill(seen.at.pos[w, 0] >= N, -1), N)
            rows = min(16, N - first)
            wanted[:, first : first + rows] += some[:, :rows]
    ours = weigher(read, slope)(torch.arange(N), None)
    torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-12)
    assert wanted.any()


def test_rollout_of_blocks_is_that_of_the_whole(m):
    found = sights(m, tokens(1, N))
    whole, some = rollout(found, block=1), rollout(found, block=4)
    rows = np.stack([whole[i : i + 4].mean(0) for i in range(0, N, 4)])
    np.testing.assert_allclose(rows, some, atol=1e-12)
    np.testing.assert_allclose(whole.sum(-1), 1, atol=1e-12)
