"""`subquad compare`: several architectures on equal terms, and the report."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from subquad.bench import compare as bench
from subquad.bench.process import watched
from subquad.cli import main
from subquad.data import lra
from subquad.viz.comparison import page, table
from subquad.viz.curves import Chart, Line, svg

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(30) for j in range(30))
WORDS = ["--budget-tokens", "256", "--task.context", "32", "--task.valid_bytes", "300"]
WORDS += [
    "--train.batch",
    "2",
    "--train.reports",
    "2",
    "--arch.dim",
    "16",
    "--arch.num_layers",
    "1",
]
WORDS += ["--arch.num_heads", "2", "--arch.ffn_dim", "16", "--performer.features", "8"]
WORDS += ["--task.position", "learned", "--multiples", "1,2", "--score-bytes", "200"]


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tables.txt").write_bytes(TEXT)
    start = ["compare", "lm", "--archs", "performer,local", "--out", str(tmp_path / "out")]
    return [*start, "--data", str(tmp_path / "tables.txt"), *WORDS]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs in this process: one of its own takes seconds to start."""
    monkeypatch.setattr(bench, "watched", lambda words: (main(words[3:]), 100.0, False))


def fails(capsys: pytest.CaptureFixture, *given: str) -> str:
    capsys.readouterr()
    assert main(list(given)) == 2
    return capsys.readouterr().err


def test_compares_and_goes_on_where_it_was(words, tmp_path, capsys):
    assert main(words) == 0
    out = tmp_path / "out"
    said = capsys.readouterr().out
    assert "performer: training" in said
    found = {
        name: json.loads((out / f"{name}.json").read_text()) for name in ("performer", "local")
    }
    for arm in found.values():
        assert arm["peak_mb"] > 50
        assert arm["scores"]["1"]["tokens"] == 200
        # a table of 32 learned positions ends there: no number is made up
        assert "max_len = 32" in arm["scores"]["2"]["refused"]
    assert "--arch.features 8" in " ".join(found["performer"]["words"])
    assert "features" not in " ".join(found["local"]["words"])
    assert found["performer"]["state_bytes"] == {"32": 8 + 2 * (8 * 9 + 1) * 4, "256": "refused"}
    text = (out / "table.md").read_text()
    assert re.search(r"\| performer \| [\d,]+ \| 256 \|.*\| refused \|", text)
    html = (out / "report.html").read_text()
    assert html.count("<svg") == 4
    assert not re.search(r'(src|href)="(?!#)|url\(http|@import', html)

    (out / "local.json").write_text(json.dumps({**found["local"], "scores": {}}))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "training" not in said
    assert "local: scoring at 32" in said
    assert (out / "table.md").read_text() == text

    err = fails(capsys, *words, "--train.lr", "0.5")
    assert "trained otherwise" in err
    scores_are_those_that_were_asked_for(words, out)
    what_was_measured_may_be_lost(words, out, capsys)
    every_arm_sees_the_same_data(words, out, capsys)


def scores_are_those_that_were_asked_for(words, out):
    assert main([*words, "--score-bytes", "100", "--part", "valid", "--multiples", "1"]) == 0
    for name in ("performer", "local"):
        scores = json.loads((out / f"{name}.json").read_text())["scores"]
        assert {m: s["tokens"] for m, s in scores.items()} == {"1": 100}
        assert "the valid part" in scores["1"]["protocol"]


def what_was_measured_may_be_lost(words, out, capsys):
    before = json.loads((out / "local.json").read_text())
    (out / "local.json").unlink()
    assert "trained otherwise" in fails(capsys, *words, "--train.lr", "0.5")
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "training" not in said
    assert re.search(r"\| local \| .* \| unknown \|", said)
    assert json.loads((out / "local.json").read_text())["words"] == before["words"]


