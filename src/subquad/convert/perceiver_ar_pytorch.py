"""The package perceiver-ar-pytorch (https://github.com/lucidrains/perceiver-ar-pytorch).

As in the other Perceiver AR the prefix has a norm of its own (`subquad.convert.perceiver_ar`).
Its prefix is always as long; anchors of ours are placed so that all that it says has that one, and
what stands before the prefix's end, of which it says nothing, has those before. config.json beside
the state dict has the arguments that the model was made with.
"""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from subquad.convert.changes import Split
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field
from subquad.convert.perceiver_ar import BIASES, BLOCK, FIXED, READ, mlp
from subquad.convert.rows import Row, Spare

__all__ = ["PERCEIVER_AR_PYTORCH"]

FIRST, LAYER = "perceive_layers.0", "layers.{layer}"
PARTS = ("query", "key", "value")

ROWS = (
    Row("token_emb.weight", "stem.embedding.weight"),
    Row("pos_emb.weight", "stem.position.table.weight"),
    Spare("rotary_pos_emb.inv_freq", "aside.rotary_pos_emb.inv_freq"),
    Row(f"{FIRST}.0.norm.*", f"{READ}.norms.0.*"),
    Row(f"{FIRST}.0.context_norm.*", f"{READ}.norms.1.*"),
    Row(f"{FIRST}.0.to_q.weight", f"{READ}.mixer.query.weight"),
    Row(f"{FIRST}.0.to_kv.weight", [f"{READ}.mixer.{part}.weight" for part in PARTS[1:]], Split()),
    Row(f"{FIRST}.0.to_out.*", f"{READ}.mixer.out.*"),
    Row(f"{FIRST}.1.0.*", f"{READ}.norms.2.*"),
    *mlp(f"{FIRST}.1", f"{READ}.mlp", 4),
    Row(f"{LAYER}.0.norm.*", f"{BLOCK}.norms.0.*"),
    Row(f"{LAYER}.0.to_qkv.weight", [f"{BLOCK}.mixers.0.{p}.weight" for p in PARTS], Split()),
    Row(f"{LAYER}.0.to_out.weight", f"{BLOCK}.mixers.0.out.weight"),
    Row(f"{LAYER}.1.0.*", f"{BLOCK}.norms.1.*"),
    *mlp(f"{LAYER}.1", f"{BLOCK}.mlp", 4),
    Row("to_logits.weight", "head.project.weight"),
    *BIASES,
)


#: positions that a table may have: dividing those of a hostile file would take for ever
MOST = 1 << 30


def latents(config: Mapping[str, Any]) -> int:
    """How many latents, as far apart as anchors are, give all that it says its own prefix.

    ValueError for lengths that have none.
    """
    prefix, length = config["cross_attn_seq_len"], config["max_seq_len"]
    if not isinstance(prefix, int) or not 0 <= prefix < length <= MOST:
        raise ValueError(
            f"its cross_attn_seq_len {prefix} must be a number of positions below its max_seq_len "
            f"{length}, and that at most {MOST:,}"
        )
    said = length - prefix
    if prefix % said == 0:
        return said
    small = [d for d in range(1, isqrt(prefix) + 1) if prefix % d == 0]
    fits = [d for d in (*small, *(prefix // d for d in small)) if d >= said]
    if not fits:
        raise ValueError(
            f"its cross_attn_seq_len {prefix} is less than the {said} positions after it, which "
            "all have that prefix; anchors of ours are at most as far apart as the first is from 0"
        )
    return min(fits)


def follows(config: Mapping[str, Any]) -> dict[str, dict]:
    """Anchors, positions and widths. ValueError for those that ours cannot have."""
    count, width = latents(config), config["dim_head"]
    if width != 32 and (width < 64 or width % 4):
        raise ValueError(
            f"with dim_head {width} it turns {max(32, width // 2)} channels of a head, and ours "
            "all of 32, or half of 64 and more that 4 divides"
        )
    return {
        "model": {
            "latents": count,
            "stride": count,
            "position": "rotary" if width == 32 else "rotary_half",
            "ffn_dim": int(config["dim"] * config["ff_mult"]),
        }
    }


PERCEIVER_AR_PYTORCH = Family(
    "perceiver-ar-pytorch",
    ROWS,
    (
        Field("num_tokens", "vocab_size"),
        Field("max_seq_len", "stem.max_len"),
        Field("dim", "model.dim"),
        Field("depth", "model.num_layers"),
        Field("heads", "model.num_heads"),
        Field("dim_head", "model.head_dim"),
        Field("dropout", "model.dropout"),
        Field("cross_attn_dropout", "model.cross_dropout"),
    ),
    fixed={
        **FIXED,
        "model.cross_ffn_dim": None,
        "model.position_layers": None,
        "model.wiring": "pre_open",
        "stem.position": "learned",
        "head.bias": False,
    },
    needs={"perceive_depth": 1},
    sizes={"layer": "depth"},
    heads={"PerceiverAR": Head("SubquadForCausalLM", "net.")},
    derived=follows,
    # of its arguments, those that need not be given, but for the prefix
    defaults={
        "cross_attn_seq_len": None,
        "dim_head": 64,
        "heads": 8,
        "dropout": 0.0,
        "cross_attn_dropout": 0.0,
        "ff_mult": 4,
        "perceive_depth": 1,
        "tie_word_embeddings": False,
    },
    neutral=("perceive_max_heads_process",),
    returns=True,
    signature=("token_emb.weight", "perceive_layers.0.0.to_kv.weight"),
)
