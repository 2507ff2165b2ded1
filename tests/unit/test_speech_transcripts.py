"""Transcripts as tokens: letters as transformers has them, pieces, and what CTC can write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from subquad.data.transcripts import Letters, Pieces, frames_for, usable

TEXTS = [
    "RUBOUT G M E F THREE NINE",
    "YES",
    "ENTER SIX TWENTY FOUR",
    "IT'S GO  GO",
    "HELLO FOUR THREE",
]


def test_letters_are_those_of_transformers(tmp_path: Path):
    from transformers import Wav2Vec2CTCTokenizer

    letters = Letters.learn(TEXTS)
    assert list(letters.tokens)[:4] == ["<pad>", "<unk>", "|", "'"]
    (tmp_path / "vocab.json").write_text(json.dumps(letters.tokens))
    theirs = Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token=None, eos_token=None)
    assert len(theirs) == letters.size
    assert (theirs.pad_token_id, theirs.unk_token_id) == (letters.blank, letters.unknown)
    for text in (*TEXTS, "A"):
        text = " ".join(text.split())
        ids = theirs(text).input_ids
        assert letters.encode(text) == ids
        assert letters.decode(ids) == text or "A" in text
    blanks = [i for token in letters.encode("GO  GO") for i in (0, token, 0)]
    assert letters.decode(blanks) == theirs.decode(blanks) == "GO GO"


def test_letters_that_are_not_known():
    letters = Letters.learn(["AB"])
    assert letters.encode("A Cb|B") == [3, 2, 1, 1, 2, 4]
    assert letters.strange("A Cb|B") == {"C", "b"}
    assert letters.decode([3, 2, 1]) == "A �"
    assert Letters(letters.tokens).tokens == letters.tokens


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_pieces(kind: str):
    pieces = Pieces.learn(TEXTS, kind, 30)
    assert pieces.size <= 30
    assert pieces.blank == 0
    assert pieces.tokens["<unk>"] == pieces.unknown == 1
    for text in TEXTS:
        ids = pieces.encode(text)
        assert len(ids) <= len(text) + 1
        assert pieces.decode([0, *ids, 0]) == " ".join(text.split())
        assert not pieces.strange(text)
    assert pieces.strange(" YES  Ä TEA q") == {"Ä", "A", "q"}
    assert pieces.unknown in pieces.encode("Ä")
    assert pieces.blank not in pieces.encode("<pad>")
    again = Pieces(type(pieces.tokenizer).from_str(pieces.tokenizer.to_str()))
    assert again.encode(TEXTS[0]) == pieces.encode(TEXTS[0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Letters.learn([" "]), "letters are learnt from transcripts, and these hold none"),
        (lambda: Letters({"<unk>": 0}), "token '<pad>' of a vocabulary of letters is None; it mus"),
        (lambda: Letters({"<pad>": 0, "<unk>": 1, "|": 3}), "numbers '|' and all its 3 tokens fro"),
        (lambda: Pieces.learn(TEXTS, "bpe", 9), "bpe:9 is too few pieces: .* so 21 is the least"),
        (lambda: Pieces.learn(TEXTS, "words", 9), "no word pieces 'words'; there are unigram, bpe"),
        (lambda: Pieces.learn([""], "bpe", 9), "word pieces are learnt from transcripts, and the"),
    ],
)
def test_errors(call, says: str):
    with pytest.raises(ValueError, match=says.replace("|", r"\|")):
        call()


def test_pieces_of_others_may_lack_what_transcripts_need():
    from tokenizers import Tokenizer, models

    with pytest.raises(ValueError, match="these word pieces lack <pad>"):
        Pieces(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))


@pytest.mark.parametrize("ids", [[3], [3, 4], [3, 3], [3, 3, 3, 4, 4]])
def test_frames_are_those_that_ctc_needs(ids: list[int]):
    """With a frame less torch's loss is infinite."""
    need = frames_for(ids)
    for frames in range(max(1, need - 1), need + 1):
        scores = torch.zeros(frames, 1, 5).log_softmax(-1)
        sizes = torch.tensor([frames]), torch.tensor([len(ids)])
        loss = torch.nn.functional.ctc_loss(scores, torch.tensor([ids]), *sizes)
        assert loss.isfinite() == (frames == need)
    assert frames_for([]) == 0


def test_rows_that_cannot_be_trained_on_are_counted():
    letters = Letters.learn(["AB "])
    texts = {"AB": 1.0, "AC": 1.0, "AAB": 0.4, "AAB BA": 9.0, "ABAB": 0.4}
    rows = [{"text": text, "seconds": seconds} for text, seconds in texts.items()]
    places, left_out = usable(rows, letters, lambda seconds: int(seconds * 10))
    assert places == [0, 2, 3, 4]
    assert left_out == {"a transcript with characters outside the vocabulary": 1}
    places, left_out = usable(rows, letters, lambda seconds: int(seconds * 9))
    assert places == [0, 3]
    assert left_out["a transcript longer than its frames allow"] == 2
