"""Adaptive Span as https://github.com/facebookresearch/adaptive-span saves it: a checkpoint with
the state dict under "model", of a model inside DataParallel. It does not tell the ramp of spans and
their price: those are the ones of the release's experiments (`TOLD`).

Theirs begins a text with a past of zeros that it looks at; ours has no past there. What follows
`num_layers` spans later is equal, but for the 1e-8 that theirs adds to the sum of weights.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from subquad.convert.changes import Flip, Lead, Reshape, Transpose
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field
from subquad.convert.rows import Row

__all__ = ["ADAPTIVE_SPAN"]

BLOCK, LAYER = "backbone.blocks.{layer}", "layers.{layer}"
MASK = f"{LAYER}.attn.attn.adaptive_span._mask"

ROWS = (
    Row("in_emb.weight", "stem.embedding.weight"),
    # (1, width, distances), the farthest first
    Row(
        "key_pe",
        "backbone.blocks.0.mixers.0.position.table.weight",
        Lead(),
        Transpose(),
        Flip(),
    ),
    *(
        Row(f"{LAYER}.attn.{theirs}.weight", f"{BLOCK}.mixers.0.{ours}.weight")
        for theirs, ours in (
            ("proj_query", "query"),
            ("proj_key", "key"),
            ("proj_val", "value"),
            ("proj_out", "out"),
        )
    ),
    Row(
        f"{MASK}.current_val",
        f"{BLOCK}.mixers.0.position.span",
        Reshape(("heads", 1, 1), ("heads", 1)),
    ),
    # minus the distances
    Row(f"{MASK}.mask_template", "aside.layers.{layer}.mask_template"),
    Row(f"{LAYER}.norm1.*", f"{BLOCK}.norms.0.*"),
    Row(f"{LAYER}.norm2.*", f"{BLOCK}.norms.1.*"),
    Row(f"{LAYER}.ff.fc1.*", f"{BLOCK}.mlp.up.*"),
    Row(f"{LAYER}.ff.fc2.*", f"{BLOCK}.mlp.down.*"),
    # in the body's table, because all names of a file have the prefix
    Row("out_emb.*", "head.project.*"),
)

#: config.py and experiments/ of the release
TOLD = {"adapt_span_ramp": 32, "adapt_span_loss": 5e-7}
SPAN = "layers.0.attn.attn.adaptive_span._mask.current_val"


def infer(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from the shapes of a state dict. ValueError for variants that ours has not."""
    if "in_emb.weight" not in tensors:
        raise ValueError("this adaptive-span has words in clusters, and ours has one table")
    for name in tensors:
        if "persistent_memory" in name:
            raise ValueError(f"{name}: ours has no persistent vectors for feed-forward parts")
    if SPAN not in tensors:
        raise ValueError("this adaptive-span was trained without spans that adapt")
    vocabulary, width = tensors["in_emb.weight"].shape
    return TOLD | {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "nb_layers": 1 + max(int(n.split(".")[1]) for n in tensors if n.startswith("layers.")),
        "nb_heads": len(tensors[SPAN]),
        "attn_span": tensors["key_pe"].shape[2],
        "inner_hidden_size": len(tensors["layers.0.ff.fc1.weight"]),
        "tie_word_embeddings": False,
    }


ADAPTIVE_SPAN = Family(
    "adaptive-span",
    ROWS,
    (
        Field("vocab_size", "vocab_size"),
        Field("hidden_size", "model.dim"),
        Field("inner_hidden_size", "model.ffn_dim"),
        Field("nb_layers", "model.num_layers"),
        Field("nb_heads", "model.num_heads"),
        Field("attn_span", "model.max_span"),
        Field("adapt_span_ramp", "model.ramp"),
        Field("adapt_span_loss", "model.cost"),
    ),
    fixed={
        "arch": "adaptive_span",
        "model.position": "span",
        "model.newest": 0,
        "model.norm": "layer",
        "model.mlp": "relu",
        "stem.kind": "tokens",
        "stem.position": "none",
    },
    sizes={"layer": "nb_layers", "heads": "nb_heads"},
    heads={
        "TransformerSeq": Head(
            "SubquadForCausalLM",
            "module.",
            fixed={"head.kind": "tokens", "head.bias": True},
        )
    },
    defaults=TOLD | {"tie_word_embeddings": False},
    returns=True,
    signature=("key_pe", "layers.0.attn.proj_query.weight"),
    infer=infer,
)
