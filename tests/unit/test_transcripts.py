"""WER, CER, their intervals and the report."""

import pytest
import torch

from subquad.tasks.transcripts import counted, intervals, rates, table

SAID = ["one two three", "one", "", "a b"]
TRUE = ["one to three", "one", "two", "b"]


def test_counts_by_hand():
    found = counted(SAID, TRUE)
    # word errors, words, character errors, characters, exact, utterances
    assert found.tolist() == [
        [1, 3, 1, 12, 0, 1],
        [0, 1, 0, 3, 1, 1],
        [1, 1, 3, 3, 0, 1],
        [1, 1, 2, 1, 0, 1],
    ]
    assert rates(found.sum(0)) == pytest.approx({"wer": 3 / 6, "cer": 6 / 19, "exact": 1 / 4})


def test_nothing_said_is_no_division_by_zero():
    assert rates(counted([""], [""])[0]) == {"wer": 0.0, "cer": 0.0, "exact": 1.0}
    assert rates(counted(["oh"], [""])[0]) == {"wer": 1.0, "cer": 2.0, "exact": 0.0}


def test_intervals_hold_the_rate_and_shrink():
    torch.manual_seed(1)
    words = torch.randint(5, 15, (400,)).double()
    wrong = torch.distributions.Binomial(words, torch.tensor(0.2, dtype=torch.float64)).sample()
    counts = torch.stack((wrong, words, wrong, 5 * words, wrong == 0, torch.ones(400)), 1)
    few, many = intervals(counts[:40]), intervals(counts)
    rate = rates(counts.sum(0))["wer"]
    assert many["wer_low"] < rate < many["wer_high"]
    # the spread of a mean of 400 draws: 1.96 sqrt(p q / words), within a quarter
    width = 2 * 1.96 * float((rate * (1 - rate) / words.sum()) ** 0.5)
    assert many["wer_high"] - many["wer_low"] == pytest.approx(width, rel=0.25)
    assert few["wer_high"] - few["wer_low"] > 2 * (many["wer_high"] - many["wer_low"])
    assert intervals(counts) == many


def test_table_has_the_worst_first():
    rows = [{"text": t, "name": f"u{i}", "seconds": 1.5} for i, t in enumerate(TRUE)]
    lines = table(rows, SAID, counted(SAID, TRUE)).splitlines()
    assert lines[0].split("\t")[:3] == ["word errors", "words", "wer"]
    assert [line.split("\t")[4] for line in lines[1:]] == ["u2", "u3", "u0", "u1"]
    assert lines[1] == "1\t1\t1.000\t1.000\tu2\t1.50\t\ttwo"
