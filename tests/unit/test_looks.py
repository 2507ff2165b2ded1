"""What each task puts before its model to be shown: labels on every axis, and the input itself."""

import json
import wave

import numpy as np
import pytest
import torch

from subquad.archs import ARCHS, PAIRS
from subquad.tasks import find_task
from subquad.viz import Page, Views, look
from subquad.viz.rollout import gradients
from subquad.viz.seen import sights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def made(name, arch, **fields):
    """A task with its embedded data, and a fresh model."""
    kind = find_task(name)
    task = kind(kind.Config(**fields))
    task.prepare(None)
    preset = vars({**ARCHS, **PAIRS}[arch].PRESETS["tiny"])
    if kind.looks_ahead and "causal" in preset:
        preset = {**preset, "causal": False}
    torch.manual_seed(0)
    return task, task.build(arch, dict(preset)).eval()


def shown(task, model, raw):
    """What is looked at, its axes with labels of their lengths; and that a page can hold it."""
    found = task.look(model, raw)
    views = Views(views=["rollout"])
    one = look(
        model, found.inputs, title=task.name, labels=found.labels, over=found.over, views=views
    )
    for layer in one.layers:
        for axis, size in ((layer.queries_are, layer.queries), (layer.keys_are, layer.keys)):
            if axis not in ("latents", "slots"):
                assert len(found.labels[axis]) == size, (layer.title, axis)
    assert "</html>" in Page([one]).html()
    return found, one


def test_documents():
    task, model = made("mlm", "linformer", context=32, valid_bytes=100)
    found, _ = shown(task, model, "a <|mask|> b")
    assert found.labels["tokens"] == ["a", " ", "<mask>", " ", "b"]
    task, model = made("lm", "local", context=32, valid_bytes=100)
    found, _ = shown(task, model, "hé")
    assert found.labels["tokens"][:2] == ["<end>", "h"]


def test_puzzles():
    task, model = made("synthetic", "performer", kind="duplication", length=16)
    found, _ = shown(task, model, "item 2")
    assert found.labels["tokens"][1] == found.labels["tokens"][9] == "0"
    assert shown(task, model, "0 3 5")[0].labels["tokens"] == ["<end>", "0", "3", "5"]


def test_rows_of_text():
    task, model = made("classify", "longformer", context=64)
    found, _ = shown(task, model, "def f")
    assert found.labels["tokens"] == ["<mark>", *"def f"]
    with pytest.raises(ValueError, match="the input has 65 tokens and this run reads 64 at once"):
        task.look(model, "x" * 64)


def test_pictures():
    task, model = made("image", "vit")
    height, width, channels = task.view.shape
    pixels = np.zeros((height, width, channels), np.uint8)
    found, one = shown(task, model, {"image": pixels})
    over = found.over
    assert over["skip"] + over["lines"] * over["columns"] == over["count"]
    assert one.layers[0].queries == over["count"]
    assert (over["width"], over["height"]) == (width, height)


def test_pictures_with_texts():
    task, model = made("caption", "encoder_decoder", target=8)
    found, one = shown(task, model, {"image": np.zeros(task.view.shape, np.uint8)})
    assert found.over["axis"] == "source"
    assert {layer.keys_are for layer in one.layers} == {"source", "target"}
    task, model = made("match", "encoder_decoder")
    row = {"image": np.zeros(task.view.shape, np.uint8), "caption": "a red square"}
    found, one = shown(task, model, row)
    assert {layer.keys_are for layer in one.layers} == {"patches", "tokens"}
    with pytest.raises(ValueError, match="wants a row of JSON with image and caption"):
        task.look(model, "a red square")


def test_translations():
    task, model = made("translate", "encoder_decoder", target=8)
    found, one = shown(task, model, "a b")
    assert found.labels["source"]
    assert {layer.keys_are for layer in one.layers} == {"source", "target"}
    between = [layer.title for layer in one.layers if layer.queries_are != layer.keys_are]
    assert between == [f"layer {n}, target to source" for n in (4, 6)] + ["rollout"]
    # a row of JSON says what is written, in place of the model
    found, _ = shown(task, model, {"text": "a b", "translation": "b a"})
    assert "".join(found.labels["target"]) == "<end>b a<end>"
    for row, message in (
        ({"text": "a b", "translation": 3}, "translation is 3, which is no text"),
        ({"text": "a b", "translation": "x y " * 9}, r"tokens, its end among them, and 8 are wri"),
        (" ", "there is nothing in the text, so there is nothing to look at"),
        ("word " * 1000, r"the input has .* tokens and this run reads 256 at once; cut it"),
    ):
        with pytest.raises(ValueError, match=message):
            task.look(model, row)


def test_series(tmp_path):
    task, model = made("forecast", "logsparse", horizon=4, context=24)
    path = tmp_path / "s.csv"
    hours = np.datetime64("2020-01-01T00", "h") + np.arange(60)
    path.write_text("time,target\n" + "".join(f"{at},{i % 5}\n" for i, at in enumerate(hours)))
    found, one = shown(task, model, path)
    # the last 24 steps, and the value before them; values are i % 5
    assert len(found.over["values"]) == one.layers[0].keys == 25
    assert found.over["values"][:2] == [0.0, 1.0]
    assert found.over["values"][-1] == 4.0
    json.dumps(found.over)
    # of the value that the last step expects, so in the last layer the last query alone has a slope
    seen = sights(model, found.inputs)
    slope = gradients(model, found.inputs, seen)[-1]
    assert not slope[:, :-1].any()
    assert slope[:, -1].any()
    assert "no gradient" not in look(model, found.inputs, title="a").facts


def test_recordings(tmp_path):
    task, model = made("asr", "conformer")
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes((1000 * np.sin(np.arange(16_000) / 9)).astype("<i2").tobytes())
    found, one = shown(task, model, path)
    assert found.over["kind"] == "spectrogram"
    assert found.over["count"] == one.layers[0].keys
    assert found.over["seconds"] == 1.0
