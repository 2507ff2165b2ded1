"""Two processes train as one: the same data as one process with twice the batch."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from subquad.train.checkpoint import check_whole

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))


TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def begin(
    folder: Path, arch: str, *launcher: str, batch: int, out: str, more: tuple = ()
) -> subprocess.Popen:
    """A process that trains through the command line."""
    words = ["train", "lm", "--arch", arch, "--preset", "tiny", "--out", out]
    words += ["--data", "tables.txt", "--task.context", "32", "--task.valid_bytes", "1000"]
    words += ["--train.batch", str(batch), "--train.reports", "2", "--train.schedule", "constant"]
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "subquad.cli", *words, *more],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "SUBQUAD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
    )


def start(folder: Path, arch: str, *launcher: str, code: int = 0, **how) -> tuple[str, str]:
    """Train to the end; what it prints, and what goes to stderr."""
    process = begin(folder, arch, *launcher, **how)
    try:
        said, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == code, errors[-3000:]
    return said, errors


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["local", "transformer_xl"])
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, arch):
    (tmp_path / "tables.txt").write_bytes(TEXT)
    # what is carried from batch to batch must come back as well
    stops = [("4",), ("6", "--resume")] if arch == "transformer_xl" else [("6",)]
    for steps in stops:
        more = ("--train.steps", *steps)
        said, _ = start(tmp_path, arch, *TWO, batch=2, out="two", more=more)
        assert said.count("run folder: two") == 1  # only the first process speaks
    assert said.count("bits per byte") == 1
    start(tmp_path, arch, batch=4, out="one", more=("--train.steps", "6"))
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in one:  # the same sums in another order
        assert (one[name] - two[name]).abs().max() < 2e-4, name
    carried = sorted(path.name for path in (tmp_path / "two").glob("checkpoint-6/memory-*"))
    both = ["memory-0.safetensors", "memory-1.safetensors"]  # one file per process
    assert carried == (both if arch == "transformer_xl" else [])
    facts = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two")]
    assert facts[0]["tokens"] == facts[1]["tokens"] == 6 * 4 * 32
    numbers = [f["numbers"]["bits_per_byte"] for f in facts]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)
    logged = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in logged]
    assert steps == sorted(steps)


@pytest.mark.slow
@pytest.mark.timeout(900)  # four trainings, of several processes each
def test_spread_weights_are_saved_whole_and_gone_on_with(tmp_path):
    """Spread in two processes, cut off, gone on with: as one process with twice the batch. The same
    checkpoint goes on with copies of all weights."""
    (tmp_path / "tables.txt").write_bytes(TEXT)
    arch, spread = "transformer_xl", ("--train.shard", "true")
    start(tmp_path, arch, *TWO, batch=2, out="two", more=("--train.steps", "4", *spread))
    shutil.copytree(tmp_path / "two", tmp_path / "copies")
    more = ("--train.steps", "6", "--resume")
    start(tmp_path, arch, *TWO, batch=2, out="two", more=more)
    start(tmp_path, arch, *TWO, batch=2, out="copies", more=(*more, "--train.shard", "false"))
    start(tmp_path, arch, batch=4, out="one", more=("--train.steps", "6"))
    one = load_file(tmp_path / "one" / "model.safetensors")
    for name in ("two", "copies"):
        other = load_file(tmp_path / name / "model.safetensors")
        assert one.keys() == other.keys()
        for key in one:  # the same sums in another order
            assert (one[key] - other[key]).abs().max() < 2e-4, (name, key)
    moments = [
        torch.load(tmp_path / name / "checkpoint-6" / "optimizer.pt", weights_only=True)
        for name in ("two", "one")
    ]
    for i, kept in moments[1]["state"].items():
        for key, t in kept.items():
            assert moments[0]["state"][i][key].shape == t.shape
    config = json.loads((tmp_path / "two" / "config.json").read_text())
    assert config["architectures"] == ["SubquadForCausalLM"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("told", ["one process", "all, the launcher too"])
def test_sigterm_saves(tmp_path, told):
    """To one process, whose word the other takes; or to all, as schedulers do: then each process
    gets it once more from the launcher, which dies of it and gives them 30 s."""
    (tmp_path / "tables.txt").write_bytes(TEXT)
    more = ("--train.steps", "1000000", "--train.log_every", "1")
    launcher = begin(tmp_path, "local", *TWO, batch=2, out="run", more=more)
    logged = tmp_path / "run" / "metrics.jsonl"
    try:
        for _ in range(2400):
            if launcher.poll() is not None or (logged.is_file() and logged.stat().st_size):
                break
            time.sleep(0.1)
        assert logged.is_file(), "training has not begun"
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
        if not children.is_file():
            pytest.skip("no /proc that tells which processes a launcher has started")
        workers = [*map(int, children.read_text().split())]
        assert len(workers) == 2, launcher.communicate(timeout=10)[1][-2000:]
        for worker in workers if told.startswith("all") else workers[1:]:
            os.kill(worker, signal.SIGTERM)
        if told.startswith("all"):
            launcher.terminate()
        said, errors = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    if told == "one process":
        assert launcher.returncode == 0, errors[-3000:]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["stopped_by"] == "SIGTERM"
    checkpoint = tmp_path / "run" / f"checkpoint-{facts['steps']}"
    for rank in range(2):
        check_whole(checkpoint, rank, 2)
    assert said.count("stopped by SIGTERM at step") == 1


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_both(tmp_path):
    """Each says why in a line, and keeps its own batch."""
    (tmp_path / "tables.txt").write_bytes(TEXT)
    more = ("--train.steps", "50", "--train.lr", "1e30", "--train.warmup", "0", "--train.clip", "0")
    _, errors = start(tmp_path, "local", *TWO, batch=2, out="run", more=more, code=1)
    lines = [line for line in errors.splitlines() if "subquad: error: " in line]
    assert lines, errors[-3000:]
    assert all("at step 2 with learning rate 1e+30; what it came of is kept in" in x for x in lines)
    kept = sorted(path.name for path in (tmp_path / "run").glob("diverged-*"))
    assert kept == ["diverged-0.safetensors", "diverged-1.safetensors"]
