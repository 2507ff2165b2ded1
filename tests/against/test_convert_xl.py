"""Transformer-XL through the converter, against the published definition written out.

The classes are gone from transformers and were never on the package index; the names are those of
their files. float64, so that equal means to rounding.
"""

import argparse
import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, pipeline

from subquad.cli import main
from subquad.convert.transfo_xl import DEFAULTS
from subquad.hf import SubquadForCausalLM

WORDS, DIM, HEADS, WIDTH, HIDDEN, LAYERS, LENGTH = 60, 32, 4, 6, 48, 2, 21
SIZES = {
    "vocab_size": WORDS,
    "d_model": DIM,
    "d_embed": DIM,
    "n_head": HEADS,
    "d_head": WIDTH,
    "d_inner": HIDDEN,
    "n_layer": LAYERS,
    "model_type": "transfo-xl",
    "architectures": ["TransfoXLLMHeadModel"],
}


def config(**fields):
    return {**DEFAULTS, **SIZES, **fields}


def tensors(c, prefix):
    """A state dict in their names, with the second names of what is tied."""
    torch.manual_seed(0)
    made = {}
    edges = [0, *c["cutoffs"], WORDS]
    sizes = [b - a for a, b in itertools.pairwise(edges)]

    def put(name, *shape):
        made[name] = torch.randn(*shape, dtype=torch.float64) * 0.3 + float(len(shape) == 1)

    tables = [WORDS] if c["div_val"] == 1 else sizes
    for i, rows in enumerate(tables):
        width = DIM // c["div_val"] ** i
        put(f"{prefix}word_emb.emb_layers.{i}.weight", rows, width)
        made[f"crit.out_layers.{i}.weight"] = made[f"{prefix}word_emb.emb_layers.{i}.weight"]
        put(f"crit.out_layers.{i}.bias", rows)
        if c["div_val"] > 1:
            put(f"{prefix}word_emb.emb_projs.{i}", DIM, width)
            made[f"crit.out_projs.{i}"] = made[f"{prefix}word_emb.emb_projs.{i}"]
            if i == 0:
                put("crit.out_projs.0", DIM, width)
    if c["cutoffs"]:
        put("crit.cluster_weight", len(c["cutoffs"]), DIM)
        put("crit.cluster_bias", len(c["cutoffs"]))
    for i in range(LAYERS):
        at = f"{prefix}layers.{i}"
        put(f"{at}.dec_attn.qkv_net.weight", 3 * HEADS * WIDTH, DIM)
        put(f"{at}.dec_attn.r_net.weight", HEADS * WIDTH, DIM)
        put(f"{at}.dec_attn.o_net.weight", DIM, HEADS * WIDTH)
        put(f"{at}.pos_ff.CoreNet.0.weight", HIDDEN, DIM)
        put(f"{at}.pos_ff.CoreNet.0.bias", HIDDEN)
        put(f"{at}.pos_ff.CoreNet.3.weight", DIM, HIDDEN)
        put(f"{at}.pos_ff.CoreNet.3.bias", DIM)
        for norm in ("dec_attn", "pos_ff"):
            put(f"{at}.{norm}.layer_norm.weight", DIM)
            put(f"{at}.{norm}.layer_norm.bias", DIM)
        if c["untie_r"]:
            put(f"{at}.dec_attn.r_w_bias", HEADS, WIDTH)
            put(f"{at}.dec_attn.r_r_bias", HEADS, WIDTH)
    if not c["untie_r"]:
        put(f"{prefix}r_w_bias", HEADS, WIDTH)
        put(f"{prefix}r_r_bias", HEADS, WIDTH)
    made[f"{prefix}pos_emb.inv_freq"] = 1 / 10000 ** (torch.arange(0, DIM, 2).double() / DIM)
    return made


