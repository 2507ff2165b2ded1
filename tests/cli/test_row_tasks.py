"""Tasks over rows as a user meets them: train, eval, predict, begin from another run."""

import gzip
import io
import json
import shutil
import sys

import pytest

from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WHERE = ("first", "second")
QUICK = ["--train.batch", "8", "--train.reports", "2", "--train.lr", "0.01", "--task.valid_rows"]
QUICK += ["20", "--train.steps"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def reviews(folder):
    words = {"good": ("fine", "lovely", "great"), "bad": ("awful", "poor", "dull")}
    rows = [
        {"review": f"film {i} was {words[label][i % 3]}", "label": label}
        for i in range(120)
        for label in words
    ]
    return write(folder / "reviews.jsonl", rows)


def sentences(folder):
    rows = [{"tokens": f"the {i} cats".split(), "tags": ["D", "N", "W"]} for i in range(200)]
    return write(folder / "tags.jsonl", rows)


def questions(folder):
    rows = []
    for i in range(200):
        context = f"Box {i} holds the number {i * 7}. It is closed."
        start = context.index(str(i * 7) + ".")
        answers = {"text": [str(i * 7)], "answer_start": [start]}
        rows.append({"question": "Which number?", "context": context, "answers": answers})
    return write(folder / "questions.jsonl", rows)


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_classify_from_training_to_prediction(tmp_path, capsys, monkeypatch):
    data = reviews(tmp_path)
    words = ["train", "classify", "--arch", "longformer", "--preset", "tiny", "--data", data]
    out = said(capsys, *words, "--task.context", "40", "--out", "run", *QUICK, "100")
    assert "accuracy 1.0000" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["model"]["causal"] is False
    assert facts["data"]["rows"].keys() == {"train", "valid", "test"}
    out = said(capsys, "eval", "run")
    assert "accuracy                 1.0000" in out
    assert "rows, the test part of reviews.jsonl" in out
    assert said(capsys, "predict", "run", "film 7 was lovely").startswith("good  ")
    # a text may be longer than any name of a file
    assert said(capsys, "predict", "run", "film 7 was lovely, " * 20).startswith("good  ")
    (tmp_path / "one.txt").write_text("film 9 was dull")
    rows = write(tmp_path / "some.jsonl", [{"text": "film 1 was great"}, {"text": "poor film"}])
    out = said(capsys, "predict", "run", "one.txt", rows).splitlines()
    assert out[0].startswith("bad  ")
    assert [json.loads(line)["label"] for line in out[1:]] == ["good", "bad"]
    # tables by the names of their columns
    (tmp_path / "more.csv").write_text('review,stars\n"film 5, was dull",1\nfilm 6 was great,5\n')
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as packed:
        packed.write('{"review": "film 8 was poor"}\n')
    out = said(capsys, "predict", "run", "more.csv", "more.jsonl.gz").splitlines()
    assert [json.loads(line)["label"] for line in out] == ["bad", "good", "bad"]
    (tmp_path / "short.csv").write_text("review,stars\nfilm\n")
    err = said(capsys, "predict", "run", "short.csv", code=2)
    assert "short.csv line 2 has 1 cells and the first line names 2" in err
    monkeypatch.setattr(
        sys, "stdin", io.StringIO('film 2 was awful\n{"text": "film 3 was fine"}\n')
    )
    out = said(capsys, "predict", "run", "-").splitlines()
    assert out[0].startswith("bad  ")
    assert json.loads(out[1])["label"] == "good"
    assert json.loads(said(capsys, "predict", "run", "fine", "--json"))["probability"] > 0.5
    # gone on with, nothing is left to do; the card and the list know it
    assert "accuracy 1.0000" in said(capsys, "train", "classify", "--out", "run", "--resume")
    assert "classify" in said(capsys, "list", "run")


def test_bad_input_is_one_line(tmp_path, capsys):
    data = reviews(tmp_path)
    words = ["train", "classify", "--arch", "local", "--preset", "tiny", "--data", data]
    words += ["--task.context", "40", "--out", "run", *QUICK, "2"]
    err = said(capsys, *words, "--task.label", "stars", code=2)
    assert "stars" in err
    assert "review, label" in err
    said(capsys, *words)
    other = write(tmp_path / "other.jsonl", [{"text": "film", "label": "odd"}])
    err = said(capsys, "eval", "run", "--data", other, code=2)
    assert "the label 'odd' was not there in training; known: bad, good" in err
    assert "takes no question" in said(capsys, "predict", "run", "x", "--question", "y?", code=2)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "film"}\n{"text"\n')
    assert "line 2 is not JSON" in said(capsys, "predict", "run", str(bad), code=2)
    bad.write_text('{"txt": "film"}\n')
    err = said(capsys, "predict", "run", str(bad), code=2)
    assert "line 1: a row wants text; this one has txt" in err
    for wrong in ("5", "null", '["film"]'):
        bad.write_text(f'{{"text": {wrong}}}\n')
        assert "which is no text" in said(capsys, "predict", "run", str(bad), code=2)
    empty = "this text: there is nothing in the text, so there is nothing to answer"
    assert empty in said(capsys, "predict", "run", "", code=2)
    assert empty in said(capsys, "predict", "run", " \n", code=2)
    (tmp_path / "empty.txt").write_text("")
    assert "empty.txt: there is nothing in the text" in said(
        capsys, "predict", "run", "empty.txt", code=2
    )
    (tmp_path / "raw.txt").write_bytes(b"\xff\xfe")
    assert "byte 0 is not UTF-8" in said(capsys, "predict", "run", "raw.txt", code=2)
    assert "is a folder; name its files" in said(capsys, "predict", "run", "run", code=2)
    assert "there is no file no.jsonl" in said(capsys, "predict", "run", "no.jsonl", code=2)
    assert "cannot generate" in said(capsys, "generate", "run", code=2)


@pytest.mark.parametrize(("task", "make"), [("tag", sentences), ("answer", questions)])
def test_tag_and_answer(task, make, tmp_path, capsys):
    data = make(tmp_path)
    words = ["train", task, "--arch", "local", "--preset", "tiny", "--data", data]
    said(capsys, *words, "--task.context", "64", "--out", "run", *QUICK, "20")
    out = said(capsys, "eval", "run")
    assert ("accuracy" if task == "tag" else "exact match") in out
    if task == "tag":
        assert said(capsys, "predict", "run", "the 5 cats").startswith("the/")
    else:
        (tmp_path / "box.txt").write_text("Box 3 holds the number 21. It is closed.")
        asked = ["predict", "run", "box.txt", "--question", "Which number?", "--json"]
        assert set(json.loads(said(capsys, *asked))) == {"answer", "start", "score"}
        assert "there is no question" in said(capsys, "predict", "run", "box.txt", code=2)


def test_mlm_then_classify_begins_from_it(tmp_path, capsys):
    data = reviews(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"film {i} was great" for i in range(3000)))
    words = ["train", "mlm", "--arch", "performer", "--preset", "tiny", "--data", str(text)]
    words += ["--task.context", "32", "--task.valid_bytes", "500", "--train.batch", "2"]
    said(capsys, *words, "--train.reports", "1", "--train.steps", "3", "--out", "first")
    assert "bits per hidden token" in said(capsys, "eval", "first", "--max-bytes", "300")
    assert "film" in said(capsys, "predict", "first", "film <|mask|> was")
    assert "cannot generate" in said(capsys, "generate", "first", code=2)
    begin = ["train", "classify", "--init-from", "first", "--data", data, "--task.context", "40"]
    frozen = ["--train.freeze", "[stem,backbone.blocks.0]", "--train.layer_decay", "0.5"]
    said(capsys, *begin, *frozen, "--train.patience", "1", "--out", "run", *QUICK, "4")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["arch"] == "performer"
    assert facts["begun_from"] == str(tmp_path / "first")
    assert facts["fresh"] == ["model.head.label.weight", "model.head.label.bias"]
    from safetensors.torch import load_file

    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("first", "run"))
    same = {k: bool((before[k] == after[k]).all()) for k in before if ".head." not in k}
    assert all(
        v == (".stem." in k or ".blocks.0." in k) for k, v in same.items() if "projection" not in k
    )
    said(capsys, "train", "classify", "--out", "run", "--resume", "--train.steps", "6")
    err = said(capsys, *begin, "--arch", "local", "--out", "other", code=2)
    assert "first is a performer, and local is asked for; leave --arch out" in err
    assert "has no config.json" in said(
        capsys, "train", "classify", "--init-from", "nowhere", "--data", data, code=2
    )


