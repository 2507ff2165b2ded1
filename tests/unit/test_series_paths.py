"""Paths from an origin on: nothing that comes after it may move them, but what is known ahead."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from catalog import tiny
from subquad.tasks.forecast import Forecast, ForecastConfig
from subquad.tasks.paths import drawn, scored
from subquad.tasks.task import Share

pytestmark = pytest.mark.usefixtures("one_thread")

ORIGIN = 50


SCALINGS = [("mean", ()), ("standard", (6, 30)), ("window", (6, 30))]


@pytest.fixture(params=SCALINGS, ids=["mean", "standard-lags", "window-lags"])
def task(request, tmp_path):
    draw = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + np.arange(70)
    lines = ["item_id,timestamp,target,promo,rain"]
    for name in ("a", "b"):
        numbers = zip(days, draw.normal(5, 2, (70, 3)), strict=True)
        lines += [f"{name},{day},{x:.3f},{y:.3f},{z:.3f}" for day, (x, y, z) in numbers]
    (tmp_path / "data.csv").write_text("\n".join(lines) + "\n")
    columns = {"known": ("promo",), "late": ("rain",)}
    scaling, lags = request.param
    own = {"scaling": scaling, "lags": lags}
    found = Forecast(ForecastConfig(horizon=6, context=20, **own, **columns))
    found.prepare(str(tmp_path / "data.csv"))
    for array in (found.series.values, found.series.covariates):
        array.flags.writeable = True
    return found


def paths(task, model):
    told = task.scaled(task.series, task.parts.train)
    windows = [(0, ORIGIN), (1, ORIGIN - 3)]
    return drawn(model, told, windows, task.config, 3, (0, 0))


def model_of(task):
    torch.manual_seed(0)
    made = task.build("logsparse", tiny("logsparse")).eval()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.2)
    return made


def test_what_comes_after_the_origin_moves_no_path(task):
    model, series = model_of(task), task.series
    before, kept = paths(task, model), series.values.copy()
    for number, origin in ((0, ORIGIN), (1, ORIGIN - 3)):
        first = int(series.first[number])
        series.values[first + origin : first + 70] = 1e6
        series.covariates[first + origin : first + 70, 1] = -1e6  # rain is known late
    assert torch.equal(paths(task, model), before)
    series.values[int(series.first[0]) + ORIGIN - 1] += 1  # what came just before does
    assert not torch.equal(paths(task, model)[:, 0], before[:, 0])
    series.values[:] = kept
    series.covariates[ORIGIN + 1, 0] += 1  # and what is known ahead, from its step on
    after = paths(task, model)
    assert torch.equal(after[:, 0, 0], before[:, 0, 0])
    assert not torch.equal(after[:, 0, 1], before[:, 0, 1])


def test_a_loss_counts_the_horizon_alone_and_what_is_there(task):
    model, series = model_of(task), task.series
    told = task.scaled(series, task.parts.train)
    windows = [(0, ORIGIN), (1, 4)]
    series.values[ORIGIN + 2] = np.nan
    with torch.no_grad():
        total, points = scored(model, told, windows, task.config, Share())
    assert points == 11  # two horizons of 6, one value of which is missing
    wanted = 0.0
    for number, origin in windows:
        item = told.window(number, max(0, origin - 20), origin, origin + 6)
        with torch.no_grad():
            params = model(item["inputs"][None]).params[:, -6:]
        target = item["targets"][None, -6:]
        known = ~target.isnan()
        one = model.likelihood.score(params, target.nan_to_num(), item["scale"][None])
        wanted += float(one[known].sum())
    assert total == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("dated", [True, False])
def test_a_clock_that_was_made_up_does_not_stand_for_dates(dated, tmp_path):
    """A model that knows hours by dates would be told others, and the other way round."""
    hours = np.datetime64("2024-01-01T00:00:00") + np.arange(60) * np.timedelta64(1, "h")
    table = "".join(f"w,{hour},{i % 6}\n" for i, hour in enumerate(hours))
    (tmp_path / "dated.csv").write_text("item_id,timestamp,target\n" + table)
    (tmp_path / "bare.csv").write_text("w," + ",".join(str(i % 6) for i in range(60)))
    files = [tmp_path / "dated.csv", tmp_path / "bare.csv"]
    rows = [{"target": [1, 2], "start": "2024-01-01"}, {"target": [1, 2]}]
    alike, others = zip(*(pair if dated else pair[::-1] for pair in (files, rows)), strict=True)
    made = Forecast(ForecastConfig(horizon=6, context=20, freq="H"))
    made.prepare(str(alike[0]))
    saved = Forecast.load(tmp_path, made.save(tmp_path))
    for raw, other in zip(alike, others, strict=True):
        assert saved.read(raw).dated == dated
        with pytest.raises(ValueError, match=f"was trained on had {'them' if dated else 'none'}"):
            saved.read(other)
    # runs that were saved before this was kept go on as they did
    kept = json.loads((tmp_path / "series.json").read_text())
    del kept["steps"]["dated"]
    (tmp_path / "series.json").write_text(json.dumps(kept))
    assert Forecast.load(tmp_path, {"config": asdict(made.config)}).read(others[0]).dated != dated
