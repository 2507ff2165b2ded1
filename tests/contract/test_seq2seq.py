"""The Hugging Face shell of encoders with a decoder: generate, save, load, train, any source."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)
from transformers.modeling_outputs import BaseModelOutput

import subquad as sq
from catalog import tiny
from subquad.archs import pair_parts
from subquad.hf import StateCache, SubquadConfig, SubquadForCausalLM, SubquadForSeq2SeqLM

WORDS = 50
TOKENS = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": 49, "decoder_start_token_id": 48}
PAIRS = list(sq.PAIRS)
#: as a decoder, one for each kind of state
CASES = [*PAIRS, "performer", "longformer", "transformer_xl"]


def config(case, **fields):
    if case in sq.PAIRS:
        return SubquadConfig(**pair_parts(case, vars(sq.PAIRS[case].PRESETS["tiny"])), **TOKENS)
    encoder = {"arch": "transformer", "model": tiny("transformer", causal=False)}
    return SubquadConfig(arch=case, model=tiny(case), encoder=encoder, **TOKENS, **fields)


def seq2seq(case, dtype=torch.float64):
    torch.manual_seed(5)
    m = SubquadForSeq2SeqLM(config(case)).to(dtype).eval()
    for p in m.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    return m


def source(side="right"):
    ids, mask = torch.randint(1, 48, (2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[0, slice(0, 7) if side == "left" else slice(13, 20)] = 0
    marks = mask * (mask.cumsum(1) == 1)
    return {"input_ids": ids, "attention_mask": mask, "global_attention_mask": marks}


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams-returned": {"num_beams": 3, "num_return_sequences": 2},
    "prefix": {"decoder_input_ids": torch.tensor([[48, 3, 9], [48, 4, 4]])},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_generate_equals_generate_without_cache(case, mode):
    m, given, found = seq2seq(case), source(), []
    for use_cache in (True, False):
        torch.manual_seed(3)
        found.append(m.generate(**given, max_new_tokens=14, use_cache=use_cache, **MODES[mode]))
    assert torch.equal(*found)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", CASES)
def test_generates_in_a_batch_what_it_generates_alone(case, side):
    m, given = seq2seq(case), source(side)
    options = {"max_new_tokens": 9, "num_beams": 2, "eos_token_id": None}
    words = m.generate(**given, **options)
    for b in range(2):
        real = given["attention_mask"][b] > 0
        alone = m.generate(**{k: t[b][real][None] for k, t in given.items()}, **options)
        assert torch.equal(words[b], alone[0])


@pytest.mark.parametrize("case", CASES)
def test_going_on_from_a_returned_cache(case):
    m, given, written = seq2seq(case), source(), torch.randint(1, 48, (2, 12))
    whole = m(**given, decoder_input_ids=written).logits
    first = m(**given, decoder_input_ids=written[:, :5], use_cache=True)
    assert isinstance(first.past_key_values, StateCache)
    # the source is in the cache
    rest = m(decoder_input_ids=written[:, 5:], past_key_values=first.past_key_values)
    found = torch.cat((first.logits, rest.logits), 1)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10)
    assert rest.past_key_values.get_seq_length() == 12


@pytest.mark.parametrize("case", PAIRS)
def test_the_source_in_other_forms(case):
    m, given, written = seq2seq(case), source(), torch.randint(1, 48, (2, 6))
    whole = m(**given, decoder_input_ids=written).logits
    memory = m.get_encoder()(**given)
    read = {"encoder_outputs": memory, "attention_mask": given["attention_mask"]}
    assert torch.equal(m(**read, decoder_input_ids=written).logits, whole)
    read["encoder_outputs"] = m.get_encoder()(**given, return_dict=False)
    assert torch.equal(m(**read, decoder_input_ids=written).logits, whole)
    ids = given.pop("input_ids")
    embedded = m.model.encoder.stem.embedding(ids) * m.model.encoder.stem.scale
    assert torch.equal(m(inputs_embeds=embedded, **given, decoder_input_ids=written).logits, whole)
    options = {"max_new_tokens": 5, "num_beams": 2}
    words = m.generate(ids, **given, **options)
    assert torch.equal(m.generate(inputs_embeds=embedded, **given, **options), words)
    read["encoder_outputs"] = BaseModelOutput(last_hidden_state=memory[0])
    assert torch.equal(m.generate(**read, **options), words)


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_bit_for_bit(case, tmp_path):
    m, given = seq2seq(case, torch.float32), source()
    m.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(again, SubquadForSeq2SeqLM)
    written = torch.randint(1, 48, (2, 6))
    found, wanted = (each(**given, decoder_input_ids=written).logits for each in (again, m))
    assert torch.equal(found, wanted)
    assert AutoConfig.from_pretrained(tmp_path).pair_parts() == m.config.pair_parts()
    assert again.config.is_encoder_decoder
    # one table of words on disk and in memory
    words = [again.get_input_embeddings(), again.get_output_embeddings()]
    words.append(again.model.encoder.stem.embedding)
    assert len({w.weight.data_ptr() for w in words}) == 1
    kept = [n for n in load_file(tmp_path / "model.safetensors") if "embedding" in n or "head" in n]
    assert kept == ["model.decoder.stem.embedding.weight"]
    assert torch.equal(
        again.generate(**given, max_new_tokens=5), m.generate(**given, max_new_tokens=5)
    )


@pytest.mark.parametrize("case", PAIRS)
def test_labels_are_shifted_here(case):
    m, given, labels = seq2seq(case), source(), torch.randint(1, 48, (2, 6))
    labels[1, 4:] = -100
    shifted = m.prepare_decoder_input_ids_from_labels(labels)
    assert shifted[:, 0].tolist() == [48, 48]
    assert torch.equal(shifted[0, 1:], labels[0, :-1])
    assert shifted[1, 5] == 0
    out = m(**given, labels=labels)
    assert torch.equal(out.logits, m(**given, decoder_input_ids=shifted).logits)
    wanted = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten())
    # the shell's losses are float32
    torch.testing.assert_close(out.loss.double(), wanted, rtol=1e-6, atol=0)
    summed = m(**given, labels=labels, num_items_in_batch=torch.tensor(5)).loss
    torch.testing.assert_close(summed, out.loss * 10 / 5)


@pytest.mark.parametrize("case", PAIRS)
def test_trainer_trains(case, tmp_path):
    from subquad.data.vocabulary import Bytes

    words = Bytes()
    words.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    parts = pair_parts(case, vars(sq.PAIRS[case].PRESETS["tiny"]))
    start = {"pad_token_id": words.pad, "decoder_start_token_id": words.boundary}
    m = SubquadForSeq2SeqLM(SubquadConfig(**parts, vocab_size=words.size, **start))
    texts = [("one", "1"), ("twenty", "20"), ("three", "3"), ("four hundred", "400")] * 4
    rows = [{**tokenizer(a), "labels": [*b.encode(), words.boundary]} for a, b in texts]
    trainer = Trainer(
        model=m,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=12,
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=m),
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5
    assert trainer.predict(rows[:3]).predictions.shape[::2] == (3, words.size)


def reader(stem):
    encoder = {"arch": "performer", "model": tiny("performer", causal=False), "stem": stem}
    made = SubquadConfig(arch="local", model=tiny("local"), encoder=encoder, **TOKENS)
    return SubquadForSeq2SeqLM(made).eval()


def test_reads_frames(tmp_path):
    m, options = reader({"kind": "frames", "bands": 8}), {"max_new_tokens": 6, "num_beams": 2}
    assert m.main_input_name == "input_features"
    frames, labels = torch.randn(2, 43, 8), torch.randint(1, 48, (2, 4))
    out = m(input_features=frames, labels=labels)
    mask = torch.ones(2, 43, dtype=torch.long)
    mask[1, 30:] = 0
    padded = frames.masked_fill(mask[..., None] == 0, torch.nan)
    options["eos_token_id"] = None
    words = m.generate(input_features=padded, attention_mask=mask, **options)
    assert torch.equal(words[:1], m.generate(input_features=frames[:1], **options))
    assert torch.equal(words[1:], m.generate(input_features=frames[1:, :30], **options))
    m.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert torch.equal(again(input_features=frames, labels=labels).logits, out.logits)
    out.loss.backward()
    assert m.model.encoder.stem.project.weight.grad.any()


def test_reads_pictures():
    m = reader({"kind": "patches", "image_size": [8, 12], "patch": 4, "channels": 2})
    assert m.main_input_name == "pixel_values"
    pictures, labels = torch.randn(2, 2, 8, 12), torch.randint(1, 48, (2, 4))
    out = m(pixel_values=pictures, labels=labels)
    assert out.encoder_last_hidden_state.shape[1] == 7  # with the class token
    out.loss.backward()
    assert m.model.encoder.stem.embedding.weight.grad.any()
    options = {"max_new_tokens": 6, "num_beams": 2, "eos_token_id": None}
    words = m.generate(pixel_values=pictures, **options)
    assert torch.equal(words, m.generate(pixel_values=pictures, use_cache=False, **options))
    assert torch.equal(words[1:], m.generate(pixel_values=pictures[1:], **options))
    with pytest.raises(ValueError, match="this model reads pictures, so pass pixel_values"):
        m(input_ids=labels, labels=labels)


def test_activation_checkpointing_gives_the_same_gradients():
    found = []
    for forget in (False, True):
        m = seq2seq("led").train()
        if forget:
            m.activation_checkpointing_enable()
        assert m.model.encoder.backbone.gradient_checkpointing == forget
        assert m.model.decoder.backbone.gradient_checkpointing == forget
        torch.manual_seed(1)
        m(**source(), labels=torch.randint(1, 48, (2, 6))).loss.backward()
        found.append([p.grad for p in m.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_words_are_resized_everywhere():
    m = seq2seq("led", torch.float32)
    m.resize_token_embeddings(60)
    given = {"input_ids": torch.full((1, 3), 59), "decoder_input_ids": torch.full((1, 2), 58)}
    assert m(**given).logits.shape == (1, 2, 60)
    apart = SubquadForSeq2SeqLM(config("performer", tie_word_embeddings=False))
    with pytest.raises(ValueError, match="a table of words each, and one alone cannot be resized"):
        apart.resize_token_embeddings(60)


@pytest.mark.slow
@pytest.mark.no_poison
def test_compiles_to_one_graph_for_all_lengths():
    torch._dynamo.reset()
    m, graphs = seq2seq("led", torch.float32), []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(m, fullgraph=True, dynamic=True, backend=count)
    with torch.no_grad():
        for length in (20, 33, 65):
            given = {"input_ids": torch.randint(1, 48, (2, length))}
            given["decoder_input_ids"] = torch.randint(1, 48, (2, length // 2))
            found, wanted = compiled(**given).logits, m(**given).logits
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


def test_configurations_without_an_encoder_are_as_before():
    plain = SubquadConfig(arch="local", model=tiny("local"))
    assert plain.encoder is None
    assert not plain.is_encoder_decoder
    old = json.loads(plain.to_json_string())
    del old["encoder"], old["decoder_start_token_id"], old["stem"]["norm"]
    assert SubquadConfig.from_dict(old).parts() == plain.parts()
    made = config("led")
    assert made.encoder["model"]["num_layers"] == 2
    assert made.encoder["model"]["causal"] is False  # every field is written
    assert made.hidden_size == 32


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="a pair give encoder="):
        SubquadForSeq2SeqLM(SubquadConfig(arch="local", model=tiny("local")))
    for kind in (SubquadForCausalLM, AutoModel.from_config):
        with pytest.raises(ValueError, match="take SubquadForSeq2SeqLM"):
            kind(config("led"))
    with pytest.raises(ValueError, match="did you mean 'longformer'"):
        SubquadConfig(encoder={"arch": "longfromer"})
    with pytest.raises(ValueError, match="no field 'windws'; did you mean 'windows'"):
        SubquadConfig(encoder={"arch": "longformer", "model": {"windws": [3]}})
    with pytest.raises(ValueError, match=r"a ReversibleDecoder cannot read a memory"):
        SubquadForSeq2SeqLM(config("reformer"))
    m, given, written = seq2seq("led"), source(), torch.randint(1, 48, (2, 6))
    with pytest.raises(ValueError, match=r"pass one source, as input_ids, .* not none"):
        m(decoder_input_ids=written)
    with pytest.raises(ValueError, match="not input_ids and pixel_values"):
        m(**given, pixel_values=written, decoder_input_ids=written)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        m(**given)
    with pytest.raises(ValueError, match="this model reads tokens, so pass input_ids"):
        m(pixel_values=torch.randn(2, 2, 8, 8), decoder_input_ids=written)
    with pytest.raises(ValueError, match="takes no document_ids: give each document a row"):
        m(**given, decoder_input_ids=written, document_ids=written)
    with pytest.raises(ValueError, match="take no output_attentions"):
        m(**given, decoder_input_ids=written, output_attentions=True)
    with pytest.raises(ValueError, match="must be a subquad StateCache, not tuple"):
        m(**given, decoder_input_ids=written, past_key_values=((written, written),))
    m.config.pad_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id is 48 and pad_token_id None"):
        m(**given, labels=written)
