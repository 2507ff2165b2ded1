"""Synthetic sequences against their definitions, and the task that is made of them."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from subquad.archs import ARCHS
from subquad.data.puzzles import PUZZLES, Puzzles
from subquad.nn.losses import IGNORED
from subquad.tasks.synthetic import Synthetic, SyntheticConfig
from subquad.tasks.task import Share

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTHS = {"copy": (2, 6, 30), "duplication": (4, 6, 30), "recall": (4, 8, 40)}
CASES = [(kind, length) for kind, lengths in LENGTHS.items() for length in lengths]


def items(kind: str, length: int, symbols: int = 5, part: str = "train", seed: int = 3) -> Puzzles:
    return Puzzles(kind, length, symbols, count=50, seed=seed, part=part)


def answers_by_definition(kind: str, tokens: list[int]) -> dict[int, int]:
    """place -> the token that must stand there, from the tokens before it alone."""
    half = len(tokens) // 2
    if kind == "copy":
        return {half + i: tokens[half - 1 - i] for i in range(half)}
    if kind == "duplication":
        assert tokens[0] == tokens[half] == 0
        assert 0 not in tokens[1:half]
        return {half + i: tokens[i] for i in range(1, half)}
    told = dict(zip(tokens[:half:2], tokens[1:half:2], strict=True))
    assert sorted(tokens[:half:2]) == sorted(tokens[half::2])  # each pair is asked for once
    return {place: told[tokens[place - 1]] for place in range(half + 1, len(tokens), 2)}


@pytest.mark.parametrize(("kind", "length"), CASES)
def test_answers_follow_from_what_stands_before(kind, length):
    made = items(kind, length)
    for i in range(len(made)):
        tokens, asked = made.sequence(i)
        tokens = tokens.tolist()
        expected = answers_by_definition(kind, tokens)
        assert [place for place in range(length) if asked[place]] == sorted(expected)
        assert all(tokens[place] == token for place, token in expected.items())
        item = made[i]
        assert item["input_ids"].tolist() == [made.words.boundary, *tokens[:-1]]
        targets = item["targets"].tolist()
        assert targets == [tokens[p] if asked[p] else IGNORED for p in range(length)]
        assert 0 <= min(tokens) <= max(tokens) < made.words.count


@pytest.mark.parametrize("kind", PUZZLES)
def test_every_symbol_comes_up_and_none_else(kind):
    seen = {int(t) for made in [items(kind, 40)] for i in range(50) for t in made.sequence(i)[0]}
    assert seen == set(range(PUZZLES[kind].count(5)))


@pytest.mark.parametrize("kind", PUZZLES)
def test_items_depend_on_seed_set_and_number_alone(kind):
    one, two = items(kind, 40), items(kind, 40)
    backwards = [two[i]["input_ids"].tolist() for i in reversed(range(50))]
    assert [one[i]["input_ids"].tolist() for i in range(50)] == backwards[::-1]

    def drawn(**how) -> set[tuple[int, ...]]:
        made = items(kind, 40, **how)
        return {tuple(made[i]["input_ids"].tolist()) for i in range(50)}

    sets = [drawn(), drawn(seed=4), drawn(part="valid"), drawn(part="test")]
    assert all(len(some) == 50 for some in sets)
    assert len(set().union(*sets)) == 200


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"length": 7}, "copy of 7 tokens cannot be: a length is a multiple of 2, and at least 2"),
        ({"length": 0}, "copy of 0 tokens cannot be"),
        ({"kind": "duplication", "length": 2}, "duplication of 2 tokens cannot be: .* at least 4"),
        ({"kind": "recall", "length": 6}, "recall of 6 tokens cannot be: .* multiple of 4"),
        ({"symbols": 1}, "1 symbols leave nothing to remember; 2 are the least"),
        ({"symbols": 70_000}, "70000 symbols are 70000 tokens; 65536 are the most"),
        ({"valid_count": 0}, "valid_count is 0"),
        ({"kind": "cpoy"}, "no kind is called 'cpoy'; did you mean 'copy'?"),
    ],
)
def test_what_cannot_be_is_named(given, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        SyntheticConfig(**given)


def test_questions_that_make_no_sense_are_named():
    task = Synthetic(SyntheticConfig())
    with pytest.raises(ValueError, match=r"makes its own items; leave --data x\.txt out"):
        task.prepare("x.txt")
    with pytest.raises(ValueError, match="copy of 9 tokens cannot be"):
        task.evaluate_on(nn.Linear(1, 1), None, {}, length=9)
    with pytest.raises(ValueError, match="--count 0 must be at least 1"):
        task.evaluate_on(nn.Linear(1, 1), None, {}, count=0)
    with pytest.raises(ValueError, match="--seed -1 not below 0"):
        task.evaluate_on(nn.Linear(1, 1), None, {}, seed=-1)


# --- loss and accuracy ----------------------------------------------------------------------------

ROWS = ("input_ids", "targets")


class Knows(nn.Module):
    """Gives the target's logit a 9 wherever a target is known; the last `keep` outputs alone."""

    def __init__(self, words: int, rows: dict[str, torch.Tensor], keep: int) -> None:
        super().__init__()
        self.anything = nn.Parameter(torch.zeros(1))
        known = rows["targets"].clamp_min(0)
        self.logits = 9 * F.one_hot(known, words).float()[:, -keep:]

    def forward(self, input_ids: torch.Tensor):
        return SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize(
    ("arch", "changed", "outputs"),
    [
        ("local", {}, 12),
        ("perceiver_ar", {"latents": 9}, 9),  # trained on its last positions alone
        ("perceiver_ar", {"latents": 4}, 4),
    ],
)
def test_the_loss_is_the_mean_over_answers_that_have_an_output(arch, changed, outputs):
    task = Synthetic(SyntheticConfig(length=12, symbols=5))
    made = task.items("train", 4, 0)
    rows = {k: torch.stack([made[i][k] for i in range(4)]) for k in ROWS}
    fields = dataclasses.asdict(dataclasses.replace(ARCHS[arch].PRESETS["tiny"], **changed))
    model = task.build(arch, fields).double().train()
    told = model(input_ids=rows["input_ids"]).logits.log_softmax(-1)
    assert told.shape[1] == outputs
    scored = [(r, p) for r in range(4) for p in range(max(6, 12 - outputs), 12)]
    expected = [-told[r, p - 12 + outputs, rows["targets"][r, p]] for r, p in scored]
    found = task.loss(model, rows, 0.0)
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-10)
    assert "all 6 answers scored" in task.score(model, made, Share()).protocol  # has all outputs


