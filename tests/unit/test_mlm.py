"""Hidden tokens by their definition, and the task that fills them in."""

import math

import pytest
import torch
import torch.nn.functional as F

from catalog import tiny
from subquad.data.masking import cut, hide, ordinary
from subquad.data.vocabulary import Bytes, Subwords, learn
from subquad.tasks.mlm import MaskedConfig, MaskedLanguageModel
from subquad.tasks.task import Share

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = b"".join(b"%d plus %d is %d.\n" % (i, j, i + j) for i in range(30) for j in range(30))


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "sums.txt").write_bytes(TEXT)
    made = MaskedLanguageModel(MaskedConfig(context=32, valid_bytes=500))
    made.prepare(str(tmp_path / "sums.txt"))
    return made


def subwords():
    return Subwords(learn(iter([TEXT]), 300), "bpe:300").complete()


@pytest.mark.parametrize("make", [Bytes, subwords])
def test_what_is_hidden(make):
    words = make()
    usual = ordinary(words)
    ids = torch.from_numpy(usual)[torch.randint(len(usual), (20_000,))]
    found = hide(ids, words, 0.15, (0, 1))
    chosen = found["labels"] != -100
    assert torch.equal(found["labels"][chosen], ids[chosen])
    assert torch.equal(found["input_ids"][~chosen], ids[~chosen])
    now = found["input_ids"][chosen]
    masked, same = now == words.hidden, now == ids[chosen]
    # four standard deviations of a binomial
    for share, of in ((chosen, 0.15), (masked, 0.8), (same, 0.1)):
        assert abs(share.double().mean() - of) < 4 * math.sqrt(of * (1 - of) / len(share))
    other = now[~masked & ~same]
    assert set(other.tolist()) <= set(usual.tolist())
    assert all(
        torch.equal(a, b)
        for a, b in zip(found.values(), hide(ids, words, 0.15, (0, 1)).values(), strict=True)
    )
    assert not torch.equal(hide(ids, words, 0.15, (0, 2))["labels"], found["labels"])
    assert (hide(ids[:3], words, 1e-9, (0, 1))["labels"] != -100).sum() == 1
    assert hide(ids[:0], words, 0.15, (0, 1))["labels"].shape == (0,)


def test_windows_cover_each_document_once(task):
    windows = cut(task.valid, 32)
    read = b"".join(bytes(task.valid.read(*w).tolist()) for w in windows)
    assert read == b"".join(task.valid_text.documents())
    assert max(n for _, n in windows) == 32


def test_it_learns_and_is_scored_as_by_hand(task):
    torch.manual_seed(0)
    model = task.build("local", tiny("local", causal=False))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    items = task.train_set(480, seed=0)
    before = task.validate(model, Share()).numbers
    for step in range(30):
        rows = [items[16 * step + i] for i in range(16)]
        batch = {k: torch.stack([r[k] for r in rows]) for k in rows[0]}
        task.loss(model, batch, 0.0).backward()
        optimizer.step()
        optimizer.zero_grad()
    result = task.validate(model, Share())
    assert result.numbers["bits_per_hidden_token"] < before["bits_per_hidden_token"] - 1
    nats = hits = count = 0.0
    model.eval().requires_grad_(False)
    for i, (start, length) in enumerate(cut(task.valid, 32)):
        row = hide(torch.from_numpy(task.valid.read(start, length)), task.words, 0.15, (0, i))
        logits = model(input_ids=row["input_ids"][None]).logits[0]
        asked = row["labels"] != -100
        nats += float(F.cross_entropy(logits[asked], row["labels"][asked], reduction="sum"))
        hits += float((logits[asked].argmax(-1) == row["labels"][asked]).sum())
        count += float(asked.sum())
    assert result.numbers["bits_per_hidden_token"] == pytest.approx(
        nats / math.log(2) / count, rel=1e-5
    )
    assert result.numbers["hidden_accuracy"] == pytest.approx(hits / count)
    assert result.numbers["hidden_tokens"] == count
    assert "each token hidden with probability 0.15" in result.protocol


def test_it_fills_what_is_missing(task):
    model = task.build("local", tiny("local", causal=False)).eval()
    found = task.predict(model, "1 plus <|mask|> is <|mask|>.")
    assert found["text"].startswith("1 plus ")
    assert [len(mask) for mask in found["masks"]] == [5, 5]
    assert all(p > 0 for mask in found["masks"] for _, p in mask)
    assert task.told(found) == found["text"]
    with pytest.raises(ValueError, match=r"holds <\|mask\|> where something is"):
        task.predict(model, "1 plus 1")


def test_saved_and_loaded(task, tmp_path):
    facts = task.save(tmp_path)
    again = MaskedLanguageModel.load(tmp_path, facts)
    assert again.config == task.config
    assert again.words.hidden == task.words.hidden
    assert again.metric == "bits_per_hidden_token"
    with pytest.raises(ValueError, match="rate is 1; it lies between 0 and 1"):
        MaskedConfig(rate=1)
