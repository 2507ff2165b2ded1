"""Crops: training windows of random length, so that a model that trains on its last positions alone
meets early ones as targets too."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from catalog import tiny
from subquad.data.corpus import Corpus, Windows
from subquad.data.crops import Crops
from subquad.data.vocabulary import Bytes
from subquad.tasks import causal
from subquad.tasks.lm import LanguageModel, LanguageModelConfig
from subquad.tasks.synthetic import Synthetic, SyntheticConfig


def windows(context=40, count=200, seed=3):
    tokens = np.arange(5000, dtype=np.uint8)
    corpus = Corpus(tokens, np.asarray([0]), np.asarray([5000]), 256, 5000)
    return Windows(corpus, context, count, seed)


class Spy(torch.nn.Module):
    """In a model's place: keeps how long what it is trained on is."""

    def __init__(self, model):
        super().__init__()
        self.config, self.lengths = model.config, []

    def forward(self, input_ids, targets, **how):
        assert input_ids.shape == targets.shape
        # else nothing is scored, and the mean is NaN
        assert (targets[:, -16:] != -100).any()
        self.lengths.append(targets.shape[1])
        return SimpleNamespace(loss=torch.zeros(()))


def test_an_item_has_its_own_share_and_nothing_else_changes():
    plain, one, two = windows(), Crops(windows(), 3), Crops(windows(count=9), 3)
    shares = [float(one[i]["crop"]) for i in range(200)]
    assert all(0 <= share < 1 for share in shares)
    assert 0.4 < sum(shares) / 200 < 0.6
    for i in (8, 0, 3):
        assert one[i]["crop"] == two[i]["crop"]
        assert torch.equal(one[i]["input_ids"], plain[i]["input_ids"])
    assert one[0]["crop"] != Crops(windows(), 4)[0]["crop"]
    assert len(one) == 200


@pytest.mark.parametrize(
    ("arch", "shortest", "lengths"),
    [
        ("perceiver_ar", None, set(range(16, 41))),
        ("perceiver_ar", 30, set(range(30, 41))),
        ("perceiver_ar", 40, {40}),
        ("transformer", None, {40}),
        ("transformer", 38, {38, 39, 40}),
    ],
)
def test_lengths_of_training(arch, shortest, lengths):
    task = LanguageModel(LanguageModelConfig(context=40), Bytes())
    model = Spy(task.build(arch, tiny(arch)).train())
    for batch in DataLoader(Crops(windows(count=500), 3), 1):
        causal.loss(model, batch, 0.0, shortest=shortest)
    assert set(model.lengths) == lengths


def test_every_answer_of_a_puzzle_is_trained():
    task = Synthetic(SyntheticConfig(kind="copy", length=60, symbols=4))
    model = Spy(task.build("perceiver_ar", tiny("perceiver_ar")).train())
    for batch in DataLoader(task.train_set(300, 0), 1):
        task.loss(model, batch, 0.0)
    # 16 latents: the first answer, at place 30, is the first output of the shortest crop
    assert set(model.lengths) == set(range(46, 61))


def test_every_place_is_a_target_about_as_often():
    task = LanguageModel(LanguageModelConfig(context=40), Bytes())
    model = Spy(task.build("perceiver_ar", tiny("perceiver_ar")).train())
    for batch in DataLoader(Crops(windows(count=500), 3), 1):
        causal.loss(model, batch, 0.0)
    ends = torch.tensor(model.lengths)[:, None]
    place = torch.arange(40)
    often = ((place < ends) & (place >= ends - 16)).double().mean(0)
    # 16 of 55 ends reach a place, and those that are moved inside reach some more
    assert often.min() > 0.8 * 16 / 55
    assert often.max() < 2.5 * 16 / 55


def test_the_same_batches_give_the_same_losses():
    """So a resumed run goes on exactly."""
    task = LanguageModel(LanguageModelConfig(context=40), Bytes())
    model = task.build("perceiver_ar", tiny("perceiver_ar")).train()
    items = Crops(windows(), 3)
    whole = [task.loss(model, batch, 0.0) for batch in DataLoader(items, 4)]
    later = torch.utils.data.Subset(items, range(80, 200))
    again = [task.loss(model, batch, 0.0) for batch in DataLoader(later, 4)]
    assert torch.equal(torch.stack(whole[20:]), torch.stack(again))


def test_a_shortest_crop_that_does_not_fit_is_said():
    for wrong in (0, 41):
        with pytest.raises(
            ValueError, match=f"min_context {wrong} does not fit context 40: 1 to 40"
        ):
            LanguageModelConfig(context=40, min_context=wrong)
