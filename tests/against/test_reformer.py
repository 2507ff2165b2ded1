"""transformers' Reformer with local layers at tiny random size, its weights in our parts.

Two streams and their order, chunks with the one before, axial positions and the norm over both
streams: equal outputs, and equal gradients through both reversible implementations.
"""

import pytest
import torch
from transformers import ReformerConfig, ReformerModelWithLMHead

from subquad.hf import SubquadConfig, SubquadForCausalLM


def set_(module, other):
    with torch.no_grad():
        module.weight.copy_(other.weight)
        if getattr(other, "bias", None) is not None:
            module.bias.copy_(other.bias)


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


def ours(model):
    """Our Reformer with the weights of theirs."""
    fields = {
        "dim": 32,
        "num_layers": 3,
        "num_heads": 4,
        "head_dim": 6,
        "ffn_dim": 48,
        "layers": ["chunks"],
        "local_window": 8,
        "mlp": "relu",
        "dropout": 0.0,
    }
    stem = {"position": "axial", "axial_shape": [4, 8], "axial_dims": [12, 20]}
    config = SubquadConfig(arch="reformer", model=fields, stem=stem, vocab_size=60)
    made = SubquadForCausalLM(config).double().eval()
    inner = model.reformer
    set_(made.model.stem.embedding, inner.embeddings.word_embeddings)
    weights = inner.embeddings.position_embeddings.weights
    with torch.no_grad():
        for table, weight in zip(made.model.stem.position.tables, weights, strict=True):
            table.weight.copy_(weight.reshape(table.weight.shape))
    for block, layer in zip(made.model.backbone.blocks, inner.encoder.layers, strict=True):
        mixer, attention = block.mixers[0], layer.attention
        for name in ("query", "key", "value"):
            set_(getattr(mixer, name), getattr(attention.self_attention, name))
        set_(mixer.out, attention.output.dense)
        set_(block.mlp.up, layer.feed_forward.dense.dense)
        set_(block.mlp.down, layer.feed_forward.output.dense)
        set_(block.norms[0], attention.layer_norm)
        set_(block.norms[1], layer.feed_forward.layer_norm)
    set_(made.model.backbone.norm, inner.encoder.layer_norm)
    with torch.no_grad():
        made.model.head.project.weight.copy_(model.lm_head.decoder.weight)
    return made


@pytest.mark.parametrize("length", [5, 8, 29, 32])
def test_outputs(length):
    model = theirs()
    ids = torch.randint(1, 60, (2, length))
    with torch.no_grad():
        wanted = model(ids).logits
    torch.testing.assert_close(ours(model)(ids).logits, wanted, rtol=1e-9, atol=1e-9)


def test_gradients_of_both_reversible_implementations():
    model = theirs()
    made, ids = ours(model), torch.randint(1, 60, (2, 32))
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
