"""Perceiver IO of krasserm/perceiver-io through the command line: folders as that package saves
them, against its definition written out, and against its own classes where they are installed.

float64 on both sides, so that equal means to rounding.
"""

import json
import math
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import subquad.hf as shell
from subquad.cli import main

WORDS, PLACES, LATENTS, LABELS = 30, 24, 6, 3
HEADS, CROSS, LAYERS, BLOCKS = 4, 2, 2, 2
PICTURE, BANDS = [5, 9, 2], 4


def settings(kind, dims, **changed):
    """config.json of a model; dims: of inputs, latents, queries, and of all keys (or None)."""
    inputs, latent, query, keys = dims
    told = {
        "num_cross_attention_heads": CROSS,
        "num_cross_attention_qk_channels": keys,
        "num_cross_attention_v_channels": keys and latent,
        "cross_attention_widening_factor": 2,
        "dropout": 0.0,
    }
    encoder = told | {
        "num_cross_attention_layers": 1,
        "num_self_attention_heads": HEADS,
        "num_self_attention_qk_channels": keys,
        "num_self_attention_v_channels": keys and latent,
        "num_self_attention_layers_per_block": LAYERS,
        "num_self_attention_blocks": BLOCKS,
        "first_self_attention_block_shared": True,
        "self_attention_widening_factor": 2,
    }
    decoder = told | {
        "num_output_query_channels": query,
        "num_cross_attention_v_channels": keys and (query or inputs),
        "cross_attention_residual": kind != "language",
    }
    if kind == "images":
        encoder |= {"image_shape": PICTURE, "num_frequency_bands": BANDS}
    else:
        encoder |= {"vocab_size": WORDS, "max_seq_len": PLACES, "num_input_channels": inputs}
    if kind == "language":
        decoder |= {"vocab_size": WORDS, "max_seq_len": PLACES}
    else:
        decoder |= {"num_classes": LABELS, "num_output_queries": 1}
    name, kind_of = {
        "language": ("PerceiverMaskedLanguageModel", "masked-language-model"),
        "texts": ("PerceiverTextClassifier", "text-classifier"),
        "images": ("PerceiverImageClassifier", "image-classifier"),
    }[kind]
    encoder |= changed
    model = {"num_latents": LATENTS, "num_latent_channels": latent}
    return {
        "architectures": [name],
        "model_type": f"perceiver-io-{kind_of}",
        "model_config": {"encoder": encoder, "decoder": decoder, **model},
    }


def tensors(config, kind, dims):
    """A state dict in their names, drawn so that every part matters."""
    torch.manual_seed(0)
    inputs, latent, query, keys = dims
    made = {}

    def put(name, *shape):
        made[f"backend_model.{name}"] = torch.randn(*shape, dtype=torch.float64) * 0.3

    def linear(name, out, width):
        put(f"{name}.weight", out, width)
        put(f"{name}.bias", out)

    def norm(name, width):
        put(f"{name}.weight", width)
        put(f"{name}.bias", width)

    def attention(name, q, kv, wide, values):
        for part, (out, width) in {
            "q_proj": (wide, q),
            "k_proj": (wide, kv),
            "v_proj": (values, kv),
            "o_proj": (q, values),
        }.items():
            linear(f"{name}.{part}", out, width)

    def mlp(name, width):
        norm(f"{name}.0", width)
        linear(f"{name}.1", 2 * width, width)
        linear(f"{name}.3", width, 2 * width)

    def cross(name, at, q, kv, wide, values):
        norm(f"{name}.{at}.q_norm", q)
        norm(f"{name}.{at}.kv_norm", kv)
        attention(f"{name}.{at}.attention", q, kv, wide, values)
        mlp(f"{name}.1.module", q)

    asked = query or inputs
    read = (keys, latent) if keys else (inputs, inputs) if kind == "images" else (latent, latent)
    answer = (keys, asked) if keys else (asked, asked)
    put("0.latent_provider._query", LATENTS, latent)
    cross("0.cross_attn_1", "0.module", latent, inputs, *read)
    for i in range(LAYERS):
        at = f"0.self_attn_1.{i}"
        norm(f"{at}.0.module.norm", latent)
        attention(f"{at}.0.module.attention", latent, latent, keys or latent, latent)
        mlp(f"{at}.1.module", latent)
    residual = config["model_config"]["decoder"]["cross_attention_residual"]
    cross("1.cross_attn", "0.module" if residual else "0", asked, latent, *answer)
    put("1.output_query_provider._query", PLACES if kind == "language" else 1, asked)
    if kind == "images":
        put("0.input_adapter.position_encoding.position_encoding", 45, inputs - 2)
    else:
        put("0.input_adapter.txt_embedding.weight", WORDS, inputs)
        put("0.input_adapter.pos_embedding.weight", PLACES, inputs)
    if kind == "language" and query is None:
        put("1.output_adapter.bias", WORDS)
    else:
        linear("1.output_adapter.linear", WORDS if kind == "language" else LABELS, asked)
    return made


