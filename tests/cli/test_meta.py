"""Few-shot as a user meets it: train --meta, eval with and without it, what is refused."""

import json
import re

import numpy as np
import pytest

from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUICK = ["--preset", "tiny", "--train.reports", "1", "--train.steps", "3"]
META = ["--meta", "2,3", "--meta.inner_steps", "2", "--meta.adapt_steps", "3"]
META += ["--meta.episodes", "3", "--meta.queries", "2"]


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
    images = draw.integers(0, 60, (400, 8, 8), dtype=np.uint8)
    for i, image in enumerate(images):
        image[i % 8] = 250
    np.savez("bars.npz", images=images, label=np.arange(400) % 8)


def test_pictures_by_episodes_and_plainly(tmp_path, capsys):
    bars()
    words = ["train", "image", "--data", "bars.npz", *QUICK, "--train.batch", "2"]
    out = said(capsys, *words, *META, "--out", "run")
    assert "3 episodes, 2 ways and 3 shots, 3 steps of adam at 0.001" in out
    assert "of classes that are trained on" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["task_facts"]["meta"]["ways"] == 2
    assert len(facts["data"]["classes"]) == 6
    out = said(capsys, "eval", "run")
    assert "of 2 held-out classes of bars.npz" in out
    assert "none of them trained on" in out
    assert "accuracy of fresh weights" in out
    said(capsys, "eval", "run", "--meta.episodes", "2")
    rows = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    assert [json.loads(row)["episodes"] for row in rows] == [3, 2]
    assert "accuracy" in said(capsys, "train", "image", "--out", "run", "--resume")
    more = ["train", "image", "--out", "run", "--resume"]
    said(capsys, *more, "--train.steps", "4")
    assert "was begun with meta" in said(capsys, *more, "--meta.shots", "2", code=2)
    # an ordinary run is scored so too, and may be what training by episodes begins with
    said(capsys, *words, "--out", "plain")
    out = said(capsys, "eval", "plain", *META)
    assert "2 held-out classes of bars.npz" in out
    assert re.search(r"^accuracy of fresh weights {2,}\d\.", out, re.MULTILINE)
    assert "2 of them trained on" in out
    assert "accuracy of one label" in said(capsys, "eval", "plain")
    begin = ["train", "image", "--init-from", "plain", "--data", "bars.npz", *QUICK[2:]]
    said(capsys, *begin, *META, "--out", "again")
    again = json.loads((tmp_path / "again" / "run.json").read_text())
    assert again["fresh"] == ["model.head.label.weight", "model.head.label.bias"]


def test_texts_by_episodes(tmp_path, capsys):
    rows = [{"text": f"word{i % 6} {i}", "label": f"w{i % 6}"} for i in range(240)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["train", "classify", "--arch", "local", "--data", "rows.jsonl", *QUICK]
    said(capsys, *words, "--train.batch", "1", "--task.context", "16", *META, "--out", "run")
    assert "held-out classes of rows.jsonl" in said(capsys, "eval", "run")


def test_bad_input_is_one_line(tmp_path, capsys):
    bars()
    words = ["train", "image", "--data", "bars.npz", *QUICK, "--out", "run"]
    assert "--meta wants ways and shots" in said(capsys, *words, "--meta", "5", code=2)
    assert "give --meta.ways" in said(capsys, *words, "--meta.shots", "3", code=2)
    err = said(capsys, *words, "--meta", "5,5", code=2)
    assert "there are 8 classes in all" in err
    err = said(capsys, "train", "tag", "--meta", "5,5", code=2)
    assert "the task tag has no episodes; tasks: classify, image" in err
    said(capsys, *words)
    err = said(capsys, "eval", "run", *META, "--rows", "3", code=2)
    assert "--rows does not go with episodes" in err
