"""Weights spread over two processes: half of the bytes in each, the same loss and gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from subquad.cli import main
from subquad.train.config import TrainConfig
from subquad.train.sharding import check_shardable

SCRIPT = Path(__file__).parent / "spreading.py"


@pytest.mark.slow
def test_two_processes_hold_half_each_and_learn_the_same(tmp_path):
    words = ["--standalone", "--nproc-per-node", "2", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        refused = {name for name, one in found.items() if "refused" in one}
        assert refused == {"adaptive_span"}
        for name in found.keys() - refused:
            one = found[name]
            # a loss of about 5 in float32, and sums in another order
            assert one["far"] < 8 * 5 * torch.finfo(torch.float32).eps, name
            assert one["held"] == one["whole"] / 2, name


def test_one_process_has_nobody_to_share_with(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("seven times eight is fifty-six. " * 200)
    words = ["--arch", "local", "--preset", "tiny", "--data", str(text), "--task.context", "32"]
    words += ["--out", str(tmp_path / "run"), "--train.steps", "1", "--train.shard", "true"]
    assert main(["train", "lm", *words]) == 2
    said = capsys.readouterr().err
    assert "train.shard spreads weights over several processes, and there is one" in said
    assert "torchrun --nproc-per-node N" in said


def test_what_cannot_be_spread_is_named():
    class Priced(nn.Linear):
        def penalty(self):
            return self.weight.sum()

    with pytest.raises(ValueError, match=r"0 \(Priced\) adds a price of its weights to the loss"):
        check_shardable(nn.Sequential(Priced(2, 2)), 2)
    single = nn.Module()
    single.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="scale is a single number, which cannot be spread"):
        check_shardable(single, 2)
    with pytest.raises(ValueError, match=r"train.average 2 .* with train.shard no process has"):
        TrainConfig(average=2, shard=True)
