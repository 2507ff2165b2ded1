"""The package reformer-pytorch (https://github.com/lucidrains/reformer-pytorch): `ReformerLM`, both
ways and causal, with any of its positions.

Its hashes are no weights: theirs are drawn in every call, as many buckets as the input fills; ours
from a seed, once for all heads, and kept, as many as the longest input fills. With equal hashes the
logits are equal, at that length. config.json beside the state dict has the arguments that the model
was made with.
"""

from collections.abc import Mapping
from functools import partial
from math import ceil
from typing import Any

from subquad.convert.changes import Change, Reshape, Split, TurnHeads
from subquad.convert.family import Family, Head
from subquad.convert.fields import Field, Named
from subquad.convert.rows import Absent, Entry, Made, Row, Spare, Tied
from subquad.ops.hashing import rotations

__all__ = ["REFORMER_PYTORCH"]

BLOCK, LAYER = "backbone.blocks.{layer}", "reformer.layers.blocks.{layer}"
AGAIN, MIXER = "reformer.layers.irrev_blocks.{layer}", f"{BLOCK}.mixers.0"


def layers(config: Mapping[str, Any]) -> list[tuple[str, Row]]:
    """A layer: what follows its name there, and the row of it."""
    pairs = TurnHeads("heads") if _places(config) == "rotary" else Change()
    up = [f"{BLOCK}.mlp.gate.*", f"{BLOCK}.mlp.up.*"] if config["ff_glu"] else f"{BLOCK}.mlp.up.*"
    told: list[tuple[str, str | list[str], Change]] = [
        ("f.norm.*", f"{BLOCK}.norms.0.*", Change()),
        ("f.fn.toqk.weight", f"{MIXER}.query_key.weight", pairs),
        ("f.fn.tov.weight", f"{MIXER}.value.weight", Change()),
        ("f.fn.to_out.*", f"{MIXER}.out.*", Change()),
        ("g.norm.*", f"{BLOCK}.norms.1.*", Change()),
        ("g.fn.fn.w1.*", up, Split() if config["ff_glu"] else Change()),
        ("g.fn.fn.w2.*", f"{BLOCK}.mlp.down.*", Change()),
    ]
    return [
        (theirs, Row(f"{LAYER}.{theirs[0]}.net{theirs[1:]}", ours, change))
        for theirs, ours, change in told
    ]


def rows(config: Mapping[str, Any]) -> list[Entry]:
    """All; layers that cannot be run backwards are a second name of those that can."""
    made: list[Entry] = [
        Row("token_emb.weight", "stem.embedding.weight"),
        Row("norm.*", "backbone.norm.*"),
        *POSITIONS[_places(config)],
    ]
    for theirs, row in layers(config):
        made += [row, Tied(f"{AGAIN}.{theirs}", row.theirs[0])]
    made += [Absent(f"{MIXER}.{p}.bias", f"{MIXER}.{p}.weight") for p in ("query_key", "value")]
    buckets = _buckets(config)
    width = config["dim_head"] or config["dim"] // config["heads"]
    for i in range(config["depth"]):
        draw = partial(rotations, config["n_hashes"], buckets, width, i)
        made.append(Made(f"backbone.blocks.{i}.mixers.0.directions", draw))
    return made


POSITIONS: Mapping[str, tuple[Entry, ...]] = {
    "axial": tuple(
        Row(f"pos_emb.weights.{i}", f"stem.position.tables.{i}.weight", Reshape(shape, (-1, "dim")))
        for i, shape in enumerate(((1, -1, 1, "dim"), (1, 1, -1, "dim")))
    ),
    "absolute": (Row("pos_emb.emb.weight", "stem.position.table.weight"),),
    "fixed": (Spare("pos_emb.inv_freq", "aside.pos_emb.inv_freq"),),
    "rotary": (Spare("layer_pos_emb.inv_freq", "aside.layer_pos_emb.inv_freq"),),
}
#: of a stem, and of what has been hashed
PLACED = {
    "axial": ("axial_sum", "none"),
    "absolute": ("learned", "none"),
    "fixed": ("sinusoidal", "none"),
    "rotary": ("none", "rotary"),
}


def _places(config: Mapping[str, Any]) -> str:
    """Which of its positions, the first that is asked for."""
    names = ("axial", "absolute", "fixed")
    return next((name for name in names if config[f"{name}_position_emb"]), "rotary")


