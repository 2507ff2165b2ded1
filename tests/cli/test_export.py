"""subquad export as a user meets it: runs of labels and of pictures, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import subquad as sq
from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

QUICK = ["--train.batch", "4", "--train.reports", "1", "--task.valid_rows", "4"]
QUICK += ["--train.steps", "2", "--out", "run"]
SMALL = ["--arch", "local", "--preset", "tiny", "--arch.num_layers", "1", "--arch.causal", "false"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def rows(name, made):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in made))
    return name


def classify():
    label = ("good", "bad")
    made = ({"text": f"film {i} was {label[i % 2]}", "label": label[i % 2]} for i in range(80))
    return ["train", "classify", *SMALL, "--data", rows("films.jsonl", made), *QUICK]


def tag():
    made = ({"tokens": f"the {i} cats".split(), "tags": ["D", "N", "W"]} for i in range(80))
    return ["train", "tag", *SMALL, "--data", rows("tags.jsonl", made), *QUICK]


def image():
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 255, (80, 8, 12), dtype=np.uint8)
    np.savez("shapes.npz", images=pictures, label=np.arange(80) % 3)
    small = ["--arch", "vit", "--preset", "tiny", "--arch.num_layers", "1"]
    return ["train", "image", *small, "--data", "shapes.npz", *QUICK]


def words(rows, length):
    ids = torch.randint(0, 200, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, length // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


#: a task -> what trains it, and inputs longer than those that a graph is captured with
TASKS = {
    "classify": (classify, lambda: words(3, 211)),
    "tag": (tag, lambda: words(3, 211)),
    "image": (image, lambda: {"pixel_values": torch.rand(5, 1, 8, 12)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_labels_elsewhere(task, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX files need onnxruntime to run")
    make, inputs = TASKS[task]
    assert main(make()) == 0
    assert main(["export", "run", "--format", "onnx", "--out", "there"]) == 0
    said = capsys.readouterr().out
    assert "there: model.onnx, export.json" in said
    facts = json.loads(Path("there/export.json").read_text())["model"]
    given, model = inputs(), sq.load("run").model
    assert facts["inputs"] == list(given)
    with torch.no_grad():
        wanted = model(**given).logits
    session = onnxruntime.InferenceSession("there/model.onnx")
    (found,) = session.run(facts["outputs"], {name: t.numpy() for name, t in given.items()})
    apart = (torch.from_numpy(found) - wanted).abs()
    if task == "tag":
        apart = apart * given["attention_mask"].unsqueeze(-1)
    assert wanted.std() > 1e-3
    assert apart.max() < 1e-4


@pytest.mark.slow
def test_slots_are_no_limit_of_length():
    """A graph of low-rank attention takes what the model takes, below its rank and above."""
    from subquad.hf.exporting.graphs import whole

    torch.manual_seed(0)
    fields = {"dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 16, "dropout": 0.0}
    fields |= {"max_len": 100, "ranks": [64]}
    model = sq.hf.SubquadForMaskedLM(
        sq.hf.SubquadConfig(arch="linformer", model=fields, vocab_size=20)
    ).eval()
    graph = whole(model)
    assert graph.lengths == (2, 100)
    run = graph.program.module()
    for length in (3, 64, 65, 100):
        ids = torch.randint(0, 20, (3, length))
        mask = torch.ones_like(ids)
        mask[1, length // 2 :] = 0
        (found,) = run(ids, mask)
        wanted = model(input_ids=ids, attention_mask=mask).logits
        real = mask > 0
        torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=1e-5)


def test_what_is_refused_is_one_line_and_leaves_nothing(capsys):
    assert main(classify()) == 0
    bad = {
        ("nowhere",): "nowhere",
        ("run", "--format", "tflite"): "there is no format 'tflite'; known: onnx, torch",
        ("run", "--out", "run"): "run is there already; name another folder with --out",
    }
    for argv, message in bad.items():
        capsys.readouterr()
        assert main(["export", *argv]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
    there = sorted(p.name for p in Path().iterdir() if p.name != "cache")
    assert there == ["films.jsonl", "run"]
    assert not list(Path("run").glob("*onnx*"))
