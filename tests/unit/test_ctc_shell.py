"""CTC by the names of transformers: the model, the feature extractor, the pipeline."""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoFeatureExtractor,
    AutoModelForCTC,
    Wav2Vec2CTCTokenizer,
    pipeline,
)

from subquad.hf import SubquadConfig, SubquadFeatureExtractor, SubquadForCTC
from subquad.nn.logmel import LogMel

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = ["<pad>", "|", "a", "b", "c", "d"]


def made(**fields):
    torch.manual_seed(5)
    sizes = {"dim": 16, "num_heads": 4, "num_layers": 1, "ffn_dim": 32, "kernel": 4}
    parts = {"arch": "conformer", "model": sizes, "stem": {"kind": "frames"}}
    parts |= {"vocab_size": len(LETTERS), "pad_token_id": 0}
    return SubquadForCTC(SubquadConfig(**parts | fields)).eval()


def padded(rows, side):
    longest = max(map(len, rows))
    x = torch.full((len(rows), longest, 80), float("nan"), dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for row, one in enumerate(rows):
        at = slice(0, len(one)) if side == "right" else slice(longest - len(one), longest)
        x[row, at], mask[row, at] = one, 1
    return x, mask


@pytest.mark.parametrize("side", ["left", "right"])
def test_batched_equals_alone(side):
    m = made().double()
    rows = [torch.randn(n, 80, dtype=torch.float64) for n in (40, 23, 8)]
    labels = torch.tensor([[2, 3, 3], [4, -100, -100], [5, -100, -100]])
    x, mask = padded(rows, side)
    out = m(x, attention_mask=mask, labels=labels)
    alone = [m(row[None], labels=y[None, y >= 0]) for row, y in zip(rows, labels, strict=True)]
    for got, row, one in zip(out.logits, rows, alone, strict=True):
        count = one.logits.shape[1]
        assert count == int(m.lengths(torch.tensor([len(row)])))
        torch.testing.assert_close(got[:count], one.logits[0], rtol=1e-10, atol=1e-10)
        assert bool((got[count:].argmax(-1) == m.blank).all())
    nats = sum(one.loss.item() * int((y >= 0).sum()) for one, y in zip(alone, labels, strict=True))
    assert out.loss.item() == pytest.approx(nats / 5, abs=1e-10)


def test_loss_of_a_batch_in_pieces():
    m = made()
    x, labels = torch.randn(2, 20, 80), torch.tensor([[2, 3], [4, -100]])
    whole = m(x, labels=labels).loss
    pieces = [m(x[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=3).loss for i in (0, 1)]
    torch.testing.assert_close(sum(pieces), whole)
    whole.backward()
    assert all(p.grad is not None for p in m.model.backbone.parameters())


def test_what_comes_in_is_checked():
    with pytest.raises(ValueError, match=r"pass input_features \(batch, frames, bands\), not None"):
        made()()
    with pytest.raises(ValueError, match="take no input_values"):
        made()(torch.randn(1, 9, 80), input_values=torch.randn(1, 4))
    with pytest.raises(ValueError, match="a stem of kind 'tokens' reads no frames"):
        made(stem={"kind": "tokens"})


def test_the_blank_is_the_padding_token():
    assert made(head={"kind": "ctc", "blank": 3}, pad_token_id=3).blank == 3
    with pytest.raises(ValueError, match="blank of the head is 3 and pad_token_id is 0; they are"):
        made(head={"kind": "ctc", "blank": 3})
    assert made().blank == 0


def test_feature_extractor_is_log_mel(tmp_path):
    told = SubquadFeatureExtractor([0.5] * 80, [2.0] * 80)
    told.save_pretrained(tmp_path)
    made().save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is SubquadFeatureExtractor
    waves = [torch.randn(n).numpy() for n in (1600, 401)]
    batch = again(waves, sampling_rate=16_000, return_tensors="pt")
    for row, wave in enumerate(waves):
        wanted = (LogMel()(torch.tensor(wave)[None])[0][0] - 0.5) / 2.0
        assert int(batch["attention_mask"][row].sum()) == len(wanted)
        torch.testing.assert_close(batch["input_features"][row, : len(wanted)], wanted)
        one = again(wave, return_tensors="pt")["input_features"][0]
        torch.testing.assert_close(one, wanted)


@pytest.mark.parametrize(
    ("wave", "how", "says"),
    [
        (np.zeros(10), {"sampling_rate": 8000}, "sampled at 8000 Hz.*those of 16000 Hz"),
        (np.zeros(0), {}, r"at least one sample, not \(0,\)"),
        (np.zeros(10), {"padding": "max_length"}, "padded to the longest"),
    ],
)
def test_waves_that_do_not_do(wave, how, says):
    with pytest.raises(ValueError, match=says):
        SubquadFeatureExtractor()(wave, **how)
    with pytest.raises(ValueError, match="40 bands at 16000 Hz are asked for; there are 80"):
        SubquadFeatureExtractor(feature_size=40)


def test_pipeline_reads_a_folder(tmp_path):
    made(inputs_to_logits_ratio=640).save_pretrained(tmp_path)
    SubquadFeatureExtractor().save_pretrained(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps({c: i for i, c in enumerate(LETTERS)}))
    Wav2Vec2CTCTokenizer(
        tmp_path / "vocab.json", bos_token=None, eos_token=None, unk_token=None
    ).save_pretrained(tmp_path)
    assert type(AutoModelForCTC.from_pretrained(tmp_path)) is SubquadForCTC
    listen = pipeline("automatic-speech-recognition", model=str(tmp_path))
    wave = (0.1 * torch.randn(8000)).numpy()
    p = listen.model(listen.feature_extractor(wave, return_tensors="pt")["input_features"]).logits
    path = p[0].argmax(-1).tolist()
    text = "".join(LETTERS[v] for n, v in enumerate(path) if v and v != (path[n - 1] if n else 0))
    assert listen(wave)["text"] == " ".join(text.replace("|", " ").split())
    assert listen([wave, wave[:3000]], batch_size=2)[1] == listen(wave[:3000])
    words = listen(wave, return_timestamps="word")["chunks"]
    assert all(0 <= word["timestamp"][0] < word["timestamp"][1] <= 0.51 for word in words)
    assert listen(wave, chunk_length_s=0.2)["text"]
