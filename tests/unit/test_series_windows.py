"""Windows of series: what each step is told, and that no window tells what came later."""

import json

import numpy as np
import pytest
import torch

from subquad.data.frequency import Frequency
from subquad.data.seasonal import seasonal
from subquad.data.series import Collected
from subquad.data.series_steps import Steps
from subquad.data.series_units import deviations, scales, units
from subquad.data.series_windows import Told, ToldByWindow, Windows, together

NAN = float("nan")


def told(named=True, centre=0.0, unit=1.0, lags=()):
    made, hours = Collected(("promo", "rain")), Frequency.of("H")
    start = np.datetime64("2023-12-31T22:00:00", "s")
    known = np.stack([np.arange(8.0), 10 * np.arange(8.0)], 1)
    made.add("a", np.array([2.0, 4.0, NAN, 8.0, 10.0, 12.0, NAN, NAN]), start, hours, known)
    made.add("b", np.array([1.0, 1.0, 1.0]), start, hours, known[:3])
    series = made.done("s", "k", hours, dated=True)
    steps = Steps.fit(series, np.array([6, 3]), known=1, late=2, named=named, lags=lags)
    return Told(series, steps, np.full(2, centre), np.full(2, unit))


def test_each_step_has_the_value_before_it_and_its_own_calendar():
    found = told()
    item = found.window(0, 0, 3, 8)
    np.testing.assert_equal(item["targets"].numpy(), [2, 4, NAN, 8, 10, 12, NAN, NAN])
    scale = 1 + (2 + 4) / 2  # of what was seen before the third step
    assert item["scale"].item() == scale
    value = np.array([NAN, 2, 4, NAN, 8, 10, 12, NAN]) / scale
    np.testing.assert_allclose(item["inputs"][:, 0].numpy(), value, rtol=1e-6)
    hour = item["inputs"][:, 1].numpy() * np.sqrt((24**2 - 1) / 12) + 11.5
    np.testing.assert_allclose(hour, [22, 23, 0, 1, 2, 3, 4, 5], atol=1e-5)
    year = item["inputs"][:, 5].numpy() * found.steps.deviations[0] + found.steps.means[0]
    np.testing.assert_allclose(year, [2023] * 2 + [2024] * 6)
    promo = item["inputs"][:, 7].numpy() * found.steps.deviations[2] + found.steps.means[2]
    np.testing.assert_allclose(promo, np.arange(8), atol=1e-5)
    # what is known late stands two steps after it happened; before that its mean does
    rain = item["inputs"][:, 8].numpy() * found.steps.deviations[3] + found.steps.means[3]
    np.testing.assert_allclose(rain[2:], 10 * np.arange(6), atol=1e-4)
    assert item["inputs"][:2, 8].tolist() == [0, 0]
    assert item["inputs"][:, 9].tolist() == [0] * 8
    assert item["inputs"].shape[1] == 1 + found.steps.covariates + 1
    assert told(named=False).window(0, 0, 3, 8)["inputs"].shape[1] == 1 + found.steps.covariates


def test_lags_are_values_of_the_series_so_many_steps_back():
    bare, found = told(), told(lags=(2, 5))
    assert found.steps.covariates == bare.steps.covariates + 2
    for first in (0, 3):  # values before a window's first step are told too
        item, without = (t.window(0, first, 4, 8)["inputs"] for t in (found, bare))
        others = item[:, [0, *range(3, item.shape[1])]]
        np.testing.assert_array_equal(others.numpy(), without.numpy())
        scale = found.window(0, first, 4, 8)["scale"].item()
        back = np.array([[0, 0, 2, 4, 0, 8, 10, 12], [0, 0, 0, 0, 0, 2, 4, 0]]) / scale
        np.testing.assert_allclose(item[:, 1:3].T.numpy(), back[:, first:], rtol=1e-6)
    assert Steps.of(json.loads(json.dumps(found.steps.facts()))) == found.steps


