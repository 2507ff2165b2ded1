"""A list of words, made a tokenizer (test_convert_xl.py has one beside its weights)."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from subquad.convert.vocabulary import word_level

WORDS = 60


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("theirs").mkdir()


def test_a_tokenizer_that_is_there_stays():
    Path("theirs/tokenizer.json").write_text("{}")
    Path("theirs/vocab.json").write_text('{"a": 0}')
    assert word_level(Path("theirs"), Path("ours"), 1) == ""


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("vocab.json", '{"a": 0, "b": 1}', "vocab.json: it has 2 words, and the model 60"),
        ("vocab.json", '{"a": 0, "b": 2}', "vocab.json: its numbers are not 0 and those that fol"),
        ("vocab.json", '{"a": true}', "vocab.json: it is no object of numbers by word"),
        ("vocab.json", '["a", "b"]', "vocab.json: it is no object of numbers by word"),
        ("vocab.json", "[" * 9999, "no tokenizer made: vocab.json: "),
        ("vocab.json", '{"\\ud800": 0}', "no tokenizer made: vocab.json: "),
        ("vocab.txt", "a\na\nb", "vocab.txt: it has 2 words, and the model 60"),
        ("vocab.txt", b"\xff\xfe", "no tokenizer made: vocab.txt: 'utf-8' codec can't decode"),
        ("vocab.bin", b"\x80\x02", "vocab.bin is a pickle, which is not opened; write it as voc"),
    ],
)
def test_words_that_are_none(name, text, says):
    """One line says so; what is there goes along."""
    Path("theirs", name).write_bytes(text if isinstance(text, bytes) else text.encode())
    size = 1 if "ud800" in str(text) else WORDS
    said = word_level(Path("theirs"), Path("theirs"), size)
    assert says in said
    assert "\n" not in said
    assert [path.name for path in Path("theirs").iterdir()] == [name]


def test_words_without_a_word_for_others():
    """What is not known is refused by the tokenizers, rather than left out."""
    Path("theirs/vocab.txt").write_text("a\nb\n")
    Path("theirs/convert.json").write_text("{}")
    said = word_level(Path("theirs"), Path("theirs"), 2)
    assert "tokenizer made of vocab.txt" in said
    assert said.endswith(
        "no word for what it does not know (<unk>), so a text with others is refused"
    )
    words = AutoTokenizer.from_pretrained("theirs")
    with pytest.raises(Exception, match=r"Missing .* token from the vocabulary"):
        words("b c")
    assert torch.equal(words("b a b", return_tensors="pt")["input_ids"], torch.tensor([[1, 0, 1]]))
    assert words.eos_token is None
    told = json.loads(Path("theirs/convert.json").read_text())["made"]
    assert "tokenizer.json" in told