class Published:
    """Forward of what the state dict holds."""

    def __init__(self, t, kind):
        self.t = {name.removeprefix("backend_model."): v for name, v in t.items()}
        self.kind = kind

    def linear(self, x, name):
        return F.linear(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def attention(self, x, other, name, heads, pad=None):
        q, k, v = (
            self.linear(y, f"{name}.{p}_proj").unflatten(-1, (heads, -1)).transpose(1, 2)
            for y, p in ((x, "q"), (other, "k"), (other, "v"))
        )
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        if pad is not None:
            scores = scores.masked_fill(pad[:, None, None], -torch.inf)
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.o_proj")

    def mlp(self, x, name):
        y = F.gelu(self.linear(self.norm(x, f"{name}.0"), f"{name}.1"))
        return x + self.linear(y, f"{name}.3")

    def cross(self, x, other, name, pad=None):
        inside = "0.module" if f"{name}.0.module.q_norm.weight" in self.t else "0"
        q, kv = (self.norm(y, f"{name}.{inside}.{of}_norm") for y, of in ((x, "q"), (other, "kv")))
        found = self.attention(q, kv, f"{name}.{inside}.attention", CROSS, pad)
        return self.mlp(x + found if inside == "0.module" else found, f"{name}.1.module")

    def inputs(self, x):
        if self.kind != "images":
            table = self.t["0.input_adapter.txt_embedding.weight"]
            return table[x] + self.t["0.input_adapter.pos_embedding.weight"][: x.shape[1]]
        rows, columns, _ = PICTURE
        places = [torch.linspace(-1, 1, n, dtype=torch.float64) for n in (rows, columns)]
        p = torch.stack(torch.meshgrid(*places, indexing="ij"), -1)
        turns = [
            math.pi * p[..., i : i + 1] * torch.linspace(1, n / 2, BANDS, dtype=torch.float64)
            for i, n in enumerate((rows, columns))
        ]
        features = torch.cat([p, *(a.sin() for a in turns), *(a.cos() for a in turns)], -1)
        return torch.cat([x, features.expand(len(x), -1, -1, -1)], -1).flatten(1, 2)

    def __call__(self, x, pad=None):
        n, memory = x.shape[1], self.inputs(x)
        z = self.t["0.latent_provider._query"].expand(len(x), -1, -1)
        z = self.cross(z, memory, "0.cross_attn_1", pad)
        for i in [*range(LAYERS)] * BLOCKS:
            at = f"0.self_attn_1.{i}"
            y = self.norm(z, f"{at}.0.module.norm")
            z = z + self.attention(y, y, f"{at}.0.module.attention", HEADS)
            z = self.mlp(z, f"{at}.1.module")
        asked = self.t["1.output_query_provider._query"].expand(len(x), -1, -1)
        answer = self.cross(asked, z, "1.cross_attn")
        if "1.output_adapter.bias" in self.t:
            table = self.t["0.input_adapter.txt_embedding.weight"]
            return (answer @ table.T + self.t["1.output_adapter.bias"])[:, :n]
        answer = self.linear(answer, "1.output_adapter.linear")
        return answer[:, :n] if self.kind == "language" else answer[:, 0]


WIDE = 2 + 2 * (1 + 2 * BANDS)
CASES = {
    "language": ("language", (16, 16, None, None)),
    "language-as-deepmind": ("language", (12, 16, None, 8)),
    "language-own-words": ("language", (12, 16, 16, None)),
    "texts": ("texts", (12, 16, 16, None)),
    "images-as-wide-as-read": ("images", (WIDE, 16, 16, None)),
    "images-of-keys": ("images", (WIDE, 16, 8, 8)),
}


def official(config, kind, dims, t):
    """Their classes with these tensors. Skips where the package is not there."""
    core = pytest.importorskip("perceiver.model.core")
    told = config["model_config"]
    only = {k: v for k, v in told["encoder"].items() if k.startswith(("num_cross", "num_self"))}
    only |= {k: v for k, v in told["encoder"].items() if "widening" in k or "shared" in k}
    latent = told["num_latent_channels"]
    inputs, _, query, keys = dims
    if kind == "images":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # meshgrid asks for an argument that they do not give
            encoding = core.FourierPositionEncoding(tuple(PICTURE[:2]), BANDS)

        class Pixels(core.InputAdapter):
            def __init__(self):
                super().__init__(inputs)
                self.position_encoding = encoding

            def forward(self, x):
                return torch.cat([x.flatten(1, 2), self.position_encoding(len(x))], -1)

        adapter = Pixels()
        only["num_cross_attention_qk_channels"] = keys or inputs
    else:
        adapter = core.TokenInputAdapter(WORDS, PLACES, inputs)
    encoder = core.PerceiverEncoder(adapter, LATENTS, latent, **only)
    asked = core.TrainableQueryProvider(PLACES if kind == "language" else 1, query or inputs)
    outputs = WORDS if kind == "language" else LABELS
    final = core.ClassificationOutputAdapter(outputs, query or inputs)
    if kind == "language" and query is None:
        final = core.TiedTokenOutputAdapter(WORDS)
    kept = ("num_cross", "cross_attention")
    fields = {k: v for k, v in told["decoder"].items() if k.startswith(kept)}
    model = core.PerceiverIO(
        encoder, core.PerceiverDecoder(final, asked, latent, **fields)
    ).double()
    bare = {name.removeprefix("backend_model."): v for name, v in t.items()}
    if kind == "images":
        bare["0.input_adapter.position_encoding.position_encoding"] = encoding.position_encoding
    model.load_state_dict(bare)
    tied = {"txt_embedding": adapter.txt_embedding} if "1.output_adapter.bias" in bare else {}
    return lambda x, pad=None: model.decoder(model.encoder(x, pad), **tied)


def save(config, made):
    Path("theirs").mkdir()
    save_file(made, "theirs/model.safetensors", {"format": "pt"})
    Path("theirs/config.json").write_text(json.dumps(config))


def given(kind):
    if kind == "images":
        return {"pixel_values": torch.randn(2, 2, *PICTURE[:2], dtype=torch.float64)}
    ids = torch.randint(3, WORDS, (2, 19))
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(19) < 13 + 6 * ids[:, :1].gt(0)).long(),
    }