def published(t, c, ids, reverse):
    """Log-probabilities (N, V) of all words after each of the tokens (N,)."""
    n, edges = len(ids), [0, *c["cutoffs"], WORDS]
    clusters = list(itertools.pairwise(edges))

    def table(name, i):
        a, b = clusters[i]
        return t[f"{name}.0"][a:b] if c["div_val"] == 1 else t[f"{name}.{i}"]

    words = {k.removesuffix(".weight"): v for k, v in t.items()}
    t = {**t, **words}
    x = torch.zeros(n, DIM, dtype=torch.float64)
    for i, (a, b) in enumerate(clusters):
        inside = (ids >= a) & (ids < b)
        found = table("word_emb.emb_layers", i)[ids[inside] - a]
        x[inside] = found @ t[f"word_emb.emb_projs.{i}"].T if c["div_val"] > 1 else found
    x = x * DIM**0.5
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    seen = j <= i
    if c["same_length"]:  # the query is one of them
        seen &= i - j < c["mem_len"]
    else:
        seen &= j >= i // c["tgt_len"] * c["tgt_len"] - c["mem_len"]
    far = (i - j).clamp(0, c["clamp_len"] if c["clamp_len"] > 0 else n).double()
    angle = far[..., None] * t["pos_emb.inv_freq"]
    places = torch.cat([angle.sin(), angle.cos()], -1)
    for layer in range(LAYERS):
        own = {k.removeprefix(f"layers.{layer}."): v for k, v in t.items()}
        q, k, v = (
            one.view(n, HEADS, WIDTH) for one in (x @ own["dec_attn.qkv_net.weight"].T).chunk(3, -1)
        )
        r = (places @ own["dec_attn.r_net.weight"].T).view(n, n, HEADS, WIDTH)
        u, w = (own[f"dec_attn.{b}" if c["untie_r"] else b] for b in ("r_w_bias", "r_r_bias"))
        score = torch.einsum("ihd,jhd->hij", q + u, k) + torch.einsum("ihd,ijhd->hij", q + w, r)
        score = (score / WIDTH**0.5).masked_fill(~seen, float("-inf")).softmax(-1)
        y = torch.einsum("hij,jhd->ihd", score, v).flatten(1) @ own["dec_attn.o_net.weight"].T
        x = norm(x + y, own, "dec_attn")
        y = F.relu(F.linear(x, own["pos_ff.CoreNet.0.weight"], own["pos_ff.CoreNet.0.bias"]))
        y = F.linear(y, own["pos_ff.CoreNet.3.weight"], own["pos_ff.CoreNet.3.bias"])
        x = norm(x + y, own, "pos_ff")

    def narrow(i):
        return x @ t[f"crit.out_projs.{i}"] if c["div_val"] > 1 else x

    def bias(i):
        a, b = clusters[i]
        return (
            t["crit.out_layers.0.bias"][a:b]
            if c["div_val"] == 1
            else t[f"crit.out_layers.{i}.bias"]
        )

    first = narrow(0) @ table("word_emb.emb_layers", 0).T + bias(0)
    if c["cutoffs"]:
        others = F.linear(narrow(0), t["crit.cluster_weight"], t["crit.cluster_bias"])
        first = torch.cat([first, others], -1)
    first = first.log_softmax(-1)
    parts = [first[:, : clusters[0][1]]]
    for i in range(1, len(clusters)):
        tail = (narrow(i) @ table("word_emb.emb_layers", i).T + bias(i)).log_softmax(-1)
        column = -i if reverse else clusters[0][1] + i - 1
        parts.append(first[:, column, None] + tail)
    return torch.cat(parts, -1)


def norm(x, own, part):
    named = own[f"{part}.layer_norm.weight"], own[f"{part}.layer_norm.bias"]
    return F.layer_norm(x, (DIM,), *named, 1e-5)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compare(t, c, reverse):
    model = SubquadForCausalLM.from_pretrained("ours").eval()
    assert model.dtype == torch.float64
    ids = torch.randint(WORDS, (2, LENGTH))
    wanted = torch.stack([published(t, c, row, reverse) for row in ids])
    found = model(ids).logits
    # sinusoids of ours are float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert wanted.std() > 1
    mine = model.generate(ids, max_new_tokens=9, do_sample=False, eos_token_id=None)
    for row in mine:
        for end in range(LENGTH, LENGTH + 9):
            assert row[end] == published(t, c, row[:end], reverse)[-1].argmax()


