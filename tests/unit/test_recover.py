"""Recovery of swapped models: what a goal measures, and what it leaves behind."""

import pytest
import torch
import transformers as hf

from pretrained import BOTH_WAYS, CAUSAL, WORDS, made
from subquad.hf import swap
from subquad.hf.swapping import Features
from subquad.train.best import Best
from subquad.train.goals import HiddenToken, NextToken
from subquad.train.recover import Recovery, recover

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Letters:
    """The least of a tokenizer: bytes, and marks of ends and of what is hidden."""

    mask_token_id = 3

    def __init__(self, ends=True):
        self.cls_token_id, self.sep_token_id = (1, 2) if ends else (None, None)

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [4 + ord(c) % (WORDS - 4) for c in text]}


def goal(kind, context, tmp_path, ends=True, rows=8):
    (tmp_path / "text.txt").write_text("the cat sat on a mat and the dog ran far. " * 200)
    return kind(Letters(ends), str(tmp_path / "text.txt"), context, rows=rows, seed=0)


@pytest.mark.parametrize("context", [4, 5, 24])
def test_every_row_hides_a_token(tmp_path, context):
    hiding = goal(HiddenToken, context, tmp_path, rows=200)
    counts = torch.tensor(
        [
            int((row["labels"] != -100).sum())
            for row in map(hiding.rows(200).__getitem__, range(200))
        ]
    )
    assert counts.min() == 1
    inner = context - 2
    wanted = 0.15 * inner + 0.85**inner  # at least one
    assert abs(counts.double().mean() - wanted) < 5 * (0.15 * inner / 200) ** 0.5
    model = made(BOTH_WAYS, "bert")
    assert all(hiding.loss(model, batch).isfinite() for batch in hiding.held_out(model.device))


def test_rows_without_a_token_between_their_ends_are_refused(tmp_path):
    says = "--context is 3, of which 2 tokens are marks of a row's ends; it must be at least 4"
    with pytest.raises(ValueError, match=says):
        goal(HiddenToken, 3, tmp_path)
    with pytest.raises(ValueError, match="it must be at least 2"):
        goal(NextToken, 1, tmp_path, ends=False)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [None, 2], ids=["whole", "lora"])
def test_what_could_learn_before_can_learn_after(tmp_path, rank):
    if rank:
        pytest.importorskip("peft", reason="adapters need peft")
    model = swap(made(CAUSAL, "llama"), Features("learned"))
    model.model.embed_tokens.weight.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    how = Recovery(steps=1, tune_steps=2, batch=2, lora=rank)
    found = recover(model, goal(NextToken, 12, tmp_path, ends=False), how, lambda _: None)
    assert {name: p.requires_grad for name, p in found.named_parameters()} == before
    assert isinstance(found, hf.LlamaForCausalLM)
    moved = {name for name, p in found.named_parameters() if not torch.equal(p, old[name])}
    assert any("q_proj" in name for name in moved)


class Uphill(NextToken):
    """Training leads away from what is measured."""

    def loss(self, model, batch):
        found = super().loss(model, batch)
        return -found if model.training else found


@pytest.mark.parametrize("rank", [None, 2], ids=["whole", "lora"])
def test_what_tuning_makes_worse_is_not_kept(tmp_path, rank):
    if rank:
        pytest.importorskip("peft", reason="adapters need peft")
    model = swap(made(CAUSAL, "llama"), Features("learned"))
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows, said = goal(Uphill, 12, tmp_path, ends=False), []
    how = Recovery(steps=0, tune_steps=3, batch=2, lr=0.3, lora=rank)
    swapped = rows.measure(model)
    found = recover(model, rows, how, said.append)
    assert all(torch.equal(p, old[name]) for name, p in found.named_parameters())
    assert f"kept: step 0 of 3, {swapped:.4f} nats per token on held-out rows" in said
    assert said[-1] == (
        f"nothing was below {swapped:.4f} nats per token: the weights stay as they were before "
        "recovery"
    )


def test_what_imitation_makes_worse_is_not_kept(tmp_path):
    model = swap(made(CAUSAL, "llama"), Features("learned"))
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    rows, said = goal(NextToken, 12, tmp_path, ends=False), []
    how = Recovery(steps=3, tune_steps=0, batch=2, lr=1e4)
    found = recover(model, rows, how, said.append)
    assert said[1].startswith("kept: step 0 of 3, ")
    assert all(torch.equal(p, old[name]) for name, p in found.named_parameters())


def test_the_best_step_is_kept():
    weight, told = torch.nn.Parameter(torch.zeros(2)), iter([3.0, float("nan"), 1.0, 2.0])
    best = Best([weight], lambda: next(told))
    for step in range(4):
        weight.data.fill_(step)
        best.look(step)
    best.restore()
    assert weight.tolist() == [2.0, 2.0]
    assert best.told(3, "nats") == "kept: step 2 of 3, 1.0000 nats on held-out rows"


def test_what_was_no_number_gives_way():
    weight, told = torch.nn.Parameter(torch.zeros(1)), iter([float("nan"), float("nan"), 5.0])
    best = Best([weight], lambda: next(told))
    for step in range(3):
        weight.data.fill_(step)
        best.look(step)
    best.restore()
    assert weight.item() == 2
