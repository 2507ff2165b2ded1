"""ViT of transformers at tiny random size, its weights in our parts: equal features and logits.

float64 on both sides, so that equal means to rounding.
"""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import subquad as sq
from converting import converted
from subquad.model import build

SIZE, LABELS = 16, 3


def theirs(kind, **options):
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=SIZE,
        patch_size=4,
        num_labels=LABELS,
        layer_norm_eps=1e-5,
    )
    model = kind(config, **options)
    for p in model.parameters():  # large enough that every part matters
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (8, 20), (4, 4)])
def test_features_at_any_size(size, tmp_path):
    vit = theirs(ViTModel, add_pooling_layer=False)
    model, pixels = converted(vit, tmp_path), torch.randn(2, 3, *size, dtype=torch.float64)
    found = model(pixel_values=pixels).last_hidden_state
    wanted = vit(pixels, interpolate_pos_encoding=True).last_hidden_state
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_logits_and_gradients(tmp_path):
    vit = theirs(ViTForImageClassification)
    model = converted(vit, tmp_path)
    pixels = torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    labels, close = torch.tensor([2, 0]), {"rtol": 1e-10, "atol": 1e-10}
    found, wanted = model(pixels, labels=labels), vit(pixels, labels=labels)
    torch.testing.assert_close(found.logits, wanted.logits, **close)
    torch.testing.assert_close(found.loss, wanted.loss, **close)
    found.loss.backward()
    wanted.loss.backward()
    stem, from_ = model.model.stem, vit.vit.embeddings
    patches = from_.patch_embeddings.projection.weight.grad.flatten(1)
    torch.testing.assert_close(stem.embedding.weight.grad, patches, **close)
    places = from_.position_embeddings.grad[0]
    torch.testing.assert_close(stem.position.table.weight.grad, places, **close)


@pytest.mark.parametrize(
    ("preset", "patch", "millions"), [("base", 16, 86), ("large", 16, 307), ("huge", 14, 632)]
)
def test_as_many_parameters(preset, patch, millions):
    fields = vars(sq.ARCHS["vit"].PRESETS[preset])
    with torch.device("meta"):
        stem = {"kind": "patches", "patch": patch}
        model = build("vit", fields, vocab_size=1, stem=stem, head={"kind": "none"})
        vit = ViTModel(
            ViTConfig(
                hidden_size=fields["dim"],
                num_hidden_layers=fields["num_layers"],
                num_attention_heads=fields["num_heads"],
                intermediate_size=fields["ffn_dim"],
                patch_size=patch,
            ),
            add_pooling_layer=False,
        )
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in vit.parameters())
    # table 1 of the paper, which rounds and counts a head
    assert count == pytest.approx(millions * 1e6, rel=0.02)
