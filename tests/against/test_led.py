"""LED and BART of transformers at tiny random size, their weights in our parts: equal outputs."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LEDConfig,
    LEDForConditionalGeneration,
)

from subquad.archs import pair_parts
from subquad.hf import SubquadConfig, SubquadForSeq2SeqLM

SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
OURS = {"dim": 32, "encoder_layers": 2, "decoder_layers": 2, "num_heads": 4, "ffn_dim": 48}


def loud(model):
    """Weights large enough that every part matters."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


def shell(parts):
    return SubquadForSeq2SeqLM(SubquadConfig(**parts, vocab_size=60, **TOKENS)).double().eval()


@torch.no_grad()
def fill(ours, theirs):
    """A linear map, norm or table of the same shape."""
    ours.weight.copy_(theirs.weight)
    if getattr(theirs, "bias", None) is not None:
        ours.bias.copy_(theirs.bias)


def fill_attention(mixer, theirs):
    for ours, name in (
        (mixer.query, "q"),
        (mixer.key, "k"),
        (mixer.value, "v"),
        (mixer.out, "out"),
    ):
        fill(ours, getattr(theirs, f"{name}_proj"))


def fill_block(block, theirs):
    fill(block.norms[0], theirs.self_attn_layer_norm)
    fill(block.norms[-1], theirs.final_layer_norm)
    fill(block.mlp.up, theirs.fc1)
    fill(block.mlp.down, theirs.fc2)


def fill_side(side, theirs, skipped=0):
    """Stem and feed-forward parts; the first rows of their table of positions may be of no use."""
    fill(side.stem.embedding, theirs.embed_tokens)
    with torch.no_grad():
        side.stem.position.table.weight.copy_(theirs.embed_positions.weight[skipped:])
    fill(side.stem.norm, theirs.layernorm_embedding)
    for block, layer in zip(side.backbone.blocks, theirs.layers, strict=True):
        fill_block(block, layer)


def fill_decoder(decoder, theirs, skipped=0):
    fill_side(decoder, theirs, skipped)
    for block, layer in zip(decoder.backbone.blocks, theirs.layers, strict=True):
        fill_attention(block.mixers[0], layer.self_attn)
        fill_attention(block.mixers[1], layer.encoder_attn)
        fill(block.norms[1], layer.encoder_attn_layer_norm)


@pytest.fixture
def in_full_precision(monkeypatch):
    """Their softmax is float32 whatever the weights are; here it is as wide as what it is given."""
    softmax = torch.nn.functional.softmax

    def wide(x, dim=None, _stacklevel=3, dtype=None):
        return softmax(x, dim, dtype=None if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)


def led():
    torch.manual_seed(0)
    lengths = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 40}
    config = LEDConfig(**SIZES, **TOKENS, **lengths, attention_window=[8, 12])
    theirs = loud(LEDForConditionalGeneration(config))
    fields = {**OURS, "windows": [4, 6], "max_source": 64, "max_target": 40, "dropout": 0.0}
    ours = shell(pair_parts("led", fields))
    encoder = ours.model.encoder
    fill_side(encoder, theirs.led.encoder)
    for block, layer in zip(encoder.backbone.blocks, theirs.led.encoder.layers, strict=True):
        mixer, attention = block.mixers[0], layer.self_attn
        for name in ("query", "key", "value"):
            fill(getattr(mixer.inner, name), getattr(attention.longformer_self_attn, name))
            fill(getattr(mixer, name), getattr(attention.longformer_self_attn, f"{name}_global"))
        fill(mixer.inner.out, attention.output)
    fill_decoder(ours.model.decoder, theirs.led.decoder)
    return ours, theirs


def bart():
    torch.manual_seed(0)
    theirs = loud(
        BartForConditionalGeneration(BartConfig(**SIZES, **TOKENS, max_position_embeddings=64))
    )
    own = {"position": "none", "wiring": "post"}
    fields = {**OURS, "encoder_fields": own, "decoder_fields": own, "dropout": 0.0}
    parts = pair_parts("encoder_decoder", fields)
    stem = {"position": "learned", "max_len": 64, "norm": "layer"}
    ours = shell({**parts, "stem": stem, "encoder": {**parts["encoder"], "stem": stem}})
    # their first two positions are of padding
    encoder = ours.model.encoder
    fill_side(encoder, theirs.model.encoder, skipped=2)
    for block, layer in zip(encoder.backbone.blocks, theirs.model.encoder.layers, strict=True):
        fill_attention(block.mixers[0], layer.self_attn)
    fill_decoder(ours.model.decoder, theirs.model.decoder, skipped=2)
    return ours, theirs


def source(marks=None):
    ids = torch.randint(3, 60, (3, 37))
    mask = (torch.arange(37) < torch.tensor([37, 20, 3])[:, None]).long()
    ids = ids.masked_fill(mask == 0, 1)
    given = {"input_ids": ids, "attention_mask": mask}
    if marks is not None:
        given["global_attention_mask"] = torch.zeros_like(ids)
        given["global_attention_mask"][:, marks] = 1
    return given


SOURCES = {
    "led": (led, {"marks": [0]}),
    "led-two-marks": (led, {"marks": [0, 2]}),
    "led-no-marks": (led, {}),
    "bart": (bart, {}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_equal_logits(name, in_full_precision):
    make, how = SOURCES[name]
    (ours, theirs), given = make(), source(**how)
    written = torch.randint(3, 60, (3, 15))
    found = ours(**given, decoder_input_ids=written)
    wanted = theirs(**given, decoder_input_ids=written)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-9, atol=1e-9)
    real = given["attention_mask"] > 0
    memory, theirs_ = found.encoder_last_hidden_state, wanted.encoder_last_hidden_state
    torch.testing.assert_close(memory[real], theirs_[real], rtol=1e-9, atol=1e-9)
    labels = written.masked_fill(torch.arange(15) > torch.tensor([14, 9, 3])[:, None], -100)
    losses = [m(**given, labels=labels).loss for m in (ours, theirs)]
    # both take the loss in float32
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6, check_dtype=False)


MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "returned": {"num_beams": 4, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SOURCES)
def test_equal_words(name, mode, in_full_precision):
    make, how = SOURCES[name]
    (ours, theirs), given = make(), source(**how)
    # random weights would say one word for ever
    options = {"max_new_tokens": 14, "no_repeat_ngram_size": 1, **MODES[mode]}
    theirs.generation_config.forced_eos_token_id = None  # BART's own
    words = [m.generate(**given, **options) for m in (ours, theirs)]
    assert torch.equal(*words)
    assert len(words[0].unique()) > 9
