"""The task forecast as a user meets it: train, eval, predict, and what is refused."""

import csv
import json

import numpy as np
import pytest

from subquad.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TRAIN = ["train", "forecast", "--arch", "local", "--preset", "tiny", "--out", "run"]
QUICK = ["--task.context", "24", "--train.batch", "8", "--train.reports", "2"]
QUICK += ["--train.lr", "0.01", "--train.steps"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(list(words)) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def waves(count=4, length=200):
    """Waves of six hours, of levels 10, 20, 30, ..., with a little noise."""
    draw, t = np.random.default_rng(0), np.arange(length)
    return [
        10 * (1 + i) * (1 + 0.5 * np.sin(2 * np.pi * (t + i) / 6) + draw.normal(0, 0.02, length))
        for i in range(count)
    ]


def hours(count):
    return np.datetime64("2024-01-01T00:00:00") + np.arange(count) * np.timedelta64(1, "h")


def write_long(path, series):
    lines = ["item_id,timestamp,target"]
    for i, row in enumerate(series):
        lines += [f"w{i},{t},{x:.4f}" for t, x in zip(hours(len(row)), row, strict=True)]
    path.write_text("\n".join(lines) + "\n")


def rows_of(name):
    with open(name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_long_table_from_training_to_prediction(tmp_path, capsys):
    pytest.importorskip("statsmodels")
    pytest.importorskip("matplotlib")
    write_long(tmp_path / "waves.csv", waves())
    given = ["--data", "waves.csv", "--horizon", "6", "--freq=H", "--task.season", "6"]
    out = said(capsys, *TRAIN, *given, "--task.held", "12", *QUICK, "60")
    assert "loss" in out
    assert "4 series, 800 values" in out
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["data"]["frequency"] == "H"
    assert facts["task_facts"]["config"]["horizon"] == 6
    out = said(capsys, "eval", "run", "--samples", "20", "--plot", "errors.png")
    lines = out.splitlines()
    assert lines[0].split() == ["ours", "seasonal_naive", "ets"]
    names = [line.split()[0] for line in lines[1:8]]
    assert names == ["loss", "r50", "r90", "crps", "mase", "smape", "forecasts"]
    assert "8 of 8 forecasts of 6 steps, 6 apart" in out
    assert (tmp_path / "errors.png").read_bytes().startswith(b"\x89PNG")
    row = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text())
    assert row["r50"] < 0.2
    assert row["beside"]["ets"]["r50"] < 0.1
    assert "evaluated" in said(capsys, "list", "run")
    # what comes after the end
    (tmp_path / "copy.csv").write_text((tmp_path / "waves.csv").read_text())
    out = said(capsys, "eval", "run", "--data", "copy.csv", "--samples", "2")
    assert "8 of 8 forecasts of 6 steps, 6 apart" in out  # by the run's --task.held
    files = ["--out", "next.csv", "--plot", "next.png", "--attention", "lags.png"]
    out = said(capsys, "predict", "run", "waves.csv", *files)
    assert "4 series: next.csv" in out
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in files[3::2])
    rows = rows_of("next.csv")
    assert len(rows) == 24
    assert [*rows[0]] == ["item_id", "timestamp", *(f"0.{n}" for n in range(1, 10)), "mean"]
    assert (rows[0]["item_id"], rows[0]["timestamp"]) == ("w0", "2024-01-09 08:00:00")
    truth = waves(length=206)
    for i in range(4):
        own = [float(r["0.5"]) for r in rows if r["item_id"] == f"w{i}"]
        naive = np.abs(truth[i][200:] - truth[i][199]).mean()
        assert np.abs(np.asarray(own) - truth[i][200:]).mean() < naive
    for r in rows:
        levels = [float(r[f"0.{n}"]) for n in range(1, 10)]
        assert levels == sorted(levels)
    # what is left out or filled is told
    table = (tmp_path / "waves.csv").read_text().splitlines()
    empty = [f"gone,{t}," for t in hours(200)]
    (tmp_path / "gone.csv").write_text("\n".join([*table[:201], *empty]))
    assert main(["predict", "run", "gone.csv"]) == 0
    out = capsys.readouterr()
    assert [line.split()[0] for line in out.out.splitlines()] == ["w0"]
    assert "gone.csv (1 series, 200 values, 1 series left out without any value)" in out.err
    # the hours of training were those of dates, and what has none would be told others
    wide = ",".join(["w0", *map(str, waves()[0])])
    (tmp_path / "wide.csv").write_text(wide)
    bare = json.dumps({"target": waves()[0].tolist()})
    (tmp_path / "bare.jsonl").write_text(bare + "\n")
    for undated in ("wide.csv", "bare.jsonl"):
        assert "has no dates, and the series that the run was trained on had them" in said(
            capsys, "predict", "run", undated, code=2
        )
    row = json.dumps({"target": waves()[0].tolist(), "start": "2024-01-01", "item_id": "w0"})
    (tmp_path / "row.jsonl").write_text(row + "\n")
    answer = json.loads(said(capsys, "predict", "run", "row.jsonl"))
    assert answer["timestamp"][0] == "2024-01-09 08:00:00"
    assert "loss" in said(capsys, "train", "forecast", "--out", "run", "--resume")
    # bad input of a run that is there
    write_long(tmp_path / "short.csv", waves(length=8))
    assert "w0  quantiles" in said(capsys, "predict", "run", "short.csv")
    out = said(capsys, "eval", "run", "--data", "short.csv", code=2)
    assert "long enough for a horizon of 6" in out
    assert "; --origins 1 scores the end of each series" in out
    daily = (tmp_path / "waves.csv").read_text().splitlines()[:20]
    days = [daily[0], *(f"d,2024-01-{i:02},{i}" for i in range(1, 20))]
    (tmp_path / "days.csv").write_text("\n".join(days))
    assert "days.csv are D apart, and H is asked for" in said(
        capsys, "predict", "run", "days.csv", code=2
    )
    assert "3 origins 6 apart do not fit" in said(capsys, "eval", "run", "--origins", "3", code=2)


