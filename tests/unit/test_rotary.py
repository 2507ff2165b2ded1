"""Rotary positions whose rates are slowed down, and the names that settings have for them."""

from math import pi

import pytest
import torch

import subquad as sq
from subquad.archs import configure
from subquad.nn import LinearRates, Llama3Rates, Rotary
from subquad.nn.choices import position
from subquad.ops.positions import rotate

WIDTH, BASE = 12, 1000.0


def slow_by_definition(rate, factor, low, high, length):
    """One channel of Llama 3, its three bands written out."""
    turns = length / (2 * pi / rate)
    if turns < low:
        return rate / factor
    if turns > high:
        return rate
    fast = (turns - low) / (high - low)
    return (1 - fast) * rate / factor + fast * rate


def test_llama3_by_its_definition():
    rates = BASE ** (-torch.arange(0, 64, 2).double() / 64)
    given = (8.0, 1.0, 4.0, 100.0)
    wanted = torch.tensor([slow_by_definition(float(r), *given) for r in rates]).double()
    found = Llama3Rates(*given).of(rates)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    slowed = rates / found
    assert (slowed == 1).any()
    assert torch.isclose(slowed, torch.tensor(8.0).double()).any()
    assert ((slowed > 1.01) & (slowed < 7.99)).any()
    assert (found.diff() < 0).all()


def test_linear_is_closer_positions():
    x, pos = torch.randn(2, 3, 9, WIDTH).double(), torch.arange(9)[None]
    slow = Rotary(WIDTH, base=BASE, rates=LinearRates(4.0))
    torch.testing.assert_close(slow.turn(x, 4 * pos), rotate(x, pos, WIDTH, BASE))


@pytest.mark.parametrize("rates", [LinearRates(3.0), Llama3Rates(8.0, 1.0, 4.0, 40.0)])
def test_scores_depend_on_distance_alone(rates):
    turn = Rotary(WIDTH, base=BASE, rates=rates).turn
    q, k = torch.randn(2, 1, 1, 1, WIDTH).double()
    at = [turn(q, torch.tensor([[n + 5]])) @ turn(k, torch.tensor([[n]])).mT for n in (0, 900)]
    torch.testing.assert_close(*at)


def test_by_their_names():
    linear = position("rotary_linear:1000,2", 2, WIDTH)
    assert (linear.base, linear.rates) == (1000.0, LinearRates(2.0))
    llama = position("rotary_llama3:5e5,8,1,4,8192", 2, WIDTH)
    assert (llama.base, llama.rates) == (5e5, Llama3Rates(8.0, 1.0, 4.0, 8192.0))
    assert position("rotary", 2, WIDTH).rates.of(torch.ones(1)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRates(0.5), "factor is 0.5; rates are divided by it, and it is at least 1"),
        (lambda: LinearRates(float("nan")), "factor is nan; rates are divided by it"),
        (lambda: Llama3Rates(0.0, 1.0, 4.0, 9.0), "factor is 0.0; rates are divided by it"),
        (lambda: Llama3Rates(8.0, 4.0, 4.0, 9.0), "low is 4.0, high 4.0 and length 9.0; channels"),
        (lambda: Llama3Rates(8.0, 1.0, 4.0, 0.0), "0 < low < high, 0 < length"),
        (lambda: position("rotary_linear", 2, 8), "after a colon stand 2 positive numbers, comm"),
        (lambda: position("rotary_linear:9", 2, 8), "after a colon stand 2 positive numbers"),
        (lambda: position("rotary_llama3:9,8,1,4", 2, 8), "after a colon stand 5 positive numbe"),
        (
            lambda: position("rotary_llama3:9,8,1,4,x", 2, 8),
            "and before it one of rotary, rotary_l",
        ),
        (lambda: position("rotary:1,2", 2, 8), "after a colon stands a positive number, and"),
        (lambda: position("rotary_yarn:1,2", 2, 8), "and before it one of rotary, rotary_linear"),
        (lambda: position("rotary_linea", 2, 8), "did you mean 'rotary_linear'"),
    ],
)
def test_rates_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("arch", ["local", "hybrid"])
def test_shared_keys_and_no_bias(arch):
    """Windows, kernels and all: fewer keys for the same heads, and maps without a bias."""
    fields = {"dim": 16, "num_layers": 4, "num_heads": 4, "ffn_dim": 8, "window": 3}
    fields |= {"num_kv_heads": 2, "bias": False}
    if arch == "hybrid":
        fields |= {"kinds": ["full", "local", "kernel", "linear"], "features": 8}
    stack = sq.ARCHS[arch].build(configure(arch, fields))
    for block in stack.blocks:
        mixer = block.mixers[0]
        assert mixer.query.weight.shape == (16, 16)
        assert mixer.key.weight.shape == mixer.value.weight.shape == (8, 16)
        assert all(m.bias is None for m in (mixer.query, mixer.key, mixer.value, mixer.out))
