"""wav2vec2-conformer of transformers through the converter, from samples on.

Without padding, which theirs lets into convolutions. Their sinusoids are formed in float32, so that
equal means to that rounding.
"""

import pytest
import torch
import transformers as hf

from converting import converted, there_and_back

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
    ours = there_and_back(model, tmp_path)

    wave = torch.randn(2, LENGTH, dtype=torch.float64)
    with torch.no_grad():
        wanted = model.double()(wave)[0]
        found = ours(input_values=wave)[0]
        assert torch.equal(found, ours(input_features=wave.unsqueeze(-1))[0])
    wanted = wanted.log_softmax(-1) if head else wanted
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, **CLOSE)


def test_their_feature_extractor_and_tokenizer_go_along(tmp_path, monkeypatch):
    """A pipeline over the converted folder says what theirs says."""
    monkeypatch.chdir(tmp_path)
    fields = {"feat_extract_norm": "layer", "pad_token_id": 0, "vocab_size": 5}
    model = theirs(hf.Wav2Vec2ConformerForCTC, **fields)
    (tmp_path / "vocab.json").write_text('{"<pad>": 0, "<unk>": 1, "|": 2, "A": 3, "B": 4}')
    tokenizer = hf.Wav2Vec2CTCTokenizer(
        "vocab.json", bos_token=None, eos_token=None, pad_token="<pad>", unk_token="<unk>"
    )
    parts = {"tokenizer": tokenizer, "feature_extractor": hf.Wav2Vec2FeatureExtractor()}
    for part in parts.values():
        part.save_pretrained("theirs")
    ours = converted(model, tmp_path)
    parts = {
        "tokenizer": hf.Wav2Vec2CTCTokenizer.from_pretrained("ours"),
        "feature_extractor": hf.Wav2Vec2FeatureExtractor.from_pretrained("ours"),
    }
    task, wave = "automatic-speech-recognition", torch.randn(LENGTH).numpy()
    said = [hf.pipeline(task, model=one, **parts)(wave.copy())["text"] for one in (model, ours)]
    assert said[0] == said[1] != ""


def test_waves_of_another_form_are_refused(tmp_path):
    ours = converted(theirs(hf.Wav2Vec2ConformerForCTC), tmp_path)
    with pytest.raises(
        ValueError, match=r"input_values must be \(batch, samples\), not \(1, 9, 1\)"
    ):
        ours(input_values=torch.zeros(1, 9, 1))


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
