"""Maps of every architecture and mixer hold the numbers of `weights`."""

import numpy as np
import pytest
import torch

import subquad as sq
from catalog import BOTH_WAYS, DIM, MIXERS, context, inputs, mixer, model
from subquad.nn.lowrank import LowRankAttention
from subquad.nn.mixer import Mixer
from subquad.nn.read import Read
from subquad.viz.maps import maps
from subquad.viz.places import places
from subquad.viz.rollout import gradients, rollout, weigher
from subquad.viz.seen import pull, sights

N = 37


def noted(m, ids):
    """Every call of a mixer in one run: (mixer, x, context), by the outermost."""
    seen = []
    for place in places(m):
        place.module.register_forward_pre_hook(
            lambda module, args, given, seen=seen: seen.append((module, args, given)),
            with_kwargs=True,
        )
    with torch.no_grad():
        m(ids)
    return seen


def pulled(m, x, at):
    """`weights`, by its definition a column for each position."""
    if isinstance(m, LowRankAttention):
        blend = m.project_values.weight[:, : x.shape[1]]
        return m.weights(x, at)[0] @ blend
    found, columns = m.weights(x, at)[0], m.columns(x, at).tolist()
    if columns == [*range(found.shape[2])]:
        return found
    out = torch.zeros(*found.shape[:2], max(columns) + 1, dtype=found.dtype)
    for k, column in enumerate(columns):
        out[..., column] += found[..., k]
    return out


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_maps_are_weights(arch, causal):
    m, ids = model(arch, causal=causal), torch.randint(0, 50, (1, N))
    found, seen = maps(m, ids), noted(m, ids)
    whole = [one for one in seen if len(one[1][0]) == 1 and isinstance(one[0], Mixer)]
    assert found
    for one in found:
        assert one.weights.dtype == np.float64
        assert one.weights.shape[0] == len(one.heads)
    # stacks that cut their tokens into windows are compared below
    if all(isinstance(one[0], Mixer) and len(one[1][0]) == 1 for one in seen):
        assert len(found) == len(whole)
        for one, (module, (x, at, *_), _) in zip(found, whole, strict=True):
            np.testing.assert_array_equal(one.weights, pulled(module, x, at).detach().numpy())
    else:
        assert arch == "perceiver_ar"


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_alone(name):
    m, x = mixer(name), inputs(1, N)
    for marks in (None, [0, 5]):
        at = context(x, None, marks)
        (found,) = maps(m, {"x": x, "context": at})
        np.testing.assert_array_equal(found.weights, pulled(m, x, at).detach().numpy())


def test_perceiver_ar_reads_and_thinks_as_it_says():
    """Each position's matrix is that of its prefix run alone, where one window holds it."""
    m, ids = model("perceiver_ar"), torch.randint(0, 50, (1, N))
    latents = m.backbone.groups
    read, *layers = maps(m, ids)
    (at,) = [p.module for p in places(m) if isinstance(p.module, Read)]
    assert read.kind == "Read"
    assert read.weights.shape == (at.mixer.num_heads, N, N)
    np.testing.assert_allclose(read.weights.sum(-1), 1, atol=1e-12)
    for p in (0, 15, 16, 30, N - 1):
        _, *alone = maps(m, ids[:, : p + 1])
        for one, other in zip(layers, alone, strict=True):
            row = one.weights[:, p]
            np.testing.assert_allclose(row[:, : p + 1], other.weights[:, p], atol=1e-12)
            assert not row[:, : latents.anchor(p)].any()
            np.testing.assert_allclose(row.sum(-1), 1, atol=1e-12)


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_blocks_are_means_of_rows_and_sums_of_columns(arch, causal):
    m, ids = model(arch, causal=causal), torch.randint(0, 50, (1, N))
    for whole, part in zip(maps(m, ids), maps(m, ids, memory=80_000), strict=True):
        block, (h, n, k) = part.block, whole.weights.shape
        cells = [
            whole.weights[:, i : i + block].mean(1)[:, j : j + block].sum(1)
            for i in range(0, n, block)
            for j in range(0, k, block)
        ]
        there = part.weights.reshape(h, -1)
        np.testing.assert_allclose(there, np.stack(cells, 1), atol=1e-12)


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_rollout_of_blocks_is_that_of_the_whole(arch, causal):
    m, ids = model(arch, causal=causal), torch.randint(0, 50, (1, N))
    found = sights(m, ids)
    whole, some = rollout(found, block=1), rollout(found, block=4)
    assert whole.shape[0] == N
    rows = np.stack([whole[i : i + 4].mean(0) for i in range(0, N, 4)])
    np.testing.assert_allclose(rows, some, atol=1e-12)


def test_every_architecture_is_looked_at():
    assert {arch for arch, _ in BOTH_WAYS} == set(sq.ARCHS)
    assert mixer("full").out.in_features == DIM


def explicit(m, ids):
    """The matrix of every layer and its gradient, by multiplying with the matrix itself."""
    kept = []
    for place in places(m):

        def forward(x, at, state=None, mixer=place.module):
            weights = mixer.weights(x, at)
            weights.retain_grad()
            kept.append((weights, mixer.columns(x, at)))
            return mixer.output(weights @ mixer.values(x, at)), None

        place.module.forward = forward
    if hasattr(m.backbone, "plain"):
        m.backbone.row = m.backbone.plain
    m(ids)[0][0, -1].max().backward()
    return kept


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_gradients_are_those_of_the_matrices(arch, causal):
    m, ids = model(arch, causal=causal), torch.randint(0, 50, (1, N))
    found = sights(m, ids)
    if any(sight.factors is None for sight in found):
        with pytest.raises(ValueError, match="has no gradient-weighted view: its matrix is formed"):
            gradients(m, ids, found)
        return
    slopes = gradients(m, ids, found)
    assert not any("row" in vars(part) for part in m.modules())
    for sight, slope, (weights, columns) in zip(found, slopes, explicit(m, ids), strict=True):
        rows = torch.arange(sight.queries)
        ours = weigher(sight, slope)(rows, weights[0])
        theirs = torch.zeros_like(weights) if weights.grad is None else weights.grad * weights
        theirs = pull(theirs[0].detach().clamp(min=0), columns, sight.keys)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
