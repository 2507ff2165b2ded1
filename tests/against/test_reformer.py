"""transformers' Reformer with local layers at tiny random size, its weights in our parts.

Two streams and their order, chunks with the one before, axial positions and the norm over both
streams: equal outputs, and equal gradients through both reversible implementations.
"""

import pytest
import torch
from transformers import ReformerConfig, ReformerModelWithLMHead

from converting import converted


def theirs():
    torch.manual_seed(0)
    model = ReformerModelWithLMHead(
        ReformerConfig(
            attn_layers=["local"] * 3,
            attention_head_size=6,
            axial_pos_shape=(4, 8),
            axial_pos_embds_dim=(12, 20),
            feed_forward_size=48,
            hidden_act="relu",
            hidden_dropout_prob=0.0,
            hidden_size=32,
            is_decoder=True,
            layer_norm_eps=1e-5,
            local_attention_probs_dropout_prob=0.0,
            local_attn_chunk_length=8,
            num_attention_heads=4,
            tie_word_embeddings=False,
            vocab_size=60,
        )
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    torch.nn.init.zeros_(model.lm_head.bias)  # which their forward leaves out
    return model.double().eval()


@pytest.mark.parametrize("length", [5, 8, 29, 32])
def test_outputs(length, tmp_path):
    model = theirs()
    ids = torch.randint(1, 60, (2, length))
    with torch.no_grad():
        wanted = model(ids).logits
    torch.testing.assert_close(converted(model, tmp_path)(ids).logits, wanted, rtol=1e-9, atol=1e-9)


def test_gradients_of_both_reversible_implementations(tmp_path):
    model = theirs()
    made, ids = converted(model, tmp_path), torch.randint(1, 60, (2, 32))
    weight = torch.randn(2, 32, 60, dtype=torch.float64)
    for each in (made, model):
        each.train()
        (each(ids).logits * weight).sum().backward()
    inner, blocks = model.reformer, made.model.backbone.blocks
    pairs = [
        (made.model.stem.embedding, inner.embeddings.word_embeddings),
        (blocks[0].mixers[0].query, inner.encoder.layers[0].attention.self_attention.query),
        (blocks[2].mlp.up, inner.encoder.layers[2].feed_forward.dense.dense),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a.weight.grad, b.weight.grad, rtol=1e-9, atol=1e-9)
