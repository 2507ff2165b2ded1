"""ViT of transformers at tiny random size, its weights in our parts: equal features and logits.

float64 on both sides, so that equal means to rounding.
"""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTModel

import subquad as sq
from subquad.hf import SubquadConfig, SubquadForImageClassification
from subquad.model import build

SIZE, LABELS = 16, 3
FIELDS = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "dropout": 0.0}
STEM = {"kind": "patches", "image_size": SIZE, "patch": 4}


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


def ours():
    config = SubquadConfig(arch="vit", model=FIELDS, stem=STEM, num_labels=LABELS)
    return SubquadForImageClassification(config).double().eval()


@torch.no_grad()
def take(model, vit):
    """Their weights in our stem and backbone."""

    def set_(part, weight, bias):
        part.weight.copy_(weight)
        part.bias.copy_(bias)

    stem, backbone, from_ = model.model.stem, model.model.backbone, vit.embeddings
    patches = from_.patch_embeddings.projection
    set_(stem.embedding, patches.weight.flatten(1), patches.bias)
    stem.classes.weight.copy_(from_.cls_token[0])
    stem.position.table.weight.copy_(from_.position_embeddings[0])
    for block, layer in zip(backbone.blocks, vit.layers, strict=True):
        mixer, attention = block.mixers[0], layer.attention
        for name in ("query", "key", "value", "out"):
            part = getattr(attention, f"{name[0]}_proj")
            set_(getattr(mixer, name), part.weight, part.bias)
        set_(block.mlp.up, layer.mlp.fc1.weight, layer.mlp.fc1.bias)
        set_(block.mlp.down, layer.mlp.fc2.weight, layer.mlp.fc2.bias)
        set_(block.norms[0], layer.layernorm_before.weight, layer.layernorm_before.bias)
        set_(block.norms[1], layer.layernorm_after.weight, layer.layernorm_after.bias)
    set_(backbone.norm, vit.layernorm.weight, vit.layernorm.bias)
    return model


@pytest.mark.parametrize("size", [(16, 16), (24, 24), (8, 20), (4, 4)])
def test_features_at_any_size(size):
    vit = theirs(ViTModel, add_pooling_layer=False)
    model, pixels = take(ours(), vit), torch.randn(2, 3, *size, dtype=torch.float64)
    found = model.features({"pixel_values": pixels})[0]
    wanted = vit(pixels, interpolate_pos_encoding=True).last_hidden_state
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_logits_and_gradients():
    vit = theirs(ViTForImageClassification)
    model, pixels = take(ours(), vit.vit), torch.randn(2, 3, SIZE, SIZE, dtype=torch.float64)
    with torch.no_grad():
        model.model.head.label.weight.copy_(vit.classifier.weight)
        model.model.head.label.bias.copy_(vit.classifier.bias)
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
