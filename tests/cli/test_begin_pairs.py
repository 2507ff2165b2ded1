"""Tasks over pairs, begun from a run or from a converted checkpoint: --init-from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LEDConfig,
    LEDForConditionalGeneration,
)

import subquad as sq
from converting import converted
from subquad.cli import main
from subquad.tasks.summarize import Summarize, SummarizeConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.slow,
]

QUICK = ["--train.batch", "4", "--train.reports", "1", "--task.valid_rows", "4"]
STILL = ["--train.lr", "1e-9", "--train.steps", "2"]
FRESH_LATER = ("steps", "best_step", "tokens", "seconds", "stopped_by", "numbers", "protocol")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    assert code == 0 or out.err.count("\n") == 1, out.err
    return out.out if code == 0 else out.err


def stories(path):
    names = ("Ann", "Bob", "Cid", "Dot", "Eve")
    pairs = ((f"{n} went to the sea {i} times", f"{n}: sea {i}") for i in range(12) for n in names)
    return table(path, "summary", pairs)


def languages(path):
    pairs = ((f"one cat and {i} dogs", f"ein {i} kat na dok") for i in range(60))
    return table(path, "translation", pairs)


def table(path, field, pairs):
    rows = (json.dumps({"text": text, field: other}) for text, other in pairs)
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def bars(path):
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    caption = np.array(["a bar that stands", "a bar that lies"])[np.arange(60) % 2]
    np.savez(path, images=images, caption=caption)
    return str(path)


def facts(name):
    return json.loads((Path(name) / "run.json").read_text())


def configs(*names):
    return [json.loads((Path(n) / "config.json").read_text()) for n in names]


def weights(*names):
    return [load_file(Path(n) / "model.safetensors") for n in names]


def near(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


CASES = {
    "summarize": (stories, "s.jsonl", ["--arch", "led", "--task.tokenizer", "bpe:300"]),
    "translate": (
        languages,
        "t.jsonl",
        ["--arch", "lite_pair", "--task.tokenizer", "bpe:300", "--task.joint", "false"],
    ),
    "caption": (bars, "c.npz", ["--arch", "encoder_decoder", "--task.patch", "2"]),
    "match": (bars, "c.npz", ["--arch", "encoder_decoder", "--task.patch", "2"]),
}
SMALLER = {"caption": ["--task.tokenizer", "bytes"], "match": ["--task.tokenizer", "bytes"]}


@pytest.mark.parametrize("task", CASES)
def test_a_run_of_the_same_task(task, tmp_path, capsys):
    make, name, how = CASES[task]
    data = ["--data", make(tmp_path / name), *QUICK]
    how = [*how, *SMALLER.get(task, [])]
    words = ["train", task, "--preset", "tiny", *how, *data, "--train.steps", "2"]
    said(capsys, *words, "--out", "first")
    # none of how, and positions that are not the default's: all comes from the folder
    begin = ["train", task, "--init-from", "first", *data, "--out", "second"]
    said(capsys, *begin, *STILL)
    first, second = configs("first", "second")
    for part in ("arch", "model", "stem", "head", "encoder", "cross", "vocab_size"):
        assert first[part] == second[part], part
    assert facts("second")["arch"] == facts("first")["arch"] == how[1]
    assert facts("second")["model"] == facts("first")["model"]
    assert facts("second")["fresh"] == []
    assert near(*weights("first", "second")) < 1e-6
    # gone on with, and gone on with from before its first checkpoint
    said(capsys, "train", task, "--out", "second", "--resume", "--train.steps", "4")
    assert configs("second")[0]["encoder"] == first["encoder"]
    for path in (tmp_path / "second").glob("checkpoint-*"):
        shutil.rmtree(path)
    known = {k: v for k, v in facts("second").items() if k not in FRESH_LATER}
    (tmp_path / "second" / "run.json").write_text(json.dumps(known))
    said(capsys, "train", task, "--out", "second", "--resume", "--train.steps", "1")
    assert near(*weights("first", "second")) < 1e-6
    err = said(capsys, *begin[:-1], "third", "--arch", "lite_transformer", code=2)
    assert f"first is a {how[1]}, and lite_transformer is asked for; leave --arch out" in err


def test_what_else_can_begin_it(tmp_path, capsys):
    data = ["--data", stories(tmp_path / "s.jsonl"), *QUICK]
    other = ["--data", languages(tmp_path / "t.jsonl"), *QUICK]
    quick = ["--preset", "tiny", "--task.tokenizer", "bytes", *data, "--train.steps", "1"]
    said(capsys, "train", "summarize", "--arch", "led", *quick, "--out", "summary")
    said(capsys, "train", "translate", "--init-from", "summary", *other, *STILL, "--out", "tr")
    assert near(*weights("summary", "tr")) < 1e-6
    # freezing and rates by depth know the parts of both sides
    some = ["--train.freeze", "[encoder]", "--train.layer_decay", "0.5", "--train.lr", "0.01"]
    begin = ["train", "summarize", "--init-from", "summary", *data, "--train.steps", "2"]
    said(capsys, *begin, *some, "--arch.windows", "[3]", "--out", "frozen")
    before, after = weights("summary", "frozen")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(".encoder." in name for name in moved)
    assert configs("frozen")[0]["encoder"]["model"]["windows"] == [3]


def test_what_cannot_is_refused(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"film {i} was great" for i in range(3000)))
    lm = ["train", "lm", "--arch", "local", "--preset", "tiny", "--data", str(text)]
    lm += ["--task.context", "32", "--task.valid_bytes", "500", "--train.batch", "2"]
    said(capsys, *lm, "--train.reports", "1", "--train.steps", "1", "--out", "lm")
    for task in CASES:
        err = said(capsys, "train", task, "--init-from", "lm", code=2)
        assert "lm holds one model, and this task wants an encoder and a decoder" in err
    pictures = ["--data", bars(tmp_path / "c.npz"), *QUICK, "--preset", "tiny"]
    words = [*pictures, "--arch", "encoder_decoder", "--train.steps", "1"]
    words += ["--task.tokenizer", "bytes", "--task.patch", "4"]
    said(capsys, "train", "caption", *words, "--out", "captions")
    err = said(capsys, "train", "summarize", "--init-from", "captions", code=2)
    assert "captions reads 'patches' and ends in a head of kind 'tokens'" in err
    assert "begin from a run that writes from texts, or a converted LED, BART" in err
    err = said(capsys, "train", "match", "--init-from", "captions", code=2)
    assert "begin from a run of the task match" in err
    data = ["--data", languages(tmp_path / "t.jsonl"), *QUICK, "--preset", "tiny"]
    two = ["--task.tokenizer", "bpe:300", "--task.joint", "false", "--train.steps", "1"]
    said(capsys, "train", "translate", *data, *two, "--out", "two")
    err = said(capsys, "train", "summarize", "--init-from", "two", code=2)
    assert "two has a vocabulary for each language" in err
    assert "has no config.json" in said(
        capsys, "train", "summarize", "--init-from", "nowhere", code=2
    )
    with pytest.raises(ValueError, match="lm holds one model, and no encoder with a decoder"):
        Summarize(SummarizeConfig()).begin(tmp_path / "lm")


SIZES = {"vocab_size": 60, "d_model": 32, "encoder_layers": 2, "decoder_layers": 1}
SIZES |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
SIZES |= {f"{side}_ffn_dim": 48 for side in ("encoder", "decoder")}
SIZES |= {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def led():
    lengths = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 40}
    config = LEDConfig(**SIZES, **lengths, attention_window=[8, 12], dropout=0.0)
    return LEDForConditionalGeneration(config)


def bart():
    config = BartConfig(**SIZES, max_position_embeddings=64, dropout=0.0)
    return BartForConditionalGeneration(config)


def words_beside(folder):
    known = ["<s>", "<pad>", "</s>", "<mask>", "?", "went", "to", "the", "sea"]
    known += ["times", ":", "Ann", "Bob", "Cid", "Dot", "Eve", *map(str, range(12))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(known)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    known += [f"x{i}" for i in range(60 - len(known))]
    tokenizer.add_tokens(known)
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("make", [led, bart])
def test_a_converted_checkpoint(make, tmp_path, capsys):
    torch.manual_seed(0)
    ours = converted(make(), tmp_path)
    data = ["--data", stories(tmp_path / "s.jsonl"), *QUICK, "--task.target", "20"]
    begin = ["train", "summarize", "--init-from", "ours", *data, "--task.context", "40"]
    err = said(capsys, *begin, code=2)
    assert "ours has no tokenizer.json, so its words are not known" in err
    words_beside(tmp_path / "ours")
    said(capsys, *begin, *STILL, "--out", "run")
    run = sq.load("run")
    assert facts("run")["arch"] == "encoder_decoder"
    assert facts("run")["fresh"] == []
    ids = torch.randint(3, 60, (2, 17))
    given = {"input_ids": ids, "decoder_input_ids": ids[:, :9]}
    with torch.no_grad():
        found = run.model(**given).logits
    torch.testing.assert_close(found, ours(**given).logits, atol=1e-4, rtol=1e-4)
    assert set(run.task.inputs({"text": "Ann went"})["input_ids"].tolist()) < set(range(60))
    said(capsys, "train", "summarize", "--out", "run", "--resume", "--train.steps", "3")
