"""Models of packages without a configuration file, through the command line: a folder with their
state dict, and config.json with the arguments that they were made with. Equal outputs, and back.

float64 on both sides, so that equal means to rounding.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import subquad.hf as shell
from subquad.cli import main

CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(model):
    """In float64, weights so large that every part matters."""
    torch.manual_seed(0)
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.4)
    return model.double().eval()


def save(model, kind, **arguments):
    Path("theirs").mkdir()
    torch.save(model.state_dict(), "theirs/pytorch_model.bin")
    told = {"model_type": kind, **arguments}
    Path("theirs/config.json").write_text(json.dumps(told))


def there_and_back(model, kind, **arguments):
    """Ours, from what theirs saves; what comes back is what went."""
    save(model, kind, **arguments)
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    went, came = model.state_dict(), load_file("back/model.safetensors")
    assert went.keys() == came.keys()
    assert all(torch.equal(went[name], came[name]) for name in went)
    (name,) = json.loads(Path("ours/config.json").read_text())["architectures"]
    return getattr(shell, name).from_pretrained("ours").eval()


def refused(capsys, model, kind, **arguments):
    save(model, kind, **arguments)
    assert main(["convert", "theirs", "ours"]) == 2
    assert not Path("ours").exists()
    return capsys.readouterr().err


LINFORMER = {"num_tokens": 60, "dim": 24, "seq_len": 40, "depth": 2, "k": 7, "heads": 4}


@pytest.mark.parametrize("share", [False, True], ids=["apart", "share_kv"])
def test_linformer(share, folder):
    peer = pytest.importorskip("linformer")
    given = LINFORMER | {"share_kv": share}
    model = drawn(peer.LinformerLM(**given))
    ours = there_and_back(model, "linformer", **given)
    for length in (40, 29):
        ids = torch.randint(60, (2, length))
        with torch.no_grad():
            found, wanted = ours(ids).logits, model(ids)
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"one_kv_head": True}, "this linformer has one_kv_head True, which ours does not compute"),
        ({"reversible": True}, "this linformer has reversible True, which ours does not compute"),
        ({"dim_head": 5}, "this linformer has dim_head 5, which ours does not compute"),
    ],
)
def test_linformer_refused(fields, message, folder, capsys):
    peer = pytest.importorskip("linformer")
    given = LINFORMER | fields
    assert message in refused(capsys, peer.LinformerLM(**given), "linformer", **given)


MISSPELT = {
    "linformer": ("num_heads", "heads"),
    "performer-pytorch": ("num_features", "nb_features"),
    "reformer-pytorch": ("n_hash", "n_hashes"),
}


@pytest.mark.parametrize("kind", MISSPELT)
def test_an_argument_that_their_class_does_not_have(kind, folder, capsys):
    """Else its default would be taken without a word."""
    wrong, right = MISSPELT[kind]
    said = refused(capsys, torch.nn.Linear(2, 2), kind, dim=24, **{wrong: 4})
    assert said.count("\n") == 1
    assert f"no argument of {kind} is called {wrong!r}; did you mean {right!r}? known: " in said


def test_a_state_dict_alone_does_not_tell_the_heads(folder, capsys):
    peer = pytest.importorskip("linformer")
    torch.save(peer.LinformerLM(**LINFORMER).state_dict(), "model.pt")
    assert main(["convert", "model.pt", "ours"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "model.pt holds a linformer, and its tensors do not tell all its settings" in said
    assert '{"model_type": "linformer"} and the arguments that it was made with' in said


@pytest.fixture
def performer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of torch and distutils that are going away
        return pytest.importorskip("performer_pytorch")


PERFORMER = {
    "num_tokens": 60,
    "max_seq_len": 40,
    "dim": 32,
    "depth": 2,
    "heads": 4,
    "dim_head": 8,
    "nb_features": 20,
    "generalized_attention": True,
}


@pytest.mark.parametrize(
    "kernel",
    [
        {},
        {"generalized_attention": False},
        {"causal": True},
        {"causal": True, "generalized_attention": False},
    ],
    ids=["relu", "softmax", "causal-relu", "causal-softmax"],
)
@pytest.mark.parametrize(
    "fields",
    [
        {"rotary_position_emb": False},
        {"rotary_position_emb": True},
        {"rotary_position_emb": False, "qkv_bias": True, "attn_out_bias": True},
    ],
    ids=["learned", "rotary", "biases"],
)
def test_performer(fields, kernel, performer, folder):
    given = PERFORMER | fields | kernel
    model = drawn(performer.PerformerLM(**given))
    for layer, _ in model.performer.net.layers:
        attention = layer.fn.fast_attention
        if attention.causal:  # without a GPU theirs asks for a package that is no longer built
            attention.causal_linear_fn = performer.performer_pytorch.causal_linear_attention_noncuda
    ours = there_and_back(model, "performer-pytorch", **given)
    # their sinusoids were formed in float32
    close = {"rtol": 1e-5, "atol": 1e-5} if given["rotary_position_emb"] else CLOSE
    for length in (40, 29):
        ids = torch.randint(60, (2, length))
        with torch.no_grad():
            found, wanted = ours(ids).logits, model(ids)
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, **close)


@pytest.mark.parametrize("causal", [False, True], ids=["both ways", "causal"])
@pytest.mark.parametrize(
    "fields",
    [{"ff_glu": True}, {"tie_embed": True}, {"ff_glu": True, "tie_embed": True}],
    ids=["gated", "tied", "gated and tied"],
)
def test_performer_gated_and_tied(fields, causal, performer, folder):
    given = PERFORMER | {"rotary_position_emb": False, "causal": causal} | fields
    model = drawn(performer.PerformerLM(**given, feature_redraw_interval=500, attn_dropout=0.1))
    if causal:
        for layer, _ in model.performer.net.layers:
            attention = layer.fn.fast_attention
            attention.causal_linear_fn = performer.performer_pytorch.causal_linear_attention_noncuda
    told = {**given, "feature_redraw_interval": 500, "attn_dropout": 0.1}
    ours = there_and_back(model, "performer-pytorch", **told)
    ids = torch.randint(60, (2, 29))
    with torch.no_grad():
        found, wanted = ours(ids).logits, model(ids)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"reversible": True}, "has reversible True, which ours does not compute"),
        ({"dim_head": 16}, "has 4 heads of width 16 in a model of width 32, and ours divides"),
    ],
)
def test_performer_refused(fields, message, performer, folder, capsys):
    given = PERFORMER | fields
    model = performer.PerformerLM(**given)
    capsys.readouterr()
    assert message in refused(capsys, model, "performer-pytorch", **given)


@pytest.mark.parametrize("generalized", [True, False], ids=["relu", "softmax"])
def test_a_causal_performer_generates(generalized, performer, folder):
    given = PERFORMER | {"causal": True, "generalized_attention": generalized}
    model = performer.PerformerLM(**given)
    ours = there_and_back(model.eval(), "performer-pytorch", **given)
    assert isinstance(ours, shell.SubquadForCausalLM)
    ids, how = torch.randint(60, (2, 9)), {"max_new_tokens": 4, "do_sample": False}
    if generalized:  # its state is a sum
        cached = ours.generate(ids, **how)
    else:
        says = "OffsetKernelAttention looks back alone, but how .* use_cache=False of generate"
        with pytest.raises(ValueError, match=says):
            ours.generate(ids, **how)
    found = ours.generate(ids, use_cache=False, **how)
    wanted = ids
    for _ in range(4):
        wanted = torch.cat((wanted, ours(wanted).logits[:, -1:].argmax(-1)), 1)
    assert torch.equal(found, wanted)
    if generalized:
        assert torch.equal(cached, wanted)


def test_ours_as_theirs(folder, capsys):
    """A model that never was theirs goes there if all of it can be said, and is the same there."""
    peer = pytest.importorskip("linformer")
    fields = {"dim": 24, "num_layers": 2, "num_heads": 4, "ffn_dim": 96, "max_len": 40}
    fields |= {"ranks": [7], "sharing": "headwise", "position": "none", "wiring": "pre_open"}
    stem, head = {"position": "learned", "max_len": 40}, {"kind": "tokens", "bias": True}
    told = {"vocab_size": 60, "stem": stem, "head": head, "tie_word_embeddings": False}
    for name, ffn_dim in (("ours", 96), ("narrow", 48)):
        model = {**fields, "ffn_dim": ffn_dim, "dropout": 0.0}
        made = shell.SubquadConfig(arch="linformer", model=model, **told)
        ours = shell.SubquadForMaskedLM(made)
        for name_of, p in ours.named_parameters():
            inside = name_of.split(".")[-2:]
            if inside[1] == "bias" and inside[0] in ("query", "key", "value"):
                torch.nn.init.zeros_(p)
        ours.save_pretrained(name)
    assert main(["convert", "ours", "theirs", "--to", "linformer"]) == 0
    model = peer.LinformerLM(**LINFORMER)
    model.load_state_dict(load_file("theirs/model.safetensors"))
    ours, ids = shell.SubquadForMaskedLM.from_pretrained("ours").eval(), torch.randint(60, (2, 33))
    torch.testing.assert_close(ours(ids).logits, model.eval()(ids), rtol=1e-4, atol=1e-5)
    capsys.readouterr()
    assert main(["convert", "narrow", "again", "--to", "linformer"]) == 2
    assert "linformer has model.ffn_dim 96 here, and this model 48" in capsys.readouterr().err
    assert main(["convert", "ours", "again", "--to", "lite-transformer"]) == 2
    assert "did not come from lite-transformer, whose settings it does" in capsys.readouterr().err
