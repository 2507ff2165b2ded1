"""Official classes at tiny random size through the converter: equal outputs, and the way back.

Saved by transformers, converted, loaded through our shell; float64 on both sides. The tensors and
settings that come back are those that went, bit for bit.
"""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

import subquad.hf as shell
from converting import config, converted, there_and_back
from subquad.convert.folder import convert

WORDS, LENGTH, LABELS = 60, 40, 3
WIDE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
BERT = {**WIDE, "vocab_size": WORDS, "max_position_embeddings": 74}
LATER = {**BERT, "pad_token_id": 1}
GPT2 = {"vocab_size": WORDS, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 1}
LLAMA = {**WIDE, "vocab_size": WORDS, "num_key_value_heads": 2}
VIT = {**WIDE, "image_size": 16, "patch_size": 4, "num_labels": LABELS}
BIG = {**BERT, "block_size": 64, "num_random_blocks": 2, "sep_token_id": 2}
LONG = {**LATER, "attention_window": [8, 12], "sep_token_id": 2}
MARKED = {"global_attention_mask": (torch.arange(LENGTH) < 2).long().expand(2, -1)}
KINDS = {"token_type_ids": (torch.arange(LENGTH) > 12).long().expand(2, -1)}
PAIR = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
}
WRITTEN = {"decoder_input_ids": torch.arange(3, 18).expand(2, -1)}
PERCEIVER = {
    "num_latents": 8,
    "d_latents": 32,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "d_model": 24,
    "num_blocks": 2,
    "num_cross_attention_heads": 8,
    "qk_channels": 256,
    "v_channels": 32,
    "vocab_size": 64,
    "max_position_embeddings": 48,
}
REFORMER = {
    "attn_layers": ["local"] * 3,
    "attention_head_size": 6,
    "axial_pos_shape": (5, 8),
    "axial_pos_embds_dim": (12, 20),
    "feed_forward_size": 48,
    "hidden_size": 32,
    "is_decoder": True,
    "local_attn_chunk_length": 8,
    "num_attention_heads": 4,
    "tie_word_embeddings": False,
    "vocab_size": WORDS,
}
XLNET = {"vocab_size": WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
NAMED = {"num_labels": LABELS, "id2label": {0: "a", 1: "b", 2: "c"}}


@dataclass(frozen=True)
class Case:
    """kind: a class of transformers.  given: what its forward takes besides tokens.

    rounding: of theirs, where it computes in float32 whatever the weights are.
    """

    kind: str
    fields: dict
    given: dict = field(default_factory=dict)
    rounding: float = 1e-11
    out: str = "logits"


FLOAT32 = 64 * torch.finfo(torch.float32).eps
CASES = {
    "gpt2": Case("GPT2LMHeadModel", GPT2),
    "gpt2-untied": Case("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False, "n_inner": 40}),
    "gpt2-body": Case("GPT2Model", GPT2, out="last_hidden_state"),
    "gpt2-labels": Case("GPT2ForSequenceClassification", GPT2 | NAMED | {"pad_token_id": 1}),
    "gpt2-tags": Case("GPT2ForTokenClassification", GPT2 | NAMED),
    "gpt2-answers": Case("GPT2ForQuestionAnswering", GPT2, out="end_logits"),
    "llama": Case("LlamaForCausalLM", LLAMA, rounding=FLOAT32),
    "llama-biased": Case(
        "LlamaForCausalLM",
        {**LLAMA, "attention_bias": True, "tie_word_embeddings": True, "rope_theta": 5e5},
        rounding=FLOAT32,
    ),
    "llama-body": Case("LlamaModel", LLAMA, rounding=FLOAT32, out="last_hidden_state"),
    "mistral": Case("MistralForCausalLM", {**LLAMA, "sliding_window": None}, rounding=FLOAT32),
    "qwen2": Case("Qwen2ForCausalLM", LLAMA, rounding=FLOAT32),
    "bert": Case("BertForMaskedLM", BERT, KINDS),
    "bert-sentences": Case("BertForPreTraining", BERT, KINDS, out="prediction_logits"),
    "bert-labels": Case("BertForSequenceClassification", BERT | NAMED, KINDS),
    "bert-tags": Case("BertForTokenClassification", BERT | NAMED, KINDS),
    "bert-answers": Case("BertForQuestionAnswering", BERT, KINDS, out="start_logits"),
    "bert-writes": Case("BertLMHeadModel", BERT | {"is_decoder": True}, KINDS),
    "bert-follows": Case("BertForNextSentencePrediction", BERT, KINDS),
    "bert-choices": Case("BertForMultipleChoice", BERT, KINDS),
    "bert-body": Case("BertModel", BERT, KINDS, out="last_hidden_state"),
    "roberta": Case("RobertaForMaskedLM", {**LATER, "type_vocab_size": 1}),
    "roberta-labels": Case("RobertaForSequenceClassification", LATER | NAMED),
    "roberta-tags": Case("RobertaForTokenClassification", LATER | NAMED),
    "roberta-answers": Case("RobertaForQuestionAnswering", LATER, out="end_logits"),
    "roberta-writes": Case("RobertaForCausalLM", LATER | {"is_decoder": True}),
    "roberta-choices": Case("RobertaForMultipleChoice", LATER),
    "roberta-body": Case("RobertaModel", LATER, out="last_hidden_state"),
    "longformer": Case("LongformerForMaskedLM", LONG, MARKED, FLOAT32),
    "longformer-labels": Case("LongformerForSequenceClassification", LONG | NAMED, {}, FLOAT32),
    "longformer-tags": Case("LongformerForTokenClassification", LONG | NAMED, MARKED, FLOAT32),
    "longformer-answers": Case(
        "LongformerForQuestionAnswering", LONG, MARKED, FLOAT32, "start_logits"
    ),
    "longformer-choices": Case("LongformerForMultipleChoice", LONG, MARKED, FLOAT32),
    "longformer-body": Case("LongformerModel", LONG, MARKED, FLOAT32, "last_hidden_state"),
    # a block holds the whole input: all is looked at (test_bigbird.py has many blocks)
    "bigbird": Case("BigBirdForMaskedLM", BIG, KINDS),
    "bigbird-dense": Case(
        "BigBirdForMaskedLM",
        {**BIG, "block_size": 2, "attention_type": "original_full"},
        KINDS,
    ),
    "bigbird-sentences": Case("BigBirdForPreTraining", BIG, KINDS, out="prediction_logits"),
    "bigbird-labels": Case("BigBirdForSequenceClassification", BIG | NAMED, KINDS),
    "bigbird-tags": Case("BigBirdForTokenClassification", BIG | NAMED, KINDS),
    "bigbird-answers": Case("BigBirdForQuestionAnswering", BIG, out="start_logits"),
    "bigbird-choices": Case("BigBirdForMultipleChoice", BIG, KINDS),
    "bigbird-body": Case("BigBirdModel", BIG, KINDS, out="last_hidden_state"),
    "led": Case(
        "LEDForConditionalGeneration",
        {
            **PAIR,
            "max_encoder_position_embeddings": 64,
            "max_decoder_position_embeddings": 40,
            "attention_window": [8, 12],
        },
        WRITTEN | MARKED,
        FLOAT32,
    ),
    "bart": Case("BartForConditionalGeneration", {**PAIR, "max_position_embeddings": 64}, WRITTEN),
    "perceiver": Case("PerceiverForMaskedLM", PERCEIVER),
    "reformer": Case("ReformerModelWithLMHead", REFORMER, rounding=FLOAT32),
    "reformer-body": Case("ReformerModel", REFORMER, out="last_hidden_state"),
    "xlnet-tags": Case("XLNetForTokenClassification", XLNET | NAMED, rounding=FLOAT32),
    "xlnet-answers": Case("XLNetForQuestionAnsweringSimple", XLNET, {}, FLOAT32, "end_logits"),
    "xlnet-body": Case("XLNetModel", XLNET, rounding=FLOAT32, out="last_hidden_state"),
    "vit": Case("ViTForImageClassification", VIT),
    "vit-body": Case("ViTModel", VIT, out="last_hidden_state"),
}


def theirs(case: Case) -> Any:
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    kind = getattr(hf, case.kind)
    model = kind(kind.config_class(**case.fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model.eval()


def inputs(model: Any, case: Case) -> dict:
    if model.main_input_name == "pixel_values":
        return {"pixel_values": torch.randn(2, 3, 16, 16).double()}
    ids = torch.randint(3, WORDS, (2, LENGTH))
    mask = (torch.arange(LENGTH) < torch.tensor([LENGTH, 29])[:, None]).long()
    given = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask, **case.given}
    if case.kind.endswith("MultipleChoice"):  # the second is the first in other words
        again = {**given, "input_ids": (WORDS + 2 - ids).masked_fill(mask == 0, 1)}
        return {name: torch.stack((t, again[name]), 1) for name, t in given.items()}
    return given


@pytest.mark.parametrize("name", CASES)
def test_equal_outputs_and_the_way_back(name, tmp_path):
    case = CASES[name]
    model = theirs(case)
    ours = there_and_back(model, tmp_path)

    model = model.double()
    given = inputs(model, case)
    with torch.no_grad():
        made, wanted = ours(**given), getattr(model(**given), case.out)
        found = getattr(made, case.out.removeprefix("prediction_"))
    assert found.shape == wanted.shape
    if wanted.shape[:2] == (2, LENGTH):  # padding holds something else
        real = given["attention_mask"] > 0
        found, wanted = found[real], wanted[real]
    torch.testing.assert_close(found, wanted, rtol=case.rounding, atol=case.rounding)
    assert wanted.std() > 0.02


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "bert-writes", "roberta-writes"])
def test_equal_words(name, tmp_path):
    """Through the Auto class, with padding on the left."""
    model = theirs(CASES[name]).double()
    converted(model, tmp_path)
    ours = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert ours.dtype == torch.float64
    ids = torch.randint(3, WORDS, (2, 12))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    how = {"max_new_tokens": 12, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    words = [m.generate(ids, attention_mask=mask, **how) for m in (ours, model)]
    assert torch.equal(*words)


def test_to_another_family_than_it_came_from(tmp_path):
    """A model of ours that never was another's goes to a family that says all of it."""
    fields = {"dim": 32, "num_layers": 2, "num_heads": 4, "ffn_dim": 48, "norm": "rms"}
    fields |= {"mlp": "swiglu", "bias": False, "dropout": 0.0}
    made = shell.SubquadConfig(arch="transformer", model=fields, vocab_size=WORDS)
    ours = shell.SubquadForCausalLM(made).eval()
    ours.save_pretrained(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back", "llama")
    model = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    assert isinstance(model, hf.LlamaForCausalLM)
    ids = torch.randint(3, WORDS, (2, 12))
    torch.testing.assert_close(ours(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"gpt2 has model.position 'none', and this"):
        convert(tmp_path / "ours", tmp_path / "back", "gpt2")
    with pytest.raises(ValueError, match="was not converted from another; say to what: --to FAM"):
        convert(tmp_path / "ours", tmp_path / "back")


@pytest.mark.parametrize(
    ("family", "place"), [("gpt2", "model"), ("bert", "model"), ("xlnet", "model")]
)
def test_shared_keys_stay_where_theirs_has_none(family, place, tmp_path):
    """Heads that share keys and values would become tensors of shapes that theirs cannot read."""
    name = {"gpt2": "gpt2", "bert": "bert", "xlnet": "xlnet-body"}[family]
    kind = type(converted(theirs(CASES[name]), tmp_path))
    told = config(tmp_path / "ours")
    told[place]["num_kv_heads"] = 2
    kind(shell.SubquadConfig(**told)).save_pretrained(tmp_path / "shared")
    (tmp_path / "back").mkdir()
    with pytest.raises(
        ValueError, match=rf"{family} has model.num_kv_heads None, and this model 2"
    ):
        convert(tmp_path / "shared", tmp_path / "back", family)


@pytest.mark.parametrize("side", ["model", "encoder.model"])
@pytest.mark.parametrize("family", ["led", "bart"])
def test_shared_keys_of_pairs_stay(family, side, tmp_path):
    ours = converted(theirs(CASES[family]), tmp_path)
    told = ours.config.to_dict()
    if (family, side) == ("led", "encoder.model"):
        assert "num_kv_heads" not in told["encoder"]["model"]
        return
    (told["encoder"]["model"] if "." in side else told["model"])["num_kv_heads"] = 2
    type(ours)(shell.SubquadConfig(**told)).save_pretrained(tmp_path / "shared")
    (tmp_path / "back").mkdir()
    says = rf"{family} has {side}.num_kv_heads None, and this model 2"
    with pytest.raises(ValueError, match=says):
        convert(tmp_path / "shared", tmp_path / "back", family)


def test_what_the_queries_need_is_needed_on_the_way_back(tmp_path):
    ours = converted(theirs(CASES["perceiver"]), tmp_path)
    told = ours.config.to_dict()
    told["model"] |= {"key_dim": 16}
    type(ours)(shell.SubquadConfig(**told)).save_pretrained(tmp_path / "narrow")
    (tmp_path / "back").mkdir()
    with pytest.raises(ValueError, match="perceiver has qk_channels 256, and this model 16"):
        convert(tmp_path / "narrow", tmp_path / "back", "perceiver")


OLD = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}


@pytest.mark.parametrize("name", ["bert", "roberta", "bigbird", "longformer"])
def test_norms_by_their_first_names(name, tmp_path):
    """As BERT was published, and transformers still reads it; they come back as they went."""
    case = CASES[name]
    model = theirs(case)
    model.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    went = load_file(path)
    for now, then in OLD.items():
        went = {k.removesuffix(now) + then if k.endswith(now) else k: t for k, t in went.items()}
    save_file(went, path, {"format": "pt"})
    assert sum(key.endswith(".gamma") for key in went) > 4
    for folder in ("ours", "back"):
        (tmp_path / folder).mkdir()
    convert(tmp_path / "theirs", tmp_path / "ours")
    ours = shell.SubquadForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    given = inputs(model, case)
    real = given["attention_mask"] > 0
    with torch.no_grad():
        found, wanted = ours(**given).logits[real], model(**given).logits[real]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    convert(tmp_path / "ours", tmp_path / "back")
    came = load_file(tmp_path / "back" / "model.safetensors")
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)


def test_longformer_marks_the_question_by_itself(tmp_path):
    """Before the first of three separators, as theirs; marks that are given stay."""
    case = CASES["longformer-answers"]
    model = theirs(case)
    ours = converted(model, tmp_path).double()
    assert config(tmp_path / "ours")["sep_token_id"] == 2
    ids = torch.randint(3, WORDS, (2, LENGTH))
    ids[0, [9, 10, 39]] = 2
    ids[1, [4, 5, 29]] = 2
    mask = (torch.arange(LENGTH) < torch.tensor([LENGTH, 30])[:, None]).long()
    given = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
    none = {"global_attention_mask": torch.zeros_like(ids)}
    with torch.no_grad():
        found, wanted = ours(**given), model.double()(**given)
        apart = ours(**given, **none)
    real = mask > 0
    for name in ("start_logits", "end_logits"):
        one, other = getattr(found, name)[real], getattr(wanted, name)[real]
        torch.testing.assert_close(one, other, rtol=FLOAT32, atol=FLOAT32)
    assert (apart.start_logits - found.start_logits)[real].abs().max() > 0.01


def test_a_question_without_a_separator_is_not_marked(tmp_path):
    ours = converted(theirs(CASES["longformer-answers"]), tmp_path)
    ids = torch.randint(3, WORDS, (2, LENGTH))
    unmarked = ours(ids, global_attention_mask=torch.zeros_like(ids))
    assert torch.equal(ours(ids).start_logits, unmarked.start_logits)


@pytest.mark.parametrize("name", ["xlnet-tags", "xlnet-answers"])
def test_kinds_of_xlnet_are_refused_where_they_differ(name, tmp_path):
    """Theirs asks whether two tokens are of one kind, so that equal kinds say nothing."""
    model = theirs(CASES[name])
    ours = converted(model, tmp_path)
    ids = torch.randint(3, WORDS, (2, 12))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    given["attention_mask"][1, 9:] = 0
    kinds = torch.tensor([[2], [0]]).expand(2, 12).clone()
    kinds[1, 9:] = 3  # what their tokenizer gives padding
    out = CASES[name].out
    with torch.no_grad():
        found, bare = (getattr(ours(**given, **k), out) for k in ({"token_type_ids": kinds}, {}))
        wanted = getattr(model(**given, token_type_ids=kinds), out)
    assert torch.equal(found, bare)
    real = given["attention_mask"] > 0
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-3, atol=1e-3)
    kinds[0, -1] = 0
    with pytest.raises(ValueError, match="token_type_ids tell kinds of tokens apart, and this mo"):
        ours(**given, token_type_ids=kinds)


def test_how_it_generates_stands_in_its_settings(tmp_path):
    """As older BARTs have it: beams, lengths and forced words, and no generation_config.json."""
    model = theirs(CASES["bart"])
    model.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "generation_config.json").unlink()
    how = {"num_beams": 3, "no_repeat_ngram_size": 2, "max_length": 20, "min_length": 12}
    how |= {"forced_bos_token_id": 0, "length_penalty": 2.0, "early_stopping": True}
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **how}))
    for folder in ("ours", "back"):
        (tmp_path / folder).mkdir()
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    models = [
        hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / name).eval()
        for name in ("theirs", "ours", "back")
    ]
    for one in models:
        found = one.generation_config.to_dict()
        assert {name: found[name] for name in how} == how
        assert found["forced_eos_token_id"] == 2
    ids = torch.randint(3, WORDS, (2, 9))
    words = [one.generate(ids) for one in models]
    assert torch.equal(words[0], words[1])
    assert torch.equal(words[0], words[2])


def test_without_the_prefix_of_the_head(tmp_path):
    """As the first GPT-2 was published: a body's names, and a causal triangle."""
    model = theirs(CASES["gpt2"])
    model.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "model.safetensors"
    tensors = {k.removeprefix("transformer."): t for k, t in load_file(path).items()}
    triangle = torch.ones(1, 1, 64, 64).tril()
    save_file({**tensors, "h.0.attn.bias": triangle}, path, {"format": "pt"})
    for name in ("ours", "back"):
        (tmp_path / name).mkdir()
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    came = load_file(tmp_path / "back" / "model.safetensors")
    assert came.keys() == tensors.keys()
    assert all(torch.equal(came[k], tensors[k]) for k in came)
