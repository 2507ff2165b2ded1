"""wav2vec2-conformer of transformers through the converter, from samples on.

Without padding, which theirs lets into convolutions. Their sinusoids are formed in float32, so that
equal means to that rounding.
"""

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from converting import config, converted
from subquad.convert.folder import convert

LENGTH = 900
SIZES = {
    "vocab_size": 11,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "hidden_act": "swish",
    "conv_dim": (8, 8, 12),
    "conv_kernel": (10, 3, 2),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "conv_depthwise_kernel_size": 7,
    "position_embeddings_type": "relative",
    "layer_norm_eps": 1e-6,
}
#: angles of float32, at most so many tokens apart
CLOSE = {"rtol": 1e-5, "atol": LENGTH / 20 * 2**-22}


def theirs(kind, **fields):
    torch.manual_seed(0)
    model = kind(hf.Wav2Vec2ConformerConfig(**SIZES | fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    for name, b in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            b.copy_(torch.rand_like(b) + 0.5)
    return model.eval()


@pytest.mark.parametrize(
    "fields",
    [{"feat_extract_norm": "layer", "conv_bias": True}, {"feat_extract_norm": "group"}],
    ids=["layer", "group"],
)
@pytest.mark.parametrize("head", [True, False], ids=["ctc", "body"])
def test_equal_outputs_and_the_way_back(head, fields, tmp_path):
    model = theirs(hf.Wav2Vec2ConformerForCTC if head else hf.Wav2Vec2ConformerModel, **fields)
    ours = converted(model, tmp_path).double()
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    went, came = (load_file(tmp_path / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    assert config(tmp_path / "theirs") == config(tmp_path / "back")

    wave = torch.randn(2, LENGTH, dtype=torch.float64)
    with torch.no_grad():
        wanted = model.double()(wave)[0]
        found = ours(input_features=wave.unsqueeze(-1))[0]
    wanted = wanted.log_softmax(-1) if head else wanted
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, **CLOSE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_embeddings_type": "rotary"}, "has position_embeddings_type 'rotary', which"),
        ({"add_adapter": True}, "has add_adapter True, which ours does not compute"),
        ({"hidden_act": "gelu"}, "hidden_act: 'gelu' is none of 'swish'"),
    ],
    ids=["rotary", "adapter", "gelu"],
)
def test_what_is_refused(fields, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        converted(theirs(hf.Wav2Vec2ConformerModel, **fields), tmp_path)
