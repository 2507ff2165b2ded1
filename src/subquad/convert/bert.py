"""BERT and RoBERTa (https://huggingface.co/docs/transformers/model_doc/bert): one scheme of names.

Heads that other families have too are functions of their prefix. RoBERTa's positions begin at 2.
Whether a sentence follows another are two labels of the pair here: the first says that it does.

In training RoBERTa's labels drop twice, before and behind the map between; ours behind it alone.
"""

from dataclasses import replace

from subquad.convert.changes import Cut
from subquad.convert.family import BODY, Family, Head
from subquad.convert.fields import Field, Less, Named, Spelled
from subquad.convert.rows import Entry, Row, Spare, Tied

__all__ = [
    "BERT",
    "CLS",
    "DROPPED",
    "FIELDS",
    "FIXED",
    "MASKED",
    "NONLINEAR",
    "OWN",
    "ROBERTA",
    "SELF",
    "answers",
    "around",
    "causal",
    "choices",
    "embeddings",
    "labels",
    "lm_head",
    "tags",
]

BLOCK = "backbone.blocks.{layer}"
LAYER = "encoder.layer.{layer}"
TABLE = "embeddings.position_embeddings.weight"


def around(mixer: str) -> tuple[Entry, ...]:
    """A layer, without its queries, keys and values; `mixer`: where the output map is."""
    return (
        Row(f"{LAYER}.attention.output.dense.*", f"{BLOCK}.{mixer}.out.*"),
        Row(f"{LAYER}.attention.output.LayerNorm.*", f"{BLOCK}.norms.0.*"),
        Row(f"{LAYER}.intermediate.dense.*", f"{BLOCK}.mlp.up.*"),
        Row(f"{LAYER}.output.dense.*", f"{BLOCK}.mlp.down.*"),
        Row(f"{LAYER}.output.LayerNorm.*", f"{BLOCK}.norms.1.*"),
    )


def embeddings(skipped: int = 0) -> tuple[Entry, ...]:
    """Words, positions (the first `skipped` are of no token), kinds, and their norm."""
    places = "stem.position.table.weight"
    if skipped:
        table = Row(TABLE, ["aside.positions.skipped", places], Cut(skipped))
    else:
        table = Row(TABLE, places)
    return (
        Row("embeddings.word_embeddings.weight", "stem.embedding.weight"),
        table,
        Row("embeddings.token_type_embeddings.weight", "stem.types.weight"),
        Row("embeddings.LayerNorm.*", "stem.norm.*"),
        # counted anew by newer code
        Spare("embeddings.position_ids", "aside.embeddings.position_ids"),
        Spare("embeddings.token_type_ids", "aside.embeddings.token_type_ids"),
    )


SELF = tuple(
    Row(f"{LAYER}.attention.self.{part}.*", f"{BLOCK}.mixers.0.{part}.*")
    for part in ("query", "key", "value")
)
#: read from the first token by heads that ours does not have
POOLER = Spare("pooler.dense.*", "aside.pooler.dense.*")

NONLINEAR = Named({"gelu": "gelu", "gelu_new": "gelu_tanh", "relu": "relu"})
FIELDS = (
    Field("vocab_size", "vocab_size"),
    Field("hidden_size", "model.dim"),
    Field("num_hidden_layers", "model.num_layers"),
    Field("num_attention_heads", "model.num_heads"),
    Field("intermediate_size", "model.ffn_dim"),
    Field("type_vocab_size", "stem.types"),
    Field("hidden_act", "model.mlp", NONLINEAR),
    Field("layer_norm_eps", ("model.norm", "stem.norm"), Spelled("layer")),
    Field("hidden_dropout_prob", ("model.dropout", "stem.dropout")),
)
POSITIONS = Field("max_position_embeddings", "stem.max_len")
AFTER_TWO = Field("max_position_embeddings", "stem.max_len", Less(2))

FIXED = {
    "model.position": "none",
    "model.wiring": "post",
    "stem.kind": "tokens",
    "stem.position": "learned",
}
DENSE = {
    "arch": "transformer",
    "model.causal": False,
    "model.bias": True,
    "model.num_kv_heads": None,
    **FIXED,
}

MASKED = {
    "fields": (
        Field("layer_norm_eps", "head.norm", Spelled("layer")),
        Field("hidden_act", "head.transform", NONLINEAR),
    ),
    "fixed": {"head.kind": "tokens", "head.bias": True},
    # else theirs has two biases, of which it uses one
    "needs": {"tie_word_embeddings": True},
}
CLS = (
    Row("cls.predictions.transform.dense.*", "head.transform.dense.*"),
    Row("cls.predictions.transform.LayerNorm.*", "head.transform.norm.*"),
    Row("cls.predictions.bias", "head.project.bias"),
    Tied("cls.predictions.decoder.bias", "cls.predictions.bias"),
    Tied(
        "cls.predictions.decoder.weight",
        "embeddings.word_embeddings.weight",
    ),
    # which of two sentences comes first
    Spare("cls.seq_relationship.*", "aside.seq_relationship.*"),
)


