"""Memory carried from batch to batch: lanes that read on, a file per process, resumed exactly."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from subquad.archs import ARCHS
from subquad.data.corpus import Corpus
from subquad.data.lanes import Lanes
from subquad.model import build, init_memory
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.tasks.task import Task
from subquad.train.carry import Carry
from subquad.train.checkpoint import newest_checkpoint
from subquad.train.config import TrainConfig
from subquad.train.fit import fit

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))
LITTLE = TrainConfig(steps=8, accumulate=2, batch=2, reports=2, log_every=2, lr=1e-2)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "tables.txt"
    path.write_bytes(TEXT)
    return str(path)


class ReadsOn(LanguageModel):
    """The task with a memory for any architecture."""

    def memory_of(self, model):
        return partial(init_memory, model.model.backbone)


def train(folder: Path, data: str, config: TrainConfig = LITTLE, arch="transformer_xl", **more):
    kind = more.pop("kind", LanguageModel)
    task = kind(LanguageModelConfig(context=16, valid_bytes=300))
    fields = dataclasses.asdict(ARCHS[arch].PRESETS["tiny"]) | more.pop("fields", {})
    return fit(task, arch, fields, config, folder, data=data, **more)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


# --- lanes --------------------------------------------------------------------------------------


def corpus(*lengths: int) -> Corpus:
    """Documents whose tokens are all different, with 999 before each."""
    end = np.cumsum(lengths)
    return Corpus(np.arange(end[-1]), end - np.array(lengths), end, 999, int(end[-1]))


@pytest.mark.parametrize("lanes", [1, 3, 8])
def test_every_lane_reads_on_through_the_whole_ring(lanes):
    text = corpus(20, 1, 0, 37)
    stream = text.read(0, len(text)).tolist()
    assert len(stream) == 62
    assert stream.count(999) == 4
    steps = 62
    read = Lanes(text, 5, lanes * steps, seed=2, lanes=lanes)
    assert len(read) == lanes * steps
    begins = []
    for lane in range(lanes):
        items = [read[step * lanes + lane] for step in range(steps)]
        for item in items:
            assert torch.equal(item["input_ids"][1:], item["targets"][:-1])
        joined = torch.cat([item["input_ids"] for item in items]).tolist()
        targets = torch.cat([item["targets"] for item in items]).tolist()
        assert joined[1:] == targets[:-1]  # not a token is left out between two batches
        turn = next(t for t in range(62) if (stream[t:] + stream[:t])[:5] == joined[:5])
        assert joined == (stream[turn:] + stream[:turn]) * 5
        begins.append(turn)
    apart = sorted(begins)
    gaps = np.diff([*apart, apart[0] + 62])
    assert gaps.min() >= 62 // lanes  # evenly spread
    assert gaps.max() <= 62 // lanes + 1


def test_an_item_depends_on_seed_and_number_alone():
    text = corpus(100)
    one, two = (Lanes(text, 7, 400, seed=s, lanes=4) for s in (0, 0))
    for i in reversed(range(0, 400, 37)):
        assert torch.equal(one[i]["input_ids"], two[i]["input_ids"])
    other = Lanes(text, 7, 400, seed=1, lanes=4)
    assert not torch.equal(one[0]["input_ids"], other[0]["input_ids"])
    with pytest.raises(ValueError, match="read in at least 1 lane, not 0"):
        Lanes(text, 7, 400, seed=0, lanes=0)


# --- the memory in training ---------------------------------------------------------------------


def test_training_is_the_loop_that_carries_by_hand(tmp_path, data, monkeypatch):
    """Same losses as a loop that keeps the memory itself, with batches accumulated."""
    seen, real = [], LanguageModel.loss

    def watched(self, model, batch, label_smoothing):
        weights = {k: v.clone() for k, v in model.state_dict().items()}
        loss = real(self, model, batch, label_smoothing)
        seen.append((weights, batch["input_ids"], batch["targets"], float(loss.detach())))
        return loss

    monkeypatch.setattr(LanguageModel, "loss", watched)
    train(tmp_path / "run", data, dataclasses.replace(LITTLE, steps=3))
    assert len(seen) == 6
    fields = dataclasses.asdict(ARCHS["transformer_xl"].PRESETS["tiny"])
    stem = {"scale": 32**0.5}
    m = build("transformer_xl", fields, vocab_size=260, stem=stem)
    state, losses = m.init_memory(2), []
    for weights, ids, targets, loss in seen:
        m.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
        logits, state = m(ids, state=state)
        losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()))
        assert float(losses[-1].detach()) == pytest.approx(loss, abs=1e-6)
        alone = m(ids)[0]
        if len(losses) > 1:
            assert not torch.allclose(alone, logits, atol=1e-4)  # the memory does matter
    assert state.length.tolist() == [6 * 16] * 2
    rows = [ids[0] for _, ids, _, _ in seen]
    assert all(a[2][0, -1] == b[0] for a, b in zip(seen, rows[1:], strict=False))


@pytest.mark.parametrize(("arch", "kind"), [("transformer_xl", LanguageModel), ("hybrid", ReadsOn)])
def test_resuming_is_exact_to_the_bit(tmp_path, data, arch, kind):
    how = {"arch": arch, "kind": kind, "fields": {"dropout": 0.1}}
    whole = train(tmp_path / "whole", data, **how)
    train(tmp_path / "parts", data, callbacks=(StopAt(3),), **how)
    assert newest_checkpoint(tmp_path / "parts").name == "checkpoint-3"
    rest = train(tmp_path / "parts", data, resume=True, **how)
    for name in ("model", "memory-0"):
        one, two = (
            load_file(tmp_path / r / "checkpoint-8" / f"{name}.safetensors")
            for r in ("whole", "parts")
        )
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert whole["numbers"] == rest["numbers"]
    assert one["length"].tolist() == [8 * 2 * 16] * 2


def test_the_memory_of_a_checkpoint_matters(tmp_path, data):
    train(tmp_path / "whole", data)
    train(tmp_path / "parts", data, callbacks=(StopAt(3),))
    kept = tmp_path / "parts" / "checkpoint-3" / "memory-0.safetensors"
    save_file({k: torch.zeros_like(v) for k, v in load_file(kept).items()}, kept)
    (kept.parent / "sums.json").unlink()  # by which the change would be noticed
    train(tmp_path / "parts", data, resume=True)
    one, two = (
        load_file(tmp_path / r / "checkpoint-8" / "model.safetensors") for r in ("whole", "parts")
    )
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_reports_do_not_disturb_the_memory(tmp_path, data):
    for reports in (1, 8):
        config = dataclasses.replace(LITTLE, reports=reports)
        train(tmp_path / f"{reports}", data, config)
    for name in ("model", "memory-0"):
        one, two = (
            load_file(tmp_path / r / "checkpoint-8" / f"{name}.safetensors") for r in ("1", "8")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_it_is_scored_with_its_memory_carried(tmp_path, data):
    facts = train(tmp_path / "run", data, dataclasses.replace(LITTLE, steps=2))
    assert "state carried through each document in chunks of 16 bytes" in facts["protocol"]
    facts = train(tmp_path / "alone", data, dataclasses.replace(LITTLE, steps=2), arch="local")
    assert "windows of 16 bytes" in facts["protocol"]
    assert not list((tmp_path / "alone").rglob("memory-*"))
    facts = train(
        tmp_path / "apart", data, dataclasses.replace(LITTLE, steps=2), fields={"carry": False}
    )
    assert "windows of 16 bytes" in facts["protocol"]
    assert json.loads((tmp_path / "apart" / "run.json").read_text())["model"]["carry"] is False


def test_bf16_and_recomputation_carry_too(tmp_path, data):
    config = dataclasses.replace(LITTLE, bf16=True, recompute=True, label_smoothing=0.1)
    facts = train(tmp_path / "run", data, config)
    assert facts["numbers"]["bits_per_byte"] < 8.5
    kept = load_file(tmp_path / "run" / "checkpoint-8" / "memory-0.safetensors")
    assert kept["layers.1.0.x"].shape == (2, 8, 32)
    assert kept["layers.1.0.x"].isfinite().all()


# --- what does not fit --------------------------------------------------------------------------


def test_another_batch_is_refused(tmp_path, data):
    train(tmp_path / "run", data, callbacks=(StopAt(3),))
    other = dataclasses.replace(LITTLE, batch=4, accumulate=1)
    with pytest.raises(ValueError, match="memory holds 2 lanes and this batch 4 rows"):
        train(tmp_path / "run", data, other, resume=True)
    (tmp_path / "run" / "checkpoint-3" / "memory-0.safetensors").unlink()
    with pytest.raises(ValueError, match=r"checkpoint-3 has no memory-0.safetensors; .* as many"):
        train(tmp_path / "run", data, resume=True)


def test_a_memory_of_another_model_is_refused(tmp_path):
    made = {
        arch: build(arch, dataclasses.asdict(ARCHS[arch].PRESETS["tiny"]), vocab_size=9)
        for arch in ("transformer_xl", "performer")
    }
    one, two = (Carry(m.init_memory, 0) for m in made.values())
    Carry(made["performer"].init_memory, 0).save(tmp_path)  # nothing yet, so nothing is written
    assert not list(tmp_path.iterdir())
    one.into({"input_ids": torch.zeros(2, 4)})
    one.save(tmp_path)
    with pytest.raises(
        ValueError, match=r"holds .*layers.0.0.x.* is .*layers.0.0.kv.*another model"
    ):
        two.load(tmp_path)


def test_a_task_without_text_has_no_lanes():
    class Other(LanguageModel):
        name = "other"
        lanes = Task.lanes

    with pytest.raises(ValueError, match="items of the task other do not go on"):
        Other(LanguageModelConfig()).lanes(3, 0, 2)
