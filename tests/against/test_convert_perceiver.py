"""Perceiver IO for pictures through the converter: transformers' classes, and back.

float64 on both sides, so that equal means to rounding.
"""

import pytest
import torch
import transformers as hf

from converting import converted, there_and_back

SIZES = {
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_blocks": 2,
    "num_labels": 3,
    "num_cross_attention_heads": 1,
}
FOURIER = SIZES | {"d_model": 261}
LEARNED = SIZES | {"d_model": 512, "image_size": 8}


def theirs(kind, fields):
    torch.manual_seed(0)
    model = getattr(hf, f"PerceiverForImageClassification{kind}")(hf.PerceiverConfig(**fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


# places at multiples of a quarter and an eighth, which float32 holds exactly
@pytest.mark.parametrize(
    ("kind", "fields", "size"),
    [("Fourier", FOURIER, (5, 9)), ("Learned", LEARNED, (8, 8)), ("Learned", LEARNED, (12, 12))],
)
def test_labels_of_pictures(kind, fields, size, tmp_path, monkeypatch):
    model = theirs(kind, fields)
    ours = there_and_back(model, tmp_path)

    images = torch.randn(2, 3, *size, dtype=torch.float64)
    given = {"interpolate_pos_encoding": size != (8, 8)} if kind == "Learned" else {}
    torch.set_default_dtype(torch.float64)  # in which their Fourier features are formed
    try:
        with torch.no_grad():
            wanted = model.double()(pixel_values=images, **given).logits
            found = ours(pixel_values=images).logits
    finally:
        torch.set_default_dtype(torch.float32)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_convolutions_are_refused(tmp_path):
    fields = SIZES | {"d_model": 322}
    with pytest.raises(ValueError, match="PerceiverForImageClassificationConvProcessing of percei"):
        converted(theirs("ConvProcessing", fields), tmp_path)


# their queries for words have eight heads of width 256 / 8, whatever the settings say
@pytest.mark.parametrize(("name", "found"), [("num_cross_attention_heads", 4), ("qk_channels", 32)])
def test_other_heads_that_ask_for_words_are_refused(name, found, tmp_path):
    fields = {k: v for k, v in SIZES.items() if k != "num_labels"}
    fields |= {"d_model": 24, "v_channels": 32, "vocab_size": 64, "max_position_embeddings": 48}
    fields |= {"num_cross_attention_heads": 8, "qk_channels": 256, name: found}
    model = hf.PerceiverForMaskedLM(hf.PerceiverConfig(**fields))
    with pytest.raises(ValueError, match=f"this perceiver has {name} {found}, which ours does not"):
        converted(model, tmp_path)
