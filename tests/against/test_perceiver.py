"""The Perceivers of transformers at tiny random size, their weights in our parts: equal outputs.

float64 on both sides, so that equal means to rounding.
"""

from collections.abc import Iterator

import pytest
import torch
from transformers import (
    PerceiverConfig,
    PerceiverForImageClassificationFourier,
    PerceiverForImageClassificationLearned,
    PerceiverForMaskedLM,
)

import subquad as sq
from subquad.model import build
from subquad.nn.context import Context


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Their Fourier features are formed in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def copy(ours, theirs):
    ours.load_state_dict(theirs.state_dict())


def loud(model):
    """Weights large enough that every part matters."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


def copy_layer(block, mixer, norms, layer):
    """A layer of theirs, whose first norms stand inside its attention."""
    attention = layer.attention.self
    for name in ("query", "key", "value"):
        copy(getattr(mixer, name), getattr(attention, name))
    copy(mixer.out, layer.attention.output.dense)
    for norm, given in zip(block.norms, norms, strict=True):
        copy(norm, given)
    copy(block.mlp.up, layer.mlp.dense1)
    copy(block.mlp.down, layer.mlp.dense2)


def copy_cross(block, layer):
    inner = layer.attention.self
    copy_layer(block, block.mixer, (inner.layernorm1, inner.layernorm2, layer.layernorm), layer)


def copy_backbone(ours, perceiver, decoder):
    with torch.no_grad():
        ours.latents.weight.copy_(perceiver.embeddings.latents)
    copy_cross(ours.reads[0], perceiver.encoder.cross_attention)
    copy_cross(ours.answer, decoder.decoding_cross_attention)
    for block, layer in zip(ours.blocks, perceiver.encoder.self_attends, strict=True):
        norms = (layer.attention.self.layernorm1, layer.layernorm)
        copy_layer(block, block.mixers[0], norms, layer)


def asked(head, decoder):
    with torch.no_grad():
        head.asked.weight.copy_(decoder.output_position_encodings.position_embeddings)


SIZES = {"num_layers": 2, "num_heads": 4, "ffn_dim": 32, "latents": 8, "latent_dim": 32}
THEIRS = {
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
}


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("length", [1, 31, 48])
def test_masked_language_model(length, repeats):
    torch.manual_seed(0)
    theirs = loud(
        PerceiverForMaskedLM(
            PerceiverConfig(
                **THEIRS,
                d_model=24,
                num_blocks=repeats,
                num_cross_attention_heads=8,
                qk_channels=256,
                v_channels=32,
                vocab_size=64,
                max_position_embeddings=48,
            )
        )
    )
    fields = {"dim": 24, "cross_heads": 8, "key_dim": 256, "query_residual": False}
    ours = build(
        "perceiver_io",
        {**SIZES, **fields, "repeats": repeats},
        vocab_size=64,
        stem={"position": "learned", "max_len": 48},
        head={"kind": "query", "outputs": 48, "out_dim": 64},
    ).eval()
    inputs, decoder = theirs.perceiver.input_preprocessor, theirs.perceiver.decoder
    copy(ours.stem.embedding, inputs.embeddings)
    copy(ours.stem.position.table, inputs.position_embeddings)
    copy_backbone(ours.backbone, theirs.perceiver, decoder)
    asked(ours.head, decoder)
    with torch.no_grad():
        ours.head.final.weight.copy_(inputs.embeddings.weight)
        ours.head.final.bias.copy_(theirs.embedding_decoder.bias)
    ids = torch.randint(0, 64, (2, length))
    valid = torch.arange(length) < torch.tensor([length, max(1, length - 6)])[:, None]
    found = ours(ids, valid=valid)[0]
    wanted = theirs(ids, attention_mask=valid.long()).logits
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    # asked for its positions alone, the stack needs no head
    x, context = ours.stem(ids, valid)
    latents = theirs.perceiver(ids, attention_mask=valid.long()).last_hidden_state
    torch.testing.assert_close(ours.backbone.think(x, context), latents, rtol=1e-9, atol=1e-9)
    told = Context(context.pos, valid, queries=ours.head.queries[:, :5])
    answers = ours.head(ours.backbone(x, told)[0])
    torch.testing.assert_close(answers, wanted[:, :5], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", [8, 12])
def test_labels_of_images_with_learned_positions(side):
    torch.manual_seed(0)
    config = PerceiverConfig(
        **THEIRS, d_model=512, num_cross_attention_heads=1, image_size=8, num_labels=3
    )
    theirs = loud(PerceiverForImageClassificationLearned(config))
    ours = build(
        "perceiver_io",
        {**SIZES, "dim": 512, "query_dim": 32, "cross_heads": 1},
        vocab_size=1,
        stem={"kind": "patches", "patch": 1, "image_size": 8, "class_tokens": 0},
        head={"kind": "query", "outputs": 1, "out_dim": 3},
    ).eval()
    inputs, decoder = theirs.perceiver.input_preprocessor, theirs.perceiver.decoder.decoder
    with torch.no_grad():
        # they join pixels and positions on the channels, a half each: ours adds them
        for p in ours.stem.parameters():
            p.zero_()
        ours.stem.embedding.weight[:256] = inputs.convnet_1x1.weight.flatten(1)
        ours.stem.embedding.bias[:256] = inputs.convnet_1x1.bias
        places = inputs.positions_projection(inputs.position_embeddings.position_embeddings)
        ours.stem.position.table.weight[:, 256:] = places
    copy_backbone(ours.backbone, theirs.perceiver, decoder)
    asked(ours.head, decoder)
    copy(ours.head.final, decoder.final_layer)
    images = torch.randn(2, 3, side, side)
    wanted = theirs(pixel_values=images, interpolate_pos_encoding=side != 8).logits
    torch.testing.assert_close(ours(images)[0][:, 0], wanted, rtol=1e-9, atol=1e-9)


# places at multiples of a quarter and an eighth, which their float32 holds exactly
@pytest.mark.parametrize("size", [(5, 9), (3, 3)])
def test_labels_of_images_with_fourier_features(size):
    torch.manual_seed(0)
    config = PerceiverConfig(**THEIRS, d_model=261, num_cross_attention_heads=1, num_labels=3)
    theirs = loud(PerceiverForImageClassificationFourier(config))
    ours = build(
        "perceiver_io",
        {**SIZES, "dim": 261, "query_dim": 32, "cross_heads": 1},
        vocab_size=1,
        stem={"kind": "fourier"},
        head={"kind": "query", "outputs": 1, "out_dim": 3},
    ).eval()
    decoder = theirs.perceiver.decoder.decoder
    with torch.no_grad():
        # they join pixels and features on the channels, unmapped
        for p in ours.stem.parameters():
            p.zero_()
        ours.stem.project.weight[:3] = torch.eye(3)
        ours.stem.place.weight[3:] = torch.eye(258)
    copy_backbone(ours.backbone, theirs.perceiver, decoder)
    asked(ours.head, decoder)
    copy(ours.head.final, decoder.final_layer)
    images = torch.randn(2, 3, *size)
    wanted = theirs(pixel_values=images).logits
    found = ours(images.permute(0, 2, 3, 1))[0][:, 0]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
def test_sizes_of_perceiver_io():
    """The language model of bytes has as many parameters as theirs, the 201M of the paper."""
    fields = vars(sq.ARCHS["perceiver_io"].PRESETS["bytes"])
    with torch.device("meta"):
        theirs = PerceiverForMaskedLM(PerceiverConfig(qk_channels=256, v_channels=1280))
        ours = build(
            "perceiver_io",
            fields,
            vocab_size=262,
            stem={"position": "learned", "max_len": 2048},
            head={"kind": "query", "outputs": 2048, "out_dim": 262},
        )
    # their words share the table of the inputs
    assert parameters(ours) - 262 * 768 == parameters(theirs)
    assert round(parameters(theirs) / 1e6) == 201


def test_size_of_the_first_perceiver():
    """On ImageNet, 44.9M parameters with its classes: all layers shared, and all reads but one."""
    preset = vars(sq.ARCHS["perceiver"].PRESETS["imagenet"])
    with torch.device("meta"):
        made = sq.ARCHS["perceiver"].build(sq.archs.configure("perceiver", preset))
        head = torch.nn.Linear(made.out_dim, 1000)
    assert round((parameters(made) + parameters(head)) / 1e6, 1) == 44.9
