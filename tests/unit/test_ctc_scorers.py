"""Language models over transcripts: tables, their files, and how they hear tokens."""

import math

import pytest
import torch

from catalog import model
from subquad.tasks.ctc.ngrams import Ngrams, counted
from subquad.tasks.ctc.scorers import ByWords, Reader

TEXTS = ["abab", "abc", "b", "", "cab", "abab"]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_counted_probabilities_sum_to_one(order):
    table = counted(TEXTS, order, "abcd")
    for text in ("", "a", "ab", "abab", "dd", "cd", "bb"):
        past = table.begin
        for word in text:
            past = table.after(past, word)
        total = sum(math.exp(table.nats(past, word)) for word in [*"abcd", "</s>"])
        assert total == pytest.approx(1.0, abs=1e-9)
        assert all(table.nats(past, word) < 0 for word in "abcd")


def test_kneser_ney_by_hand():
    """Two words, bigrams: D = 2 / (2 + 2) = 1/2 of c(<s> a) = 2, c(a b) = 1, c(b </s>) = 1 ..."""
    table = counted(["ab", "a"], 2)
    # bigrams: <s>a 2, ab 1, b</s> 1, a</s> 1: one is seen twice, three once
    discount = 3 / (3 + 2 * 1)
    # single words by what stands before them: a after <s>; b after a; </s> after b and a
    once = 2 / (2 + 2 * 1)
    single = {"a": 1, "b": 1, "</s>": 2}
    left = once * 3 / 4
    p = {word: (count - once) / 4 + left / 3 for word, count in single.items()}
    assert table.nats((), "b") == pytest.approx(math.log(p["b"]))
    wanted = (1 - discount) / 2 + discount * 2 / 2 * p["b"]
    assert table.nats(("a",), "b") == pytest.approx(math.log(wanted))
    # never seen: what the past leaves
    assert table.nats(("b",), "a") == pytest.approx(math.log(discount * 1 / 1 * p["a"]))


def test_arpa_is_read_and_written(tmp_path):
    table = counted(TEXTS, 3, "abcd")
    table.write(tmp_path / "lm.arpa")
    again = Ngrams.read(tmp_path / "lm.arpa")
    assert again.order == 3
    assert again.words == set("abcd")
    for past in ((), ("a",), ("a", "b"), ("d", "a"), again.begin):
        for word in [*"abcd", "</s>"]:
            assert again.nats(past, word) == pytest.approx(table.nats(past, word), abs=1e-5)


ARPA = """
\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-1.0 <unk>
-99 <s> -0.5
-0.3 the -0.25
-0.6 </s>

\\2-grams:
-0.1 <s> the

\\end\\
"""


def test_arpa_of_others(tmp_path):
    path = tmp_path / "other.arpa"
    path.write_text(ARPA)
    table = Ngrams.read(path)
    ten = math.log(10)
    assert table.nats(table.begin, "the") == pytest.approx(-0.1 * ten)
    assert table.nats(("the",), "</s>") == pytest.approx((-0.25 - 0.6) * ten)
    assert table.nats(table.begin, "cat") == pytest.approx((-0.5 - 1.0) * ten)
    assert table.after(table.begin, "cat") == ("<unk>",)


def test_arpa_that_says_it_has_none_of_a_length(tmp_path):
    path = tmp_path / "other.arpa"
    path.write_text(ARPA.replace("ngram 2=1", "ngram 2=1\nngram 3=0"))
    assert Ngrams.read(path).order == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\\data\\\nngram 1=0\n\\end\\", "promises 0 1-grams and holds nothing"),
        ("hello", "promises nothing and holds nothing"),
        (ARPA.replace("ngram 2=1", "ngram 2=2"), "promises 4 1-grams, 2 2-grams and holds"),
        (ARPA.replace("-0.1 <s> the", "-0.1 <s>"), "line 13 is no 2-gram with its numbers"),
        (ARPA.replace("-0.1", "x"), "line 13 is no 2-gram"),
    ],
)
def test_files_that_are_no_arpa(tmp_path, text, says):
    path = tmp_path / "bad.arpa"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        Ngrams.read(path)


def heard(scorer, tokens):
    """Nats and units of a transcript, summed."""
    state, total, count = scorer.start(), 0.0, 0
    for token in tokens:
        state, nats, units = scorer.extend(state, token)
        total, count = total + nats, count + units
    nats, units = scorer.finish(state)
    return total + nats, count + units


def test_words_are_scored_when_they_are_complete(tmp_path):
    (tmp_path / "w.arpa").write_text(ARPA)
    table = Ngrams.read(tmp_path / "w.arpa")
    scorer = ByWords(table, lambda tokens: "".join("_the c"[t] for t in tokens))
    the = [1, 2, 3]
    first = table.nats(table.begin, "the")
    end = table.nats(("the",), "</s>")
    assert heard(scorer, the) == pytest.approx((first + end, 1))
    assert heard(scorer, [4, *the, 4]) == pytest.approx((first + end, 1))
    twice = first + table.nats(("the",), "the") + end
    assert heard(scorer, [*the, 4, *the]) == pytest.approx((twice, 2))
    assert heard(scorer, [*the, 4, 4, *the]) == pytest.approx((twice, 2))
    assert heard(scorer, []) == pytest.approx((table.nats(table.begin, "</s>"), 0))


def test_a_model_of_ours_reads_on():
    lm = model("local")
    scorer = Reader(
        lm, 49, lambda token: bytes([token, token + 1]) if token > 5 else bytes([token])
    )
    tokens = [3, 7, 3]
    ids = torch.tensor([[49, 3, 7, 8, 3, 49]])
    with torch.no_grad():
        p = lm(ids[:, :-1])[0][0].log_softmax(-1)
    wanted = float(p.gather(1, ids[0, 1:, None]).sum())
    found, units = heard(scorer, tokens)
    assert found == pytest.approx(wanted, abs=1e-9)
    assert units == 3


def test_a_prefix_is_read_once():
    lm, calls = model("local"), []
    forward = lm.forward
    lm.forward = lambda *given, **how: calls.append(1) or forward(*given, **how)
    scorer = Reader(lm, 49, lambda token: bytes([token]))
    state, _, _ = scorer.extend(scorer.start(), 3)
    for token in range(20):
        scorer.extend(state, token)
    assert len(calls) == 2
