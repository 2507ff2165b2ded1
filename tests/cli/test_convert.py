"""subquad convert as a user meets it: folders in, folders out, and one line for what is wrong."""

import argparse
import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers

import subquad.hf  # noqa: F401
from subquad.cli import main

SIZES = {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
SIZES |= {"bos_token_id": 0, "eos_token_id": 1}


@pytest.fixture
def gpt2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = hf.GPT2LMHeadModel(hf.GPT2Config(**SIZES)).eval()
    model.save_pretrained("gpt2")
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\n")
    return tmp_path / "gpt2"


def refused(capsys, *words):
    """The line that was said, and nothing was written."""
    assert main(["convert", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def tensors(folder, change):
    path = folder / "model.safetensors"
    made = load_file(path)
    change(made)
    save_file(made, path, {"format": "pt"})


def test_there_and_back(gpt2, capsys):
    assert main(["convert", "gpt2", "ours"]) == 0
    said = capsys.readouterr().out
    assert "GPT2LMHeadModel to SubquadForCausalLM, 36 tensors" in said
    assert main(["convert", "ours", "back"]) == 0
    assert main(["convert", "ours", "named", "--to", "gpt2"]) == 0
    for name in ("ours", "back"):
        assert (gpt2.parent / name / "merges.txt").read_text() == "#version: 0.2\n"
    ids = torch.arange(20)[None]
    logits = [
        hf.AutoModelForCausalLM.from_pretrained(name)(ids).logits
        for name in ("gpt2", "ours", "back", "named")
    ]
    assert torch.equal(logits[0], logits[2])
    assert torch.equal(logits[0], logits[3])
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-5, atol=1e-5)
    assert sorted(p.name for p in gpt2.parent.iterdir()) == ["back", "gpt2", "named", "ours"]


def test_weights_in_a_torch_file(gpt2):
    torch.save(load_file(gpt2 / "model.safetensors"), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").rename(gpt2.parent / "kept.safetensors")
    assert main(["convert", "gpt2", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    went, came = load_file("kept.safetensors"), load_file("back/model.safetensors")
    assert all(torch.equal(went[k], came[k]) for k in went)


def test_weights_in_shards(gpt2):
    hf.AutoModelForCausalLM.from_pretrained("gpt2").save_pretrained("cut", max_shard_size="20KB")
    assert main(["convert", "cut", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    went, came = load_file(gpt2 / "model.safetensors"), load_file("back/model.safetensors")
    assert all(torch.equal(went[k], came[k]) for k in went)
    next(iter((gpt2.parent / "cut").glob("*-of-*"))).unlink()
    with pytest.raises(ValueError, match=r"names model-0\S+, which is not in cut"):
        main(["convert", "cut", "again", "--debug"])


def no_config(folder):
    (folder / "config.json").unlink()


def no_json(folder):
    (folder / "config.json").write_text("{")


def a_list(folder):
    (folder / "config.json").write_text("[]")


def unknown_family(folder):
    change(folder, model_type="gpt3")


def unknown_head(folder):
    change(folder, architectures=["GPT2ForHaiku"])


def other_scale(folder):
    change(folder, scale_attn_by_inverse_layer_idx=True)


def other_nonlinearity(folder):
    change(folder, activation_function="silu")


def not_read(folder):
    change(folder, n_embd="x")


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def missing(folder):
    def drop(made):
        for name in [n for n in made if ".ln_" in n or ".mlp." in n]:
            del made[name]

    tensors(folder, drop)


def extra(folder):
    tensors(folder, lambda made: made.update({"transformer.h.9.x": torch.ones(1)}))


def another_shape(folder):
    tensors(folder, lambda made: made.update({"transformer.wte.weight": torch.ones(61, 32)}))


def not_tied(folder):
    tensors(folder, lambda made: made.update({"lm_head.weight": torch.ones(60, 32)}))


def indivisible(folder):
    name = "transformer.h.0.attn.c_attn.bias"
    tensors(folder, lambda made: made.update({name: torch.ones(97)}))


def whole_module(folder):
    no_weights(folder)
    torch.save(torch.nn.Linear(2, 2), folder / "pytorch_model.bin")


def no_torch_file(folder):
    no_weights(folder)
    (folder / "pytorch_model.bin").write_bytes(b"hello")


def options_alone(folder):
    no_weights(folder)
    torch.save({"args": argparse.Namespace(a=1)}, folder / "pytorch_model.bin")


def lost_index(folder):
    no_weights(folder)
    (folder / "model.safetensors.index.json").write_text("{}")


BAD = {
    no_config: "gpt2 has no config.json; name the folder of a saved model",
    no_json: "gpt2/config.json is not JSON",
    a_list: "gpt2/config.json holds a list, and settings by name are wanted",
    unknown_family: "no family to convert is called 'gpt3'; did you mean 'gpt2'? known: gpt2, ",
    unknown_head: "GPT2ForHaiku of gpt2 is not known; known: GPT2LMHeadModel, GPT2ForSequenceCla",
    other_scale: "this gpt2 has scale_attn_by_inverse_layer_idx True, which ours does not compute; "
    "it needs False",
    not_read: "the transformers at hand does not read gpt2/config.json: Validation error for field",
    other_nonlinearity: "activation_function: 'silu' is none of 'gelu_new'",
    cut_short: "gpt2/model.safetensors is damaged or cut short",
    no_weights: "gpt2 has neither model.safetensors nor pytorch_model.bin",
    missing: "the tensors are not those of its configuration; 18 missing: h.0.ln_1.bias, ",
    extra: "the tensors are not those of its configuration; 1 unknown: h.9.x",
    another_shape: "model.stem.embedding.weight is (61, 32), and its configuration says (60, 32)",
    not_tied: "lm_head.weight and wte.weight are one in its configuration, and differ here",
    indivisible: "h.0.attn.c_attn.bias: (97,) does not fall into 3 equal parts",
    whole_module: "gpt2/pytorch_model.bin holds a torch.nn.modules.linear.Linear, and reading that "
    "would run its code",
    no_torch_file: "gpt2/pytorch_model.bin is damaged, or no file of torch.save",
    options_alone: "gpt2/pytorch_model.bin holds no tensors by name",
    lost_index: "gpt2/model.safetensors.index.json names no shards",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda f: f.__name__)
def test_bad_sources(spoil, gpt2, capsys):
    spoil(gpt2)
    assert BAD[spoil] in refused(capsys, "gpt2", "ours")
    assert [p.name for p in gpt2.parent.iterdir()] == ["gpt2"]


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("config.json", {"format_version": 9}, "is of format version 9; this library reads 1"),
        ("config.json", {"vocab_size": 61}, "is (60, 32), and its configuration says (61, 32)"),
        ("convert.json", {"family": "gpt3"}, "is called 'gpt3'; did you mean 'gpt2'"),
        ("convert.json", {"file": "../x"}, "names the file '../x', which is no plain name"),
    ],
    ids=["version", "shape", "family", "file"],
)
def test_bad_folders_of_ours(name, fields, message, gpt2, capsys):
    assert main(["convert", "gpt2", "ours"]) == 0
    path = gpt2.parent / "ours" / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    assert message in refused(capsys, "ours", "back")
    assert not (gpt2.parent / "back").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "ours/convert.json is not JSON"),
        ("[]", "ours/convert.json does not say where it came from; remove it, and say --to"),
    ],
    ids=["json", "list"],
)
def test_bad_origins(text, message, gpt2, capsys):
    assert main(["convert", "gpt2", "ours"]) == 0
    (gpt2.parent / "ours" / "convert.json").write_text(text)
    assert message in refused(capsys, "ours", "back")


def test_long_lists_are_cut(gpt2, capsys):
    missing(gpt2)
    said = refused(capsys, "gpt2", "ours")
    assert said.count("h.") == 10
    assert said.endswith(", ...\n")


def test_bad_words(gpt2, capsys):
    assert "there is nothing at away" in refused(capsys, "away", "ours")
    assert "gpt2 is there already" in refused(capsys, "gpt2", "gpt2")
    said = refused(capsys, "gpt2", "ours", "--to", "llama")
    assert "gpt2 is no model of subquad; only those can go to llama" in said
    assert main(["convert", "gpt2", "ours"]) == 0
    said = refused(capsys, "ours", "back", "--to", "barx")
    assert "no family to convert is called 'barx'; did you mean 'bart'" in said
    said = refused(capsys, "ours", "back", "--to", "longformer")
    assert "longformer has no class for SubquadForCausalLM" in said
    said = refused(capsys, "ours", "back", "--to", "llama")
    assert "llama has model.mlp 'swiglu', and this model 'gelu_tanh'" in said


LEARNT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world", "##s", "we", "are", "."]


def bert_words(folder):
    (folder / "vocab.txt").write_text("\n".join(LEARNT) + "\n")


def bert_words_and_settings(folder):
    bert_words(folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def bert_whole(folder):
    bert_words(folder)
    hf.AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in told.items() if k in ("do_lower_case",)}))
    (folder / "vocab.txt").unlink(missing_ok=True)


