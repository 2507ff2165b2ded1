"""The shell's class for pictures: save and load, training, the pipeline, what it refuses."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

from catalog import BOTH_WAYS, tiny
from subquad.hf import SubquadConfig, SubquadForImageClassification, SubquadModel
from subquad.tasks.views import View

LABELS = 3
STEM = {"kind": "patches", "image_size": 8, "patch": 4, "channels": 3}


def made(arch="vit", causal=False, **fields):
    torch.manual_seed(4)
    fields = {"stem": STEM, "num_labels": LABELS, **fields}
    config = SubquadConfig(arch=arch, model=tiny(arch, causal=causal), **fields)
    return SubquadForImageClassification(config).eval()


@pytest.mark.parametrize(("arch", "causal"), BOTH_WAYS)
def test_saved_and_loaded_by_the_auto_classes(arch, causal, tmp_path):
    m, pixels = made(arch, causal), torch.randn(2, 3, 8, 8)
    m.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(again) is type(m)
    assert torch.equal(again(pixels).logits, m(pixels).logits)
    assert m(pixels, return_dict=False)[0].shape == (2, LABELS)
    bare = AutoModel.from_pretrained(tmp_path)
    assert isinstance(bare, SubquadModel)
    y = bare(pixel_values=pixels).last_hidden_state
    assert torch.equal(m.model.head(y), m(pixels).logits)


def test_other_sizes_and_the_embedding():
    m = made()
    assert m(torch.randn(1, 3, 12, 20)).logits.shape == (1, LABELS)
    assert m.get_input_embeddings() is m.model.stem.embedding
    assert m.get_output_embeddings() is None
    assert (m.config.head["kind"], m.config.head["num_labels"]) == ("labels", LABELS)


def test_what_does_not_do_is_said():
    m = made()
    with pytest.raises(ValueError, match="'tokens' reads no pictures; give stem="):
        made(stem=None)
    with pytest.raises(ValueError, match="reads pictures, so pass pixel_values"):
        m.features({"input_ids": torch.zeros(1, 4, dtype=torch.int64)})
    with pytest.raises(ValueError, match="pixel_values alone for pictures"):
        m()
    bare = SubquadModel(SubquadConfig(arch="local", model=tiny("local")))
    with pytest.raises(ValueError, match="reads tokens, so pass input_ids"):
        bare(pixel_values=torch.randn(1, 3, 8, 8))


def test_trainer_trains(tmp_path):
    m = made()
    plain = [torch.full((3, 8, 8), float(label)) for label in range(LABELS)]
    rows = [{"pixel_values": plain[i % 3], "labels": i % 3} for i in range(30)]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=20,
        per_device_train_batch_size=15,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=m, args=args, train_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5


def test_pipeline(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    names = {0: "cat", 1: "dog", 2: "cow"}
    m = made(id2label=names)
    m.save_pretrained(tmp_path)
    view = View((8, 8, 3), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(view.processor))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    classify = pipeline("image-classification", model=str(tmp_path), device="cpu")
    found = {one["label"]: one["score"] for one in classify(pillow.fromarray(pixels))}
    odds = m(view.seen(pixels)[None]).logits.softmax(-1)[0]
    assert found == {name: pytest.approx(odds[i].item(), rel=1e-5) for i, name in names.items()}
    # they make every picture RGB, so nothing is written for others
    assert View((8, 8, 1), (0.4,), (0.3,)).processor is None
