"""`subquad compare`: several architectures on equal terms, and the report."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from subquad.cli import main
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


def test_refuses_before_anything_is_trained(words, tmp_path, capsys):
    def said(*more: str) -> str:
        return fails(capsys, *words, *more)

    assert "did you mean 'local'" in said("--archs", "performer,loca")
    assert "each architecture once" in said("--archs", "local,local")
    assert "either --budget-minutes or --budget-tokens" in said("--budget-minutes", "1")
    assert "less than one step of 64 tokens" in said("--budget-tokens", "10")
    assert "no field is called 'featurs'; did you mean 'features'" in said("--arch.featurs", "3")
    assert "--multiples 'x'" in said("--multiples", "x")
    assert "did you mean --train.steps" in said("--train.step", "3")
    assert "wants a task first" in fails(capsys, "compare", *words[2:])
    assert "synthetic has no context" in fails(capsys, "compare", "synthetic", *words[2:])
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