def gpt2_words(folder):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: i for i, word in enumerate([*letters, "he", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\nh e\n")


def small_bert():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 40, "max_position_embeddings": 64, "vocab_size": len(LEARNT)}
    return hf.BertForMaskedLM(hf.BertConfig(**sizes))


def small_gpt2():
    return hf.GPT2LMHeadModel(hf.GPT2Config(**SIZES | {"vocab_size": 258}))


@pytest.mark.parametrize(
    ("make", "write"),
    [
        (small_bert, bert_words),
        (small_bert, bert_words_and_settings),
        (small_bert, bert_whole),
        (small_gpt2, gpt2_words),
    ],
    ids=["words", "settings", "whole", "merges"],
)
def test_a_tokenizer_that_its_model_names(make, write, tmp_path, monkeypatch):
    """Old files do not say of which class they are; they come back as they were."""
    monkeypatch.chdir(tmp_path)
    make().save_pretrained("theirs")
    write(tmp_path / "theirs")
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    text = "Hello worlds."
    theirs, ours, back = (hf.AutoTokenizer.from_pretrained(n) for n in ("theirs", "ours", "back"))
    assert len(theirs(text).input_ids) > 2
    for one in (ours, back):
        assert type(one) is type(theirs)
        assert one(text).input_ids == theirs(text).input_ids
        assert one.special_tokens_map == theirs.special_tokens_map
    for path in (tmp_path / "theirs").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes()


def test_a_tokenizer_that_cannot_be_read_goes_along(gpt2):
    (gpt2 / "tokenizer.json").write_text("{")
    assert main(["convert", "gpt2", "ours"]) == 0
    assert (gpt2.parent / "ours" / "tokenizer.json").read_text() == "{"
