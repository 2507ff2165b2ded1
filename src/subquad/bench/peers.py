"""Other people's implementations, where they are installed: small adapters in one table.

Each is called as its own documentation calls it, at our sizes. What is not installed is told by
name (`absent`). `pip install "subquad[bench,peers]"` brings those that are no dependency of ours.

Axes: N tokens, C model width.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from subquad.bench.party import Made, Party, Size

__all__ = ["PEERS", "Peer", "absent", "present"]


@dataclass(frozen=True)
class Peer:
    """`package` as it is imported; `beside`: the mixers or architectures of ours that do alike."""

    name: str
    package: str
    beside: tuple[str, ...]
    make: Callable[[Size, int], Made]
    causal: bool = False
    whole: bool = False


def present(names: Sequence[str]) -> list[Party]:
    """The installed peers of these mixers and architectures."""
    return [
        Party(peer.name, peer.make, peer.causal, peer.whole, _first(peer, names))
        for peer in PEERS
        if set(peer.beside) & set(names) and find_spec(peer.package)
    ]


def absent(names: Sequence[str]) -> list[str]:
    """The peers of these that are not installed, by name."""
    wanted = [peer for peer in PEERS if set(peer.beside) & set(names)]
    return [peer.name for peer in wanted if not find_spec(peer.package)]


def _first(peer: Peer, names: Sequence[str]) -> str:
    return next(name for name in peer.beside if name in names)


@contextlib.contextmanager
def _unsaid() -> Iterator[None]:
    """Without remarks on compiled code that is not there."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _performer(causal: bool, size: Size, length: int) -> Made:
    with _unsaid():
        from performer_pytorch import SelfAttention

        mixer = SelfAttention(
            size.dim, causal=causal, heads=size.heads, dim_head=size.width, nb_features=256
        )
    return Made(mixer, mixer)


def _performer_model(size: Size, length: int) -> Made:
    with _unsaid():
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


def _reformer(masked: bool, size: Size, length: int) -> Made:
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


def _hf_reformer(size: Size, length: int) -> Made:
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


def _local(size: Size, length: int) -> Made:
    from local_attention import LocalMHA

    mixer = LocalMHA(
        dim=size.dim, window_size=256, dim_head=size.width, heads=size.heads, causal=True
    )
    return Made(mixer, mixer)


def _linformer(size: Size, length: int) -> Made:
    from linformer import LinformerSelfAttention

    mixer = LinformerSelfAttention(size.dim, length, k=256, heads=size.heads)
    return Made(mixer, mixer)


def _longformer(size: Size, length: int) -> Made:
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


def _hf_perceiver(size: Size, length: int) -> Made:
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


def _conformer(size: Size, length: int) -> Made:
    from conformer import Conformer

    model = Conformer(
        dim=size.dim,
        depth=size.layers,
        dim_head=size.width,
        heads=size.heads,
        ff_mult=max(1, size.ffn // size.dim),
    )
    return Made(model, model)


def _perceiver_ar(size: Size, length: int) -> Made:
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


def _x_transformers(size: Size, length: int) -> Made:
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


_PERFORMER, _REFORMER = "performer_pytorch", "reformer_pytorch"
_LSH = ("hashed-causal", "sorted-chunks")

PEERS: tuple[Peer, ...] = (
    Peer(
        "performer-pytorch", "performer_pytorch", ("random-features",), partial(_performer, False)
    ),
    Peer(
        "performer-pytorch causal",
        "performer_pytorch",
        ("random-features-causal",),
        partial(_performer, True),
        causal=True,
    ),
    Peer(
        "performer-pytorch model",
        "performer_pytorch",
        ("performer",),
        _performer_model,
        causal=True,
        whole=True,
    ),
    Peer("reformer-pytorch", "reformer_pytorch", _LSH, partial(_reformer, False), causal=True),
    Peer(
        "reformer-pytorch masked", "reformer_pytorch", _LSH, partial(_reformer, True), causal=True
    ),
    Peer("transformers Reformer", "transformers", _LSH, _hf_reformer, causal=True),
    Peer("local-attention", "local_attention", ("window-causal",), _local, causal=True),
    Peer("linformer", "linformer", ("low-rank",), _linformer),
    Peer("transformers Longformer", "transformers", ("window",), _longformer),
    Peer(
        "transformers Perceiver",
        "transformers",
        ("perceiver", "perceiver_io"),
        _hf_perceiver,
        whole=True,
    ),
    Peer("conformer", "conformer", ("conformer",), _conformer, whole=True),
    Peer(
        "perceiver-ar-pytorch",
        "perceiver_ar_pytorch",
        ("perceiver_ar",),
        _perceiver_ar,
        causal=True,
        whole=True,
    ),
    Peer(
        "x-transformers",
        "x_transformers",
        ("transformer",),
        _x_transformers,
        causal=True,
        whole=True,
    ),
)
