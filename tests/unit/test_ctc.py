"""CTC against the sum, and the largest, over every path, written out at tiny size."""

import itertools
import math

import pytest
import torch

from subquad.model import build
from subquad.nn.ctc import CTCHead, ctc_loss, frames_needed
from subquad.tasks.ctc.beams import Beams
from subquad.tasks.ctc.ngrams import counted
from subquad.tasks.ctc.paths import Placed, align, best_path, collapse
from subquad.tasks.ctc.scorers import ByTokens

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = 3


def log_probs(frames, seed=0, words=WORDS):
    torch.manual_seed(seed)
    return (2 * torch.randn(frames, words, dtype=torch.float64)).log_softmax(-1)


def every_path(frames, blank=0):
    """(tokens, its path) of all paths."""
    for path in itertools.product(range(WORDS), repeat=frames):
        kept = [v for v, _ in itertools.groupby(path) if v != blank]
        yield tuple(kept), path


def nats(p, path):
    return sum(float(p[n, v]) for n, v in enumerate(path))


def sums(p, blank=0):
    """Each text with the log-probability of all its paths."""
    found = {}
    for tokens, path in every_path(len(p), blank):
        found[tokens] = found.get(tokens, 0.0) + math.exp(nats(p, path))
    return {tokens: math.log(total) for tokens, total in found.items()}


# --- head and loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 2])
def test_loss_is_the_sum_over_paths(blank):
    rows = [log_probs(5, 0), log_probs(5, 1), log_probs(5, 2)]
    lengths, texts = [5, 3, 4], [(1, 1), (), (1,)]
    labels = torch.full((3, 2), -100)
    for row, text in enumerate(texts):
        labels[row, : len(text)] = torch.tensor(text, dtype=torch.int64)
    batch = torch.stack(rows)
    for row, length in enumerate(lengths):
        batch[row, length:] = float("nan")  # what stands in the padding does not matter
    batch.nan_to_num_(0.5)
    found = ctc_loss(batch, torch.tensor(lengths), labels, blank=blank)
    wanted = -sum(sums(p[:n], blank)[t] for p, n, t in zip(rows, lengths, texts, strict=True))
    assert float(found) == pytest.approx(wanted / 3, abs=1e-10)


def test_gradient_is_that_of_the_sum_over_paths():
    p = log_probs(4).requires_grad_()
    ctc_loss(p[None], torch.tensor([4]), torch.tensor([[1, 2]])).backward()
    again = p.detach().clone().requires_grad_()
    some = [path for tokens, path in every_path(4) if tokens == (1, 2)]
    every = torch.stack([sum(again[n, v] for n, v in enumerate(path)) for path in some])
    (-every.logsumexp(0) / 2).backward()
    # torch's own is the gradient through a softmax whose input these would be
    wanted = again.grad - p.detach().exp() * again.grad.sum(-1, keepdim=True)
    torch.testing.assert_close(p.grad, wanted, rtol=1e-10, atol=1e-10)


def test_frames_needed():
    labels = torch.tensor([[1, 1, 1, -100], [1, 2, 1, 2], [-100, -100, -100, -100]])
    assert frames_needed(labels).tolist() == [5, 4, 0]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([[1, 1, 1]], "row 0 has 4 frames and its 3 labels need 5"),
        ([[1, -100, 1]], "-100 between them"),
        ([[1, 0]], "numbers from 0 to 2 without the blank, 0"),
        ([[1, 3]], "numbers from 0 to 2"),
    ],
)
def test_labels_that_do_not_do(labels, says):
    with pytest.raises(ValueError, match=says):
        ctc_loss(log_probs(4)[None], torch.tensor([4]), torch.tensor(labels))


def test_head_gives_log_probabilities():
    head = CTCHead(8, 5, blank=4).double()
    p = head(torch.randn(2, 7, 8, dtype=torch.float64))
    torch.testing.assert_close(p.exp().sum(-1), torch.ones(2, 7, dtype=torch.float64))
    assert CTCHead(8, 5).bfloat16()(torch.randn(1, 3, 8).bfloat16()).dtype == torch.float32
    with pytest.raises(ValueError, match="blank 5 is not in the vocabulary of 5"):
        CTCHead(8, 5, blank=5)


def test_head_is_one_of_the_list():
    made = build(
        "transformer",
        {"dim": 16, "num_heads": 2, "num_layers": 1},
        vocab_size=9,
        head={"kind": "ctc", "blank": 8},
    )
    assert isinstance(made.head, CTCHead)
    assert made.head.blank == 8


# --- paths --------------------------------------------------------------------------------------


def test_collapse():
    assert collapse([0, 1, 1, 0, 1, 2, 0], 0) == [Placed(1, 1, 2), Placed(1, 4, 4), Placed(2, 5, 5)]
    assert collapse([], 0) == []


def test_best_path_is_the_likeliest():
    p = log_probs(6)
    tokens, path = max(every_path(6), key=lambda one: nats(p, one[1]))
    assert [placed.token for placed in best_path(p, 0)] == list(tokens)
    assert best_path(p, 0) == collapse(path, 0)


@pytest.mark.parametrize("text", [(1,), (1, 1), (2, 1), (1, 2, 1), (2, 2, 2)])
def test_alignment_is_the_likeliest_path(text):
    for seed in range(4):
        p = log_probs(6, seed)
        fitting = [path for tokens, path in every_path(6) if tokens == text]
        assert align(p, text, 0) == collapse(max(fitting, key=lambda path: nats(p, path)), 0)


def test_alignment_of_nothing_and_of_too_much():
    assert align(log_probs(3), [], 0) == []
    assert align(log_probs(1), [2], 0) == [Placed(2, 0, 0)]
    with pytest.raises(ValueError, match="3 frames cannot say tokens that need 5"):
        align(log_probs(3), [1, 1, 1], 0)


# --- beams --------------------------------------------------------------------------------------


@pytest.mark.parametrize("blank", [0, 1])
def test_wide_enough_beams_sum_over_paths(blank):
    p = log_probs(5)
    found = Beams(1000, least=0.0).search(p, blank)
    wanted = sums(p, blank)
    assert {one.tokens for one in found} == set(wanted)
    for one in found:
        assert one.nats == pytest.approx(wanted[one.tokens], abs=1e-10)
    assert found[0].tokens == max(wanted, key=wanted.get)


def test_language_model_and_bonus_change_the_order():
    p = log_probs(5)
    scorer = ByTokens(counted(["ab", "ab", "ba"], 2), ["", "a", "b"])
    found = Beams(1000, scorer, 0.7, 0.3, 0.0).search(p, 0)
    for one in found:
        past, heard = scorer.ngrams.begin, 0.0
        for word in (*("ab"[token - 1] for token in one.tokens), "</s>"):
            heard += scorer.ngrams.nats(past, word)
            past = scorer.ngrams.after(past, word)
        wanted = sums(p)[one.tokens] + 0.7 * heard + 0.3 * len(one.tokens)
        assert one.score == pytest.approx(wanted, abs=1e-10)
    assert found == sorted(found, key=lambda one: -one.score)


def test_narrow_beams_find_no_more_than_there_is():
    p = log_probs(6, 3)
    best = {one.tokens: one.nats for one in Beams(1000, least=0.0).search(p, 0)}
    for one in Beams(3).search(p, 0):
        assert one.nats <= best[one.tokens] + 1e-10
    assert len(Beams(3).search(p, 0)) == 3
    with pytest.raises(ValueError, match="0 beams: at least 1"):
        Beams(0)


def test_no_frames_say_nothing():
    assert Beams(4).search(log_probs(0), 0)[0].tokens == ()
