"""Translation as a user meets it: two files, train, eval, predict of texts, files and stdin."""

import io
import json
import sys

import pytest
import torch
from safetensors.torch import load_file

from subquad.cli import main
from subquad.cli.parser import two_files
from subquad.data.sentences import Sentences

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUICK = [
    "--preset",
    "tiny",
    "--task.tokenizer",
    "bytes",
    "--task.target",
    "80",
    "--task.beams",
    "2",
]
QUICK += ["--train.batch_tokens", "1000", "--train.reports", "2", "--train.steps", "4"]


@pytest.fixture(autouse=True)
def own_place(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def write(folder, sizes):
    for part, count in sizes.items():
        rows = [Sentences(count, 0, part)[i] for i in range(count)]
        for lang, field in (("en", "text"), ("to", "translation")):
            (folder / f"{part}.{lang}").write_text("".join(row[field] + "\n" for row in rows))


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_from_training_to_prediction(tmp_path, capsys, monkeypatch):
    write(tmp_path, {"train": 60, "valid": 20, "test": 10})
    sides = [",".join(f"{p}.{lang}" for p in ("train", "valid", "test")) for lang in ("en", "to")]
    more = ["--train.label_smoothing", "0.1", "--train.schedule", "inverse_sqrt"]
    words = ["train", "translate", "--data", *sides, "--out", "run", *QUICK, *more]
    out = said(capsys, *words, "--train.average", "2")
    assert "20 rows, the valid part of train.en, valid.en, test.en and train.to" in out
    assert "the mean of" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["arch"] == "lite_pair"
    assert facts["data"]["path"].count("::") == 1
    assert facts["data"]["path"].startswith(str(tmp_path))
    assert facts["tokens"] > 2 * 500
    assert sorted(p.name for p in (tmp_path / "run" / "averaging").iterdir()) == [
        "weights-000000002.safetensors",
        "weights-000000004.safetensors",
    ]
    # the mean, scored last, is no report: it takes the place of none, and is logged nowhere
    last = load_file(tmp_path / "run" / "averaging" / "weights-000000004.safetensors")
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert len(names := saved.keys() & last.keys()) == len(last) - 1  # a table of words for both
    assert all(torch.equal(saved[name], last[name]) for name in names)
    logged = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in logged if "eval_bits_per_token" in row] == [2, 4]
    assert not (tmp_path / "run" / "runs").exists()
    monkeypatch.chdir(tmp_path / "run")
    out = said(capsys, "eval", str(tmp_path / "run"), "--beams", "1")
    assert {line.split()[0] for line in out.splitlines()} >= {"bleu", "chrf", "exact", "bits"}
    assert "10 rows, the test part of" in out
    assert "written greedily" in out
    assert "tok:13a" in out
    assert (tmp_path / "run" / "translations.tsv").read_text().count("\n") == 11
    monkeypatch.chdir(tmp_path)
    out = said(capsys, "eval", "run", "--data", "test.en", "test.to", "--rows", "3")
    assert "3 rows, the all part of test.en and test.to" in out
    lines = said(capsys, "predict", "run", "test.en", "--beams", "1").splitlines()
    assert len(lines) == 10
    (tmp_path / "some.txt").write_text("a cat.\n\na dog.\n")
    out = said(capsys, "predict", "run", "some.txt", "--json")
    assert [bool(json.loads(line)["translation"]) for line in out.splitlines()][1] is False
    monkeypatch.setattr(sys, "stdin", io.StringIO('a cat.\n\n{"text": "a cat."}\n{"text": ""}\n'))
    first, empty, row, none = said(capsys, "predict", "run", "-").splitlines()
    assert empty == ""
    assert json.loads(row) == {"translation": first}
    assert json.loads(none) == {"translation": ""}
    assert said(capsys, "predict", "run", "--text", "a cat.") == first + "\n"
    # gone on with, nothing is left to do
    assert "bits per token" in said(capsys, "train", "translate", "--out", "run", "--resume")


def test_bad_input_is_one_line(tmp_path, capsys):
    write(tmp_path, {"train": 20, "test": 10})
    train = ["train", "translate", "--out", "run", *QUICK, "--data"]
    err = said(capsys, *train, "train.en", "test.to", code=2)
    assert "train.en has 20 lines and test.to 10; line n of one is the translation" in err
    assert err.count("\n") == 1
    err = said(capsys, *train, "train.en", code=2)
    assert "train.en is no table that is read here" in err
    (tmp_path / "x.tsv").write_text("english\tfrench\na\tb\n")
    err = said(capsys, *train, "x.tsv", code=2)
    assert "x.tsv has no column for text" in err
    assert "its columns are english, french" in err
    err = said(capsys, *train, "x.tsv", "--task.text", "german", code=2)
    assert "x.tsv has no column 'german'; its columns are english, french" in err
    err = said(capsys, *train, "train.en", "train.to", "test.to", code=2)
    assert "names 1 and 1 and 1 files" in err
    err = said(capsys, *train, "train.en", "train.to", "--arch", "performer", code=2)
    assert "performer" in err
    err = said(capsys, *train, "train.en", "train.to", "--task.context", "3", code=2)
    assert "pairs have more than 3 tokens to read" in err
    err = said(capsys, "train", "classify", "--data", "train.en", "train.to", code=2)
    assert "classify reads no texts line by line beside others" in err
    assert not (tmp_path / "run").exists()
    said(capsys, *train, "train.en", "train.to")
    assert "wants something to answer" in said(capsys, "predict", "run", code=2)
    (tmp_path / "raw.txt").write_bytes(b"a cat.\n\xff\n")
    err = said(capsys, "predict", "run", "raw.txt", "--beams", "1", code=2)
    assert "raw.txt line 2 is not UTF-8" in err


def test_two_files():
    assert two_files(["--data", "a", "b", "--out", "x"]) == ["--data", "a::b", "--out", "x"]
    assert two_files(["run", "--data", "a"]) == ["run", "--data", "a"]
    assert two_files(["--data=a", "b"]) == ["--data=a", "b"]
