"""Perceiver AR of krasserm/perceiver-io and of perceiver-ar-pytorch through the command line:
folders as they save them, against their definitions written out, and those against their own
classes where they are installed.

Every output of ours is theirs for the inputs up to it, with the prefix that ends at its anchor.
float64 on both sides, so that equal means to rounding.
"""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import subquad.hf as shell
from subquad.cli import main
from subquad.nn.groups import Groups

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
WORDS, HEADS, LAYERS, DIM = 30, 2, 3, 24


def look(q, k, v, heads, turn=lambda t: t):
    """Causal attention, queries standing at the last keys; `turn` at the positions of all keys."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    n, m = q.shape[2], k.shape[2]
    q, k = turn(F.pad(q, (0, 0, m - n, 0)))[:, :, m - n :], turn(k)
    later = torch.ones(n, m, dtype=torch.bool).triu(m - n + 1)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(later, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def angles(count, width, skip=0):
    """Positions by frequencies: (N, width / 2)."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return (torch.arange(count) + skip)[:, None] * rates


class Published:
    """Forward of what a state dict holds, by its names; `prefix`: how many inputs come before
    latents.
    """

    def __init__(self, t, told):
        self.t, self.told = t, told

    def linear(self, x, name):
        return F.linear(x, self.t[f"{name}.weight"], self.t.get(f"{name}.bias"))

    def norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def mlp(self, x, name, last):
        y = F.gelu(self.linear(self.norm(x, f"{name}.0"), f"{name}.1"))
        return x + self.linear(y, f"{name}.{last}")


class Krasserm(Published):
    """Of perceiver/model/core/modules.py: pairs of channels alternate, in some of the layers."""

    def __init__(self, t, told):
        super().__init__({n.removeprefix("backend_model."): v for n, v in t.items()}, told)
        width = told["num_channels"] // HEADS
        self.width = width // 2 if told["abs_pos_emb"] else width

    def turn(self, t):
        a = angles(t.shape[2], self.width)
        x, y = t[..., 0 : self.width : 2], t[..., 1 : self.width : 2]
        pairs = torch.stack((x * a.cos() - y * a.sin(), y * a.cos() + x * a.sin()), -1)
        return torch.cat((pairs.flatten(-2), t[..., self.width :]), -1)

    def attention(self, x, kv, name, turned=True):
        q, k, v = (self.linear(t, f"{name}.{p}_proj") for t, p in ((x, "q"), (kv, "k"), (kv, "v")))
        found = look(q, k, v, HEADS, *([self.turn] if turned else []))
        return self.linear(found, f"{name}.o_proj")

    def __call__(self, ids, prefix):
        words = self.t["input_adapter.txt_embedding.weight"]
        x = words[ids]
        if self.told["abs_pos_emb"]:
            x = x + self.t["input_adapter.pos_embedding.weight"][: ids.shape[1]]
        before, z = x[:, :prefix], x[:, prefix:]
        at = "cross_attention.0.module"
        q = self.norm(z, f"{at}.q_norm")
        kv = torch.cat((self.norm(before, f"{at}.kv_norm"), q), 1)
        z = self.mlp(z + self.attention(q, kv, f"{at}.attention"), "cross_attention.1.module", 3)
        some = self.told["num_self_attention_rotary_layers"]
        for i in range(self.told["num_self_attention_layers"]):
            y = self.norm(z, f"self_attention.{i}.0.module.norm")
            name = f"self_attention.{i}.0.module.attention"
            z = z + self.attention(y, y, name, i < some or some == -1)
            z = self.mlp(z, f"self_attention.{i}.1.module", 3)
        if self.told["output_norm"]:
            z = self.norm(z, "out_norm")
        return z @ words.T + self.t.get("output_adapter.bias", 0.0)