def _buckets(config: Mapping[str, Any]) -> list[int]:
    """As many as the longest input fills. ValueError if that is no even number."""
    count, left = divmod(config["max_seq_len"], config["bucket_size"])
    if left or count % 2 or not count:
        raise ValueError(
            f"its max_seq_len {config['max_seq_len']} is no multiple of two buckets of "
            f"{config['bucket_size']}, as its inputs must be"
        )
    return [count]


def follows(config: Mapping[str, Any]) -> dict[str, dict]:
    """Settings of ours that follow from theirs."""
    stem, turned = PLACED[_places(config)]
    made = {"position": stem}
    if stem == "axial_sum":
        size = config["bucket_size"]
        shape = config["axial_position_shape"] or (ceil(config["max_seq_len"] / size), size)
        if len(shape) != 2:
            raise ValueError(f"its axial_position_shape {shape} has {len(shape)} axes, and ours 2")
        made["axial_shape"] = [*shape]
    model = {"position": turned, "ffn_dim": config["ff_mult"] * config["dim"]}
    return {"model": {**model, "buckets": _buckets(config)}, "stem": made}


OUT = (Row("out.1.*", "head.project.*"),)
WORDS = {"head.kind": "tokens", "head.bias": True}

REFORMER_PYTORCH = Family(
    "reformer-pytorch",
    rows,
    (
        Field("num_tokens", "vocab_size"),
        Field("max_seq_len", "stem.max_len"),
        Field("dim", "model.dim"),
        Field("depth", "model.num_layers"),
        Field("heads", "model.num_heads"),
        Field("dim_head", "model.head_dim"),
        Field("bucket_size", "model.window"),
        Field("n_hashes", "model.rounds"),
        Field("causal", "model.causal"),
        Field("ff_dropout", "model.dropout"),
        Field("ff_glu", "model.mlp", Named({False: "gelu", True: "geglu"})),
    ),
    fixed={
        "arch": "reformer",
        "model.layers": ["sorted_scaled"],
        "model.wiring": "reversible_mean",
        "model.norm": "layer",
        "model.bias": True,
        "stem.kind": "tokens",
    },
    needs={
        "weight_tie": False,
        "ff_activation": None,
        "random_rotations_per_head": False,
        "use_scale_norm": False,
        "use_rezero": False,
        "use_full_attn": False,
        "full_attn_thres": 0,
        "num_mem_kv": 0,
        "one_value_head": False,
        "emb_dim": None,
        "return_embeddings": False,
        "weight_tie_embedding": False,
        "n_local_attn_heads": 0,
        "pkm_layers": ([], ()),
    },
    sizes={"layer": "depth", "heads": "heads", "dim": "dim"},
    heads={
        "ReformerLM": Head("SubquadForMaskedLM", rows=OUT, fixed=WORDS, needs={"causal": False}),
        "ReformerLM(causal=True)": Head(
            "SubquadForCausalLM", rows=OUT, fixed=WORDS, needs={"causal": True}
        ),
    },
    derived=follows,
    # of its arguments, those that need not be given
    defaults={
        "heads": 8,
        "dim_head": 64,
        "bucket_size": 64,
        "n_hashes": 4,
        "causal": False,
        "weight_tie": False,
        "ff_dropout": 0.0,
        "ff_mult": 4,
        "ff_activation": None,
        "ff_glu": False,
        "random_rotations_per_head": False,
        "use_scale_norm": False,
        "use_rezero": False,
        "use_full_attn": False,
        "full_attn_thres": 0,
        "num_mem_kv": 0,
        "one_value_head": False,
        "emb_dim": None,
        "return_embeddings": False,
        "weight_tie_embedding": False,
        "fixed_position_emb": False,
        "absolute_position_emb": False,
        "axial_position_emb": False,
        "axial_position_shape": None,
        "n_local_attn_heads": 0,
        "pkm_layers": [],
        "tie_word_embeddings": False,
    },
    neutral=(
        "ff_chunks",
        "attn_chunks",
        "lsh_dropout",
        "post_attn_dropout",
        "layer_dropout",
        "reverse_thres",
        "pkm_num_keys",
    ),
    returns=True,
    signature=("token_emb.weight", "reformer.layers.blocks.0.f.net.fn.toqk.weight"),
)