def test_counts_with_covariates_and_gaps(tmp_path, capsys):
    pytest.importorskip("statsmodels")
    draw = np.random.default_rng(0)
    days = np.datetime64("2024-01-01") + np.arange(120)
    lines = ["timestamp,target,promo"]
    for i, day in enumerate(days):
        promo = int(i % 5 == 0)
        count = draw.poisson(4 + 20 * promo) if i < 112 else ""
        lines += [f"{day},{count},{promo}"] if i not in (30, 31) else []
    (tmp_path / "sold.csv").write_text("\n".join(lines) + "\n")
    given = ["--data", "sold.csv", "--horizon", "4", "--task.known", "[promo]", "--task.named"]
    given += ["false", "--task.likelihood", "negative_binomial"]
    out = said(capsys, *TRAIN, *given, *QUICK, "20")
    wanted = "112 values, 2 of them missing, 2 values of covariates missing, 2 steps without a row"
    assert wanted in out
    said(capsys, "predict", "run", "sold.csv", "--out", "next.csv")
    rows = rows_of("next.csv")
    assert len(rows) == 4
    assert all(float(r["0.1"]) >= 0 for r in rows)
    blank = [line[:-1] if line.startswith("2024-04-2") else line for line in lines]
    (tmp_path / "blank.csv").write_text("\n".join(blank) + "\n")
    assert "series 'target' has rows after its last value, and no promo in the 4 that are" in said(
        capsys, "predict", "run", "blank.csv", code=2
    )
    (tmp_path / "early.csv").write_text("\n".join(lines[:113]) + "\n")
    assert "tells promo for 2 steps after its last value" in said(
        capsys, "predict", "run", "early.csv", code=2
    )
    (tmp_path / "sold.csv").write_text("\n".join([*lines[:5], "2024-01-05,-3,0"]) + "\n")
    assert "line 6, column 'target': '-3' is no count" in said(
        capsys, *TRAIN[:-1], "other", *given, code=2
    )


def test_columns_are_scored_in_units_of_their_deviation(tmp_path, capsys):
    pytest.importorskip("statsmodels")
    one, two = waves(2, 120)
    rows = [f"{t},{a:.3f},{b:.3f}" for t, a, b in zip(hours(120), one, two, strict=True)]
    (tmp_path / "both.csv").write_text("\n".join(["date,a,b", *rows]) + "\n")
    given = ["--data", "both.csv", "--horizon", "6", "--task.split", "[80,18,18]"]
    given += ["--task.scaling", "standard", "--task.likelihood", "quantiles"]
    said(capsys, *TRAIN, *given, *QUICK, "8")
    out = said(capsys, "eval", "run", "--samples", "20", "--stride", "3", "--windows", "4")
    assert "mse" in out
    assert "4 of 10 forecasts of 6 steps, 3 apart, over the test part" in out
    # a copy is scored as what it is a copy of; other origins are asked for by --origins
    (tmp_path / "copy.csv").write_text((tmp_path / "both.csv").read_text())
    copied = ["eval", "run", "--data", "copy.csv", "--samples", "2", "--stride", "3"]
    copied += ["--windows", "4"]
    assert "4 of 10 forecasts of 6 steps, 3 apart" in said(capsys, *copied)
    assert "4 of 6 forecasts of 6 steps, 3 apart" in said(capsys, *copied, "--origins", "3")


WRONG = [
    (["--data", "no.csv"], "there is nothing at no.csv"),
    (["--freq", "D"], "the embedded series are hourly; leave --freq D out"),
    (["--freq", "often"], "there is no frequency 'often'"),
    (
        ["--horizon", "600"],
        "long enough for a horizon of 600: the longest, S1, has 1,008 values",
    ),
    (["--task.likelihood", "poisson"], "no likelihood is called 'poisson'"),
    (["--task.split", "[1,2]"], "must be rows of train, valid and test"),
    (["--task.known", "[promo]"], "seed 0 has no columns promo; --task.known and --task.late go"),
    (["--task.held", "3"], "held 3 is shorter than the horizon, 24"),
    (["--task.lags", "[48,12]"], "lag 12 is shorter than the horizon, 24"),
    (["--task.lags", "[48,24,48]"], "lags [48, 24, 48] name a lag twice"),
    (["--task.lags", "[960]"], "the longest training part of made-up seasonal series, seed 0 has"),
]


@pytest.mark.parametrize(("flags", "says"), WRONG, ids=range(len(WRONG)))
def test_what_is_refused(flags, says, capsys):
    assert says in said(capsys, *TRAIN, *flags, code=2)


def test_other_tasks_write_no_table(capsys, tmp_path):
    said(capsys, "train", "synthetic", "--arch", "local", "--preset", "tiny", "--out", "run",
         "--task.length", "8", "--train.steps", "1")  # fmt: skip
    assert "cannot predict" in said(capsys, "predict", "run", "x", "--out", "x.csv", code=2)