def test_a_window_may_have_units_of_its_own():
    by_series = told(centre=3.0, unit=40.0)
    found = ToldByWindow(by_series.series, by_series.steps, by_series.centre, by_series.unit)
    assert found.units(0, 0, 2) == (3.0, 4.0)  # of 2 and 4; not below a tenth of the series' unit
    assert found.units(0, 2, 3) == (3.0, 40.0)  # there is no value before the forecast
    finer = ToldByWindow(by_series.series, by_series.steps, by_series.centre, np.ones(2))
    assert finer.units(0, 1, 5) == (pytest.approx(22 / 3), pytest.approx(np.std([4, 8, 10])))
    centre, unit = finer.units(0, 1, 5)
    item = finer.window(0, 1, 5, 8)
    wanted = (np.array([4, NAN, 8, 10, 12, NAN, NAN]) - centre) / unit
    np.testing.assert_allclose(item["targets"].numpy(), wanted, rtol=1e-6)
    assert item["scale"].item() == pytest.approx(1 + np.nanmean(np.abs(wanted[:4])))


def test_years_and_ages_that_no_window_had_stand_at_the_last_ones():
    found = told()
    about = found.steps.about(found.series, 0, 0, 24 * 400)
    for column, last in ((4, 2024), (5, 5)):  # six steps train
        own = about[:, column] * found.steps.deviations[column - 4] + found.steps.means[column - 4]
        assert own.max() == pytest.approx(last)
        assert own[-1] == pytest.approx(last)


def test_what_came_later_moves_nothing_before():
    one, two = told(), told()
    two.series.values.flags.writeable = True
    before = one.window(0, 0, 4, 6)
    two.series.values[4:6] = 1e6
    after = two.window(0, 0, 4, 6)
    assert before["scale"] == after["scale"]
    torch.testing.assert_close(
        before["inputs"][:5], after["inputs"][:5], rtol=0, atol=0, equal_nan=True
    )


def test_values_in_units_of_their_series():
    item = told(centre=2.0, unit=4.0).window(0, 3, 5, 6)
    assert item["targets"].tolist() == [1.5, 2.0, 2.5]
    assert item["scale"].item() == 1 + 1.75


def test_what_is_constant_in_training_is_no_spread_to_divide_by():
    """A mean of many equal float32 numbers is not quite that number."""
    made, days = Collected(("price",)), Frequency.of("D")
    price = np.full((120, 1), 0.7, np.float32)
    price[100:] = 1.4
    made.add("a", np.full(120, 0.7), np.datetime64("2024-01-01T00:00:00", "s"), days, price)
    series = made.done("s", "k", days, dated=True)
    ends = np.array([100])
    steps = Steps.fit(series, ends, known=1, late=1, named=False)
    about = steps.about(series, 0, 0, 120)[:, -1]
    assert about[:100].tolist() == [0] * 100
    np.testing.assert_allclose(about[100:], 0.7, rtol=1e-6)
    assert deviations(series, ends).tolist() == [1]


def test_a_constant_series_is_told_in_units_of_its_level():
    """A spread of 1 would be a thousand times a level of 0.001."""
    hours, start = Frequency.of("H"), np.datetime64("2024-01-01T00:00:00", "s")
    levels = (0.001, -2.0, 3e4, 0.0)
    made = Collected()
    for level in levels:
        made.add(str(level), np.full(20, level), start, hours)
    series = made.done("s", "k", hours, dated=True)
    centre, unit = units(series, series.length, "window")
    np.testing.assert_allclose(unit, [0.001, 2, 3e4, 1], rtol=1e-6)
    windowed = ToldByWindow(series, told().steps, centre, unit)
    floors = [windowed.units(i, 0, 20)[1] for i in range(len(levels))]
    np.testing.assert_allclose(floors, [1e-4, 0.2, 3e3, 0.1], rtol=1e-6)
    assert deviations(series, series.length).tolist() == [1] * 4  # z-scores are not moved


