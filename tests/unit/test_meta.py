"""Reptile: episodes, the outer gradient by hand, restored weights, what is held out."""

from copy import deepcopy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from catalog import tiny
from subquad.data.episodes import Episodes, draws, held_out, places
from subquad.data.examples import Examples
from subquad.data.shapes import coloured_shapes
from subquad.tasks.classify import Classify, ClassifyConfig
from subquad.tasks.image import Image, ImageConfig
from subquad.train.config import MetaConfig, TrainConfig
from subquad.train.episodic import Episodic
from subquad.train.few_shot import by_episodes
from subquad.train.meta import MetaLoop, adapt, restored

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = [f"kind {i}" for i in range(16)]


def bars(count):
    """One bright bar in each picture: which of 16 it is tells the class."""
    draw = np.random.default_rng(0)
    rows = []
    for i in range(count):
        image = draw.integers(0, 90, (8, 8, 1), dtype=np.uint8)
        image[i % 8 if i % 16 < 8 else (slice(None), i % 8)] = 250
        rows.append({"image": image, "label": NAMES[i % 16]})
    return rows


def data():
    rows = {part: bars(count) for part, count in (("train", 160), ("valid", 48), ("test", 32))}
    return Examples(rows, "bars", "key")


def opened(monkeypatch, **fields):
    monkeypatch.setattr(Image, "many", staticmethod(data))
    fields = {"ways": 3, "shots": 4, "queries": 2, "episodes": 4, "adapt_steps": 3, **fields}
    task = Episodic(Image(ImageConfig(patch=4, dropout=0.0)), MetaConfig(**fields))
    task.prepare(None)
    return task


def test_held_out_classes():
    held = held_out(NAMES, 3)
    assert len(held) == 4
    assert held == held_out(reversed(NAMES * 2), 3)
    assert len(held_out(NAMES, 7)) == 7
    assert {*held} < {*held_out(NAMES, 7)}
    # a class stays where it is when others come, but for those on the border
    assert len({*held_out([*NAMES, "one more"], 3)} & {*held}) >= 3
    with pytest.raises(ValueError, match=r"episodes of 9 classes want .* there are 16 classes"):
        held_out(NAMES, 9)


@pytest.mark.parametrize("apart", [True, False])
def test_episodes_hold_the_right_rows(apart):
    found = data()
    chosen = NAMES[3:11]
    taught = places(found, ["train"], chosen)
    asked = places(found, ["valid" if apart else "train"], chosen)
    episodes = Episodes(taught, asked, 5, 4)
    seen, used = set(), set()
    for i in range(40):
        one = episodes.draw(draws(0, "train", i), 7, 6, queries=2)
        assert one == episodes.draw(draws(0, "train", i), 7, 6, queries=2)
        assert len({*one.classes}) == 5
        assert [len(batch) for batch in one.batches] == [6] * 7
        rows = [row for batch in one.batches for row in batch]
        assert len({*rows[:20]}) == len({*rows}) == 20  # all rows before any again
        assert len({*rows[20:40]}) == 20
        assert len(one.asked) == len({*one.asked}) == 10
        assert not {*rows} & {*one.asked}
        for (part, number), label in (*rows, *one.asked):
            assert found.rows[part][number]["label"] == one.classes[label]
        assert {part for (part, _), _ in one.asked} == {"valid" if apart else "train"}
        seen |= {*one.classes}
        used |= {*rows}
    assert seen == {*chosen}
    assert len({place for place, _ in used}) == 80
    assert one != episodes.draw(draws(1, "train", 39), 7, 6, queries=2)
    with pytest.raises(ValueError, match="only 0 classes have so many"):
        Episodes(taught, asked, 5, 11)
    whole = episodes.draw(draws(0, "train", 0), 2, 99)
    assert [len(batch) for batch in whole.batches] == [20, 20]
    assert whole.asked == []


def test_a_step_by_hand_on_a_linear_model():
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(2.0)
    batches = [{"x": torch.tensor([[x]]).double()} for x in (1.0, 3.0)]

    def loss(model, batch):  # (w x)^2 / 2, whose gradient is w x^2
        return model(batch["x"]).square().sum() / 2

    with restored(model) as kept:
        found = adapt(model, batches, loss, MetaConfig(ways=2, inner="sgd", inner_lr=0.1))
        after = 2 * (1 - 0.1) * (1 - 0.9)
        assert model.weight.item() == pytest.approx(after)
        assert found.item() == pytest.approx((2.0**2 / 2 + (3 * 1.8) ** 2 / 2) / 2)
        ((p, before),) = kept
        assert p is model.weight
        assert (before - p).item() == pytest.approx(2 - after)
    assert model.weight.item() == 2.0
    assert model.weight.grad is None
    # Adam with beta1 = 0: its first step is the sign of the gradient
    adapt(model, batches[:1], loss, MetaConfig(ways=2, inner="adam", inner_lr=0.1))
    assert model.weight.item() == pytest.approx(1.9)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_outer_gradient_is_the_mean_way_back(accumulate, monkeypatch, tmp_path):
    task = opened(monkeypatch, inner="sgd", inner_lr=0.1, inner_steps=3, inner_batch=5)
    torch.manual_seed(0)
    model = task.build("vit", tiny("vit", causal=False))
    config = TrainConfig(steps=4, batch=2, accumulate=accumulate)
    loop = MetaLoop(task, model, config, tmp_path)
    loop.create_optimizer_and_scheduler(4)
    start = deepcopy(model)
    items = task.train_set(8, seed=3)
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for i in range(2 * accumulate):
        one = deepcopy(start).train()
        assert len(items[i]) == 3
        for batch in items[i]:
            assert batch["pixel_values"].shape == (5, 1, 8, 8)
            found = torch.autograd.grad(task.loss(one, batch, 0.0), [*one.parameters()])
            with torch.no_grad():
                for p, g in zip(one.parameters(), found, strict=True):
                    p -= 0.1 * g
        for name, p in one.named_parameters():
            way = start.get_parameter(name) - p.detach()
            wanted[name] += way.detach() / (2 * accumulate)
    for step in range(accumulate):
        batch = task.collate([items[2 * step], items[2 * step + 1]])
        loss = loop.training_step(model, batch)
        assert loss.isfinite()
    for name, p in model.named_parameters():
        assert torch.equal(p, start.get_parameter(name))
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-6)
    assert any(g.abs().max() > 1e-3 for g in wanted.values())
    loop.close()