class Package(Published):
    """Of perceiver_ar_pytorch.py: halves of channels turn, at least 32 of a head; positions of
    latents go on from those of the prefix.
    """

    def turn(self, t, skip=0):
        width = max(32, self.told["dim_head"] // 2)
        a = angles(t.shape[2], width, skip)
        x, y = t[..., : width // 2], t[..., width // 2 : width]
        turned = torch.cat((x * a.cos() - y * a.sin(), y * a.cos() + x * a.sin()), -1)
        return torch.cat((turned, t[..., width:]), -1)

    def __call__(self, ids, prefix):
        x = self.t["token_emb.weight"][ids] + self.t["pos_emb.weight"][: ids.shape[1]]
        before, z = x[:, :prefix], x[:, prefix:]
        name = "perceive_layers.0.0"
        y = self.norm(z, f"{name}.norm")
        kv = torch.cat((self.norm(before, f"{name}.context_norm"), y), 1)
        k, v = self.linear(kv, f"{name}.to_kv").chunk(2, -1)
        found = look(self.linear(y, f"{name}.to_q"), k, v, HEADS, self.turn)
        z = self.mlp(z + self.linear(found, f"{name}.to_out"), "perceive_layers.0.1", 4)
        for i in range(self.told["depth"]):
            y = self.norm(z, f"layers.{i}.0.norm")
            q, k, v = self.linear(y, f"layers.{i}.0.to_qkv").chunk(3, -1)
            found = look(q, k, v, HEADS, lambda t: self.turn(t, prefix))
            z = self.mlp(z + self.linear(found, f"layers.{i}.0.to_out"), f"layers.{i}.1", 4)
        return self.linear(z, "to_logits")


def drawn(shapes):
    """A state dict, drawn so that every part matters."""
    torch.manual_seed(0)
    return {name: torch.randn(shape, dtype=torch.float64) * 0.4 for name, shape in shapes.items()}


def of_norm(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def rates(width):
    return 1.0 / (10000 ** (torch.arange(0, width, 2).float() / width)).double()


def krasserm(kind="language", **changed):
    """config.json and a state dict as that package saves them."""
    name = {
        "language": ("PerceiverCausalLanguageModel", "perceiver-ar-causal-language-model"),
        "music": ("PerceiverSymbolicAudioModel", "perceiver-ar-symbolic-audio-model"),
    }[kind]
    told = {
        "num_heads": HEADS,
        "max_heads_parallel": 1,
        "num_self_attention_layers": LAYERS,
        "num_self_attention_rotary_layers": 1,
        "self_attention_widening_factor": 2,
        "cross_attention_widening_factor": 3,
        "cross_attention_dropout": 0.5,
        "post_attention_dropout": 0.0,
        "residual_dropout": 0.1,
        "activation_checkpointing": False,
        "activation_offloading": False,
        "vocab_size": WORDS,
        "max_seq_len": 40,
        "max_latents": 8,
        "num_channels": DIM,
        "output_norm": False,
        "output_bias": True,
        "abs_pos_emb": True,
        "init_scale": 0.02,
    } | changed
    dim = told["num_channels"]
    shapes = {"input_adapter.txt_embedding.weight": (WORDS, dim)}
    if told["abs_pos_emb"]:
        shapes["input_adapter.pos_embedding.weight"] = (told["max_seq_len"], dim)

    def layer(at, norms, wide):
        for one in norms:
            shapes.update(of_norm(f"{at}.0.module.{one}", dim))
        for part in "qkvo":
            shapes[f"{at}.0.module.attention.{part}_proj.weight"] = (dim, dim)
        shapes.update(of_norm(f"{at}.1.module.0", dim))
        shapes[f"{at}.1.module.1.weight"] = (wide * dim, dim)
        shapes[f"{at}.1.module.3.weight"] = (dim, wide * dim)

    layer("cross_attention", ("q_norm", "kv_norm"), told["cross_attention_widening_factor"])
    shapes["cross_attention.0.module.attention.o_proj.bias"] = (dim,)
    for i in range(told["num_self_attention_layers"]):
        layer(f"self_attention.{i}", ("norm",), told["self_attention_widening_factor"])
    shapes |= of_norm("out_norm", dim) if told["output_norm"] else {}
    shapes |= {"output_adapter.bias": (WORDS,)} if told["output_bias"] else {}
    made = {f"backend_model.{n}": t for n, t in drawn(shapes).items()}
    width = dim // HEADS // (2 if told["abs_pos_emb"] else 1)
    made["backend_model.input_adapter.frq_pos_encoding.inv_freq"] = rates(width)
    config = {"architectures": [name[0]], "model_type": name[1], "is_decoder": True}
    return config | {"model_config": told}, made


def package(prefix="", **changed):
    """config.json with the arguments of the class, and a state dict as torch gives it."""
    told = {
        "num_tokens": WORDS,
        "dim": DIM,
        "depth": LAYERS,
        "max_seq_len": 32,
        "cross_attn_seq_len": 24,
        "dim_head": 32,
        "heads": HEADS,
        "ff_mult": 2,
    } | changed
    dim, inner = told["dim"], HEADS * told["dim_head"]
    shapes = {
        "token_emb.weight": (WORDS, dim),
        "pos_emb.weight": (told["max_seq_len"], dim),
        **of_norm("perceive_layers.0.0.norm", dim),
        **of_norm("perceive_layers.0.0.context_norm", dim),
        "perceive_layers.0.0.to_q.weight": (inner, dim),
        "perceive_layers.0.0.to_kv.weight": (2 * inner, dim),
        "perceive_layers.0.0.to_out.weight": (dim, inner),
        "perceive_layers.0.0.to_out.bias": (dim,),
        "to_logits.weight": (WORDS, dim),
    }
    for i in range(told["depth"]):
        shapes |= of_norm(f"layers.{i}.0.norm", dim)
        shapes[f"layers.{i}.0.to_qkv.weight"] = (3 * inner, dim)
        shapes[f"layers.{i}.0.to_out.weight"] = (dim, inner)
    wide = int(dim * told["ff_mult"])
    for at in ("perceive_layers.0", *(f"layers.{i}" for i in range(told["depth"]))):
        shapes |= of_norm(f"{at}.1.0", dim)
        shapes |= {f"{at}.1.1.weight": (wide, dim), f"{at}.1.4.weight": (dim, wide)}
    made = drawn(shapes)
    made["rotary_pos_emb.inv_freq"] = rates(max(32, told["dim_head"] // 2))
    made = {prefix + name: t for name, t in made.items()}
    return {"model_type": "perceiver-ar-pytorch"} | told, made


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(config, made):
    Path("theirs").mkdir()
    if "model_config" in config:
        save_file(made, "theirs/model.safetensors", {"format": "pt"})
    else:
        torch.save(made, "theirs/pytorch_model.bin")
    Path("theirs/config.json").write_text(json.dumps(config))


def there_and_back(config, made):
    """Ours, from what theirs saves; what comes back is what went, and is so once ours saved it."""
    save(config, made)
    assert main(["convert", "theirs", "ours"]) == 0
    ours = AutoModelForCausalLM.from_pretrained("ours").eval()
    assert isinstance(ours, shell.SubquadForCausalLM)
    for back in ("back", "again"):
        assert main(["convert", "ours", back]) == 0
        came = load_file(f"{back}/model.safetensors")
        assert came.keys() == made.keys()
        assert all(torch.equal(came[n], made[n]) for n in made)
        told = json.loads(Path(f"{back}/config.json").read_text())
        assert told["model_type"] == config["model_type"]
        assert {n: told[n] for n in config if n != "architectures"} == {
            n: v for n, v in config.items() if n != "architectures"
        }
        ours.save_pretrained("ours")
    return ours


def groups(ours):
    found = ours.config.model
    return Groups(found["latents"], found["stride"] or max(1, found["latents"] // 2))


def by_anchors(theirs, ids, anchors):
    """Each output from the inputs up to it, with the prefix of its anchor."""
    outs = [theirs(ids[:, : p + 1], anchors.anchor(p))[:, -1:] for p in range(ids.shape[1])]
    return torch.cat(outs, 1)


@torch.no_grad()
def compare(ours, theirs, length):
    """Logits of every position, and greedy words."""
    ids = torch.randint(WORDS, (2, length))
    found, wanted = ours(ids).logits, by_anchors(theirs, ids, groups(ours))
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, **CLOSE)
    words = ids[:, : length - 13]
    found = ours.generate(words, max_new_tokens=13, do_sample=False)
    for n in range(length - 13, length):
        said = theirs(words, groups(ours).anchor(n - 1))[:, -1:].argmax(-1)
        words = torch.cat((words, said), 1)
    assert torch.equal(found, words)


KRASSERM = {
    "as trained": {},
    "without absolute positions": {"abs_pos_emb": False},
    "all layers turn": {"num_self_attention_rotary_layers": -1},
    "no layer turns": {"num_self_attention_rotary_layers": 0},
    "normed": {"output_norm": True, "output_bias": False},
    "many latents": {"max_latents": 40},
}


@pytest.mark.parametrize("name", KRASSERM)
def test_krasserm(name):
    config, made = krasserm(**KRASSERM[name])
    ours = there_and_back(config, made)
    compare(ours, Krasserm(made, config["model_config"]), 40)


def test_krasserm_symbolic_audio():
    config, made = krasserm("music")
    compare(there_and_back(config, made), Krasserm(made, config["model_config"]), 37)


def test_folders_of_earlier_versions():
    config, made = krasserm(residual_dropout=0.0)
    whole = Krasserm(made, dict(config["model_config"]))
    for name in ("num_self_attention_rotary_layers", "residual_dropout"):
        del config["model_config"][name]
    save(config, made)
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    came = load_file("back/model.safetensors")
    assert all(torch.equal(came[n], made[n]) for n in made)
    compare(AutoModelForCausalLM.from_pretrained("ours").eval(), whole, 40)


def test_a_stride_of_one_has_as_many_latents_everywhere():
    config, made = krasserm()
    there_and_back(config, made)
    settings = shell.SubquadConfig.from_pretrained("ours")
    settings.model["stride"] = 1
    ours = AutoModelForCausalLM.from_pretrained("ours", config=settings).eval()
    theirs, ids = Krasserm(made, config["model_config"]), torch.randint(WORDS, (2, 40))
    with torch.no_grad():
        found = ours(ids).logits
        for n in range(1, 41):
            wanted = theirs(ids[:, :n], max(0, n - 8))[:, -1]
            torch.testing.assert_close(found[:, n - 1], wanted, **CLOSE)


def test_a_crop_in_training_has_one_prefix():
    """As theirs trains: all latents after a prefix of the rest."""
    config, made = krasserm(residual_dropout=0.0, cross_attention_dropout=0.0)
    ours = there_and_back(config, made).train()
    ids = torch.randint(WORDS, (2, 29))
    with torch.no_grad():
        found, wanted = ours(ids).logits, Krasserm(made, config["model_config"])(ids, 21)
    torch.testing.assert_close(found, wanted, **CLOSE)


PACKAGE = {
    "all channels turn": {},
    "half turn": {"dim_head": 64},
    "wider steps": {"max_seq_len": 34},  # 10 positions after 24: a prefix of twice 12
    "no prefix": {"cross_attn_seq_len": 0, "max_seq_len": 26},
    "in the wrapper": {"prefix": "net."},
}


@pytest.mark.parametrize("name", PACKAGE)
def test_package(name):
    config, made = package(**PACKAGE[name])
    ours = there_and_back(config, made)
    bare = {n.removeprefix("net."): t for n, t in made.items()}
    theirs, length = Package(bare, config), config["max_seq_len"]
    compare(ours, theirs, length)
    # all that it says has the one prefix that it has
    prefix, ids = config["cross_attn_seq_len"], torch.randint(WORDS, (2, length))
    assert {groups(ours).anchor(p) for p in range(prefix, length)} == {prefix}
    with torch.no_grad():
        found = ours(ids).logits[:, prefix:]
        torch.testing.assert_close(found, theirs(ids, prefix), **CLOSE)


# --- their own classes --------------------------------------------------------------------------


@pytest.mark.parametrize("name", KRASSERM)
@torch.no_grad()
def test_the_definition_is_krasserms(name):
    core = pytest.importorskip("perceiver.model.core")
    if not hasattr(core, "CausalSequenceModel"):
        pytest.skip("a version of perceiver-io before Perceiver AR")
    config, made = krasserm(**KRASSERM[name])
    told = config["model_config"]
    model = core.CausalSequenceModel(core.CausalSequenceModelConfig.create(**told)).double().eval()
    bare = {n.removeprefix("backend_model."): t for n, t in made.items()}
    model.load_state_dict(bare)
    # frequencies of float32, but these definitions are compared to rounding of float64
    turns = model.input_adapter.frq_pos_encoding
    turns.inv_freq = angles(2, Krasserm(made, told).width)[1]
    ids, theirs = torch.randint(WORDS, (2, 31)), Krasserm(made, told)
    for prefix in (0, 1, 31 - told["max_latents"], 30):
        if 0 <= prefix <= model.max_prefix_len:
            found = model(ids, prefix_len=prefix).logits
            torch.testing.assert_close(theirs(ids, prefix), found, **CLOSE)
    # rows that begin later, padded on the left within the prefix
    if model.max_prefix_len >= 23:
        pad = torch.arange(31) < torch.tensor([[0], [9]])
        found = model(ids, prefix_len=23, pad_mask=pad).logits
        torch.testing.assert_close(theirs(ids[1:, 9:], 14), found[1:], **CLOSE)


@pytest.mark.parametrize("name", PACKAGE)
@torch.no_grad()
def test_the_definition_is_the_packages(name):
    peer = pytest.importorskip("perceiver_ar_pytorch")
    config, made = package(**{n: v for n, v in PACKAGE[name].items() if n != "prefix"})
    told = {n: v for n, v in config.items() if n != "model_type"}
    model, theirs = peer.PerceiverAR(**told).double().eval(), Package(made, config)
    model.load_state_dict(made)
    model.rotary_pos_emb.inv_freq = angles(2, max(32, told["dim_head"] // 2))[1]
    ids = torch.randint(WORDS, (2, told["max_seq_len"]))
    for prefix in (0, 5, told["cross_attn_seq_len"]):
        model.cross_attn_seq_len = prefix
        torch.testing.assert_close(theirs(ids, prefix), model(ids), **CLOSE)


# --- what is refused ----------------------------------------------------------------------------


def refused(config, made, capsys):
    save(config, made)
    assert main(["convert", "theirs", "ours"]) == 2
    assert not Path("ours").exists()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_channels": 20}, "abs_pos_emb True and num_heads 2 it turns 5 of 10 channels"),
        (
            {"num_channels": 10, "abs_pos_emb": False},
            "abs_pos_emb False and num_heads 2 it turns 5 of 5 channels",
        ),
        ({"cross_attention_dropout": 1.0}, "hidden inputs must be at least 0 and below 1, not 1.0"),
    ],
    ids=["half of 10", "all of 5", "nothing left"],
)
def test_krasserm_refused(changed, message, capsys):
    assert message in refused(*krasserm(**changed), capsys)


def test_words_that_are_not_tied(capsys):
    config, made = krasserm()
    said = refused(config | {"tie_word_embeddings": False}, made, capsys)
    assert "has tie_word_embeddings False, which ours does not compute" in said


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"perceive_depth": 2}, "has perceive_depth 2, which ours does not compute; it needs 1"),
        ({"dim_head": 40}, "with dim_head 40 it turns 32 channels of a head, and ours all of 32"),
        ({"dim_head": 66}, "with dim_head 66 it turns 33 channels of a head, and ours all of 32"),
        ({"cross_attn_seq_len": 12}, "cross_attn_seq_len 12 is less than the 20 positions after"),
        ({"cross_attn_seq_len": None}, "its cross_attn_seq_len None must be a number of positions"),
        ({"cross_attn_seq_len": 32}, "cross_attn_seq_len 32 must be a number of positions below"),
        ({"cross_attn_len": 24}, "is called 'cross_attn_len'; did you mean 'cross_attn_seq_len'"),
    ],
    ids=["two reads", "32 of 40", "33 of 66", "short prefix", "unsaid", "all", "misspelt"],
)
def test_package_refused(changed, message, capsys):
    config, made = package()
    assert message in refused(config | changed, made, capsys)


def test_lengths_that_no_table_has(capsys):
    config, made = package()
    long = {"max_seq_len": (1 << 60) + 1, "cross_attn_seq_len": 1 << 60}
    assert "and that at most 1,073,741,824" in refused(config | long, made, capsys)


def test_a_state_dict_alone_does_not_tell_the_prefix(capsys):
    torch.save(package()[1], "model.pt")
    assert main(["convert", "model.pt", "ours"]) == 2
    said = capsys.readouterr().err
    assert "holds a perceiver-ar-pytorch, and its tensors do not tell all its settings" in said


def test_other_anchors_do_not_go_back(capsys):
    there_and_back(*package())
    config = json.loads(Path("ours/config.json").read_text())
    config["model"]["latents"] = 16
    Path("ours/config.json").write_text(json.dumps(config))
    capsys.readouterr()
    assert main(["convert", "ours", "elsewhere"]) == 2
    assert "has model.latents 8 here, and this model 16" in capsys.readouterr().err
