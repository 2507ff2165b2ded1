"""The examples run, at the small sizes that their own flags and variables give."""

import json
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

# accelerate and tensorboard warn about themselves
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SCRIPTS = {
    "own_model.py": (["--length", "300", "--window", "16"], "the first two differ by"),
    "language_model.py": (["--steps", "2", "--length", "40", "--dim", "32"], "bits a byte"),
    "long_documents.py": (["--steps", "2", "--length", "60"], "right"),
    "stream.py": (["--tokens", "260", "--piece", "20"], "its state is bounded"),
    "swap.py": (["--length", "80", "--window", "8"], "restored, to the last bit: True"),
    "forecast.py": (["--steps", "2", "--days", "6", "--context", "24"], "between"),
}
NOTEBOOKS = {"matrices.ipynb": {"LENGTH": "32"}, "far_and_near.ipynb": {"STEPS": "3"}}
#: an example of a file of `archs`; tests/test_new_mechanism.py is about it
MODULES = {"new_mechanism.py"}


def test_every_example_is_run():
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert there == {*SCRIPTS, *NOTEBOOKS, *MODULES}


#: those that take more than about two seconds
SLOW = {"forecast.py", "language_model.py", "far_and_near.ipynb"}


def _each(names):
    slow = pytest.mark.slow
    return [pytest.param(name, marks=[slow] if name in SLOW else []) for name in names]


@pytest.mark.parametrize("name", _each(SCRIPTS))
def test_script_runs(name, tmp_path, monkeypatch, capsys):
    words, says = SCRIPTS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert says in capsys.readouterr().out
    assert len((EXAMPLES / name).read_text().splitlines()) < 60


@pytest.mark.parametrize("name", _each(NOTEBOOKS))
def test_notebook_runs(name, monkeypatch, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    for variable, value in NOTEBOOKS[name].items():
        monkeypatch.setenv(variable, value)
    told = json.loads((EXAMPLES / name).read_text())
    names: dict = {"__name__": name}
    for cell in told["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [], "notebooks are kept without their outputs"
            exec(compile("".join(cell["source"]), name, "exec"), names)  # our own code
    assert "nats" in (out := capsys.readouterr().out) or "differs" in out
    matplotlib.pyplot.close("all")
