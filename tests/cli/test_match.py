"""The task match as a user meets it: train, eval, predict."""

import json

import numpy as np
import pytest

from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRAIN = ["train", "match", "--preset", "tiny", "--out", "run", "--task.valid_rows", "30"]
TRAIN += ["--train.batch", "16", "--train.reports", "2", "--train.lr", "0.005", "--train.steps"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def bars():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 60, (240, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        image[3 if i % 2 else (slice(None), 3)] = 250
    captions = np.array(["a bar that stands", "a bar that lies"])[np.arange(240) % 2]
    np.savez("bars.npz", images=images, caption=captions)
    np.savez("stands.npz", images=images[:1])
    np.savez("lies.npz", images=images[1:2])


def test_from_training_to_prediction(tmp_path, capsys):
    bars()
    quick = ["--task.patch", "4", "--task.tokenizer", "bytes", "--data", "bars.npz"]
    out = said(capsys, *TRAIN, "40", *quick)
    assert "recall at 1 1.0000" in out
    out = said(capsys, "eval", "run")
    assert "right is any row with its caption or its picture" in out
    numbers = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert numbers["text_to_image_at_1"] == numbers["image_to_text_at_1"] == 1
    assert numbers["chance_at_1"] < 0.7
    inputs = ["stands.npz", "a bar that lies", "lies.npz", "a bar that stands"]
    lines = said(capsys, "predict", "run", *inputs).splitlines()
    assert [lines[0], lines[3]] == ["a bar that lies", "a bar that stands"]
    assert [lines[i].split()[1] for i in (1, 4)] == ["lies.npz", "stands.npz"]
    answers = [
        json.loads(x) for x in said(capsys, "predict", "run", *inputs, "--json").splitlines()
    ]
    assert [one["images"][0]["image"] for one in answers] == ["lies.npz", "stands.npz"]
    err = said(capsys, "predict", "run", "only a text", code=2)
    assert "error: pictures are ranked for texts, and these are 0 pictures and 1 texts" in err
    assert "there is no file x.png" in said(capsys, "predict", "run", "x.png", code=2)
    assert "recall" in said(capsys, "train", "match", "--out", "run", "--resume")
    assert "match" in said(capsys, "list", "run")


def test_the_embedded_scenes(capsys):
    out = said(capsys, *TRAIN, "2", "--task.tokenizer", "bytes")
    assert "made-up scenes" in out