@pytest.mark.parametrize("keep", [12, 4])
def test_accuracy_counts_answers_and_whole_sequences(keep):
    task = Synthetic(SyntheticConfig(length=12, symbols=5, valid_count=4))
    made = task.items("valid", 4, 0)
    rows = {k: torch.stack([made[i][k] for i in range(4)]) for k in ROWS}
    model = Knows(9, rows, keep)
    result = task.score(model, made, Share())
    assert (result.numbers["token_accuracy"], result.numbers["exact_match"]) == (1, 1)
    model.logits[1, -2] = -model.logits[1, -2]  # one wrong answer
    numbers = task.score(model, made, Share()).numbers
    answers = 4 * min(keep, 6)
    assert numbers["answers"] == answers
    assert numbers["token_accuracy"] == pytest.approx(1 - 1 / answers)
    assert numbers["exact_match"] == 3 / 4
    said = "all 6 answers scored" if keep == 12 else "the last 4 of 6 answers scored"
    assert said in result.protocol
    assert "chance is 0.2000" in result.protocol
    model.logits[:, :-6] += torch.randn(4, max(0, keep - 6), 9) * 99  # places that are no answers
    assert task.score(model, made, Share()).numbers == numbers


def test_processes_share_the_work():
    task = Synthetic(SyntheticConfig(length=2048, symbols=5))
    made = task.items("valid", 7, 0)
    model = task.build("local", dataclasses.asdict(ARCHS["local"].PRESETS["tiny"]))
    whole = task.score(model, made, Share()).numbers
    one, two = (task.score(model, made, Share(r, 2)).numbers for r in range(2))
    assert one["sequences"] + two["sequences"] == whole["sequences"] == 7
    right = sum(some["token_accuracy"] * some["answers"] for some in (one, two))
    assert right == pytest.approx(whole["token_accuracy"] * whole["answers"])


# --- learning -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUZZLES)
def test_a_tiny_model_learns_a_short_one_and_unseen_ones_too(kind):
    task = Synthetic(SyntheticConfig(kind=kind, length=8, symbols=4))
    fields = dataclasses.asdict(ARCHS["transformer"].PRESETS["tiny"])
    model = task.build("transformer", fields).train()
    adam = torch.optim.AdamW(model.parameters(), 1e-2)
    for batch in DataLoader(task.train_set(120 * 64, 0), 64):
        adam.zero_grad()
        task.loss(model, batch, 0.0).backward()
        adam.step()
    found = task.evaluate_on(model, None, {}, count=200)
    assert found.numbers["token_accuracy"] > 0.7  # chance is 0.25
    assert found.numbers["exact_match"] > 0.3