def theirs(model, kind, inputs):
    if kind == "images":
        return model(inputs["pixel_values"].permute(0, 2, 3, 1))
    return model(inputs["input_ids"], inputs["attention_mask"] == 0)


@pytest.mark.parametrize("name", CASES)
def test_equal_outputs_and_the_way_back(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, dims = CASES[name]
    config = settings(kind, dims)
    went = tensors(config, kind, dims)
    save(config, went)
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    came = load_file("back/model.safetensors")
    assert came.keys() == went.keys()
    assert all(torch.equal(came[n], went[n]) for n in went)
    assert (
        json.loads(Path("back/config.json").read_text())["model_config"] == config["model_config"]
    )
    (ours,) = json.loads(Path("ours/config.json").read_text())["architectures"]
    ours, inputs = getattr(shell, ours).from_pretrained("ours").eval(), given(kind)
    with torch.no_grad():
        found, wanted = ours(**inputs).logits, theirs(Published(went, kind), kind, inputs)
    found = found[:, : wanted.shape[1]]
    assert wanted.std() > 0.1
    # sines of ours are rounded to float32
    close = {"rtol": 1e-5, "atol": 1e-5} if kind == "images" else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(found, wanted, **close)


@pytest.mark.parametrize("name", CASES)
def test_the_definition_is_theirs(name):
    kind, dims = CASES[name]
    config = settings(kind, dims)
    made, inputs = tensors(config, kind, dims), given(kind)
    with torch.no_grad():
        wanted = theirs(official(config, kind, dims, made), kind, inputs)
        wanted = wanted[:, :19] if kind == "language" else wanted
        found = theirs(Published(made, kind), kind, inputs)
    close = 1e-5 if kind == "images" else 1e-9
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("dims", "changed", "message"),
    [
        ((12, 16, 8, None), {}, "its keys and values are ((16, 16), (16, 16), (8, 8)) wide"),
        ((12, 16, 16, None), {"self_attention_widening_factor": 1}, "factors [1, 2] differ"),
        ((12, 16, 16, None), {"num_cross_attention_layers": 2}, "cross_attention_layers 2, which"),
        (
            (12, 16, 16, None),
            {"num_cross_attention_heads": 4},
            "says 2, where ours has cross",
        ),
    ],
    ids=["widths", "factors", "reads", "heads"],
)
def test_what_is_refused(dims, changed, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = settings("texts", dims, **changed)
    save(config, tensors(config, "texts", dims))
    assert main(["convert", "theirs", "ours"]) == 2
    assert message in capsys.readouterr().err
