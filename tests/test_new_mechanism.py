"""The example of "add a paper in five steps" keeps every law of a mixer, and equals pandas."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

import catalog
from contract import test_mixers as laws

PATH = Path(__file__).resolve().parent.parent / "examples" / "new_mechanism.py"
NAME = "moving-average"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("new_mechanism", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def listed(example, monkeypatch):
    """As a line in the list of mixers would have it."""
    make = lambda: example.MovingAverage(catalog.DIM, catalog.HEADS)  # noqa: E731
    monkeypatch.setitem(catalog.MIXERS, NAME, make)
    monkeypatch.setitem(catalog.STEPS, NAME, 1)


def test_it_keeps_the_laws(listed):
    for length in (1, 65, 127):
        laws.test_forward_is_weights_times_values(NAME, length, None)
    for law in (
        laws.test_rows_of_weights,
        laws.test_streamed_equals_whole,
        laws.test_selecting_a_state_is_reindexing_the_batch,
        laws.test_state_does_not_outgrow_its_reach,
        laws.test_the_future_changes_nothing_bit_for_bit,
        laws.test_gradient_is_zero_where_the_pattern_forbids,
        laws.test_batched_equals_alone_with_nan_padding,
        laws.test_no_tokens_and_no_rows,
        laws.test_bfloat16_errs_at_most_twice_as_much_as_plain_pytorch,
    ):
        law(NAME)


def test_a_foreign_oracle(example):
    pandas = pytest.importorskip("pandas")
    mixer = example.MovingAverage(4, 2).double()
    x = torch.randn(1, 100, 4, dtype=torch.float64)
    found = mixer.weights(x, catalog.context(x)) @ mixer.values(x, catalog.context(x))
    rates = torch.nn.functional.softplus(mixer.rate)
    for head, rate in enumerate(rates.tolist()):
        values = pandas.DataFrame(mixer.values(x, catalog.context(x))[0, head].detach().numpy())
        theirs = values.ewm(alpha=1 - math.exp(-rate), adjust=True).mean()
        torch.testing.assert_close(found[0, head].detach(), torch.tensor(theirs.to_numpy()))


def test_a_model_of_it_streams(example):
    stack = example.build(example.PRESETS["tiny"]).eval()
    x = torch.randn(1, 20, 32)
    whole = stack(x, catalog.context(x))[0]
    assert whole.shape == x.shape
