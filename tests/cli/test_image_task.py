"""The task image as a user meets it: train, eval, predict, begin from another run."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import pipeline

import subquad as sq
from subquad.cli import main
from subquad.cli.serving.answers import predict

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRAIN = ["train", "image", "--arch", "vit", "--preset", "tiny", "--out", "run"]
QUICK = ["--task.valid_rows", "20", "--train.batch", "16", "--train.reports", "2"]
QUICK += ["--train.lr", "0.01", "--train.steps"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def bars(count, side=8):
    """Bright bars that lie (1) or stand (0), over noise."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 60, (count, side, side), dtype=np.uint8)
    for i, image in enumerate(images):
        at = draw.integers(1, side - 1)  # a bar stays in the picture when it moves
        image[at if i % 2 else (slice(None), at)] = 250
    return images, np.arange(count) % 2


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def test_arrays_from_training_to_prediction(tmp_path, capsys):
    images, label = bars(240)
    np.savez("bars.npz", images=images, label=label, classes=np.array(["stands", "lies"]))
    vary = ["--task.shift", "1", "--task.flip", "0.5"]
    out = said(capsys, *TRAIN, "--data", "bars.npz", *vary, *QUICK, "120")
    assert "accuracy" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["task_facts"]["view"]["shape"] == [8, 8, 1]
    assert facts["task_facts"]["labels"] == ["lies", "stands"]
    out = said(capsys, "eval", "run")
    assert "rows, the test part of bars.npz" in out
    accuracy = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())["accuracy"]
    assert accuracy > 0.9
    np.savez("one.npz", images=images[:1])
    assert said(capsys, "predict", "run", "one.npz").startswith("stands  ")
    np.savez("two.npz", images=images[:2])
    lines = said(capsys, "predict", "run", "two.npz").splitlines()
    assert [line.split()[0] for line in lines] == ["stands", "lies"]
    assert json.loads(said(capsys, "predict", "run", "one.npz", "--json"))["probability"] > 0.5
    assert "accuracy" in said(capsys, "train", "image", "--out", "run", "--resume")
    # another task's labels, the same patches
    begin = ["train", "image", "--init-from", "run", "--data", "bars.npz", "--out", "again"]
    said(capsys, *begin, *QUICK, "2")
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert again["task_facts"]["view"] == facts["task_facts"]["view"]


def test_a_folder_per_class(tmp_path, capsys):
    pillow = pytest.importorskip("PIL.Image")
    images, label = bars(80)
    for i, (image, number) in enumerate(zip(images, label, strict=True)):
        folder = tmp_path / "bars" / ("stands", "lies")[number]
        folder.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(image).convert("RGB").save(folder / f"{i}.png")
    said(capsys, *TRAIN, "--data", "bars", "--task.pool", "first", *QUICK, "40")
    assert "the test part of the folder bars" in said(capsys, "eval", "run")
    out = said(capsys, "predict", "run", "bars/lies/1.png", "bars/stands/2.png")
    assert len(out.splitlines()) == 2
    odds = json.loads(said(capsys, "predict", "run", "bars/lies/1.png", "--json"))["labels"]
    found = pipeline("image-classification", model="run", device="cpu")("bars/lies/1.png")
    assert {one["label"]: one["score"] for one in found} == pytest.approx(odds, rel=1e-4)
    # the picture itself, as a server gets it
    run, picture = sq.load("run"), Path("bars/lies/1.png")
    sent = predict(run, picture.read_bytes(), time.monotonic() + 60)
    assert sent == {"answer": run.predict(run.task.read(picture))}
    with pytest.raises(ValueError, match=r"^picture.png is damaged"):
        predict(run, b"no picture", time.monotonic() + 60)


def test_bad_input_is_one_line(tmp_path, capsys):
    images, label = bars(40)
    np.savez("bars.npz", images=images, label=label)
    err = said(capsys, *TRAIN, "--data", "bars.npz", "--task.patch", "3", *QUICK, "1", code=2)
    assert "8 x 8 pixels is not made of patches of 3 x 3" in err
    np.savez("bare.npz", images=images)
    err = said(capsys, *TRAIN, "--data", "bare.npz", *QUICK, "1", code=2)
    assert "label" in err
    said(capsys, *TRAIN, "--data", "bars.npz", *QUICK, "1")
    large, numbers = bars(40, side=12)
    np.savez("large.npz", images=large, label=numbers)
    err = said(capsys, "eval", "run", "--data", "large.npz", code=2)
    assert "a picture is 12 x 12 x 1" in err
    assert "training rows are 8 x 8 x 1" in err
    err = said(capsys, "predict", "run", "large.npz", code=2)
    assert "large.npz: a picture is 12 x 12 x 1" in err
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bars.npz").read_bytes()[:300])
    assert "cut.npz is damaged" in said(capsys, "predict", "run", "cut.npz", code=2)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    assert "cut.png is damaged" in said(capsys, "predict", "run", "cut.png", code=2)
    assert "there is no file x.png" in said(capsys, "predict", "run", "x.png", code=2)
    np.savez("odd.npz", images=images, label=np.full(40, 7))
    err = said(capsys, "eval", "run", "--data", "odd.npz", code=2)
    assert "the label '7' was not there in training; known: 0, 1" in err


def test_the_embedded_pictures(capsys):
    out = said(capsys, *TRAIN, *QUICK, "2")
    assert "made-up shapes" in out
