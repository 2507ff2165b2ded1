"""The package linformer (https://github.com/lucidrains/linformer): `LinformerLM`, which looks both
ways. Its state dict does not tell the number of heads: config.json beside it has the arguments that
the model was made with.
"""

from collections.abc import Mapping
from typing import Any

from subquad.convert.changes import Copy, Transpose
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Listed, Named
from subquad.convert.rows import Absent, Entry, Row

__all__ = ["LINFORMER"]

BLOCK, LAYER = "backbone.blocks.{layer}", "linformer.net.layers.{layer}"
THEIRS, MIXER = f"{LAYER}.0.fn", f"{BLOCK}.mixers.0"


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """A layer's parts; with `share_kv` its values are its keys."""
    made: list[Entry] = [
        Row("token_emb.weight", "stem.embedding.weight"),
        Row("pos_emb.weight", "stem.position.table.weight"),
        Row(f"{LAYER}.0.norm.*", f"{BLOCK}.norms.0.*"),
        Row(f"{THEIRS}.to_q.weight", f"{MIXER}.query.weight"),
        Row(f"{THEIRS}.proj_k", f"{MIXER}.project_keys.weight", Transpose()),
        Row(f"{THEIRS}.to_out.*", f"{MIXER}.out.*"),
        Row(f"{LAYER}.1.norm.*", f"{BLOCK}.norms.1.*"),
        Row(f"{LAYER}.1.fn.w1.*", f"{BLOCK}.mlp.up.*"),
        Row(f"{LAYER}.1.fn.w2.*", f"{BLOCK}.mlp.down.*"),
        *(
            Absent(f"{MIXER}.{part}.bias", f"{MIXER}.{part}.weight")
            for part in ("query", "key", "value")
        ),
    ]
    if config["share_kv"]:
        both = [f"{MIXER}.key.weight", f"{MIXER}.value.weight"]
        return [*made, Row(f"{THEIRS}.to_k.weight", both, Copy())]
    return [
        *made,
        Row(f"{THEIRS}.to_k.weight", f"{MIXER}.key.weight"),
        Row(f"{THEIRS}.to_v.weight", f"{MIXER}.value.weight"),
        Row(f"{THEIRS}.proj_v", f"{MIXER}.project_values.weight", Transpose()),
    ]


LINFORMER = Family(
    "linformer",
    rows,
    (
        Field("num_tokens", "vocab_size"),
        Field("dim", "model.dim"),
        Field("seq_len", ("model.max_len", "stem.max_len")),
        Field("depth", "model.num_layers"),
        Field("heads", "model.num_heads"),
        Field("k", "model.ranks", Listed()),
        Field("share_kv", "model.sharing", Named({False: "headwise", True: "key_value"})),
        Field("dropout", "model.dropout"),
    ),
    fixed={
        "arch": "linformer",
        "model.position": "none",
        "model.wiring": "pre_open",
        "model.norm": "layer",
        "model.mlp": "gelu",
        "stem.kind": "tokens",
        "stem.position": "learned",
    },
    needs={"one_kv_head": False, "reversible": False, "dim_head": None},
    sizes={"layer": "depth"},
    heads={
        "LinformerLM": Head(
            "SubquadForMaskedLM",
            rows=(Row("to_logits.*", "head.project.*"),),
            fixed={"head.kind": "tokens", "head.bias": True},
        )
    },
    derived=lambda c: {"model": {"ffn_dim": 4 * c["dim"]}},
    # of its arguments, those that need not be given
    defaults={
        "k": 256,
        "heads": 8,
        "dim_head": None,
        "one_kv_head": False,
        "share_kv": False,
        "reversible": False,
        "dropout": 0.0,
        "tie_word_embeddings": False,
    },
    neutral=(),
    signature=("token_emb.weight", "linformer.net.layers.0.0.fn.proj_k"),
)
