"""What is known not to convert says why, in one line."""

import json
from functools import partial
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


class MemTransformerLM(torch.nn.Linear):
    """Stands for the class of a repository that saves its models whole."""


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_model_saved_whole_says_how_to_save_its_tensors(zipped, tmp_path, monkeypatch, capsys):
    """The two lines that the old environment takes; here they are run as they are said."""
    monkeypatch.chdir(tmp_path)
    whole = MemTransformerLM(3, 2)
    torch.save(whole, "model.pt", _use_new_zipfile_serialization=zipped)
    assert main(["convert", "model.pt", "ours"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"model.pt holds a {__name__}.MemTransformerLM, and reading that would run" in said
    lines = (
        'model = torch.load("model.pt", map_location="cpu")',
        'torch.save(model.state_dict(), "state.pt")',
    )
    assert "; ".join(lines) in said
    # as it was before torch 2.6
    monkeypatch.setattr(torch, "load", partial(torch.load, weights_only=False))
    exec("\n".join(lines), {"torch": torch})
    monkeypatch.undo()
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    assert kept.keys() == whole.state_dict().keys()
    assert all(torch.equal(t, kept[name]) for name, t in whole.state_dict().items())
