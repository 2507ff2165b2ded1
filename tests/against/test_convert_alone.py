"""Models of ours that never were another's, to Llama's kin: the class that says what they are."""

import pytest
import torch
import transformers as hf

import subquad.hf as shell
from subquad.convert.folder import convert

WORDS = 60


def ours_alone(arch, folder, **fields):
    """A model of ours that never was another's."""
    torch.manual_seed(0)
    plain = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "norm": "rms"}
    plain |= {"mlp": "swiglu", "bias": False, "dropout": 0.0, **fields}
    settings = shell.SubquadConfig(arch=arch, model=plain, vocab_size=WORDS)
    model = shell.SubquadForCausalLM(settings).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("arch", "family", "fields"),
    [
        ("local", "mistral", {"window": 5}),
        ("local", "mistral", {"window": 5, "num_kv_heads": 2, "position": "rotary_linear:100,4"}),
        ("transformer", "mistral", {}),
        ("transformer", "llama", {"position": "rotary_llama3:500000,8,1,4,8192"}),
        ("hybrid", "qwen2", {"window": 5, "kinds": ["local", "full"], "bias": True}),
        ("transformer", "qwen2", {"bias": True}),
    ],
)
def test_ours_alone_goes_to_the_class_that_says_it(arch, family, fields, tmp_path):
    ours = ours_alone(arch, tmp_path / "ours", **fields)
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back", family)
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert model.config.model_type == family
    ids = torch.randint(WORDS, (2, 30))
    torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arch", "family", "fields", "says"),
    [
        ("local", "llama", {}, "llama has arch 'transformer', and this model 'local'"),
        ("hybrid", "mistral", {}, "mistral has arch 'transformer', and this model 'hybrid'"),
        ("hybrid", "qwen2", {"bias": True, "kinds": ["local", "kernel"]}, "model.kinds: 'kernel'"),
        (
            "transformer",
            "llama",
            {"position": "rotary_llama3:1e4,8,1,4,99.5"},
            "ends with a length that is no whole number",
        ),
    ],
)
def test_what_they_cannot_say(arch, family, fields, says, tmp_path):
    ours_alone(arch, tmp_path / "ours", **fields)
    (tmp_path / "back").mkdir()
    with pytest.raises(ValueError, match=says):
        convert(tmp_path / "ours", tmp_path / "back", family)