def test_patience_ends_training(tmp_path, capsys):
    data = reviews(tmp_path)
    words = ["train", "classify", "--arch", "local", "--preset", "tiny", "--data", data]
    words += ["--task.context", "40", "--task.valid_rows", "8", "--train.batch", "8"]
    words += ["--train.lr", "0.01", "--train.steps", "200", "--train.reports", "40"]
    said(capsys, *words, "--train.patience", "2", "--out", "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["steps"] < 200
    assert facts["steps"] >= facts["best_step"] + 2 * 5


def test_a_run_begun_from_another_goes_on_as_it_began(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(f"film {i} was great" for i in range(3000)))
    quick = ["--data", "text.txt", "--task.context", "32", "--task.valid_bytes", "500"]
    quick += ["--train.batch", "2", "--train.reports", "1"]
    words = ["train", "mlm", "--arch", "local", "--preset", "tiny", "--task.position", "learned"]
    said(capsys, *words, *quick, "--train.steps", "2", "--out", "first")
    begin = ["train", "mlm", "--init-from", "first", *quick, "--out", "second"]
    said(capsys, *begin, "--train.steps", "2", "--train.lr", "1e-9")
    first, second = (json.loads((tmp_path / n / "config.json").read_text()) for n in WHERE)
    assert first["stem"]["position"] == second["stem"]["position"] == "learned"
    said(capsys, "train", "mlm", "--out", "second", "--resume", "--train.steps", "4")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["stem"] == first["stem"]
    # cut off before its first checkpoint: it begins from the same weights again
    for path in (tmp_path / "second").glob("checkpoint-*"):
        shutil.rmtree(path)
    facts = json.loads((tmp_path / "second" / "run.json").read_text())
    for name in ("steps", "best_step", "tokens", "seconds", "stopped_by", "numbers", "protocol"):
        facts.pop(name)
    (tmp_path / "second" / "run.json").write_text(json.dumps(facts))
    said(capsys, "train", "mlm", "--out", "second", "--resume", "--train.steps", "1")
    from safetensors.torch import load_file

    before, after = (load_file(tmp_path / n / "model.safetensors") for n in WHERE)
    name = "model.stem.embedding.weight"
    assert (before[name] - after[name]).abs().max() < 1e-6


def test_what_begins_afresh_says_so(tmp_path, capsys):
    words = ["train", "classify", "--arch", "local", "--preset", "tiny", *QUICK, "1"]
    said(capsys, *words, "--data", reviews(tmp_path), "--out", "first")
    err = said(capsys, "train", "synthetic", "--init-from", "first", code=2)
    assert "the task synthetic begins afresh; leave --init-from first out" in err


def test_what_is_not_read_is_said(tmp_path, capsys):
    words = ["train", "classify", "--arch", "local", "--preset", "tiny", *QUICK, "1"]
    said(capsys, *words, "--data", reviews(tmp_path), "--task.context", "9", "--out", "run")
    assert main(["predict", "run", "film 7 was fine", "film"]) == 0
    out = capsys.readouterr()
    assert out.err == "the input has 16 tokens; the first 9 are read\n"
    assert len(out.out.splitlines()) == 2
