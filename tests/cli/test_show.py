"""subquad show: maps of runs and of transformers' models, reports, patterns; what it refuses."""

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BartConfig,
    BartModel,
    BertConfig,
    BertForMultipleChoice,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from subquad.cli import main

TINY = ("--preset", "tiny", "--train.steps", "2", "--train.batch", "2", "--train.reports", "1")


def fails(capsys, *words):
    """What `subquad show` says on stderr when it exits with 2: one line."""
    capsys.readouterr()
    assert main(["show", *map(str, words)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("show")
    for arch in ("performer", "reformer"):
        words = ["train", "synthetic", "--arch", arch, *TINY, "--task.length", "16"]
        assert main([*words, "--out", str(folder / arch)]) == 0
    return folder


@pytest.mark.slow
def test_two_runs_side_by_side(runs, capsys):
    words = [str(runs / "performer"), str(runs / "reformer"), "--input", "item 5"]
    page = runs / "two.html"
    assert main(["show", *words, "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert f"page: {page}" in said
    assert f"picture: {runs / 'two.png'}" in said
    assert (runs / "two.png").read_bytes()[:4] == b"\x89PNG"
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1])
    one, two = data["models"]
    assert [layer["title"] for layer in one["layers"][-2:]] == ["rollout", "rollout by gradient"]
    assert len(one["labels"]["tokens"]) == 16
    assert "buckets" in two["layers"][1]

    svg = runs / "some.svg"
    some = ["--layers", "2", "--heads", "1,3", "--views", "buckets", "--out", str(svg)]
    assert main(["show", str(runs / "reformer"), "--input", "1 2 3", *some]) == 0
    assert svg.read_text().startswith("<?xml")
    assert not (runs / "some.html").exists()


@pytest.mark.slow
def test_what_is_refused_is_one_line(runs, capsys):
    run = runs / "performer"
    asked = (run, "--input", "item 5")
    for words, message in (
        ((), "show wants a run folder, or --pattern"),
        ((run, run, run, "--input", "1"), "two runs stand side by side, and 3 are named"),
        ((run, run), "a report is of one run"),
        ((run, "--layers", "1"), "--layers is for maps of an input"),
        ((*asked, "--layers", "7"), "there is no layer 7; they are 1 to 2"),
        ((*asked, "--heads", "9"), "there is no head 9; they are 1 to 4"),
        ((*asked, "--heads", "x"), "--heads 'x' must be whole numbers, as in 1,2"),
        ((*asked, "--rows", "16"), "there is no query 16; the tokens of layer 1 are 0 to 15"),
        ((*asked, "--views", "spans"), "this model has no spans to show: adaptive_span"),
        ((*asked, "--views", "spens"), "did you mean 'spans'"),
        ((*asked, "--limit", "8"), "the input has 16 tokens and 8 are the limit; cut it, or raise"),
        ((*asked, "--limit", "0"), "--limit 0 (tokens) must be positive"),
        ((*asked, "--out", "x.jpg"), "--out x.jpg must be a .html, .png or .svg file"),
        ((*asked, "--out", runs / "no" / "x.png"), "there is no folder"),
        ((run, "--input", "1 99"), "'99', at place 2, is none of the"),
        ((run, "--input", runs), "is a folder; name a file"),
        ((run, "--out", "x.png"), "a report is a .html file"),
        ((runs / "none", "--input", "1"), "there is no run folder"),
        (("--pattern", "Windw(3)"), "Window"),
        (("--pattern", "Full()", "--input", "1"), "--pattern is drawn by itself"),
        (("--pattern", "Full()", "--length", "0"), "length 0 must be at least 1"),
    ):
        assert message in fails(capsys, *words)


@pytest.mark.slow
def test_a_report_never_breaks_a_training(tmp_path, capsys, monkeypatch):
    def broken(*_):
        raise RuntimeError("no\nink")

    monkeypatch.setattr("subquad.viz.report.page", broken)
    out = tmp_path / "run"
    assert main(["train", "synthetic", *TINY, "--task.length", "16", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.err.endswith("subquad: warning: no report.html: no ink\n")
    assert "report:" not in said.out
    assert (out / "model.safetensors").is_file()
    assert not (out / "report.html").exists()


@pytest.mark.slow
def test_the_report_of_a_run(runs, capsys):
    run = runs / "performer"
    # training has left one
    assert "<title>Run performer: performer, synthetic</title>" in (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert main(["show", str(run)]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    page = (run / "report.html").read_text()
    for part in ("Loss", "Validation", "Cost", "Settings", "Environment", "token accuracy"):
        assert part in page
    assert not re.search(r'(src|href)="(?!#)|url\(http|@import', page)
    (run / "metrics.jsonl").write_text("{\n")
    assert "metrics.jsonl line 1 is damaged" in fails(capsys, run)


def test_a_pattern(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--pattern", "Causal() & (Window(4) | Strided(4))", "--length", "20"]
    assert main(["show", *words]) == 0
    said = capsys.readouterr().out
    assert "pairs: 114 of 400, 28.50 %" in said
    assert "growth: " in said
    assert {path.name for path in tmp_path.iterdir()} == {"pattern.html", "pattern.png"}
    assert main(["show", "--pattern", "Window(2, 2) | Marked()", "--out", "m.png"]) == 0
    assert "marked tokens: 0" in capsys.readouterr().out


def kept_words(folder):
    """A tokenizer of words, as transformers reads it."""
    words = {word: i for i, word in enumerate(["the", "cat", "sat", "on", "a", "mat", "[UNK]"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def test_models_of_transformers(tmp_path, capsys):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=7, n_positions=9, n_embd=8, n_layer=1, n_head=2)
    folder, text = tmp_path / "gpt2", "the cat sat on a mat"
    GPT2LMHeadModel(config).save_pretrained(folder)
    assert "has no tokenizer to read a text with" in fails(capsys, folder, "--input", text)
    kept_words(folder)
    assert main(["show", str(folder), "--input", text, "--out", str(tmp_path / "x.html")]) == 0
    page = (tmp_path / "x.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["models"][0]["labels"]["tokens"] == text.split()
    assert data["models"][0]["layers"][0]["kind"] == "attention of gpt2"
    # the second is longer than a name of a file may be
    for count in (9, 99):
        long = fails(capsys, folder, "--input", "cat " * count + "sat")
        assert f"the input has {count + 1} tokens and 9 are the limit" in long
    assert "there is no token in this text" in fails(capsys, folder, "--input", " ")

    # what it was made is looked at by its own mixers
    ours = tmp_path / "ours"
    assert main(["convert", str(folder), str(ours)]) == 0
    assert main(["show", str(ours), "--input", text, "--out", str(tmp_path / "y.html")]) == 0
    page = (tmp_path / "y.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["models"][0]["layers"][0]["kind"] == "Attention"

    both = tmp_path / "bart"
    sizes = {f"{side}_{what}": 1 for side in ("encoder", "decoder") for what in ("layers",)}
    heads = {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    config = BartConfig(vocab_size=7, d_model=8, **sizes, **heads, max_position_embeddings=9)
    BartModel(config).save_pretrained(both)
    kept_words(both)
    assert "bart has an encoder and a decoder" in fails(capsys, both, "--input", text)


@pytest.mark.parametrize("kind", ["theirs", "ours"])
def test_a_model_of_choices_is_shown_one(kind, tmp_path, capsys):
    """Each choice is read by itself: the text is one of them, and its maps are those of a row."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=7, intermediate_size=8, max_position_embeddings=16, **sizes)
    BertForMultipleChoice(config).save_pretrained(tmp_path / "theirs")
    kept_words(tmp_path / "theirs")
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 0
    out, text = tmp_path / "x.html", "the cat sat on a mat"
    capsys.readouterr()
    assert main(["show", str(tmp_path / kind), "--input", text, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "choices: the input is one of them, with its question" in said
    assert "no gradient" not in said
    data = json.loads(re.search(r'id="data">(.*?)</script>', out.read_text(), re.DOTALL)[1])
    layers = data["models"][0]["layers"]
    assert [layer["title"] for layer in layers] == ["layer 1", "rollout", "rollout by gradient"]
    assert (layers[0]["queries"], layers[0]["keys"]) == (6, 6)
    assert data["models"][0]["labels"]["tokens"] == text.split()
