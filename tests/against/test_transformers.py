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
from converting import converted


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
def test_gpt2(side, tmp_path):
    torch.manual_seed(0)
    theirs = loud(
        GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=2, n_head=4))
    )
    ours = converted(theirs, tmp_path)
    assert_same(ours, theirs, side)


@pytest.mark.parametrize("side", ["right", "left"])
def test_llama(side, tmp_path):
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
    ours = converted(theirs, tmp_path)
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
