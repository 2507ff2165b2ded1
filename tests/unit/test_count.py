"""`subquad bench --count`: parameters and multiply-adds against closed forms; the command."""

import json

import pytest
import torch

from subquad.archs import ARCHS, PAIRS, pair_parts
from subquad.bench.count import Cost, count, table
from subquad.cli import main
from subquad.model import Model, build
from subquad.pair import build as build_pair

DIM, HEADS, HIDDEN, LAYERS, WORDS = 32, 4, 48, 3, 50
SIZES = {"dim": DIM, "num_heads": HEADS, "ffn_dim": HIDDEN, "num_layers": LAYERS}


def made(arch, **fields):
    return lambda: build(arch, {**SIZES, **fields}, vocab_size=WORDS)


def linear(inside, outside, tokens=0):
    """A linear map with a bias."""
    return Cost(inside * outside + outside, tokens * inside * outside)


def times(number, cost):
    return Cost(number * cost.parameters, number * cost.multiply_adds)


def norms(number, dim=DIM):
    return Cost(2 * dim * number)


def triangle(n):
    return n * (n + 1) // 2


def mlp(n, dim=DIM, hidden=HIDDEN):
    return linear(dim, hidden, n) + linear(hidden, dim, n)


@pytest.mark.parametrize("n", [1, 300])
def test_a_transformer(n):
    for causal in (True, False):
        found = count(made("transformer", causal=causal), n)
        pairs = triangle(n) if causal else n * n
        layer = times(4, linear(DIM, DIM, n)) + Cost(0, 2 * pairs * DIM) + mlp(n) + norms(2)
        assert found.layers == times(LAYERS, layer) + norms(1)
        assert found.parts["stem"] == Cost(WORDS * DIM)
        assert found.parts["head"] == Cost(0, n * DIM * WORDS)  # shares its words with the stem
        assert found.total.multiply_adds == found.layers.multiply_adds + n * DIM * WORDS


