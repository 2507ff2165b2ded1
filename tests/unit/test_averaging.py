"""The mean of weights at the last reports: which are kept, what the mean is, when it is taken."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subquad.train.averaging import Averaging, average, mean_of
from subquad.train.config import TrainConfig


def state(step, best=None):
    return SimpleNamespace(global_step=step, is_world_process_zero=True, best_metric=best)


def filled(value):
    model = nn.Linear(3, 2)
    nn.init.constant_(model.weight, value)
    nn.init.constant_(model.bias, -value)
    return model


def reported(folder, values, most):
    kept = Averaging(folder, most)
    for step, value in values.items():
        kept.on_evaluate(None, state(step), None, model=filled(value))
    return kept


def test_the_last_are_kept_and_averaged(tmp_path):
    kept = reported(tmp_path / "averaging", {1: 5.0, 20: 1.0, 300: 2.0, 1000: 6.0}, 3)
    assert [*kept.kept] == [20, 300, 1000]
    model = filled(0.0)
    mean_of([*kept.kept.values()], model)
    assert torch.equal(model.weight, torch.full((2, 3), 3.0))
    assert torch.equal(model.bias, torch.full((2,), -3.0))
    # a resumed run drops what its checkpoint has not seen
    kept.on_train_begin(None, state(300), None)
    assert [*kept.kept] == [20, 300]
    with pytest.raises(ValueError, match="weights of another model: no weight"):
        mean_of([*kept.kept.values()], nn.Linear(4, 2))
    kept.kept[20].write_bytes(b"none")
    with pytest.raises(ValueError, match="is damaged"):
        mean_of([*kept.kept.values()], model)


class Scored:
    """As much of a loop as averaging asks for: it scores the mean by one number."""

    def __init__(self, score, best, greater, stopped=None):
        self.state, self.model, self.score = state(9, best), filled(0.0), score
        self.task = SimpleNamespace(metric="bits", greater_is_better=greater)
        self.pace, self.args = (
            SimpleNamespace(stopped_by=stopped),
            SimpleNamespace(should_save=True),
        )
        self.protocol, self.saved = "some rows", None

    def measure(self):
        return {"bits": self.score}

    def save_best(self):
        self.saved = self.model.weight[0, 0].item()


@pytest.mark.parametrize(
    ("score", "best", "greater", "taken"),
    [
        (1.0, 2.0, False, True),
        (3.0, 2.0, False, False),
        (2.0, 2.0, False, True),
        (3.0, 2.0, True, True),
        (1.0, 2.0, True, False),
        (1.0, None, False, True),
    ],
)
def test_it_is_kept_if_it_is_no_worse(score, best, greater, taken, tmp_path):
    loop = Scored(score, best, greater)
    facts = average(loop, reported(tmp_path, {1: 1.0, 2: 2.0}, 2))
    assert loop.saved == (1.5 if taken else None)
    if taken:
        assert facts["numbers"] == {"bits": score}
        assert facts["best_step"] is None
        assert facts["protocol"] == "some rows; weights are the mean of those at steps 1, 2"
    else:
        assert "numbers" not in facts
        assert f"at steps 1, 2 scores {score:.4f}, so it is not kept" in facts["protocol"]


def test_not_before_the_end_and_not_unasked(tmp_path):
    assert not (reported(tmp_path / "none", {1: 1.0, 2: 2.0}, 0)).kept
    kept = reported(tmp_path, {1: 1.0, 2: 2.0}, 2)
    assert average(Scored(1.0, 2.0, False), kept)
    assert average(Scored(1.0, 2.0, False, stopped="SIGINT"), kept) == {}
    assert average(Scored(1.0, 2.0, False), Averaging(tmp_path, 0)) == {}
    assert average(Scored(1.0, 2.0, False), reported(tmp_path / "one", {1: 1.0}, 2)) == {}


@pytest.mark.parametrize("average", [1, 9, -2])
def test_fields_that_cannot_be(average):
    with pytest.raises(ValueError, match=rf"train\.average is {average} of 8 reports; it is 0, or"):
        TrainConfig(average=average)
    with pytest.raises(ValueError, match=r"train\.batch_tokens is 0; it must be positive"):
        TrainConfig(batch_tokens=0)
