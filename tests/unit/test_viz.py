"""Maps, rollouts, tiles, pages and stills: against what they say they are."""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

import subquad as sq
from catalog import model, tiny
from peak import peak
from subquad.hf.swapping import Features, Hashes, Looks
from subquad.hf.swapping.parts import Call
from subquad.model import build
from subquad.ops.lowering import parse
from subquad.viz import Page, Views, foreign, look, maps
from subquad.viz.gallery import allowed, cost, gallery
from subquad.viz.pyramid import drawn, of_array, scales
from subquad.viz.rollout import rollout
from subquad.viz.seen import sights
from subquad.viz.still import still

pytestmark = pytest.mark.usefixtures("one_thread")


def ids(length, batch=1):
    return torch.randint(0, 50, (batch, length))


# --- maps ---------------------------------------------------------------------------------------


def test_maps_of_some_layers_heads_and_rows():
    m, x = model("transformer"), ids(20)
    whole = maps(m, x)
    (one,) = maps(m, x, layers=[2], heads=[3, 1], rows=[19, 4])
    assert (one.layer, one.heads, one.kind) == (2, (3, 1), "Attention")
    true = whole[1].weights[[2, 0]][:, [19, 4]]
    np.testing.assert_allclose(one.weights, true, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(one.queries, [19, 4])


def test_reading_is_the_product_of_its_matrix():
    m, x = model("perceiver_ar"), ids(30)
    read, seen = m.backbone.read, {}
    read.register_forward_pre_hook(lambda _, args: seen.update(args=args))
    m(x)
    inputs, context, keys = seen["args"]
    found = read.mixer.output(read.weights(inputs, context, keys) @ keys.v)
    y = inputs + found
    y = y + read.mlp(read.norms[2](y))
    torch.testing.assert_close(read(inputs, context, keys), y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"layers": [3]}, "there is no layer 3; they are 1 to 2"),
        ({"layers": [0]}, "there is no layer 0; they are 1 to 2"),
        ({"heads": [5]}, "there is no head 5; they are 1 to 4"),
        ({"rows": [20]}, r"there is no query 20; the tokens of .* are 0 to 19"),
        ({"memory": 1000}, r"a row of 20 keys in 4 heads takes 0\.0 MiB to form, and"),
    ],
)
def test_maps_say_what_is_out_of_range(how, message):
    with pytest.raises(ValueError, match=message):
        maps(model("transformer"), ids(20), **how)


def test_maps_are_of_one_row_and_of_models_with_mixers():
    with pytest.raises(ValueError, match="a map is of one row, and this batch has 3: give one row"):
        maps(model("transformer"), ids(20, batch=3))
    with pytest.raises(ValueError, match="no mixer whose matrix could be drawn"):
        maps(torch.nn.Identity(), ids(20))


@pytest.mark.slow
@pytest.mark.no_poison
@pytest.mark.parametrize("arch", sq.ARCHS)
def test_a_map_of_16384_tokens_takes_less_than_a_gib(arch):
    """At a sixteenth of the length; memory grows no faster than the length."""
    causal = "causal" in vars(sq.ARCHS[arch].PRESETS["tiny"])
    m = build(arch, tiny(arch, causal=causal), vocab_size=50).eval()
    how = {"layers": [2], "memory": 16 << 20}
    taken = [peak(lambda n=n: maps(m, ids(n), **how)) for n in (512, 1024)]
    assert taken[1] < 2.3 * taken[0]
    assert 16 * taken[1] < 1 << 30


@pytest.mark.no_poison
def test_memory_is_bounded():
    """Whole matrices of 4 heads are 134 MB each in float64."""
    m, x, bound = model("local", dtype=torch.float32), ids(2048), 32 << 20
    found = []
    assert peak(lambda: found.extend(maps(m, x, memory=bound))) < bound
    assert found[0].block > 1
    np.testing.assert_allclose(found[0].weights.sum(-1), 1, atol=1e-5)


# --- rollout ------------------------------------------------------------------------------------


def test_rollout_is_the_product_of_means_with_residuals():
    m, x = model("longformer", causal=False), ids(25)
    product = np.eye(25)
    for one in maps(m, x):
        product = (one.weights.mean(0) + np.eye(25)) / 2 @ product
    np.testing.assert_allclose(rollout(sights(m, x)), product, atol=1e-12)


# --- tiles --------------------------------------------------------------------------------------


def test_scales_go_from_the_whole_to_single_tokens():
    assert scales(200, 256) == [(1, 1)]
    assert scales(257, 257) == [(4, 4), (1, 1)]
    assert scales(16_384, 16_384) == [(64, 64), (16, 16), (4, 4), (1, 1)]
    assert scales(8, 5000) == [(1, 64), (1, 16), (1, 4), (1, 1)]


