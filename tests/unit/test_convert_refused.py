"""What is known not to convert says why, in one line."""

import json
from pathlib import Path

import pytest
import torch

from subquad.cli import main
from subquad.convert import FAMILIES, REFUSED


@pytest.mark.parametrize("refusal", REFUSED, ids=lambda r: r.name)
def test_by_name_and_by_tensors(refusal, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert refusal.name not in FAMILIES
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(json.dumps({"model_type": refusal.name}))
    torch.save({name: torch.ones(1) for name in refusal.signature}, "model.pt")
    for source in ["theirs", "model.pt"][: 2 if refusal.signature else 1]:
        assert main(["convert", source, "ours"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{refusal.name} is not converted: it" in said
        assert not Path("ours").exists()
