"""Parts of the task asr: vocabularies on disk, which language model a name means, its fields."""

import json

import pytest
import torch

import subquad
from catalog import model
from subquad.data.transcripts import Letters, Pieces
from subquad.data.vocabulary import Bytes
from subquad.tasks import spelling
from subquad.tasks.asr import Asr
from subquad.tasks.asr_config import AsrConfig
from subquad.tasks.ctc.lms import find_beams, find_scorer
from subquad.tasks.ctc.ngrams import counted
from subquad.tasks.ctc.paths import Placed
from subquad.tasks.ctc.scorers import ByTokens, ByWords, Reader
from subquad.tasks.ctc.words import words

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["the cat sat on the mat", "a cat on a mat", "the hat"]


@pytest.mark.parametrize("tokenizer", ["characters", "unigram:24", "bpe:24"])
def test_vocabularies_on_disk(tokenizer, tmp_path):
    """Read again they are the same, and transformers collapses paths over them as we do."""
    from transformers import AutoTokenizer

    known = spelling.learn(tokenizer, TEXTS)
    spelling.keep(known, tmp_path)
    again = spelling.open_words(tmp_path)
    assert type(again) is (Letters if tokenizer == "characters" else Pieces)
    assert again.tokens == known.tokens
    raw = spelling.writes(known)
    path = [0]
    for token in known.encode(TEXTS[0]):
        path += [token, token, 0]  # said twice, then a blank
    said = words([Placed(t, i, i) for i, t in enumerate(known.encode(TEXTS[0]))], raw, 1.0)
    assert " ".join(word.word for word in said) == TEXTS[0]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "subquad"}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.decode(path).strip() == TEXTS[0]
    assert theirs.pad_token_id == known.blank


def test_a_folder_without_a_vocabulary(tmp_path):
    with pytest.raises(ValueError, match=r"has neither vocab\.json nor tokenizer"):
        spelling.open_words(tmp_path)


def test_names_of_language_models(tmp_path):
    known = Letters.learn(TEXTS)
    own = counted(["the|cat", "a|mat"], 3, spelling.names(known)[2:])
    assert find_scorer("ngram", known, own).ngrams is own
    own.write(tmp_path / "letters.arpa")
    assert type(find_scorer(str(tmp_path / "letters.arpa"), known, None)) is ByTokens
    counted([text.split() for text in TEXTS], 2).write(tmp_path / "words.arpa")
    by_words = find_scorer(str(tmp_path / "words.arpa"), known, None)
    assert type(by_words) is ByWords
    state, total = by_words.start(), 0.0
    for token in known.encode("the cat"):
        state, nats, _ = by_words.extend(state, token)
        total += nats
    table = by_words.ngrams
    assert total == pytest.approx(table.nats(table.begin, "the"))
    counted([text.upper().split() for text in TEXTS], 2).write(tmp_path / "upper.arpa")
    for name, says in (
        ("ngram", "this run counted no n-grams"),
        ("nothing.arpa", "there is no language model nothing.arpa"),
        (str(tmp_path / "upper.arpa"), "are they upper or lower case?"),
    ):
        with pytest.raises(ValueError, match=says):
            find_scorer(name, known, None)


class _Run:
    """What `subquad.load` gives for a language model."""

    class task:  # noqa: N801
        name, words = "lm", Bytes()

    class model:  # noqa: N801
        model = None


def test_a_run_is_a_language_model(tmp_path, monkeypatch):
    (tmp_path / "run.json").write_text("{}")
    _Run.model.model = model("local")
    monkeypatch.setattr(subquad, "load", lambda path: _Run, raising=False)
    found = find_scorer(str(tmp_path), Letters.learn(TEXTS), None)
    assert type(found) is Reader
    assert found.boundary == 256
    assert found.raw(2) == b" "
    monkeypatch.setattr(_Run.task, "name", "mlm")
    with pytest.raises(ValueError, match="is a run of the task mlm; a language model over bytes"):
        find_scorer(str(tmp_path), Letters.learn(TEXTS), None)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"tokenizer": "words"}, "characters, unigram:N or bpe:N"),
        ({"tokenizer": "characters:30"}, "characters, unigram:N or bpe:N"),
        ({"tokenizer": "bpe:many"}, "bpe wants its size, as in bpe:200"),
        ({"window": 0.5}, "window is 0.5; it must be at least 1"),
        ({"ctc_weight": 1.5}, "ctc_weight is 1.5; it lies from 0 to 1"),
        ({"ctc_weight": 0.0, "decoder": 1}, "ctc_weight is 0 beside a decoder; it must be above"),
    ],
)
def test_fields_that_do_not_do(fields, says):
    with pytest.raises(ValueError, match=says):
        AsrConfig(**fields)


def test_each_settling_begins_anew():
    task = Asr(AsrConfig(), Letters.learn(TEXTS))
    task.settle(beams=4, times=True)
    assert (task.beams.width, task.times, task._decoding) == (4, True, "4 beams, bonus 0.0")
    task.settle()
    assert (task.beams, task.times) == (None, False)
    assert task._decoding == "the likeliest token of each output"


def test_a_decoder_ranks_beams_unless_said_otherwise():
    task = Asr(AsrConfig(decoder=1), Letters.learn(TEXTS))
    task.settle()
    assert task.beams.width == 16
    assert task._decoding == "16 beams, bonus 0.0, with the decoder"
    task.settle(beams=3)
    assert task.beams.width == 3


def test_a_weight_is_that_of_a_language_model():
    with pytest.raises(ValueError, match=r"lm_weight is 0\.3, and there is no language model"):
        find_beams(Letters.learn(TEXTS), None, beams=4, lm_weight=0.3)


def test_outputs_are_those_of_the_stem():
    from subquad.nn.frames import FrameStem

    stem, task = FrameStem(8), Asr(AsrConfig())
    assert [task.outputs(n) for n in range(200)] == [stem.count(n) for n in range(200)]
    with pytest.raises(ValueError, match=r"label smoothing 0\.1 does not go with CTC"):
        task.loss(torch.nn.Identity(), {}, 0.1)