def test_a_batch_whose_loss_is_no_number_is_kept(monkeypatch, tmp_path):
    task, losses = opened(monkeypatch, inner_steps=3), []

    def loss(self, model, batch, label_smoothing):
        losses.append(self.base.loss(model, batch, label_smoothing))
        return losses[-1] + (float("nan") if len(losses) == 5 else 0.0)  # of the second episode

    monkeypatch.setattr(Episodic, "loss", loss)
    model, config = task.build("vit", tiny("vit", causal=False)), TrainConfig(steps=2, batch=2)
    loop = MetaLoop(task, model, config, tmp_path)
    with pytest.raises(ValueError, match="the loss is nan at step 1 with"):
        loop.train()
    loop.close()
    kept = load_file(tmp_path / "diverged-0.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"4"}
    wanted = task.train_set(2, config.seed)[1][1]
    assert all(torch.equal(kept[f"4.{name}"], t) for name, t in wanted.items())


def test_what_is_held_out_is_never_trained_on(monkeypatch):
    task = opened(monkeypatch)
    held = held_out(NAMES, 3)
    assert task.data_facts["classes"] == sorted({*NAMES} - {*held})
    assert not {*task.taught.classes, *task.watched.classes} & {*held}
    assert task.base.labels.names == ["class 1", "class 2", "class 3"]
    # normalisation, too, is of the training classes alone
    pixels = np.stack([row["image"] for row in bars(160) if row["label"] not in held]) / 255
    assert task.base.view.mean[0] == pytest.approx(pixels.mean(), rel=1e-6)
    one = task.watched.draw(draws(0, "valid", 0), 2, 6, 2)
    assert {part for batch in one.batches for (part, _), _ in batch} == {"train"}
    assert {part for (part, _), _ in one.asked} == {"valid"}


def test_scores_leave_the_model_as_it_is(monkeypatch, tmp_path):
    task = opened(monkeypatch, adapt_steps=15, inner_lr=0.01, queries=6)
    torch.manual_seed(0)
    model = task.build("vit", tiny("vit", causal=False))
    before = deepcopy(model.state_dict())
    result = task.validate(model, None)
    again = task.validate(model, None)
    assert result == again
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert result.numbers["chance"] == pytest.approx(1 / 3)
    right = task.scores(model, task.base.known, task.watched, "valid")
    assert result.numbers["accuracy"] == pytest.approx(right.mean().item())
    assert result.numbers["interval"] == pytest.approx(1.96 * right.std().item() / 2)
    assert result.numbers["accuracy"] > 1 / 3
    # a plain run: its head is replaced, and what it has seen is said
    plain = Image(ImageConfig(patch=4, dropout=0.0))
    plain.examples = data()
    plain.learn(plain.examples.rows["train"])
    model = plain.build("vit", tiny("vit", causal=False)).eval()
    monkeypatch.setattr(Image, "default", staticmethod(data))
    facts = {"task_facts": {}, "data": {"path": None, "key": "key"}}
    run = SimpleNamespace(task=plain, model=model, facts=facts)
    found = by_episodes(run, None, task.meta)
    assert found.numbers.keys() >= {"accuracy", "interval", "accuracy_of_fresh_weights"}
    assert "of 4 held-out classes of bars, 4 of them trained on" in found.protocol
    assert model.config.num_labels == 16
    facts["data"]["key"] = "another"
    with pytest.raises(ValueError, match="bars is not what this run was trained on"):
        by_episodes(run, None, task.meta)


def test_embedded_rows_of_many_classes():
    found = coloured_shapes()
    labels = found.column("label", "valid")
    assert len({*labels}) == 144
    assert len(labels) == 2000
    assert all(len(label.split()) == 2 for label in labels[:20])


def test_fields_that_do_not_do():
    with pytest.raises(ValueError, match=r"meta\.shots is of episodes, and there are none"):
        MetaConfig(shots=3)
    with pytest.raises(ValueError, match=r"meta\.ways is 1; an episode has at least 2"):
        MetaConfig(ways=1)
    with pytest.raises(ValueError, match=r"meta\.queries is 0; it must be at least 1"):
        MetaConfig(ways=2, queries=0)
    with pytest.raises(ValueError, match=r"meta\.inner_lr is 0\.0; it must be positive"):
        MetaConfig(ways=2, inner_lr=0.0)
    with pytest.raises(ValueError, match="no inner optimizer is called 'adm'; did you mean 'adam'"):
        MetaConfig(ways=2, inner="adm")
    with pytest.raises(ValueError, match=r"episodes do not go with --task\.shift"):
        Episodic(Image(ImageConfig(shift=1)), MetaConfig(ways=2))
    with pytest.raises(ValueError, match=r"episodes do not go with --task\.lra"):
        Episodic(Classify(ClassifyConfig(lra="listops")), MetaConfig(ways=2))