def test_covariates_that_are_missing_are_counted():
    """What is known late has no future, and is not missed there."""
    made, hours = Collected(("promo", "rain")), Frequency.of("H")
    known = np.array([[1, 5], [NAN, 5], [1, NAN], [NAN, NAN], [1, NAN]])
    values = np.array([1.0, 2.0, 3.0, NAN, NAN])
    made.add("a", values, np.datetime64("2024-01-01T00:00:00", "s"), hours, known)
    series = made.done("s", "k", hours, dated=True)
    assert series.untold == 3
    assert series.says == "s (1 series, 3 values, 3 values of covariates missing)"


def test_covariates_that_were_not_given_stand_at_their_mean():
    found = told()
    made = Collected()
    made.add("a", np.arange(4.0), np.datetime64("2024-01-01", "s"), Frequency.of("H"))
    bare = made.done("s", "k", Frequency.of("H"), dated=True)
    assert found.steps.about(bare, 0, 0, 4)[:, 6:8].tolist() == [[0, 0]] * 4
    assert found.steps.means[2] != 0


def test_a_series_that_was_not_there_has_no_number():
    found = told()
    found.series.names[1] = "new"
    assert set(found.window(1, 0, 2, 3)["inputs"][:, -1].tolist()) == {-1.0}


def test_items_depend_on_seed_and_number_alone():
    found = told()
    ends = np.array([6, 3])
    items = [Windows(found, ends, before=2, length=4, count=n, seed=1) for n in (9, 40)]
    assert [len(w) for w in items] == [9, 40]
    for i in (0, 5, 8):
        for name, t in items[0][i].items():
            torch.testing.assert_close(t, items[1][i][name], rtol=0, atol=0, equal_nan=True)
    lengths = {len(items[1][i]["targets"]) for i in range(40)}
    assert lengths == {3, 4}  # b is shorter than a window
    firsts = {items[1][i]["targets"][0].item() for i in range(40)}
    assert len({f for f in firsts if f == f}) == 3  # steps 0 and 1 of a, step 0 of b


def test_windows_of_larger_series_come_as_much_oftener_as_they_are_larger():
    found, ends = told(), np.array([6, 3])
    sizes = scales(found.series, ends)
    assert sizes.tolist() == [1 + (2 + 4 + 8 + 10 + 12) / 5, 2]
    many = Windows(found, ends, before=1, length=3, count=2000, seed=0, weights=sizes)
    numbers = [int(many[i]["inputs"][0, -1]) for i in range(2000)]
    share = 4 * sizes[0] / (4 * sizes[0] + sizes[1])  # four windows of a, one of b
    error = (share * (1 - share) / 2000) ** 0.5
    assert numbers.count(0) / 2000 == pytest.approx(share, abs=5 * error)
    assert share > 0.9


def test_a_batch_is_padded_at_its_ends():
    found = told()
    batch = together([found.window(0, 0, 3, 6), found.window(1, 0, 2, 3)])
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch["targets"][1, 3:].isnan().all()
    assert not batch["inputs"][1, 3:].any()


def test_facts_come_back():
    steps = told().steps
    assert Steps.of(json.loads(json.dumps(steps.facts()))) == steps


@pytest.mark.parametrize("freq", ["15min", "H", "D", "W", "M", "Q", "Y"])
def test_every_frequency_is_told_in_full(freq):
    made, frequency = Collected(), Frequency.of(freq)
    made.add("a", np.arange(40.0), np.datetime64("2020-01-31T00:00:00", "s"), frequency)
    series = made.done("s", "k", frequency, dated=True)
    steps = Steps.fit(series, series.length, known=0, late=1, named=False)
    about = steps.about(series, 0, 0, 40)
    assert about.shape == (40, steps.covariates)
    assert np.isfinite(about).all()
    assert (about[:, :-2].std(0) > 0).all() or freq in ("15min", "H", "D")


def test_seasonal_series_are_the_same_each_time():
    one, two = seasonal(3), seasonal(2)
    np.testing.assert_array_equal(one.of(1), two.of(1))
    assert len(one.of(0)) == 1008
    assert (one.values > 0).all()