def lm_head(prefix: str) -> Head:
    """RoBERTa's head for hidden words, and Longformer's."""
    rows = (
        Row("lm_head.dense.*", "head.transform.dense.*"),
        Row("lm_head.layer_norm.*", "head.transform.norm.*"),
        Row("lm_head.bias", "head.project.bias"),
        Tied("lm_head.decoder.bias", "lm_head.bias"),
        Tied("lm_head.decoder.weight", "embeddings.word_embeddings.weight"),
    )
    fields = (Field("layer_norm_eps", "head.norm", Spelled("layer")),)
    fixed = {"head.kind": "tokens", "head.bias": True, "head.transform": "gelu"}
    return Head("SubquadForMaskedLM", prefix, rows, fields, fixed, MASKED["needs"])


#: how much a head drops in training, where it has a setting of its own, and where it has none
OWN = Field("classifier_dropout", "head.dropout", otherwise=("hidden_dropout_prob", 1))
DROPPED = Field("hidden_dropout_prob", "head.dropout")


def labels(prefix: str, hidden: str = "tanh", dropped: Field = OWN) -> Head:
    """Labels by the first token, with a map and a nonlinearity between."""
    rows = (
        Row("classifier.dense.*", "head.hidden.dense.*"),
        Row("classifier.out_proj.*", "head.label.*"),
    )
    fixed = {"head.kind": "labels", "head.pool": "first", "head.hidden": hidden}
    return Head("SubquadForSequenceClassification", prefix, rows, (dropped,), fixed)


def tags(prefix: str, dropped: Field = OWN, name: str = "classifier") -> Head:
    """Labels for each token, by the map `name`."""
    rows, fixed = (Row(f"{name}.*", "head.label.*"),), {"head.kind": "tags"}
    return Head("SubquadForTokenClassification", prefix, rows, (dropped,), fixed)


def answers(prefix: str) -> Head:
    """Where an answer starts and ends."""
    rows = (Row("qa_outputs.*", "head.label.*"),)
    return Head("SubquadForQuestionAnswering", prefix, rows, fixed={"head.kind": "tags"})


#: the pooler, as part of a head
POOLED = {"head.kind": "labels", "head.pool": "first", "head.hidden": "tanh"}


def choices(prefix: str, pooler: str = "pooler.dense", dropped: Field = OWN) -> Head:
    """How well each of several inputs does, by its first token: one number of each."""
    rows = (
        Row(f"{prefix}{pooler}.*", "head.hidden.dense.*"),
        Row("classifier.*", "head.label.*"),
    )
    return Head("SubquadForMultipleChoice", prefix, rows, (dropped,), POOLED)


def causal(head: Head) -> Head:
    """The same head after layers that look back alone."""
    fixed = {**head.fixed, "model.causal": True}
    needs = {**head.needs, "is_decoder": True}
    return replace(head, ours="SubquadForCausalLM", fixed=fixed, needs=needs)


HIDDEN = Row("bert.pooler.dense.*", "head.hidden.dense.*")
WORDS = Head("SubquadForMaskedLM", "bert.", CLS, **MASKED)

BERT = Family(
    "bert",
    (*embeddings(), *SELF, *around("mixers.0"), POOLER),
    (*FIELDS, POSITIONS),
    fixed=DENSE,
    needs={"is_decoder": False, "add_cross_attention": False},
    sizes={"layer": "num_hidden_layers"},
    heads={
        "BertForMaskedLM": WORDS,
        "BertForPreTraining": WORDS,
        "BertLMHeadModel": causal(WORDS),
        "BertForSequenceClassification": Head(
            "SubquadForSequenceClassification",
            "bert.",
            (HIDDEN, Row("classifier.*", "head.label.*")),
            (OWN,),
            POOLED,
        ),
        "BertForNextSentencePrediction": Head(
            "SubquadForSequenceClassification",
            "bert.",
            (HIDDEN, Row("cls.seq_relationship.*", "head.label.*")),
            fixed=POOLED,
        ),
        "BertForTokenClassification": tags("bert."),
        "BertForQuestionAnswering": answers("bert."),
        "BertForMultipleChoice": choices("bert."),
        "BertModel": BODY,
    },
)

ROBERTA = replace(
    BERT,
    name="roberta",
    rows=(*embeddings(2), *SELF, *around("mixers.0"), POOLER),
    fields=(*FIELDS, AFTER_TWO),
    needs={**BERT.needs, "pad_token_id": 1},
    heads={
        "RobertaForMaskedLM": lm_head("roberta."),
        "RobertaForCausalLM": causal(lm_head("roberta.")),
        "RobertaForSequenceClassification": labels("roberta."),
        "RobertaForTokenClassification": tags("roberta."),
        "RobertaForQuestionAnswering": answers("roberta."),
        "RobertaForMultipleChoice": choices("roberta.", dropped=DROPPED),
        "RobertaModel": BODY,
    },
)