def unpacked(tile, most):
    down, across, text = tile
    steps = np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i2").reshape(down, across)
    share = steps / 32_767
    return np.sign(share) * share**2 * most


def test_tiles_hold_the_map_at_every_scale():
    weights = np.random.default_rng(0).random((1, 300, 290)) * np.tri(300, 290)
    (head,) = drawn(of_array(weights, square=False), tiles=99)
    for level, block in zip(head.levels, (4, 1), strict=True):
        found = np.zeros((-(-300 // block), -(-290 // block)))
        for place, tile in level["tiles"].items():
            i, j = (256 * int(n) for n in place.split(","))
            found[i : i + tile[0], j : j + tile[1]] = unpacked(tile, level["max"])
        padded = np.zeros((300, 292))
        padded[:, :290] = weights[0]
        true = padded if block == 1 else padded.reshape(75, 4, 73, 4).mean(1).sum(2)
        # half a step of the root, twice the root: the largest error of a square
        np.testing.assert_allclose(found, true[:, : found.shape[1]], atol=level["max"] / 32_767)
        assert level["whole"]
        assert "0,1" not in level["tiles"]  # nothing lies there


def test_the_heaviest_tiles_are_kept():
    weights = np.zeros((1, 600, 600))
    weights[0, 300, 10] = 1.0
    weights[0, 500, 590] = 2.0
    (head,) = drawn(of_array(weights, square=True), tiles=1, rows=[300])
    assert [*head.levels[1]["tiles"]] == ["1,2"]
    assert not head.levels[1]["whole"]
    text, most = head.rows[300]
    np.testing.assert_allclose(unpacked((1, 600, text), most), weights[:, 300], atol=1e-4)


def test_entropy_and_distance():
    weights = np.stack([np.eye(8), np.full((8, 8), 1 / 8)])
    one, flat = drawn(of_array(weights, square=True), tiles=1)
    assert (one.entropy, one.distance) == (0, 0)
    assert flat.entropy == pytest.approx(3)
    assert flat.distance == pytest.approx(np.abs(np.subtract.outer(range(8), range(8))).mean())


# --- what is shown ------------------------------------------------------------------------------


READ = ("perceiver", "perceiver_io")


@pytest.mark.parametrize("arch", sq.ARCHS)
def test_every_architecture_is_shown(arch):
    causal = "causal" in vars(sq.ARCHS[arch].PRESETS["tiny"])
    shown = look(model(arch, causal=causal), ids(40), title=arch)
    page = Page([shown]).html()
    assert not re.search(r'(src|href)="(?!#)|url\(http|@import|http://|https://', page)
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert len(data["models"][0]["layers"]) == len(shown.layers)
    titles = [layer.title for layer in shown.layers]
    assert titles[0] == ("layer 1, latents to tokens" if arch in READ else "layer 1")
    assert titles[-2:] == ["rollout", "rollout by gradient"]
    assert shown.facts == {}
    assert Page([shown])._repr_html_().startswith("<iframe srcdoc=")


def test_spans_and_buckets():
    spans = look(model("adaptive_span"), ids(30), title="a").layers[0].spans
    assert spans.shape == (4, 2)
    labels, count = look(model("reformer"), ids(30), title="a").layers[1].buckets
    assert labels.shape == (4, 2, 30)
    assert labels.max() < count == 8


class Silent(torch.nn.Module):
    """Gives nothing, whatever it is given."""

    def forward(self, _):
        return None


def test_views_that_are_not_there_are_refused():
    m, x = model("transformer"), ids(10)
    for name, message in (
        ("spans", "this model has no spans to show: adaptive_span learns them"),
        ("buckets", "this model has no buckets to show: layers that hash have them"),
        ("rolout", "did you mean 'rollout'"),
    ):
        with pytest.raises(ValueError, match=message):
            look(m, x, title="a", views=Views(views=[name]))
    silent = torch.nn.Sequential(m, Silent())
    with pytest.raises(ValueError, match="gives no logits, so there is no likeliest output"):
        look(silent, x, title="a", views=Views(views=["gradient"]))
    assert "leave the gradient out" in look(silent, x, title="a").facts["no gradient"]
    with pytest.raises(ValueError, match="there is no query 10; the tokens of layer 1 are 0 to 9"):
        look(m, x, title="a", views=Views(rows=[10]))
    with pytest.raises(ValueError, match=r"x\.jpg must be a \.png or \.svg file"):
        still([], Path("x.jpg"))


def test_stills(tmp_path):
    words = ["$a", " b", "\n", "ordinary words"]
    shown = look(model("linformer"), ids(4), title="a" * 300, labels={"tokens": words})
    for kind, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        still([shown, shown], (tmp_path / "maps").with_suffix(kind))
        assert (tmp_path / "maps").with_suffix(kind).read_bytes().startswith(start)


def test_labels_cannot_close_the_script():
    labels = {"tokens": ["</script>", "<!--"]}
    shown = look(model("local"), ids(2), title="</script><b>", labels=labels)
    page = Page([shown]).html()
    assert page.count("</script>") == 3  # data, and two of ours
    assert "<b>" not in page.split('id="data"')[0]


# --- models of transformers ---------------------------------------------------------------------


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=24, n_layer=2, n_head=3)
    return GPT2LMHeadModel(config).double().eval()


def test_a_model_of_transformers_shows_its_own_matrices():
    m, x = tiny_gpt2(), ids(12)
    how = {"title": "gpt2", "labels": {}, "facts": {}}
    shown = foreign.look(m, {"input_ids": x}, views=Views(), **how)
    m.set_attn_implementation("eager")
    true = m(x, output_attentions=True).attentions
    for layer, one in zip(shown.layers, true, strict=False):
        for head, weights in zip(layer.heads, one[0], strict=True):
            wanted = weights.detach().numpy()
            np.testing.assert_allclose(head.whole, wanted, rtol=1e-12, atol=1e-14)
    assert [layer.title for layer in shown.layers[2:]] == ["rollout", "rollout by gradient"]
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=30, attn_implementation="sdpa",
    )  # fmt: skip
    bert = BertForSequenceClassification(config).eval()
    shown = foreign.look(bert, {"input_ids": x}, views=Views(), **how)
    assert len(shown.layers) == 3
    assert bert.config._attn_implementation == "sdpa"


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"gpt2 writes 2 x 3 matrices of 30 x 30, .*enough for 14 tok"
    ):
        foreign.look(
            tiny_gpt2(), {"input_ids": ids(30)}, title="a", labels={}, facts={},
            views=Views(memory=5000),
        )  # fmt: skip


