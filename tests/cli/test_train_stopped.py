"""A training that is asked to stop saves first: SIGTERM then exits 0, Ctrl-C 130."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_stopped_training_saves(tmp_path, number, code):
    (tmp_path / "text.txt").write_text("seven times eight is fifty-six. " * 300)
    words = ["train", "lm", "--arch", "local", "--preset", "tiny", "--data", "text.txt"]
    words += ["--out", "run", "--task.context", "32", "--task.valid_bytes", "500"]
    words += ["--train.batch", "2", "--train.steps", "1000000", "--train.log_every", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "subquad.cli", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SUBQUAD_CACHE": str(tmp_path / "cache")},
    )
    try:
        logged = tmp_path / "run" / "metrics.jsonl"
        for _ in range(1200):
            if process.poll() is not None or (logged.is_file() and logged.stat().st_size):
                break
            time.sleep(0.1)
        process.send_signal(number)
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == code, errors[-2000:]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["stopped_by"] == number.name
    assert (tmp_path / "run" / f"checkpoint-{facts['steps']}" / "trainer_state.json").is_file()
    assert f"stopped by {number.name} at step" in said
    assert "--resume" in said
