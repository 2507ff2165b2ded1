"""Reformer: layers by kind, presets of the paper, and a state that stays as small as it says."""

import pytest
import torch

import subquad as sq
from subquad import nn
from subquad.archs import configure
from subquad.archs.reformer import PRESETS, Config, build
from subquad.model import build as build_model
from subquad.nn.reversible import ReversibleDecoder, ReversibleEncoder
from subquad.nn.state import nbytes

TINY = vars(PRESETS["tiny"])


def kinds(config):
    return [type(block.mixers[0]).__name__ for block in build(config).blocks]


def test_kinds_repeat_to_the_depth():
    hashed, softmax = "HashedAttention", "Attention"
    recipe = Config(**{**TINY, "num_layers": 6, "layers": ("local", "local", "lsh", "local")})
    assert kinds(recipe) == [softmax, softmax, hashed, softmax, softmax, softmax]
    assert kinds(Config(**{**TINY, "layers": ("lsh",)})) == [hashed] * 3


def test_every_layer_hashes_by_a_seed_of_its_own():
    stack = build(Config(**{**TINY, "layers": ("lsh",), "seed": 2}))
    assert [block.mixers[0].seed for block in stack.blocks] == [2000, 2001, 2002]
    first, second = (block.mixers[0].directions for block in stack.blocks[:2])
    assert not torch.equal(first, second)


def test_chunks_look_at_their_own_and_the_one_before():
    (mixer,) = build(Config(**{**TINY, "layers": ("chunks",), "num_layers": 1})).blocks[0].mixers
    x = torch.randn(1, 40, 32)
    seen = mixer.weights(x, nn.Context.of(x))[0, 0] > 0
    assert [int(row.sum()) for row in seen] == [i + 1 if i < 8 else 9 + i % 8 for i in range(40)]
    assert not seen.triu(1).any()


def test_the_wiring_is_a_choice():
    assert isinstance(build(Config(**TINY)), ReversibleDecoder)
    assert isinstance(build(Config(**{**TINY, "causal": False})), ReversibleEncoder)
    assert build(Config(**{**TINY, "wiring": "pre"})).out_dim == 32


def test_the_released_recipe_has_its_sizes():
    """Parameters of a layer: norms, projections to 8 heads of 64 and back, feed-forward."""
    with torch.device("meta"):
        stack = build(PRESETS["enwik8"])
    norms, ffn = 2 * 2 * 768, 768 * 2048 * 2 + 2048 + 768
    local, hashed = 4 * 768 * 512, 3 * 768 * 512
    layers = 9 * (norms + ffn + local) + 3 * (norms + ffn + hashed)
    assert sum(p.numel() for p in stack.parameters()) == layers + 2 * 2 * 768
    with torch.device("meta"):
        stack = build(PRESETS["imagenet64"])
    assert {b.mixers[0].head_dim for b in stack.blocks} == {128}
    assert {b.mixers[0].buckets for b in stack.blocks} == {(12, 16)}


def test_feed_forward_in_chunks_changes_nothing():
    torch.manual_seed(0)
    whole = build_model("reformer", TINY, vocab_size=50).double()
    pieces = build_model("reformer", {**TINY, "mlp_chunk": 7}, vocab_size=50).double()
    pieces.load_state_dict(whole.state_dict())
    ids, found = torch.randint(0, 50, (2, 45)), []
    for model in (whole, pieces):
        y = model(ids)[0]
        found.append([y, *torch.autograd.grad(y.square().sum(), list(model.parameters()))])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_state_is_bounded_as_it_says():
    """After 10 x buckets x window tokens the state holds no more than after 5 of them."""
    model = build_model("reformer", {**TINY, "layers": ("lsh",)}, vocab_size=50).eval()
    full, sizes = 8 * TINY["window"], []
    with torch.no_grad():
        state = model.init_state(1)
        for _ in range(10):
            state = model(torch.randint(0, 50, (1, full)), state=state)[1]
            sizes.append(nbytes(state))
    # keys and values in float32, two labels in int32, of at most rounds x buckets x window tokens
    most = 3 * 2 * full * (4 * 2 * 8 * 4 + 4 * 2 * 4)
    assert max(sizes) <= most + 8
    assert sizes[-1] <= 1.05 * sizes[4]


def test_what_does_not_fit_is_said():
    with pytest.raises(
        ValueError, match="layers is empty; name at least one of lsh, local, chunks"
    ):
        build(Config(**{**TINY, "layers": ()}))
    with pytest.raises(ValueError, match="no kind of layer is called 'lhs'; did you mean 'lsh'"):
        build(Config(**{**TINY, "layers": ("local", "lhs")}))
    with pytest.raises(ValueError, match=r"layers must be tuple\[str, \.\.\.\], not 'lsh'"):
        configure("reformer", {"layers": "lsh"})
    with pytest.raises(ValueError, match=r"buckets \(3,\): 3 is not an even number"):
        build(Config(**{**TINY, "buckets": (3,)}))
    with pytest.raises(ValueError, match="7 heads do not divide 32"):
        build(Config(**{**TINY, "num_heads": 7}))
    assert sq.ARCHS["reformer"].PRESETS is PRESETS
