"""Maps of every architecture and mixer hold the numbers of `weights`."""

import numpy as np
import pytest
import torch

import subquad as sq
from catalog import BOTH_WAYS, DIM, MIXERS, context, inputs, mixer, model
from peak import peak
from subquad.archs import pair_parts
from subquad.nn.lowrank import LowRankAttention
from subquad.nn.lowrank_cross import LowRankCrossAttention
from subquad.nn.mixer import Mixer
from subquad.nn.read import Read
from subquad.pair import build
from subquad.viz.factors import pull
from subquad.viz.maps import maps
from subquad.viz.places import places
from subquad.viz.rollout import gradients, rollout, weigher
from subquad.viz.seen import sights

N = 37
#: two runs of one product may sum in different orders (by where their tensors lie in memory)
ROUNDING = {"rtol": 1e-12, "atol": 1e-14}


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
            wanted = pulled(module, x, at).detach().numpy()
            np.testing.assert_allclose(one.weights, wanted, **ROUNDING)
    else:
        assert arch == "perceiver_ar"


@pytest.mark.parametrize("name", MIXERS)
def test_a_mixer_alone(name):
    m, x = mixer(name), inputs(1, N)
    for marks in (None, [0, 5]):
        at = context(x, None, marks)
        (found,) = maps(m, {"x": x, "context": at})
        wanted = pulled(m, x, at).detach().numpy()
        np.testing.assert_allclose(found.weights, wanted, **ROUNDING)


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


def multiplied(module, kept):
    """A forward that multiplies with the matrix, by tokens; (matrix, its columns, where each window
    begins) is kept."""

    def keep(weights, columns, at):
        weights.retain_grad()
        kept.append((weights, columns, at.pos[:, 0].tolist()))
        return weights

    def read(x, at, seen):
        weights = keep(module.weights(x, at, seen), torch.arange(seen.k.shape[2]), at)
        y = x + module.mixer.output(weights @ seen.v)
        return y + module.mlp(module.norms[2](y))

    def mix(x, at, state=None):
        blends = isinstance(module, LowRankAttention | LowRankCrossAttention)
        v = module.token_values(x, at) if blends else module.values(x, at)
        columns = torch.arange(v.shape[2]) if blends else module.columns(x, at)
        weights = keep((module.matrix if blends else module.weights)(x, at), columns, at)
        return module.output(weights @ v), None

    return read if isinstance(module, Read) else mix


def explicit(m, run):
    """What is kept of every layer, after the gradient of the likeliest last output."""
    kept = []
    for place in places(m):
        place.module.forward = multiplied(place.module, kept)
    if hasattr(getattr(m, "backbone", None), "plain"):
        m.backbone.row = m.backbone.plain
    run()[0, -1].max().backward()
    return kept


def weighted(weights, columns, starts, shape):
    """max(0, gradient x weight) by position (H, N, M): all windows together."""
    each = torch.zeros_like(weights) if weights.grad is None else weights.grad * weights
    each = each.detach().clamp(min=0)
    if len(starts) == 1:
        return pull(each[0], columns, shape[2])
    whole = each.new_zeros(*shape)
    for one, first in zip(each, starts, strict=True):
        part = one[:, : shape[1] - first, : shape[2] - first]
        whole[:, first : first + part.shape[1], first : first + part.shape[2]] += part
    return whole


def check_gradients(m, inputs, run):
    found = sights(m, inputs)
    slopes = gradients(m, inputs, found)
    assert not any("row" in vars(part) for part in m.modules())
    some = False
    for sight, slope, (weights, *kept) in zip(found, slopes, explicit(m, run), strict=True):
        ours = weigher(sight, slope)(torch.arange(sight.queries), weights[0])
        theirs = weighted(weights, *kept, (sight.heads, sight.queries, sight.keys))
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
        some = some or bool(theirs.any())
    assert some


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_gradients_are_those_of_the_matrices(arch, causal):
    m, ids = model(arch, causal=causal), torch.randint(0, 50, (1, N))
    check_gradients(m, ids, lambda: m(ids)[0])


# --- pairs --------------------------------------------------------------------------------------

CROSSES = ["full", "kernel", "linear", "low_rank"]
KINDS = [("encoder_decoder", cross) for cross in CROSSES] + [("led", None), ("lite_pair", None)]


def pair(name, cross):
    """A tiny pair, weights large enough to matter, and a source longer than its target."""
    torch.manual_seed(7)
    fields = dict(vars(sq.PAIRS[name].PRESETS["tiny"]))
    if cross is not None:
        of = {"low_rank": {"rank": 8, "max_len": 64}, "kernel": {"features": 16}}
        fields |= {"cross": cross, "cross_fields": of.get(cross, {})}
    made = build(**pair_parts(name, fields), vocab_size=50).double().eval()
    for parameter in made.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return made, {"source": torch.randint(0, 50, (1, 21)), "tokens": torch.randint(0, 50, (1, 11))}


@pytest.mark.parametrize(("name", "cross"), KINDS)
def test_both_sides_of_a_pair_and_what_is_between(name, cross):
    m, x = pair(name, cross)
    found = maps(m, x)
    axes = [(one.queries_are, one.keys_are) for one in found]
    assert axes[: len(axes) // 3] == [("source", "source")] * (len(axes) // 3)
    assert axes[len(axes) // 3 :] == [("target", "target"), ("target", "source")] * 2
    for one in found:
        size = {"source": 21, "target": 11}
        assert one.weights.shape[1:] == (size[one.queries_are], size[one.keys_are])
        if one.queries_are == one.keys_are == "target":
            assert not np.triu(one.weights, 1).any()
    whole = rollout(sights(m, x))
    assert whole.shape == (11, 21)
    check_gradients(m, x, lambda: m(**x))


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.no_poison
def test_rows_of_weights_take_memory_by_the_row(name):
    """Twice the tokens take twice the memory, and not four times, whatever the mixer."""
    m = mixer(name, torch.float32)
    longest, taken = getattr(m, "max_len", 1024), []
    rows = torch.tensor([0, 5])
    for length in (longest // 2, longest):
        x = inputs(1, length, torch.float32)
        at = context(x, None, [0])
        with torch.no_grad():
            taken.append(peak(lambda x=x, at=at: m.weights(x, at, rows)))
    assert taken[1] < 2.3 * taken[0]
