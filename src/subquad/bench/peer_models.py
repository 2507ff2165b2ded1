"""Whole models of other packages at our sizes, each called as its documentation calls it."""

from typing import Any

from subquad.bench.party import Made, Size
from subquad.bench.peer_layers import unsaid

__all__ = ["conformer", "hf_perceiver", "perceiver_ar", "performer_model", "x_transformers"]


def performer_model(size: Size, length: int) -> Made:
    """A language model of performer-pytorch."""
    with unsaid():
        from performer_pytorch import PerformerLM

        model = PerformerLM(
            num_tokens=size.words,
            max_seq_len=length,
            dim=size.dim,
            depth=size.layers,
            heads=size.heads,
            dim_head=size.width,
            causal=True,
            nb_features=256,
        )
    return Made(model, model, reads_words=True)


def hf_perceiver(size: Size, length: int) -> Made:
    """Perceiver of transformers: 256 latents over features."""
    from transformers import PerceiverConfig, PerceiverModel

    config = PerceiverConfig(
        num_latents=256,
        d_latents=size.dim,
        d_model=size.dim,
        num_blocks=1,
        num_self_attends_per_block=size.layers,
        num_self_attention_heads=size.heads,
        num_cross_attention_heads=size.heads,
        attention_probs_dropout_prob=0.0,
    )
    model = PerceiverModel(config)
    return Made(model, lambda x: model(x).last_hidden_state)


def conformer(size: Size, length: int) -> Made:
    """Encoder of conformer."""
    from conformer import Conformer

    model = Conformer(
        dim=size.dim,
        depth=size.layers,
        dim_head=size.width,
        heads=size.heads,
        ff_mult=max(1, size.ffn // size.dim),
    )
    return Made(model, model)


def perceiver_ar(size: Size, length: int) -> Made:
    """perceiver-ar-pytorch: up to 512 latents at the end."""
    from perceiver_ar_pytorch import PerceiverAR

    model = PerceiverAR(
        num_tokens=size.words,
        dim=size.dim,
        depth=size.layers,
        max_seq_len=length,
        cross_attn_seq_len=max(1, length - 512),
        dim_head=size.width,
        heads=size.heads,
        ff_mult=max(1, size.ffn // size.dim),
    )
    return Made(model, model, reads_words=True)


def x_transformers(size: Size, length: int) -> Made:
    """A decoder of x-transformers, with torch's own attention."""
    from x_transformers import Decoder, TransformerWrapper

    layers: Any = Decoder(
        dim=size.dim,
        depth=size.layers,
        heads=size.heads,
        attn_dim_head=size.width,
        attn_flash=True,
    )
    model = TransformerWrapper(num_tokens=size.words, max_seq_len=length, attn_layers=layers)
    return Made(model, model, reads_words=True)
