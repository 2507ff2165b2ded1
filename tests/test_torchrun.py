"""Two processes train as one: the same data as one process with twice the batch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TEXT = b"".join(b"%d times %d is %d.\n" % (i, j, i * j) for i in range(40) for j in range(40))


def start(folder: Path, arch: str, *launcher: str, batch: int, out: str, more: tuple = ()) -> str:
    """Train through the command line; what it says comes back."""
    words = ["train", "lm", "--arch", arch, "--preset", "tiny", "--out", out]
    words += ["--data", "tables.txt", "--task.context", "32", "--task.valid_bytes", "1000"]
    words += ["--train.batch", str(batch), "--train.reports", "2", "--train.schedule", "constant"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "subquad.cli", *words, *more],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "SUBQUAD_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["local", "transformer_xl"])
def test_two_processes_train_as_one_with_twice_the_batch(tmp_path, arch):
    (tmp_path / "tables.txt").write_bytes(TEXT)
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    said = start(tmp_path, arch, *two, batch=2, out="two", more=("--train.steps", "4"))
    assert said.count("run folder: two") == 1  # only the first process speaks
    said = start(tmp_path, arch, *two, batch=2, out="two", more=("--train.steps", "6", "--resume"))
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
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    arch, spread = "transformer_xl", ("--train.shard", "true")
    start(tmp_path, arch, *two, batch=2, out="two", more=("--train.steps", "4", *spread))
    shutil.copytree(tmp_path / "two", tmp_path / "copies")
    more = ("--train.steps", "6", "--resume")
    start(tmp_path, arch, *two, batch=2, out="two", more=more)
    start(tmp_path, arch, *two, batch=2, out="copies", more=(*more, "--train.shard", "false"))
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
