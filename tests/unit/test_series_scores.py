"""Scores of forecasts against numbers worked out by hand, and the methods beside them."""

import numpy as np
import pytest
import torch

from subquad.data.series import Collected
from subquad.tasks import baselines
from subquad.tasks.backtest import Backtest
from subquad.tasks.forecast_scores import (
    SUMS,
    crps,
    pinball,
    quantile,
    seasonal_error,
    smape,
    sums,
    totals,
)

NAN = float("nan")


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_pinball_by_hand():
    # x - q = 2: 2 * 0.9 * 2; x - q = -2: 2 * 0.1 * 2
    assert pinball(tensor(5.0), tensor(3.0), 0.9).item() == pytest.approx(3.6)
    assert pinball(tensor(1.0), tensor(3.0), 0.9).item() == pytest.approx(0.4)
    assert pinball(tensor(1.0), tensor(3.0), 0.5).item() == pytest.approx(2.0)


def test_crps_by_hand_and_by_its_definition():
    # one sample: the absolute error; samples 0 and 2 for 1: E|X - x| = 1, E|X - X'| / 2 = 1 / 2
    assert crps(tensor(3.0), tensor([1.0])).item() == pytest.approx(2.0)
    assert crps(tensor(1.0), tensor([0.0], [2.0])).item() == pytest.approx(0.5)
    x, y = torch.randn(31, 3, 4).double(), torch.randn(3, 4).double()
    pairs = (x[:, None] - x[None]).abs().mean((0, 1)) / 2
    torch.testing.assert_close(
        crps(y, x.sort(0).values), (x - y).abs().mean(0) - pairs, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("count", [1, 2, 11, 200])
def test_quantiles_are_those_of_torch(rho, count):
    x = torch.randn(count, 3).double()
    torch.testing.assert_close(quantile(x.sort(0).values, rho), x.quantile(rho, 0))


def test_smape_is_a_fraction():
    assert smape(tensor(3.0, 0.0, 0.0), tensor(1.0, 2.0, 0.0)).tolist() == [1.0, 2.0, 0.0]


def test_seasonal_error_leaves_out_what_is_missing():
    history = tensor(1.0, 5.0, 2.0, NAN, 5.0, 9.0)
    assert seasonal_error(history, 2).item() == pytest.approx((1 + 3) / 2)  # 1-2, 2-5
    assert seasonal_error(history[:2], 2).item() == 4  # not longer than a season: step by step
    assert seasonal_error(tensor(NAN, NAN), 1).isnan()


def test_numbers_of_two_windows_by_hand():
    target = tensor([2.0, 4.0], [NAN, -6.0])
    samples = torch.stack([tensor([1.0, 4.0], [9.0, -4.0])] * 3)  # a point forecast
    found = sums(target, samples, tensor(0.5, 0.0), tensor(2.0, 1.0))
    numbers = totals(found, standardised=True)
    assert dict(zip(SUMS, found[1].tolist(), strict=True))["points"] == 1
    # errors 1, 0 and 2 over a size of 12; 2 * 0.9 * 1 and, below the forecast, 2 * 0.1 * 2
    assert numbers["r50"] == pytest.approx(3 / 12)
    assert numbers["r90"] == pytest.approx((1.8 + 0.4) / 12)
    assert numbers["crps"] == pytest.approx(3 / 12)
    assert numbers["smape"] == pytest.approx((2 / 3 + 4 / 10) / 3)
    assert numbers["mase"] == pytest.approx(0.5 / 0.5)  # the second has nothing to scale by
    assert numbers["mse"] == pytest.approx((0.25 + 4) / 3)
    assert numbers["mae"] == pytest.approx((0.5 + 2) / 3)
    assert not {"mse", "mae"} & totals(found, standardised=False).keys()


def test_nothing_to_divide_by_gives_no_number():
    found = sums(tensor([0.0]), tensor([[1.0]]), tensor(0.0), tensor(1.0))
    assert totals(found, standardised=False) == {"smape": 2.0}


def test_a_median_and_a_ninth_decile_of_paths():
    samples = torch.arange(11.0).double()[:, None, None]
    found = sums(tensor([7.0]), samples, tensor(1.0), tensor(1.0))
    row = dict(zip(SUMS, found[0].tolist(), strict=True))
    assert row["r50"] == pytest.approx(2)  # median 5
    assert row["r90"] == pytest.approx(0.4)  # quantile 9


def test_errors_of_series_are_the_means_of_their_own_windows():
    """In any order of windows, and for every method."""
    names = ["a", "b", "c", "d"]
    made = Collected()
    for name in names:
        made.add(name, np.arange(4.0), None, None)
    series = made.done("s", "k", None, dated=False)
    windows = [(3, 1), (0, 2), (3, 2), (1, 1), (0, 1)]
    mase = SUMS.index("mase")
    found = {name: torch.rand(5, len(SUMS)).double() for name in ("ours", "ets")}
    found["ours"][3, mase] = NAN
    found["ours"][4, mase] = NAN
    told = Backtest(series, windows, found, 0).by_series
    assert told["names"] == ["a", "b", "d"]
    one, other = found["ours"][:, mase], found["ets"][:, mase]
    wanted = [one[1].item(), NAN, (one[0] + one[2]).item() / 2]
    np.testing.assert_allclose(told["mase"]["ours"], wanted)
    wanted = [(other[1] + other[4]).item() / 2, other[3].item(), (other[0] + other[2]).item() / 2]
    np.testing.assert_allclose(told["mase"]["ets"], wanted)


def test_seasonal_naive_by_hand():
    history = np.array([1.0, 10.0, 3.0, NAN])
    mean, deviation = baselines.seasonal_naive(history, 4, 2)
    assert mean.tolist() == [3, 10, 3, 10]  # the missing one is taken from the season before
    np.testing.assert_allclose(deviation, 2 * np.sqrt([1, 1, 2, 2]))
    mean, deviation = baselines.seasonal_naive(np.array([1.0, 4.0]), 2, 7)
    assert mean.tolist() == [4, 4]
    np.testing.assert_allclose(deviation, 3 * np.sqrt([1, 2]))


def test_ets_goes_on_with_a_season():
    pytest.importorskip("statsmodels")
    t = np.arange(120)
    wave = 100 + 10 * np.sin(2 * np.pi * t / 12)
    history = wave[:96] + np.random.default_rng(0).normal(0, 0.5, 96)
    history[40] = NAN
    mean, deviation = baselines.ets(history, 24, 12)
    assert np.abs(mean - wave[96:]).max() < 2  # four deviations of the noise
    assert (np.diff(deviation) >= 0).all()
    assert mean.flags.writeable  # else torch warns whoever asks for a score
    for bad in (np.ones(50), history[:5], np.full(50, NAN)):
        with pytest.raises(baselines.Unfitted):
            baselines.ets(bad, 3, 1)


def test_ets_says_how_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ValueError, match=r"ETS stands beside forecasts: pip install 'subquad\[ser"):
        baselines.ets(np.arange(20.0), 3, 1)


def test_spread_out_keeps_mean_and_deviation():
    found = baselines.spread_out([3.0, 5.0], [2.0, 0.0], 400)
    torch.testing.assert_close(found.mean(0), tensor(3.0, 5.0))
    assert found[:, 0].std().item() == pytest.approx(2, rel=0.01)
    assert found[:, 1].std().item() == 0
