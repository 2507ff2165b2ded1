"""Scores against their definition: each token once, with the past that the protocol states."""

import dataclasses
import gzip
import math

import numpy as np
import pytest
import torch

from subquad.archs import ARCHS
from subquad.data.corpus import Corpus, tokenise
from subquad.data.documents import Documents
from subquad.data.text import open_text
from subquad.data.vocabulary import Bytes, Subwords, learn
from subquad.model import build
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.tasks.scoring import carried, gzip_bits, windowed
from subquad.tasks.task import Share

LENGTHS = (1, 7, 8, 9, 30, 0, 21)


def corpus_of(lengths: tuple[int, ...] = LENGTHS) -> Corpus:
    end = np.cumsum(lengths)
    tokens = np.random.default_rng(0).integers(0, 256, int(end[-1])).astype(np.uint8)
    return Corpus(tokens, end - lengths, end, 256, int(end[-1]))


def model_of(arch: str = "transformer"):
    fields = dataclasses.asdict(dataclasses.replace(ARCHS[arch].PRESETS["tiny"], dropout=0.0))
    return build(arch, fields, vocab_size=260).double().eval()


def nats(model, inputs: list[int], target: int) -> float:
    logits, _ = model(torch.tensor([inputs]))
    return -float(logits[0, -1].log_softmax(-1)[target])


def by_definition(model, corpus: Corpus, context: int, stride: int) -> tuple[float, list[int]]:
    """Token by token: window w scores its last `stride` tokens, the first window all of its."""
    total, pasts = 0.0, []
    for start, end in zip(corpus.start, corpus.end, strict=True):
        ids = [corpus.boundary, *corpus.tokens[start:end].tolist()]
        for at in range(1, len(ids)):
            if at <= context:
                last = min(context, len(ids) - 1)
            else:
                last = context + -(-(at - context) // stride) * stride
                last = min(last, len(ids) - 1)
            first = max(0, last - context)
            total += nats(model, ids[first:at], ids[at])
            pasts.append(at - first)
    return total, pasts


@pytest.mark.parametrize(("context", "stride"), [(8, 4), (8, 8), (8, 1), (5, 3), (100, 50)])
@pytest.mark.parametrize("batch", [1, 4])
def test_windows_score_each_token_once_with_the_stated_past(context, stride, batch):
    model, corpus, told = model_of(), corpus_of(), []
    how = {"batch": batch, "share": Share(), "tick": told.append}
    with torch.no_grad():
        expected, pasts = by_definition(model, corpus, context, stride)
    assert windowed(model, corpus, context, stride, **how) == pytest.approx(expected, rel=1e-5)
    assert sum(told) == len(pasts) == sum(LENGTHS)
    later = [past for past in pasts if past > context - stride]
    assert max(pasts) <= context
    assert len(later) >= sum(max(0, n - context) for n in LENGTHS)


@pytest.mark.parametrize("arch", ["transformer", "performer", "local"])
@pytest.mark.parametrize(("chunk", "batch"), [(1, 3), (5, 2), (8, 7), (100, 1)])
def test_a_carried_state_sees_the_whole_document_and_no_other(arch, chunk, batch):
    model, corpus = model_of(arch), corpus_of()
    expected = 0.0
    with torch.no_grad():
        for start, end in zip(corpus.start, corpus.end, strict=True):
            ids = torch.tensor([[256, *corpus.tokens[start:end].tolist()]])
            logits, _ = model(ids)
            told = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            expected -= float(told.sum())
    how = {"batch": batch, "share": Share(), "tick": lambda scored: None}
    assert carried(model, corpus, chunk, **how) == pytest.approx(expected, rel=1e-5)


def test_processes_share_the_work():
    model, corpus = model_of(), corpus_of()
    how = {"batch": 2, "tick": lambda scored: None}
    for score, sizes in ((windowed, (8, 4)), (carried, (8,))):
        whole = score(model, corpus, *sizes, share=Share(), **how)
        parts = [score(model, corpus, *sizes, share=Share(r, 3), **how) for r in range(3)]
        assert sum(parts) == pytest.approx(whole, rel=1e-12)
        assert min(parts) > 0


def test_gzip_is_gzip():
    said = bytes(range(256)) * 50 + b"again and again " * 500
    pieces = (said[i : i + 999] for i in range(0, len(said), 999))
    assert gzip_bits(pieces) == 8 * len(gzip.compress(said, 9))


@pytest.mark.parametrize("kind", ["bytes", "bpe"])
def test_bits_are_per_byte_of_the_text_whatever_the_tokens(kind, tmp_path, monkeypatch):
    """An untrained model that says nothing costs log2(vocabulary) a token."""
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path))
    text: Documents = open_text(None).take("valid").head(5_000)
    words = Bytes() if kind == "bytes" else Subwords(learn(text.pieces(), 500), "bpe:500")
    task = LanguageModel(LanguageModelConfig(context=64), words)
    fields = dataclasses.asdict(ARCHS["local"].PRESETS["tiny"])
    model = task.build("local", fields)
    with torch.no_grad():
        model.model.head.project.weight.zero_()
    corpus = tokenise(text, words, keep=False)
    result = task.score(model, text, corpus)
    tokens = len(corpus.tokens) if kind == "bpe" else text.nbytes
    expected = math.log2(words.size) * tokens / text.nbytes
    assert result.numbers["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    assert result.numbers["bytes"] == text.nbytes
    assert ("64 tokens" if kind == "bpe" else "64 bytes") in result.protocol
    assert model.training  # as it was before


def test_the_protocol_follows_the_question():
    corpus, text = corpus_of((40,)), open_text(None).head(40)
    task = LanguageModel(LanguageModelConfig(context=16), Bytes())
    model = task.build("local", dataclasses.asdict(ARCHS["local"].PRESETS["tiny"]))
    assert "stride 8: each" in task.score(model, text, corpus).protocol
    assert "between 12 and 16" in task.score(model, text, corpus, stride=4).protocol
    assert "carried" in task.score(model, text, corpus, carry=True).protocol
    with pytest.raises(ValueError, match="stride 17 does not fit context 16"):
        task.score(model, text, corpus, stride=17)


@pytest.mark.parametrize(
    ("arch", "position", "kind"),
    [
        ("local", "auto", "none"),
        ("local", "learned", "learned"),
        ("local", "sinusoidal", "sinusoidal"),
    ],
)
def test_positions_come_from_the_architecture_or_the_stem(arch, position, kind):
    task = LanguageModel(LanguageModelConfig(context=16, position=position), Bytes())
    fields = dataclasses.asdict(ARCHS[arch].PRESETS["tiny"])
    assert task.build(arch, fields).config.stem["position"] == kind
    bare = task.build(arch, {**fields, "position": "none"})
    assert bare.config.stem["position"] == ("sinusoidal" if position == "auto" else kind)
