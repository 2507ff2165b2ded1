"""Kinds of layers that ours repeats and Qwen2 names one by one: lists of other lengths."""

import json

import pytest
import torch
import transformers as hf

import subquad.hf as shell
from converting import config, converted
from subquad.convert.folder import convert

WORDS, WINDOW, LENGTH, LAYERS = 60, 7, 50, 3
QWEN2 = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
WORD = {"full": "full_attention", "local": "sliding_attention"}


@pytest.mark.parametrize(
    "kinds", [["full", "local"], ["local"], ["full", "local", "local", "full"]]
)
def test_kinds_of_ours_are_repeated_for_theirs(kinds, tmp_path):
    """What comes back is not the same list, if it was not as long as the layers; it means the same,
    to the bit."""
    fields = {"dim": 32, "num_layers": LAYERS, "num_heads": 4, "ffn_dim": 48, "num_kv_heads": 2}
    fields |= {"kinds": kinds, "window": 6, "norm": "rms", "mlp": "swiglu", "dropout": 0.0}
    torch.manual_seed(0)
    settings = shell.SubquadConfig(arch="hybrid", model=fields, vocab_size=WORDS)
    ours = shell.SubquadForCausalLM(settings).eval()
    ours.save_pretrained(tmp_path / "ours")
    for name in ("theirs", "again"):
        (tmp_path / name).mkdir()
    convert(tmp_path / "ours", tmp_path / "theirs", "qwen2")
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    whole = [kinds[i % len(kinds)] for i in range(LAYERS)]
    assert model.config.layer_types == [WORD[kind] for kind in whole]
    ids = torch.randint(3, WORDS, (2, LENGTH))
    torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)

    convert(tmp_path / "theirs", tmp_path / "again")
    found, told = (config(tmp_path / name)["model"] for name in ("again", "ours"))
    assert found["kinds"] == whole
    for name in ("norm", "position"):  # their numbers are written out
        assert found[name].startswith(told.pop(name))
    assert {**found, **told, "kinds": whole} == found
    again = shell.SubquadForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_kinds_that_were_made_short_here_are_repeated(tmp_path):
    """What came from there and was written shorter goes back as it came."""
    torch.manual_seed(0)
    converted(hf.Qwen2ForCausalLM(hf.Qwen2Config(**QWEN2)), tmp_path)
    told = config(tmp_path / "ours")
    assert told["model"]["kinds"] == ["local", "full", "local"]
    told["model"]["kinds"] = ["local", "full"]
    (tmp_path / "ours" / "config.json").write_text(json.dumps(told))
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    assert config(tmp_path / "back") == config(tmp_path / "theirs")