@pytest.mark.parametrize(("conv", "glu"), [("light", False), ("light", True), ("dynamic", True)])
def test_a_lite_transformer(conv, glu):
    n, half, kernels, heads = 40, DIM // 2, (3, 6, 7), 2
    fields = {"num_heads": heads, "conv": conv, "glu": glu, "kernels": list(kernels)}
    found = count(made("lite_transformer", **fields), n)
    whole = Cost()
    for k in kernels:
        attention = times(4, linear(half, half, n)) + Cost(0, 2 * triangle(n) * half)
        maps = linear(half, 2 * half if glu else half, n) + linear(half, half, n)
        if conv == "light":
            own = Cost(heads * k, n * k * half)
        else:  # by tiles of a kernel, 2 K - 1 products for K
            tiles = -(-n // k) * k * (2 * k - 1) * half
            own = Cost(half * heads * k, n * half * heads * k + tiles)
        whole += attention + maps + own + mlp(n) + norms(2)
    assert found.layers == whole


@pytest.mark.parametrize("n", [3, 30, 100_000])
def test_a_window(n):
    found = count(made("local", window=8), n)
    pairs = triangle(n) - triangle(max(n - 9, 0))
    layer = times(4, linear(DIM, DIM, n)) + Cost(0, 2 * pairs * DIM)
    assert found.layers == times(LAYERS, layer + mlp(n) + norms(2)) + norms(1)


def test_features_cost_alike_for_every_token():
    layers, n = {}, 10_000
    for tokens in (n, 2 * n):
        layers[tokens] = count(made("performer", features=16), tokens).layers.multiply_adds
    # but for the last chunk of the loop, which may be begun
    assert 1.99 < layers[2 * n] / layers[n] < 2.01


#: parameters and multiply-adds in millions, as the paper prints them
PUBLISHED = {
    "iwslt-160": (2.8, 54),
    "iwslt-240": (5.4, 119),
    "iwslt-320": (8.9, 209),
    "wmt-200": (None, 90),
    "wmt-408": (None, 360),
    "wmt-496": (None, 527),
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_sizes_of_lite_transformer_are_the_published_ones(preset):
    """With one table of 6,632 words, German to English; at 30 tokens, without logits."""
    parts = pair_parts("lite_pair", vars(PAIRS["lite_pair"].PRESETS[preset]))
    found = count(lambda: build_pair(**parts, vocab_size=6632), 30, 30)
    parameters, multiply_adds = PUBLISHED[preset]
    if parameters is not None:
        assert round(found.total.parameters / 1e6, 1) == parameters
    assert found.layers.multiply_adds / 1e6 == pytest.approx(multiply_adds, rel=0.01)


def test_a_pair_by_its_closed_form():
    n, m = 21, 9
    fields = {"dim": DIM, "num_heads": HEADS, "ffn_dim": HIDDEN}
    sides = {"encoder_layers": 2, "decoder_layers": 1}
    parts = pair_parts("encoder_decoder", {**fields, **sides})
    found = count(lambda: build_pair(**parts, vocab_size=WORDS), n, m)
    looks = times(4, linear(DIM, DIM, n)) + Cost(0, 2 * n * n * DIM)
    assert found.parts["encoder layers"] == times(2, looks + mlp(n) + norms(2)) + norms(1)
    own = times(4, linear(DIM, DIM, m)) + Cost(0, 2 * triangle(m) * DIM)
    cross = times(2, linear(DIM, DIM, m)) + times(2, linear(DIM, DIM, n))
    cross += Cost(0, 2 * n * m * DIM)
    assert found.parts["decoder layers"] == own + cross + mlp(m) + norms(4)
    assert found.parts["encoder stem"] == Cost(WORDS * DIM)
    assert found.parts["decoder stem"] == Cost()  # the encoder's words
    assert found.parts["decoder head"] == Cost(0, m * DIM * WORDS)


def test_what_depends_on_what_is_read_is_run():
    fields = {**vars(ARCHS["reformer"].PRESETS["tiny"])}
    found = count(lambda: build("reformer", fields, vocab_size=WORDS), 100)
    assert found.layers.multiply_adds > 0
    plain = sum(
        p.numel() for p in build("reformer", fields, vocab_size=WORDS).backbone.parameters()
    )
    assert found.layers.parameters == plain


def test_pictures_and_frames():
    pictures = {"kind": "patches", "image_size": [8, 8], "patch": 4, "channels": 3}
    tiny, head = vars(ARCHS["vit"].PRESETS["tiny"]), {"kind": "labels", "num_labels": 2}
    found = count(lambda: build("vit", tiny, vocab_size=1, stem=pictures, head=head), 31)
    patches = found.parts["stem"].multiply_adds / (4 * 4 * 3 * tiny["dim"])
    assert patches in (30, 31)  # with a class token or without
    tiny, frames = vars(ARCHS["conformer"].PRESETS["tiny"]), {"kind": "frames", "bands": 16}
    head = {"kind": "none"}
    found = count(lambda: build("conformer", tiny, vocab_size=1, stem=frames, head=head), 103)
    # 51 x 7 and 25 x 3 places, each of a filter's 9 taps; then 25 tokens of 3 bands
    d = tiny["dim"]
    wanted = 51 * 7 * 9 * d + 25 * 3 * 9 * d * d + 25 * 3 * d * d
    assert found.parts["stem"].multiply_adds == wanted


def test_by_command(capsys):
    words = ["bench", "--count", "--arch", "transformer", "--preset", "tiny", "--words", "50"]
    assert main([*words, "--length", "30", "--arch.num_layers", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    tiny = vars(ARCHS["transformer"].PRESETS["tiny"])
    wanted = count(lambda: build("transformer", {**tiny, "num_layers": 3}, vocab_size=50), 30)
    assert said == json.loads(json.dumps(wanted.facts()))
    assert said["multiply_adds"] == wanted.total.multiply_adds
    assert main([*words, "--length", "30"]) == 0
    text = capsys.readouterr().out.rstrip("\n")
    assert text == table(count(lambda: build("transformer", tiny, vocab_size=50), 30))
    assert "one row of 30 tokens" in text


def refused(capsys, *words):
    assert main(["bench", *words]) == 2
    return capsys.readouterr().err


def test_what_is_refused(capsys):
    some = ["--arch", "local", "--preset", "tiny"]
    assert "say what is to be measured: --count" in refused(capsys, *some, "--length", "3")
    assert "say at which length: --length N" in refused(capsys, "--count", *some)
    for words in ((), ("runs/x", *some)):
        said = refused(capsys, "--count", *words, "--length", "3")
        assert "either a run folder or --arch NAME" in said
    assert "there is no run folder" in refused(capsys, "--count", "runs/x", "--length", "3")
    assert "did you mean 'local'" in refused(capsys, "--count", "--arch", "locl", "--length", "3")
    said = refused(capsys, "--count", *some, "--length", "3", "--arch.windw", "3")
    assert "did you mean --arch.window" in said
    said = refused(capsys, "--count", *some, "--length", "3", "--target-length", "4")
    assert "a target of 4 tokens is for an encoder with a decoder alone" in said
    assert "-3 tokens cannot be: a length is at least 0" in refused(
        capsys, "--count", *some, "--length", "-3"
    )
    with pytest.raises(ValueError, match="Linear is neither a model nor an encoder with a decoder"):
        count(lambda: torch.nn.Linear(2, 2), 3)
    nothing = Model(torch.nn.Identity(), torch.nn.Identity())
    with pytest.raises(ValueError, match="tokens, frames or patches are read, and Identity reads"):
        count(lambda: nothing, 3)