def every_arm_sees_the_same_data(words, out, capsys):
    kept = (out / "local.json").read_text()
    for damaged in (kept[:9], "[]", "{}"):
        (out / "local.json").write_text(damaged)
        assert "local.json is damaged" in fails(capsys, *words)
    shutil.rmtree(out / "local")
    (out / "local.json").unlink()
    Path(words[words.index("--data") + 1]).write_bytes(TEXT + b"More.")
    assert "is not what performer in" in fails(capsys, *words)
    assert not (out / "local").exists()


@pytest.mark.usefixtures("here")
def test_only_the_end_of_positions_is_a_refusal(words, tmp_path, capsys, monkeypatch):
    def broken(*args, **how):
        raise ValueError("something else")

    monkeypatch.setattr("subquad.tasks.lm.LanguageModel.evaluate_on", broken)
    assert "something else" in fails(capsys, *words, "--archs", "local")
    assert "scores" not in json.loads((tmp_path / "out" / "local.json").read_text())


SLOW_TO_SAVE = """
import os, signal, sys, time
told = []
def save(*_):
    told.append(1)
    if len(told) > 1:
        sys.exit(9)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
open(sys.argv[1], "w").close()
end = time.monotonic() + 20
while not told and time.monotonic() < end:
    time.sleep(0.02)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.02)
sys.exit(130 if os.getsid(0) == os.getpid() else 8)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_reaches_training_once_and_is_waited_for(tmp_path, number):
    ready = tmp_path / "ready"

    def ask() -> None:
        while not ready.exists():
            time.sleep(0.02)
        for _ in range(2):  # whoever is impatient
            os.kill(os.getpid(), number)
            time.sleep(0.1)

    before = signal.getsignal(number)
    asking = threading.Thread(target=ask)
    asking.start()
    code, peak, told = watched([sys.executable, "-c", SLOW_TO_SAVE, str(ready)])
    asking.join()
    assert (code, told) == (130, True)
    assert 1 < peak < 1000
    assert signal.getsignal(number) is before


def test_a_peak_is_the_processs_own_whatever_its_starter_holds():
    held = bytearray(os.urandom(1 << 20)) * 600  # every page is written
    code, peak, told = watched([sys.executable, "-c", "x = bytearray(50 << 20)"])
    assert (code, told) == (0, False)
    assert 50 < peak < len(held) >> 20


def test_refuses_before_anything_is_trained(words, tmp_path, capsys):
    def said(*more: str) -> str:
        return fails(capsys, *words, *more)

    assert "did you mean 'local'" in said("--archs", "performer,loca")
    assert "each architecture once" in said("--archs", "local,local")
    assert "either --budget-minutes or --budget-tokens" in said("--budget-minutes", "1")
    assert "less than one step of 64 tokens" in said("--budget-tokens", "10")
    assert "no field is called 'featurs'; did you mean 'features'" in said("--arch.featurs", "3")
    assert "--multiples 'x'" in said("--multiples", "x")
    assert "no part is called 'tset'; did you mean 'test'" in said("--part", "tset")
    assert "--score-bytes is -5" in said("--score-bytes", "-5")
    assert "did you mean --train.steps" in said("--train.step", "3")
    assert "wants a task first" in fails(capsys, "compare", *words[2:])
    made = ["--archs", "local", "--budget-tokens", "256", "--out", str(tmp_path / "out")]
    assert "synthetic has no context" in fails(capsys, "compare", "synthetic", *made)
    assert "no pair is called 'local'" in fails(capsys, "compare", "summarize", *made)
    assert not (tmp_path / "out").exists()


def test_an_arm_that_was_not_run_is_named():
    rows = [{"name": "performer", "missing": True}]
    assert "| performer | missing |" in table(rows, "bits_per_byte")
    assert "missing" in page(rows, "bits_per_byte", {"command": "a <b>"})
    assert "a &lt;b&gt;" in page(rows, "bits_per_byte", {"command": "a <b>"})


def test_a_chart_takes_the_ink_of_its_page():
    text = svg(Chart("t", "x", "y", [Line("a", [1, 2], [3.0, 4.0])], log_x=True))
    assert text.startswith("<svg")
    assert "currentColor" in text
    assert "#000000" not in text


def test_without_matplotlib_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from subquad.viz.curves import Chart, svg\n"
        "try: svg(Chart('t', 'x', 'y'))\n"
        "except ValueError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "subquad[viz]"' in out.stdout


@pytest.mark.usefixtures("here")
def test_compares_what_has_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    rows = "".join(f"word {'good' if i % 2 else 'bad'} {i},{i % 2}\n" for i in range(60))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    small = ["--arch.dim", "16", "--arch.num_layers", "1", "--arch.num_heads", "2"]
    small += ["--arch.ffn_dim", "16", "--budget-tokens", "800", "--train.batch", "4"]
    start = ["compare", "classify", *small, "--out"]
    words = ["--archs", "local,linformer", "--data", str(tmp_path / "rows.csv")]
    assert main([*start, str(tmp_path / "out"), *words, "--task.context", "32"]) == 0
    assert "accuracy" in (tmp_path / "out" / "table.md").read_text()
    lists = ["--archs", "linear_transformer", "--lra", "listops-short", "--task.valid_rows", "9"]
    whole = lra.SUITES["listops-short"]

    def few(name: str, data: str | None) -> lra.Suite:
        suite = whole(name, data)
        return replace(suite, rows={p: lra.Rows(20, some.at) for p, some in suite.rows.items()})

    monkeypatch.setitem(lra.SUITES, "listops-short", few)
    assert main([*start, str(tmp_path / "lists"), *lists]) == 0
    assert "accuracy" in (tmp_path / "lists" / "table.md").read_text()


SMALL = ["--arch.dim", "16", "--arch.num_layers", "1", "--arch.num_heads", "2"]
SMALL += ["--arch.ffn_dim", "16", "--train.batch", "4", "--multiples", "1"]


@pytest.mark.usefixtures("here")
def test_compares_pairs_of_files(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.en").write_text("".join(f"word {i} here\n" for i in range(60)))
    (tmp_path / "a.fr").write_text("".join(f"mot {i} ici\n" for i in range(60)))
    words = ["--archs", "lite_pair,encoder_decoder", "--budget-tokens", "512"]
    words += ["--data", str(tmp_path / "a.en"), str(tmp_path / "a.fr"), "--task.context", "32"]
    words += ["--task.tokenizer", "bytes", "--out", str(tmp_path / "out")]
    sizes = [f"--arch.{side}_layers" for side in ("encoder", "decoder")]
    words += [word for size in sizes for word in (size, "1")]
    small = [*SMALL[:2], *SMALL[4:]]  # a pair has layers of two kinds
    assert main(["compare", "translate", *words, *small]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert table.count("does not stream") == 4
    assert "bits per token, 1x" in table
    assert "missing" not in table


@pytest.mark.usefixtures("here")
def test_compares_forecasts(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    days = [f"2020-{m:02d}-{d:02d}" for m in range(1, 5) for d in range(1, 29)]
    rows = "".join(f"{day},{i % 7 + i / 100}\n" for i, day in enumerate(days))
    (tmp_path / "days.csv").write_text("date,sold\n" + rows)
    words = ["--archs", "local,logsparse", "--data", str(tmp_path / "days.csv"), *SMALL]
    words += ["--horizon", "4", "--freq", "D", "--task.context", "8", "--budget-tokens", "256"]
    assert main(["compare", "forecast", *words, "--out", str(tmp_path / "out")]) == 0
    assert "missing" not in (tmp_path / "out" / "table.md").read_text()


@pytest.mark.usefixtures("here")
def test_compares_made_sequences_at_longer_lengths(tmp_path):
    words = ["--archs", "local,linear_transformer", "--task.kind", "copy", "--task.length", "16"]
    words += [*SMALL, "--multiples", "1,2", "--budget-minutes", "0.02"]
    assert main(["compare", "synthetic", *words, "--out", str(tmp_path / "out")]) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "token accuracy, 2x" in table
    assert "missing" not in table