# --- patterns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "Causal() & (Window(4) | Strided(5))",
        "Window(3, 3) | Marked()",
        "Full() & SameLabel()",
        "PerHead((2, Window(2)), (1, Causal()))",
    ],
)
def test_a_pattern_is_drawn_as_it_allows(text):
    pattern = parse(text)
    shown = gallery(pattern, 30, marks=[0], documents=3)
    cells = allowed(pattern, 30, [0], 3)
    for head, one in zip(shown.layers[0].heads, cells, strict=True):
        np.testing.assert_array_equal(head.whole, one.astype(float))
    pairs = int(cells.sum() / len(cells) + 0.5)
    assert cost(pattern, 30, [0], 3)["pairs"].startswith(f"{pairs:,} of 900")


def test_what_a_pattern_costs():
    told = cost(sq.Causal() & sq.Window(9), 100)
    assert told["pairs"] == "955 of 10,000, 9.55 %"
    assert told["looks back"] == "9 tokens"
    assert told["looks ahead"] == "0 tokens"
    assert "band" in told["computed at 4,096 tokens by"]
    with pytest.raises(ValueError, match="there is no token 9 to mark; they are 0 to 8"):
        gallery(sq.Marked(), 9, marks=[9])
    with pytest.raises(ValueError, match="length 0 must be at least 1"):
        gallery(sq.Full(), 0)


@pytest.mark.parametrize("what", ["Window(3)", "favor", "relu", "elu", "learned", "hashes"])
@pytest.mark.parametrize("causal", [True, False])
def test_parts_of_swapped_models_multiply_by_their_weights(what, causal):
    hashes = Hashes(rounds=2, buckets=(4,), window=3)
    looks = {"hashes": hashes, "Window(3)": Looks("Window(3)", first=True)}
    made = looks.get(what) or Features(what, 24)
    part = made.build(4, 6, 0).double()
    q, k = (torch.randn(2, h, 17, 6, dtype=torch.float64) for h in (4, 2))
    v = torch.randn(2, 2, 17, 6, dtype=torch.float64)
    valid = torch.arange(17) >= torch.tensor([[0], [4]])
    call = Call(0.3, causal, None, valid)
    with torch.no_grad():
        found = part.weights(q, k, call, torch.arange(17)) @ v.repeat_interleave(2, 1)
        out = part(q, k, v, call)[0]
    torch.testing.assert_close(out[:, :, 4:], found[:, :, 4:], rtol=1e-10, atol=1e-10)


def test_a_swapped_model_is_looked_at():
    m, x = tiny_gpt2(), ids(12)
    sq.hf.swap(m, sq.Window(2, 2), layers=[1])
    how = {"title": "gpt2", "labels": {}, "facts": {}}
    shown = foreign.look(m, {"input_ids": x}, views=Views(), **how)
    assert "swapped model has no gradient-weighted view" in shown.facts["no gradient"]
    far, near = (layer.heads[0].whole for layer in shown.layers[:2])
    distance = np.subtract.outer(range(12), range(12))
    assert far[11, 0] > 0
    assert not near[distance > 2].any()
    np.testing.assert_allclose(near.sum(1), 1)
