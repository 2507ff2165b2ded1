"""Adaptive input and softmax: equal to their definition word by word, tied, trained and saved."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from subquad.archs import ARCHS
from subquad.data.vocabulary import Bytes
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.model import build, load, save
from subquad.nn import AdaptiveHead, Tables, TokenHead
from subquad.tasks.lm import LanguageModel, LanguageModelConfig

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS, DIM = 23, 12
KINDS = [((), 1), ((), 2), ((5,), 1), ((5, 11), 1), ((5, 11), 2), ((1, 2, 22), 2)]
TINY = vars(ARCHS["local"].PRESETS["tiny"])


def drawn(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.7)
    return module.double()


def head(cutoffs, div_val) -> AdaptiveHead:
    return drawn(AdaptiveHead(DIM, WORDS, cutoffs=cutoffs, div_val=div_val))


def vectors(tables: Tables) -> torch.Tensor:
    """The dense table (V, C): the vector of each word in full width."""
    rows = []
    for c, words in enumerate(tables.words):
        rows.append(words.weight @ tables.maps[c].weight.mT if tables.maps else words.weight)
    return torch.cat(rows)


def by_words(h: AdaptiveHead, x: torch.Tensor) -> torch.Tensor:
    """log p of every word from the dense table: p(cluster) p(word among those of its cluster)."""
    logits = x @ vectors(h.tables).mT + h.bias
    edges = h.tables.edges
    first = logits[..., : edges[1]]
    if h.clusters is not None:
        narrow = x @ h.tables.maps[0].weight if h.tables.maps else x
        first = torch.cat((first, narrow @ h.clusters.weight.mT + h.clusters.bias), -1)
    top = first.exp().sum(-1)
    columns = []
    for w in range(WORDS):
        c = sum(w >= edge for edge in edges[1:-1])
        if c == 0:
            columns.append(logits[..., w] - top.log())
        else:
            there = logits[..., edges[c] : edges[c + 1]].exp().sum(-1).log()
            columns.append(first[..., edges[1] + c - 1] - top.log() + logits[..., w] - there)
    return torch.stack(columns, -1)


# --- the definition -----------------------------------------------------------------------------


@pytest.mark.parametrize(("cutoffs", "div_val"), KINDS)
def test_log_probabilities_are_those_of_the_dense_table(cutoffs, div_val):
    h, x = head(cutoffs, div_val), torch.randn(2, 9, DIM).double().requires_grad_()
    found, wanted = h(x), by_words(h, x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 9).double())
    inputs = [x, *h.parameters()]
    grad = torch.randn_like(found)
    for a, b in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(wanted, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1 << 24, 40])
@pytest.mark.parametrize(("cutoffs", "div_val"), KINDS)
def test_loss_is_that_of_all_log_probabilities(cutoffs, div_val, chunk, monkeypatch):
    monkeypatch.setattr("subquad.nn.losses.LOGITS", chunk)
    h, x = head(cutoffs, div_val), torch.randn(2, 9, DIM).double().requires_grad_()
    for highest in (WORDS, 3):  # also where no target lies in the further clusters
        targets = torch.randint(highest, (2, 9))
        targets[0, 2] = targets[1, 7] = -100
        found = h.loss(x, targets)
        wanted = F.cross_entropy(by_words(h, x).flatten(0, 1), targets.flatten())
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        inputs = [x, *h.parameters()]
        ours = torch.autograd.grad(found, inputs)  # every parameter takes part
        theirs = torch.autograd.grad(wanted, inputs)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert h.loss(x, torch.full((2, 9), -100)).isnan()


def test_loss_does_not_form_all_logits(monkeypatch):
    """Only rows whose target lies in a cluster meet the words of that cluster."""
    h, x = head((5, 11), 2), torch.randn(1, 10, DIM).double()
    seen = {}
    real = AdaptiveHead._scores

    def watched(self, c, rows):
        seen[c] = len(rows)
        return real(self, c, rows)

    monkeypatch.setattr(AdaptiveHead, "_scores", watched)
    h.loss(x, torch.tensor([[0, 1, 2, 3, 4, 4, 4, 7, 20, 8]]))
    assert seen == {0: 10, 1: 2, 2: 1}


@pytest.mark.parametrize(("cutoffs", "div_val"), KINDS)
def test_embedding_is_the_dense_table(cutoffs, div_val):
    tables = drawn(Tables(WORDS, DIM, cutoffs=cutoffs, div_val=div_val))
    ids = torch.cat((torch.arange(WORDS), torch.randint(WORDS, (19,)))).view(2, -1)
    found, wanted = tables(ids), F.embedding(ids, vectors(tables))
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    grad, inputs = torch.randn_like(found), list(tables.parameters())
    for a, b in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(wanted, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    few = torch.autograd.grad(tables(torch.tensor([0])).sum(), inputs)
    assert all(g is not None for g in few)  # every parameter takes part in every step
    for outside in (-1, WORDS):
        with pytest.raises(IndexError):
            tables(torch.tensor([3, outside]))


def test_one_cluster_is_the_plain_head():
    h = head((), 1)
    plain = TokenHead(DIM, WORDS, bias=True).double()
    plain.project.weight, plain.project.bias = h.tables.words[0].weight, h.bias
    x, targets = torch.randn(2, 9, DIM).double(), torch.randint(WORDS, (2, 9))
    torch.testing.assert_close(h(x), plain(x).log_softmax(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(h.loss(x, targets), plain.loss(x, targets))


def test_torch_computes_the_same_from_the_same_tables():
    h = head((5, 11), 2)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(DIM, WORDS, [5, 11], div_value=2.0, head_bias=True)
    theirs = theirs.double()
    words, maps = ([m.weight for m in ms] for ms in (h.tables.words, h.tables.maps))
    with torch.no_grad():
        h.bias[5:].zero_()  # theirs has none there
        theirs.head.weight.copy_(torch.cat((words[0], h.clusters.weight)) @ maps[0].mT)
        theirs.head.bias.copy_(torch.cat((h.bias[:5], h.clusters.bias)))
        for c in (1, 2):
            theirs.tail[c - 1][0].weight.copy_(maps[c].mT)
            theirs.tail[c - 1][1].weight.copy_(words[c])
    x, targets = torch.randn(9, DIM).double(), torch.randint(WORDS, (9,))
    torch.testing.assert_close(h(x), theirs.log_prob(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(h.loss(x, targets), theirs(x, targets).loss)


def test_low_precision_is_no_worse_than_plain_torch():
    h, x = head((5, 11), 2), torch.randn(4, 50, DIM).double()
    exact = h(x)
    low = AdaptiveHead(DIM, WORDS, cutoffs=(5, 11), div_val=2).to(torch.bfloat16)
    low.load_state_dict(h.state_dict())
    theirs = by_words(low, x.to(torch.bfloat16))
    found = low(x.to(torch.bfloat16))
    assert found.dtype == torch.float32
    error, allowed = ((t.double() - exact).abs().max() for t in (found, theirs))
    assert error <= 2 * allowed


# --- in a model ---------------------------------------------------------------------------------


def parts(cutoffs=(5, 11), div_val=2) -> dict:
    kind = {"kind": "adaptive", "cutoffs": list(cutoffs), "div_val": div_val}
    return {"arch": "local", "model": TINY, "vocab_size": WORDS, "stem": kind, "head": kind}


def test_stem_and_head_share_what_the_released_model_shares():
    m = build(**parts())
    tables, embedding = m.head.tables, m.stem.embedding
    assert all(a.weight is b.weight for a, b in zip(tables.words, embedding.words, strict=True))
    same = [a.weight is b.weight for a, b in zip(tables.maps, embedding.maps, strict=True)]
    assert same == [False, True, True]
    apart = build(**parts(), tie=False)
    assert not {id(p) for p in apart.head.parameters()} & {id(p) for p in apart.stem.parameters()}


def test_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    m, ids = build(**parts()).eval(), torch.randint(WORDS, (2, 30))
    save(m, tmp_path / "core", parts())
    assert torch.equal(load(tmp_path / "core").eval()(ids)[0], m(ids)[0])
    for tied in (True, False):
        lm = SubquadForCausalLM(SubquadConfig(**parts(), tie_word_embeddings=tied)).eval()
        lm.save_pretrained(tmp_path / str(tied))
        again = AutoModelForCausalLM.from_pretrained(tmp_path / str(tied)).eval()
        assert torch.equal(again(ids).logits, lm(ids).logits)
        words = again.model.head.tables.words[1].weight, again.model.stem.embedding.words[1].weight
        assert (words[0] is words[1]) == tied
    names = load_file(tmp_path / "True" / "model.safetensors").keys()
    assert "model.head.tables.words.0.weight" not in names
    assert "model.head.tables.maps.0.weight" in names


def test_the_shell_trains_scores_and_generates():
    torch.manual_seed(0)
    lm = SubquadForCausalLM(SubquadConfig(**parts(), eos_token_id=0, pad_token_id=0)).eval()
    ids = torch.randint(1, WORDS, (2, 20))
    out = lm(ids, labels=ids)
    by_targets = lm(ids[:, :-1], targets=ids[:, 1:])
    assert by_targets.logits is None
    torch.testing.assert_close(out.loss, by_targets.loss, rtol=1e-5, atol=1e-6)
    embedded = lm.get_input_embeddings()(ids)
    assert torch.equal(lm(inputs_embeds=embedded).logits, out.logits)
    how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6}
    assert torch.equal(lm.generate(ids, **how), lm.generate(ids, use_cache=False, **how))
    by_targets.loss.backward()
    assert all(p.grad is not None for p in lm.parameters())
    optimizer = torch.optim.Adam(lm.parameters(), lr=3e-2)
    for _ in range(40):
        optimizer.zero_grad()
        loss = lm(ids[:, :-1], targets=ids[:, 1:]).loss
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.6 * float(out.loss.detach())


def test_a_parameter_that_a_checkpoint_lacks_is_drawn(tmp_path):
    plain = {**parts(), "head": {"kind": "tokens"}}
    lm = SubquadForCausalLM(SubquadConfig(**plain, tie_word_embeddings=False))
    lm.save_pretrained(tmp_path)
    again = SubquadForCausalLM.from_pretrained(tmp_path, config=SubquadConfig(**parts()))
    assert torch.equal(again.model.head.bias, torch.zeros(WORDS))
    assert 0 < float(again.model.head.clusters.weight.detach().std()) < 0.1


def test_the_task_builds_it_from_its_cutoffs():
    task = LanguageModel(LanguageModelConfig(cutoffs=(100, 200), div_val=2), Bytes())
    fields = dataclasses.asdict(ARCHS["transformer_xl"].PRESETS["tiny"])
    lm = task.build("transformer_xl", fields)
    assert lm.model.head.tables.edges == lm.model.stem.embedding.edges == (0, 100, 200, 260)
    assert lm.model.stem.scale == math.sqrt(32)
    batch = {"input_ids": torch.randint(260, (2, 9)), "targets": torch.randint(260, (2, 9))}
    found = task.loss(lm, batch, 0.0)
    logits = lm(batch["input_ids"]).logits
    wanted = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())
    torch.testing.assert_close(found, wanted)
    with pytest.raises(ValueError, match=r"label smoothing of 0.1 needs every word"):
        task.loss(lm, batch, 0.1)


# --- what does not fit --------------------------------------------------------------------------


def test_what_does_not_fit_is_said(tmp_path: Path):
    for cutoffs in ((5, 5), (0, 4), (4, WORDS)):
        with pytest.raises(ValueError, match=r"cutoffs .* must rise .* below the 23 words"):
            Tables(WORDS, DIM, cutoffs=cutoffs)
    with pytest.raises(ValueError, match="div_val 4 leaves no width to the last of 3 clusters"):
        Tables(WORDS, DIM, cutoffs=(5, 11), div_val=4)
    with pytest.raises(ValueError, match=r"targets are \(2, 3\) and features \(2, 4\)"):
        head((5,), 1).loss(torch.zeros(2, 4, DIM), torch.zeros(2, 3, dtype=torch.int64))
    adaptive = parts()
    with pytest.raises(ValueError, match="adaptive head cannot share the Embedding of the stem"):
        build(**{**adaptive, "stem": {"kind": "tokens"}})
    with pytest.raises(ValueError, match="head of kind 'tokens' cannot share"):
        build(**{**adaptive, "head": {"kind": "tokens"}})
    other = {"kind": "adaptive", "cutoffs": [7], "div_val": 2}
    with pytest.raises(ValueError, match=r"clusters \(0, 5, 11, 23\) .* head's \(0, 7, 23\)"):
        build(**{**adaptive, "head": other})
    lm = SubquadForCausalLM(SubquadConfig(**adaptive))
    with pytest.raises(ValueError, match="an adaptive embedding cannot be resized"):
        lm.resize_token_embeddings(30)