CUT = {"cutoffs": [20, 33, 50], "div_val": 2}
FAR = {"mem_len": 9, "clamp_len": 4}
KINDS = {
    "clusters": {**CUT, **FAR},
    "one-table": {"cutoffs": [20, 33], "div_val": 1, **FAR},
    "no-clusters": {"cutoffs": [], "div_val": 1, **FAR},
    "segments": {**CUT, "same_length": False, "mem_len": 5, "tgt_len": 7, "clamp_len": -1},
    "shared": {**CUT, **FAR, "untie_r": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("torch_file", [False, True], ids=["safetensors", "bin"])
def test_of_transformers(kind, torch_file, tmp_path):
    c = config(**KINDS[kind])
    went = tensors(c, "transformer.")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(c))
    if torch_file:
        torch.save(went, folder / "pytorch_model.bin")
    else:
        save_file({k: v.clone() for k, v in went.items()}, folder / "model.safetensors")
    assert main(["convert", "theirs", "ours"]) == 0
    compare({k.removeprefix("transformer."): v for k, v in went.items()}, c, reverse=False)
    assert main(["convert", "ours", "back"]) == 0
    came = load_file("back/model.safetensors")
    assert came.keys() == went.keys()
    assert all(torch.equal(came[k], went[k]) for k in went)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == c


@pytest.mark.parametrize("kind", ["clusters", "no-clusters"])
def test_of_the_original(kind):
    """A state dict tells no memory: it is that of the release's evaluation."""
    c = config(**{**KINDS[kind], "untie_r": False})
    went = tensors(c, "")
    torch.save(went, "model.pt")
    Path("vocab.txt").write_text(FORMS["vocab.txt"])
    assert main(["convert", "model.pt", "ours"]) == 0
    assert AutoTokenizer.from_pretrained("ours")("w3 the")["input_ids"] == [9, 2]
    compare(went, c | {k: DEFAULTS[k] for k in ("mem_len", "clamp_len", "same_length")}, True)
    assert main(["convert", "ours", "back"]) == 0
    came = torch.load("back/model.pt", weights_only=True)
    assert came.keys() == went.keys()
    assert all(torch.equal(came[k], went[k]) for k in went)


def refused(capsys, *words):
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_bad_files(capsys, tmp_path):
    c = config(cutoffs=[20, 33], div_val=1, untie_r=False)
    went = tensors(c, "")
    torch.save(went, "one.pt")
    assert "a vocabulary of 60 in one table does not tell where its 3 clusters begin" in refused(
        capsys, "one.pt", "ours"
    )
    torch.save(torch.nn.Linear(2, 2), "module.pt")
    assert "module.pt holds a torch.nn.modules.linear.Linear, and reading that" in refused(
        capsys, "module.pt", "ours"
    )
    torch.save({"model": {"w": torch.ones(1)}, "args": argparse.Namespace(a=1)}, "other.pt")
    said = refused(capsys, "other.pt", "ours")
    assert "tensors of no family that is known from its names (transformer-xl" in said
    assert "its first are w" in said
    torch.save([1, 2], "list.pt")
    assert "list.pt holds no tensors by name" in refused(capsys, "list.pt", "ours")
    said = refused(capsys, "one.pt", "ours", "--to", "llama")
    assert "one.pt is no model of subquad; only those can go to llama" in said
    assert not (tmp_path / "ours").exists()


LIST = ["<eos>", "<unk>", "the", "cat", ",", "@-@", *(f"w{i}" for i in range(WORDS - 6))]
FORMS = {
    "vocab.json": json.dumps({word: i for i, word in enumerate(LIST)}),
    "vocab.txt": "\n".join(f"{word} {9 * i}" for i, word in enumerate(LIST)) + "\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_words_become_a_tokenizer(name, capsys):
    """Text in, text out; on the way back go the words alone, as they came."""
    c = config(**CUT, **FAR)
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(json.dumps(c))
    save_file({k: t.clone() for k, t in tensors(c, "").items()}, "theirs/model.safetensors")
    Path("theirs", name).write_text(FORMS[name])
    assert main(["convert", "theirs", "ours"]) == 0
    said = capsys.readouterr().out
    assert f"; tokenizer made of {name}: words between white space\n" in said
    words = AutoTokenizer.from_pretrained("ours")
    assert words.get_vocab() == {word: i for i, word in enumerate(LIST)}
    assert (words.eos_token_id, words.unk_token_id) == (0, 1)
    ids = words("the cat , w3  @-@ dog <eos>\nthe")["input_ids"]
    assert ids == [2, 3, 4, 9, 5, 1, 0, 2]
    assert words.decode(ids) == "the cat , w3 @-@ <unk> <eos> the"
    write = pipeline("text-generation", model="ours", device="cpu")
    how = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    (made,) = write("the cat", return_full_text=False, **how)
    found = made["generated_text"].split()
    assert len(found) == 4
    assert {*found} <= {*LIST}

    assert main(["convert", "ours", "back"]) == 0
    came = sorted(path.name for path in Path("back").iterdir())
    assert came == sorted(["config.json", "model.safetensors", name])
    assert Path("back", name).read_bytes() == Path("theirs", name).read_bytes()


def test_what_another_tokenizer_told_goes_back_alone():
    """It named a word that the model has not, and a class that is gone."""
    c = config(**CUT, **FAR)
    Path("theirs").mkdir()
    told = {
        "config.json": c,
        "tokenizer_config.json": {"tokenizer_class": "TransfoXLTokenizer", "eos_token": "<eos>"},
        "special_tokens_map.json": {"additional_special_tokens": ["<formula>"]},
    }
    for name, one in told.items():
        Path("theirs", name).write_text(json.dumps(one))
    Path("theirs/vocab.json").write_text(FORMS["vocab.json"])
    save_file({k: t.clone() for k, t in tensors(c, "").items()}, "theirs/model.safetensors")
    assert main(["convert", "theirs", "ours"]) == 0
    words = AutoTokenizer.from_pretrained("ours")
    assert len(words) == WORDS
    assert words("the <formula>")["input_ids"] == [2, 1]
    assert main(["convert", "ours", "back"]) == 0
    came = sorted(path.name for path in Path("back").iterdir())
    assert came == sorted([*told, "model.safetensors", "vocab.json"])
    for name in came[1:]:
        if name.endswith(".json"):
            assert Path("back", name).read_bytes() == Path("theirs", name).read_bytes()
