"""The original Longformer's folders through the command line, against transformers' class, to which
its tensors were carried over under another prefix (longformer/longformer.py of allenai/longformer).
"""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from subquad.cli import main
from subquad.hf import SubquadForMaskedLM

WORDS, LENGTH = 60, 40
SHARED = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 74,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
}
ORIGINAL = SHARED | {
    "architectures": ["RobertaForMaskedLM"],
    "attention_window": [4, 6],
    "attention_dilation": [1, 1],
    "attention_mode": "sliding_chunks",
    "autoregressive": False,
    "model_type": "roberta",
}


def write(**fields):
    """A folder as it was released, and the class with the same weights."""
    torch.manual_seed(0)
    model = hf.LongformerForMaskedLM(
        hf.LongformerConfig(**SHARED, attention_window=[8, 12], sep_token_id=2)
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    tensors = {
        name.replace("longformer.", "roberta.", 1): t for name, t in model.state_dict().items()
    }
    tensors["roberta.pooler.dense.weight"] = torch.randn(32, 32)
    tensors["roberta.pooler.dense.bias"] = torch.randn(32)
    Path("theirs").mkdir()
    torch.save(tensors, "theirs/pytorch_model.bin")
    Path("theirs/config.json").write_text(json.dumps(ORIGINAL | fields))
    return model.eval(), tensors


@pytest.mark.parametrize("named", [True, False], ids=["roberta", "no-type"])
def test_equal_outputs_and_the_way_back(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, went = write()
    if not named:
        told = {k: v for k, v in ORIGINAL.items() if k != "model_type"}
        Path("theirs/config.json").write_text(json.dumps(told))
    assert main(["convert", "theirs", "ours"]) == 0
    assert main(["convert", "ours", "back"]) == 0
    came = load_file("back/model.safetensors")
    assert came.keys() == went.keys()
    assert all(torch.equal(came[name], went[name]) for name in went)
    told, back = (json.loads(Path(f"{w}/config.json").read_text()) for w in ("theirs", "back"))
    assert told.items() <= back.items()
    assert ("model_type" in back) == named
    ours = SubquadForMaskedLM.from_pretrained("ours").eval()
    ids = torch.randint(3, WORDS, (2, LENGTH))
    marked = (torch.arange(LENGTH) < 2).long().expand(2, -1)
    given = {"input_ids": ids, "global_attention_mask": marked}
    with torch.no_grad():
        found, wanted = ours.double()(**given).logits, model.double()(**given).logits
    assert wanted.std() > 0.1
    # theirs computes softmax in float32
    close = 64 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found, wanted, rtol=close, atol=close)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"autoregressive": True}, "has autoregressive True, which ours does not compute"),
        ({"attention_mode": "n2"}, "has attention_mode 'n2', which ours does not compute"),
        ({"attention_dilation": [1, 2]}, "attention_dilation: [1, 2] differ by layer"),
    ],
)
def test_what_is_refused(fields, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(**fields)
    assert main(["convert", "theirs", "ours"]) == 2
    assert message in capsys.readouterr().err
