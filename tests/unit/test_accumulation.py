"""Batches that are accumulated weigh as much as they have targets: as one large batch of them."""

import dataclasses
import json

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from subquad.archs import ARCHS, PAIRS
from subquad.tasks import find_task
from subquad.train.config import TrainConfig
from subquad.train.fit import fit

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = ["a", "tale", "of", "lengths", "that", "differ", "from", "row", "to", "row"]


class Gradient(TrainerCallback):
    """Keeps the gradient of the first step."""

    def on_pre_optimizer_step(self, args, state, control, model: nn.Module, **kwargs):
        if state.global_step == 0:
            self.of = {name: p.grad.clone() for name, p in model.named_parameters()}


def rows(kind: str) -> list[dict]:
    found = []
    for i in range(40):
        some = [WORDS[(i + j) % len(WORDS)] for j in range(1 + i * 7 % 31)]
        text = " ".join(some)
        if kind == "tag":
            found.append({"tokens": some, "tags": ["odd" if len(w) % 2 else "even" for w in some]})
        else:
            found.append({"text": f"{i} {text}", "summary": text})
    return found


def series() -> list[str]:
    """One of which most values are missing, and one of which none is."""
    missing = torch.rand(2, 80, generator=torch.Generator().manual_seed(0)) < torch.tensor(
        [[0.7], [0]]
    )
    row = [[f"{t % 7}.{t % 10}" for t in range(80)], [f"{t % 5}.5" for t in range(80)]]
    return [
        ",".join(
            [f"w{i}", *("" if gone else x for x, gone in zip(row[i], missing[i], strict=True))]
        )
        for i in range(2)
    ]


def data(kind: str, folder) -> str:
    if kind == "forecast":
        (folder / "series.csv").write_text("\n".join(series()))
        return str(folder / "series.csv")
    path = folder / ("text.txt" if kind == "mlm" else f"{kind}.jsonl")
    some = [" ".join(WORDS)] * 200 if kind == "mlm" else [json.dumps(row) for row in rows(kind)]
    path.write_text("\n".join(some))
    return str(path)


def opened(kind: str):
    more = {
        "summarize": {"context": 160, "tokenizer": "bytes"},
        "tag": {"context": 160, "dropout": 0.0},
        "mlm": {"context": 160},
        "forecast": {"context": 20, "horizon": 6, "freq": "H"},
    }[kind]
    task_of = find_task(kind)

    class Exactly(task_of):
        def build(self, arch, fields):
            return super().build(arch, fields).double()

    return Exactly(task_of.Config(**more))


def gradient(kind, folder, batch, accumulate):
    arch = {"summarize": "encoder_decoder", "forecast": "logsparse"}.get(kind, "local")
    preset = {**ARCHS, **PAIRS}[arch].PRESETS["tiny"]
    if arch == "local":
        preset = dataclasses.replace(preset, causal=False)
    config = TrainConfig(steps=1, batch=batch, accumulate=accumulate, clip=0.0, reports=1)
    kept = Gradient()
    out = folder / f"{batch}-{accumulate}"
    task = opened(kind)
    fit(
        *(task, arch, dataclasses.asdict(preset), config, out),
        data=data(kind, folder),
        callbacks=(kept,),
    )
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return kept.of, next(row["loss"] for row in logged if "loss" in row), task


@pytest.mark.parametrize("kind", ["mlm", "tag", "summarize", "forecast"])
def test_accumulated_batches_are_one_large_one(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    whole, loss, task = gradient(kind, tmp_path, 4, 1)
    items = task.train_set(4, 0)
    counts = [task.scored(items[i]).item() for i in range(4)]
    assert counts[0] + counts[1] != counts[2] + counts[3]  # else means of means would do as well
    for batch, accumulate in ((2, 2), (1, 4)):
        parts, said, _ = gradient(kind, tmp_path, batch, accumulate)
        assert said == pytest.approx(loss, rel=1e-6)
        for name, wanted in whole.items():
            torch.testing.assert_close(parts[name], wanted, rtol=1e-9, atol=1e-12)


def test_batches_without_labels_weigh_the_same():
    assert find_task("lm").scored(None, {"targets": torch.zeros(2, 3)}).item() == 1


def test_a_step_without_any_target_moves_nothing_and_goes_on(tmp_path):
    """A series with a long gap: windows in it hold no value."""
    path = tmp_path / "gap.csv"
    values = [f"{t % 5}" if t in (0, 1) or t >= 1018 else "" for t in range(1030)]
    path.write_text(",".join(["w", *values]))
    task = opened("forecast")
    preset = dataclasses.asdict(ARCHS["logsparse"].PRESETS["tiny"])
    config = TrainConfig(steps=2, batch=1, accumulate=2, reports=1, log_every=1)
    fit(task, "logsparse", preset, config, tmp_path / "run", data=str(path))
    items = task.train_set(4, 0)
    assert [task.scored(items[i]).item() for i in range(4)] == [0, 0, 0, 0]
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in lines if "loss" in row] == [0.0, 0.0]
