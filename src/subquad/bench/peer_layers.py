"""Layers of other packages at our sizes, each called as its documentation calls it.

Axes: N tokens, C model width.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from subquad.bench.party import Made, Size

__all__ = ["hf_reformer", "linformer", "local", "longformer", "performer", "reformer", "unsaid"]


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Without remarks on compiled code that is not there."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def performer(causal: bool, size: Size, length: int) -> Made:
    """performer-pytorch: 256 random features."""
    with unsaid():
        from performer_pytorch import SelfAttention

        mixer = SelfAttention(
            size.dim, causal=causal, heads=size.heads, dim_head=size.width, nb_features=256
        )
    return Made(mixer, mixer)


def reformer(masked: bool, size: Size, length: int) -> Made:
    """reformer-pytorch: 8 rounds, chunks of 64; `masked` to equal buckets, each pair once."""
    from reformer_pytorch import LSHSelfAttention

    mixer = LSHSelfAttention(
        size.dim,
        heads=size.heads,
        bucket_size=64,
        n_hashes=8,
        causal=True,
        attend_across_buckets=not masked,
        allow_duplicate_attention=not masked,
    )
    return Made(mixer, mixer)


def hf_reformer(size: Size, length: int) -> Made:
    """The LSH layer of transformers: 8 rounds, chunks of 64."""
    from transformers import ReformerConfig
    from transformers.models.reformer.modeling_reformer import LSHSelfAttention

    config = ReformerConfig(
        hidden_size=size.dim,
        num_attention_heads=size.heads,
        attention_head_size=size.width,
        lsh_attn_chunk_length=64,
        num_hashes=8,
        is_decoder=True,
        max_position_embeddings=length,
        lsh_attention_probs_dropout_prob=0.0,
    )
    mixer = LSHSelfAttention(config)
    return Made(mixer, lambda x: mixer(x).hidden_states)


def local(size: Size, length: int) -> Made:
    """local-attention: the 256 tokens before."""
    from local_attention import LocalMHA

    mixer = LocalMHA(
        dim=size.dim, window_size=256, dim_head=size.width, heads=size.heads, causal=True
    )
    return Made(mixer, mixer)


def linformer(size: Size, length: int) -> Made:
    """linformer: 256 blends."""
    from linformer import LinformerSelfAttention

    mixer = LinformerSelfAttention(size.dim, length, k=256, heads=size.heads)
    return Made(mixer, mixer)


def longformer(size: Size, length: int) -> Made:
    """Longformer of transformers, 256 to each side, and the output map that it lacks."""
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    config = LongformerConfig(
        hidden_size=size.dim,
        num_attention_heads=size.heads,
        attention_window=[512],
        attention_probs_dropout_prob=0.0,
    )
    inner = LongformerSelfAttention(config, 0)
    module = nn.ModuleDict({"attention": inner, "out": nn.Linear(size.dim, size.dim)})

    def call(x: Tensor) -> Tensor:
        none = torch.zeros(x.shape[:2], dtype=torch.bool)
        y = inner(
            x,
            attention_mask=none.to(x.dtype),
            is_index_masked=none,
            is_index_global_attn=none,
            is_global_attn=False,
        )
        return module["out"](y[0])

    return Made(module, call)
