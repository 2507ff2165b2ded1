"""Training stops at the first loss or gradient that is no number, and keeps what it came of."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import default_collate
from transformers import TrainerCallback

from catalog import tiny
from subquad.tasks import TASKS, find_task
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.train.checkpoint import newest_checkpoint
from subquad.train.config import TrainConfig
from subquad.train.fit import fit

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

#: lines of metrics.jsonl come too late to stop by
CONFIG = TrainConfig(steps=8, batch=2, accumulate=3, reports=4, log_every=100)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))


class Breaks(LanguageModel):
    """From a batch on, its losses are NaN, or only their gradients are."""

    after, gradient_only = 16, False  # batch 1 of the step behind 5 whole ones

    def loss(self, model, batch, label_smoothing):
        self.count = getattr(self, "count", -1) + 1
        loss = super().loss(model, batch, label_smoothing)
        if self.count < self.after:
            return loss
        # a root has no slope at 0, and 0 times that is none either
        root = (0.0 * next(model.parameters()).sum()).abs().sqrt()
        return loss + (root if self.gradient_only else float("nan"))


class Weights(TrainerCallback):
    """Those before the step that fails."""

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.model = model
        self.before = {name: p.detach().clone() for name, p in model.named_parameters()}


def broken(folder: Path, **how) -> tuple[str, Weights]:
    """What training says as it stops, and the weights before and after its last step."""
    (folder / "text.txt").write_text("seven times eight is fifty-six. " * 200)
    task, weights = Breaks(LanguageModelConfig(context=16, valid_bytes=500)), Weights()
    for name, value in how.items():
        setattr(task, name, value)
    with pytest.raises(ValueError, match=r"\S") as error:
        fit(
            *(task, "local", tiny("local"), CONFIG, folder / "run"),
            data=str(folder / "text.txt"),
            callbacks=(weights,),
        )
    return str(error.value), weights


def items(folder: Path, step: int) -> list[dict]:
    """The batches of a step, counted from 0, as training reads them."""
    task = LanguageModel(LanguageModelConfig(context=16, valid_bytes=500))
    task.prepare(str(folder / "text.txt"))
    size, found = CONFIG.batch, task.train_set(CONFIG.steps * 6, CONFIG.seed)
    first = step * CONFIG.accumulate * size
    starts = range(first, first + CONFIG.accumulate * size, size)
    return [default_collate([found[i] for i in range(at, at + size)]) for at in starts]


def test_a_loss_that_is_no_number_stops_with_its_batch(tmp_path):
    said, weights = broken(tmp_path)
    file = tmp_path / "run" / "diverged-0.safetensors"
    assert said.startswith("the loss is nan at step 6 with learning rate ")
    assert f"; what it came of is kept in {file}; a smaller --train.lr" in said
    kept, batches = load_file(file), items(tmp_path, 5)
    # both batches behind the whole one, and no other
    assert kept.keys() == {f"{i}.{name}" for i in (1, 2) for name in batches[0]}
    for name, t in kept.items():
        number, name = name.split(".")
        assert torch.equal(t, batches[int(number)][name])
    with safe_open(file, "pt") as opened_file:
        facts = opened_file.metadata()
    assert facts["step"] == "6"
    first, *others = facts["losses"].strip("[]").split(", ")
    assert 0 < float(first) < 10
    assert others == ["nan", "nan"]
    for name, p in weights.model.named_parameters():
        assert torch.equal(p, weights.before[name]), "a step was taken"
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-4"


def test_a_gradient_that_is_no_number_stops_with_all_batches_of_the_step(tmp_path):
    said, weights = broken(tmp_path, gradient_only=True, after=0)
    assert said.startswith("the gradient's norm is nan at step 1 with learning rate ")
    kept, batches = load_file(tmp_path / "run" / "diverged-0.safetensors"), items(tmp_path, 0)
    assert len(kept) == len(batches) * len(batches[0])
    for i, batch in enumerate(batches):
        for name, t in batch.items():
            assert torch.equal(kept[f"{i}.{name}"], t)
    for name, p in weights.model.named_parameters():
        assert torch.equal(p, weights.before[name]), "a step was taken"


def test_what_cannot_be_kept_hides_no_reason(tmp_path, monkeypatch):
    replace = os.replace

    def full(source, to):
        if "diverged" in str(to):
            raise OSError(28, "No space left on device")
        replace(source, to)

    monkeypatch.setattr(os, "replace", full)
    said, _ = broken(tmp_path, after=0)
    assert said.startswith("the loss is nan at step 1")
    assert "what it came of is lost: could not write diverged-0.safetensors" in said
    assert "No space left on device" in said


@pytest.mark.slow  # for what some of them begin with: pictures are drawn, texts are spoken
@pytest.mark.parametrize("name", TASKS)
def test_batches_of_every_task_are_kept(name, tmp_path, monkeypatch):
    kind, seen = find_task(name), []

    def loss(self, model, batch, label_smoothing):
        seen.append(batch)
        return float("nan") * next(model.parameters()).sum()

    monkeypatch.setattr(kind, "loss", loss)
    arch = next(iter(kind.archs))
    fields = dataclasses.asdict(kind.archs[arch].PRESETS["tiny"])
    if kind.looks_ahead and "causal" in fields:
        fields["causal"] = False
    config = TrainConfig(steps=1, batch=2, reports=1)
    with pytest.raises(ValueError, match=r"the loss is nan at step 1 with .* kept in"):
        fit(kind(kind.Config()), arch, fields, config, tmp_path / "run")
    kept, (batch,) = load_file(tmp_path / "run" / "diverged-0.safetensors"), seen
    assert kept.keys() == {f"0.{name}" for name in batch}
    for name, t in batch.items():
        torch.testing.assert_close(kept[f"0.{name}"], t, rtol=0, atol=0, equal_nan=True)
