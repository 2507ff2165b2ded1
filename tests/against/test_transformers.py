"""Official classes of transformers at tiny random size, their weights in our parts: equal outputs.

float64 on both sides, so that equal means to rounding.
"""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LongformerConfig,
    LongformerModel,
)

import subquad as sq
from subquad.hf import SubquadConfig, SubquadForCausalLM


def set_(linear, weight, bias=None):
    with torch.no_grad():
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)


def loud(model):
    """Weights large enough that every part matters."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


@pytest.mark.parametrize("side", ["right", "left"])
def test_gpt2(side):
    torch.manual_seed(0)
    theirs = loud(
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    )
    fields = tiny_fields(position="none", mlp="gelu_tanh", ffn_dim=128)
    ours = shell(fields, stem={"position": "learned", "max_len": 64})
    stem, blocks = ours.model.stem, ours.model.backbone.blocks
    set_(stem.embedding, theirs.transformer.wte.weight)
    set_(stem.position.table, theirs.transformer.wpe.weight)
    for block, h in zip(blocks, theirs.transformer.h, strict=True):
        mixer = block.mixers[0]
        weights, biases = h.attn.c_attn.weight.T.split(32), h.attn.c_attn.bias.split(32)
        for part, w, b in zip((mixer.query, mixer.key, mixer.value), weights, biases, strict=True):
            set_(part, w, b)
        set_(mixer.out, h.attn.c_proj.weight.T, h.attn.c_proj.bias)
        set_(block.mlp.up, h.mlp.c_fc.weight.T, h.mlp.c_fc.bias)
        set_(block.mlp.down, h.mlp.c_proj.weight.T, h.mlp.c_proj.bias)
        set_(block.norms[0], h.ln_1.weight, h.ln_1.bias)
        set_(block.norms[1], h.ln_2.weight, h.ln_2.bias)
    last = theirs.transformer.ln_f
    set_(ours.model.backbone.norm, last.weight, last.bias)
    assert_same(ours, theirs, side)


@pytest.mark.parametrize("side", ["right", "left"])
def test_llama(side):
    torch.manual_seed(0)
    theirs = loud(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=60,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                tie_word_embeddings=False,
                pad_token_id=0,
            )
        )
    )
    fields = tiny_fields(
        norm="rms", mlp="swiglu", bias=False, num_kv_heads=2, ffn_dim=48, position="rotary"
    )
    ours = shell(fields, tie_word_embeddings=False)
    set_(ours.model.stem.embedding, theirs.model.embed_tokens.weight)
    set_(ours.model.head.project, theirs.lm_head.weight)
    set_(ours.model.backbone.norm, theirs.model.norm.weight)
    for block, layer in zip(ours.model.backbone.blocks, theirs.model.layers, strict=True):
        mixer, attention = block.mixers[0], layer.self_attn
        set_(mixer.query, attention.q_proj.weight)
        set_(mixer.key, attention.k_proj.weight)
        set_(mixer.value, attention.v_proj.weight)
        set_(mixer.out, attention.o_proj.weight)
        set_(block.mlp.gate, layer.mlp.gate_proj.weight)
        set_(block.mlp.up, layer.mlp.up_proj.weight)
        set_(block.mlp.down, layer.mlp.down_proj.weight)
        set_(block.norms[0], layer.input_layernorm.weight)
        set_(block.norms[1], layer.post_attention_layernorm.weight)
    # Llama keeps angles and norms in float32 whatever the weights are: a few of its roundings
    assert_same(ours, theirs, side, tolerance=8 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("marks", [[], [0], [0, 17, 40]])
@pytest.mark.parametrize("window", [4, 256])
def test_longformer_attention(window, marks):
    torch.manual_seed(0)
    length = 48 if window == 4 else 1024
    theirs = loud(
        LongformerModel(
            LongformerConfig(
                vocab_size=60,
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=4,
                intermediate_size=48,
                attention_window=2 * window,
                max_position_embeddings=length + 2,
                pad_token_id=1,
            )
        )
    )
    attention = theirs.encoder.layer[0].attention.self
    ours = sq.nn.MarkedAttention(32, 4, sq.Window(window, window)).double().eval()
    for name in ("query", "key", "value"):
        part, whole = getattr(attention, name), getattr(attention, f"{name}_global")
        set_(getattr(ours.inner, name), part.weight, part.bias)
        set_(getattr(ours, name), whole.weight, whole.bias)
    set_(ours.inner.out, torch.eye(32), torch.zeros(32))
    x = torch.randn(2, length, 32, dtype=torch.float64)
    valid = torch.arange(length) < torch.tensor([length, length - 7])[:, None]
    mark = torch.zeros(2, length, dtype=torch.bool)
    mark[:, marks] = True
    their_mask = torch.where(valid, 0.0, -10000.0).masked_fill(mark, 10000.0).double()
    found = ours(x, sq.nn.Context(torch.arange(length)[None], valid, mark=mark if marks else None))
    wanted = attention(
        x,
        attention_mask=their_mask,
        is_index_masked=their_mask < 0,
        is_index_global_attn=their_mask > 0,
        is_global_attn=bool(marks),
    )[0]
    # their softmax is float32 whatever the weights are; their padded rows hold something else
    few = 8 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found[0][valid], wanted[valid], rtol=few, atol=few)


def tiny_fields(**fields):
    return {"dim": 32, "num_layers": 2, "num_heads": 4, "dropout": 0.0, **fields}


def shell(fields, **config):
    made = SubquadConfig(
        arch="transformer", model=fields, vocab_size=60, pad_token_id=0, eos_token_id=59, **config
    )
    return SubquadForCausalLM(made).double().eval()


def assert_same(ours, theirs, side, tolerance=1e-9):
    """Equal logits where tokens are real, and the same words generated."""
    ids = torch.randint(1, 59, (2, 21))
    mask = torch.ones_like(ids)
    mask[1, slice(0, 6) if side == "left" else slice(15, 21)] = 0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    found = ours(ids, attention_mask=mask).logits
    wanted = theirs(ids, attention_mask=mask, position_ids=positions).logits
    torch.testing.assert_close(found[mask > 0], wanted[mask > 0], rtol=tolerance, atol=tolerance)
    if side == "left":
        options = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None}
        words = [m.generate(ids, attention_mask=mask, **options) for m in (ours, theirs)]
        assert torch.equal(*words)
