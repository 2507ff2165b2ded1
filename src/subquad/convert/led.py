"""LED and BART (https://huggingface.co/docs/transformers/model_doc/led): an encoder and a decoder
in BART's names. BART's first two positions are of no token. A body alone is read as transformers
reads it for summaries: its words are its table's, without a bias."""

from collections.abc import Iterator, Sequence

from subquad.convert.changes import Cut, Lead
from subquad.convert.family import Family, Head
from subquad.convert.fields import Doubled, Field, Named
from subquad.convert.rows import Absent, Entry, Row, Spare, Tied

__all__ = ["BART", "LED"]

PARTS = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))


def attention(theirs: str, ours: str) -> Iterator[Entry]:
    """The four maps of plain attention."""
    return (Row(f"{theirs}.{a}.*", f"{ours}.{b}.*") for a, b in PARTS)


def side(name: str, norms: Sequence[str], skipped: int) -> Iterator[Entry]:
    """Positions, norm, and what surrounds attention in the layers of encoder or decoder."""
    layer, block = f"{name}.layers.{{{name}}}", f"{name}.backbone.blocks.{{{name}}}"
    theirs, ours = f"{name}.embed_positions.weight", f"{name}.stem.position.table.weight"
    if skipped:
        yield Row(theirs, [f"aside.{name}.positions.skipped", ours], Cut(skipped))
    else:
        yield Row(theirs, ours)
    yield Row(f"{name}.layernorm_embedding.*", f"{name}.stem.norm.*")
    for i, norm in enumerate(norms):
        yield Row(f"{layer}.{norm}.*", f"{block}.norms.{i}.*")
    yield Row(f"{layer}.fc1.*", f"{block}.mlp.up.*")
    yield Row(f"{layer}.fc2.*", f"{block}.mlp.down.*")
    yield Tied(f"{name}.embed_tokens.weight", "shared.weight")


def both(skipped: int) -> Iterator[Entry]:
    """All but the encoder's attention."""
    yield Row("shared.weight", "decoder.stem.embedding.weight")
    yield from side("encoder", ("self_attn_layer_norm", "final_layer_norm"), skipped)
    three = ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm")
    yield from side("decoder", three, skipped)
    layer, block = "decoder.layers.{decoder}", "decoder.backbone.blocks.{decoder}"
    yield from attention(f"{layer}.self_attn", f"{block}.mixers.0")
    yield from attention(f"{layer}.encoder_attn", f"{block}.mixers.1")


def windows() -> Iterator[Entry]:
    """LED's encoder: Longformer's attention."""
    theirs, ours = (
        "encoder.layers.{encoder}.self_attn",
        "encoder.backbone.blocks.{encoder}.mixers.0",
    )
    for part in ("query", "key", "value"):
        yield Row(f"{theirs}.longformer_self_attn.{part}.*", f"{ours}.inner.{part}.*")
        yield Row(f"{theirs}.longformer_self_attn.{part}_global.*", f"{ours}.{part}.*")
    yield Row(f"{theirs}.output.*", f"{ours}.inner.out.*")


FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("d_model", ("model.dim", "encoder.model.dim")),
    Field("encoder_layers", "encoder.model.num_layers"),
    Field("decoder_layers", "model.num_layers"),
    Field("encoder_attention_heads", "encoder.model.num_heads"),
    Field("decoder_attention_heads", "model.num_heads"),
    Field("encoder_ffn_dim", "encoder.model.ffn_dim"),
    Field("decoder_ffn_dim", "model.ffn_dim"),
    Field(
        "activation_function",
        ("model.mlp", "encoder.model.mlp"),
        Named({"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"}),
    ),
    Field(
        "dropout",
        ("model.dropout", "encoder.model.dropout", "stem.dropout", "encoder.stem.dropout"),
    ),
)

STEM = {"kind": "tokens", "position": "learned", "norm": "layer"}
FIXED = {
    "arch": "transformer",
    "model.causal": True,
    "model.bias": True,
    "model.num_kv_heads": None,
    "encoder.model.causal": False,
    "cross.kind": "full",
    "head.kind": "tokens",
    "head.bias": True,
    **{
        f"{of}model.{k}": v
        for of in ("", "encoder.")
        for k, v in (("position", "none"), ("wiring", "post"), ("norm", "layer"))
    },
    **{f"{of}stem.{k}": v for of in ("", "encoder.") for k, v in STEM.items()},
}


def writes(prefix: str) -> Head:
    """Words of the decoder; the bias is a constant of theirs."""
    return Head(
        "SubquadForSeq2SeqLM",
        prefix,
        (
            Row("final_logits_bias", "decoder.head.project.bias", Lead()),
            Tied("lm_head.weight", "shared.weight"),
        ),
        needs={"tie_word_embeddings": True},
    )


def body(prefix: str) -> Head:
    """Both sides without a head."""
    bias = Absent("decoder.head.project.bias", "decoder.stem.embedding.weight")
    return Head("SubquadForSeq2SeqLM", prefix, (bias,), needs={"tie_word_embeddings": True})


#: whatever is read from the decoder but words
NO_HEAD = "it reads {} from the decoder's features, and the head of a pair here writes words"

SIZES = {"encoder": "encoder_layers", "decoder": "decoder_layers"}

LED = Family(
    "led",
    (*both(0), *windows()),
    (
        *FIELDS,
        Field("max_encoder_position_embeddings", "encoder.stem.max_len"),
        Field("max_decoder_position_embeddings", "stem.max_len"),
        Field("attention_window", "encoder.model.windows", Doubled()),
    ),
    fixed={**FIXED, "encoder.arch": "longformer", "encoder.model.dilations": [1]},
    sizes=SIZES,
    heads={"LEDForConditionalGeneration": writes("led."), "LEDModel": body("led.")},
    refused={"LEDForQuestionAnswering": NO_HEAD.format("spans")},
)

BART = Family(
    "bart",
    (
        *both(2),
        *attention(
            "encoder.layers.{encoder}.self_attn", "encoder.backbone.blocks.{encoder}.mixers.0"
        ),
        Spare("encoder.version", "aside.encoder.version"),
        Spare("decoder.version", "aside.decoder.version"),
    ),
    (*FIELDS, Field("max_position_embeddings", ("stem.max_len", "encoder.stem.max_len"))),
    fixed={
        **FIXED,
        "encoder.arch": "transformer",
        "encoder.model.bias": True,
        "encoder.model.num_kv_heads": None,
    },
    needs={"scale_embedding": False},
    sizes=SIZES,
    heads={"BartForConditionalGeneration": writes("model."), "BartModel": body("model.")},
    refused={
        "BartForSequenceClassification": NO_HEAD.format("labels"),
        "BartForQuestionAnswering": NO_HEAD.format("spans"),
        "BartForCausalLM": (
            "it is a decoder alone whose cross-attention reads nothing, and ours has one only "
            "beside an encoder; save the whole BartForConditionalGeneration"
        ),
    },
)
