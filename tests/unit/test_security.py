"""What SECURITY.md says of the network and of code in checkpoints, shown."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from subquad.cli import main
from subquad.data.vocabulary import vocabulary

ROOT = Path(__file__).resolve().parents[2]

NO_NETWORK = """
import os, socket, sys
def refuse(*a, **k):
    print("REACHED", a, flush=True)
    os._exit(7)
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse
for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)
before = dict(os.environ)
import subquad
assert dict(os.environ) == before, "the environment changed"
import subquad.cli
assert subquad.cli.main(["list"]) == 0
import subquad.hf
subquad.hf.SubquadForCausalLM(
    subquad.hf.SubquadConfig(arch="transformer", model={"dim": 8, "num_layers": 1, "num_heads": 2})
)
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_TELEMETRY
assert subquad.cli.main(["train", "lm", "--arch", "nothing"]) == 2
print("DONE")
"""


def test_nothing_is_reached_at_import_or_by_default():
    done = subprocess.run(
        [sys.executable, "-c", NO_NETWORK], capture_output=True, text=True, check=False
    )
    assert "DONE" in done.stdout, done.stdout[-500:] + done.stderr[-500:]
    assert "REACHED" not in done.stdout


@pytest.fixture
def with_code(tmp_path: Path) -> Path:
    """A model folder that brings code of its own, and asks to run it."""
    folder = tmp_path / "model"
    folder.mkdir()
    proof = tmp_path / "proof"
    (folder / "evil.py").write_text(f"open({str(proof)!r}, 'w').close()\n")
    calls = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Words", None]}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": calls}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"auto_map": calls}))
    return folder


def test_code_in_a_folder_is_not_run(with_code: Path, tmp_path: Path, capsys):
    assert main(["convert", str(with_code), str(tmp_path / "made")]) == 2
    assert main(["swap", str(with_code), str(tmp_path / "made"), "--mixer", "exact"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(line.startswith("subquad: error: ") for line in said)
    with pytest.raises(ValueError, match=r"neither a tokenizer.json that can be read nor on"):
        vocabulary("some/evil-words")
    assert not (tmp_path / "proof").exists()


def test_tests_that_are_named_exist():
    """SECURITY.md names tests; each is there."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text)
    assert named
    for path, test in named:
        assert f"def {test}" in (ROOT / path).read_text(encoding="utf-8"), (path, test)
