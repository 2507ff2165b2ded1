"""The Hugging Face shell, over every architecture: generate, save and load, train, compile."""

import copy

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    Trainer,
    TrainingArguments,
)

from catalog import BOTH_WAYS, CAUSAL, tiny
from subquad.hf import (
    StateCache,
    SubquadConfig,
    SubquadForCausalLM,
    SubquadForMaskedLM,
    SubquadModel,
)

WORDS = 50


def config(arch, *, causal=True, **fields):
    tokens = {"vocab_size": WORDS, "pad_token_id": 0, "eos_token_id": 49}
    return SubquadConfig(arch=arch, model=tiny(arch, causal=causal), **tokens, **fields)


def causal_lm(arch, dtype=torch.float64):
    torch.manual_seed(5)
    m = SubquadForCausalLM(config(arch)).to(dtype).eval()
    for p in m.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    return m


def prompt():
    ids = torch.randint(1, 49, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, :7] = 0
    return ids, mask


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "beams-returned": {"num_beams": 3, "num_return_sequences": 2},
    "prefill-chunks": {"prefill_chunk_size": 7},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("arch", CAUSAL)
def test_generate_equals_generate_without_cache(arch, mode):
    m, (ids, mask) = causal_lm(arch), prompt()
    found = []
    for use_cache in (True, False):
        options = dict(MODES[mode])
        if not use_cache:
            options.pop("prefill_chunk_size", None)
        torch.manual_seed(3)
        found.append(
            m.generate(ids, attention_mask=mask, max_new_tokens=14, use_cache=use_cache, **options)
        )
    assert torch.equal(*found)


@pytest.mark.parametrize("arch", CAUSAL)
def test_continuing_from_a_returned_cache(arch):
    m, (ids, _) = causal_lm(arch), prompt()
    first = m(ids[:, :12], use_cache=True)
    rest = m(ids[:, 12:], past_key_values=first.past_key_values)
    whole = m(ids).logits
    torch.testing.assert_close(
        torch.cat((first.logits, rest.logits), 1), whole, rtol=1e-9, atol=1e-9
    )
    assert rest.past_key_values.get_seq_length() == 20
    # no end: what follows an end is padding to a new call, but was a token in the cache
    options = {"max_new_tokens": 5, "eos_token_id": None}
    out = m.generate(ids, return_dict_in_generate=True, **options)
    more = torch.cat((out.sequences, torch.randint(1, 49, (2, 4))), 1)
    again = m.generate(more, past_key_values=out.past_key_values, **options)
    assert torch.equal(again, m.generate(more, **options))


@pytest.mark.parametrize("arch", CAUSAL)
def test_saved_and_loaded_by_the_auto_classes(arch, tmp_path):
    m, (ids, mask) = causal_lm(arch, torch.float32), prompt()
    m.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids, attention_mask=mask).logits, m(ids, attention_mask=mask).logits)
    assert all(torch.equal(a, b) for a, b in zip(m.buffers(), again.buffers(), strict=True))
    assert AutoConfig.from_pretrained(tmp_path).parts() == m.config.parts()
    bare = AutoModel.from_pretrained(tmp_path)
    assert isinstance(bare, SubquadModel)
    features = bare(ids).last_hidden_state
    assert torch.equal(m.model.head(features), m(ids).logits)


@pytest.mark.parametrize("arch", [a for a, causal in BOTH_WAYS if not causal])
def test_masked_language_model(arch, tmp_path):
    m, (ids, mask) = SubquadForMaskedLM(config(arch, causal=False)).eval(), prompt()
    labels = ids.masked_fill(torch.rand(ids.shape) > 0.3, -100)
    marks = torch.zeros_like(ids)
    marks[:, 0] = 1
    out = m(ids, attention_mask=mask, global_attention_mask=marks, labels=labels)
    assert out.loss.isfinite()
    m.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    found = again(ids, attention_mask=mask, global_attention_mask=marks).logits
    assert torch.equal(found, out.logits)


@pytest.mark.parametrize("arch", CAUSAL)
def test_trainer_trains(arch, tmp_path):
    m = SubquadForCausalLM(config(arch))
    rows = [{"input_ids": torch.arange(1, 33) % WORDS, "labels": torch.arange(1, 33) % WORDS}] * 16
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
    )
    trainer = Trainer(model=m, args=args, train_dataset=rows)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("arch", CAUSAL)
def test_activation_checkpointing_gives_the_same_gradients(arch):
    m, (ids, mask) = causal_lm(arch).train(), prompt()
    plain = copy.deepcopy(m)
    m.activation_checkpointing_enable()
    assert m.model.backbone.gradient_checkpointing
    for each in (m, plain):
        each(ids, attention_mask=mask, labels=ids).loss.backward()
    for a, b in zip(m.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


@pytest.mark.slow
@pytest.mark.no_poison
@pytest.mark.parametrize("arch", CAUSAL)
def test_compiles_to_one_graph_for_all_lengths(arch):
    torch._dynamo.reset()
    m = causal_lm(arch, torch.float32)
    graphs = []

    def count(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(m, fullgraph=True, dynamic=True, backend=count)
    with torch.no_grad():
        for length in (20, 33, 65, 128):
            ids = torch.randint(1, 49, (2, length))
            found, wanted = compiled(ids).logits, m(ids).logits
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("arch", CAUSAL)
def test_bfloat16_and_float16_stay_finite(arch):
    ids, mask = prompt()
    for dtype in (torch.bfloat16, torch.float16):
        m = causal_lm(arch, dtype)
        assert torch.isfinite(m(ids, attention_mask=mask).logits[1]).all()


@pytest.mark.parametrize("arch", CAUSAL)
def test_parameters_that_a_checkpoint_lacks_are_drawn(arch, tmp_path):
    fields = {**tiny(arch), "num_layers": 2, "norm": "layer"}
    fields.update({"windows": [4], "dilations": [1]} if arch == "longformer" else {})
    SubquadForCausalLM(SubquadConfig(arch=arch, model=fields, vocab_size=WORDS)).save_pretrained(
        tmp_path
    )
    deeper = SubquadConfig(arch=arch, model={**fields, "num_layers": 3}, vocab_size=WORDS)
    m = AutoModelForCausalLM.from_pretrained(tmp_path, config=deeper)
    new = dict(m.model.backbone.blocks[2].named_parameters())
    assert (new["norms.0.weight"] == 1).all()
    assert (new["norms.0.bias"] == 0).all()
    queries = [weight for name, weight in new.items() if name.endswith("query.weight")]
    assert queries
    assert all(0 < weight.std() < 0.1 for weight in queries)
    ids = torch.randint(1, 49, (1, 9))
    assert torch.isfinite(m(ids, labels=ids).loss)


@pytest.mark.parametrize("arch", CAUSAL)
def test_a_second_turn_after_a_padded_first(arch):
    m, ids = causal_lm(arch), torch.randint(1, 49, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, 8:11] = 0
    mask[1, :4] = 0
    whole = m(ids, attention_mask=mask).logits
    first = m(ids[:, :14], attention_mask=mask[:, :14], use_cache=True)
    rest = m(ids[:, 14:], attention_mask=mask, past_key_values=first.past_key_values).logits
    torch.testing.assert_close(rest, whole[:, 14:], rtol=1e-10, atol=1e-10)
    for b in (0, 1):
        alone = m(ids[b][mask[b] > 0][None]).logits[0]
        torch.testing.assert_close(whole[b][mask[b] > 0], alone, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("arch", ["longformer", "local", "transformer"])
def test_generates_with_marks_and_documents(arch, use_cache):
    m, (ids, _) = causal_lm(arch), prompt()
    marks = torch.zeros_like(ids)
    marks[:, 2] = 1
    documents = (torch.arange(20) >= 11).long().expand(2, -1)
    options = {"global_attention_mask": marks, "document_ids": documents, "max_new_tokens": 6}
    words = m.generate(ids, use_cache=use_cache, eos_token_id=None, **options)
    assert words.shape == (2, 26)
    # the marked token belongs to the first document, so the second goes on as if it were alone
    alone = m.generate(ids[:, 11:], max_new_tokens=6, eos_token_id=None)
    assert torch.equal(words[:, 20:], alone[:, 9:])


@pytest.mark.parametrize("arch", CAUSAL)
def test_embedded_inputs(arch):
    m, (ids, mask) = causal_lm(arch), prompt()
    embedded = m.get_input_embeddings()(ids)
    found = m(inputs_embeds=embedded, attention_mask=mask).logits
    assert torch.equal(found, m(ids, attention_mask=mask).logits)
    words = m.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=5)
    assert torch.equal(words, m.generate(ids, attention_mask=mask, max_new_tokens=5)[:, 20:])


def test_pipeline(tmp_path):
    from transformers import pipeline

    from subquad.data.vocabulary import Bytes

    m = SubquadForCausalLM(SubquadConfig(arch="performer", model=tiny("performer"), vocab_size=260))
    m.save_pretrained(tmp_path)
    Bytes().save(tmp_path)
    write = pipeline("text-generation", model=str(tmp_path), device="cpu")
    made = write(["Call me", "A"], max_new_tokens=5, do_sample=False)
    assert made[0][0]["generated_text"].startswith("Call me")
    assert len(made) == 2


def test_properties_that_tools_read():
    c = config("performer")
    assert (
        c.model["features"] == 16
    )  # every field is written, so that later defaults cannot change it
    assert SubquadConfig().model["dim"] == 512
    assert (c.hidden_size, c.num_hidden_layers, c.num_attention_heads) == (32, 2, 4)
    m = SubquadForCausalLM(c)
    assert m.get_input_embeddings().weight is m.get_output_embeddings().weight
    m.resize_token_embeddings(60)
    assert m(torch.randint(0, 60, (1, 5))).logits.shape == (1, 5, 60)


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="no field 'dmi'; did you mean 'dim'"):
        SubquadConfig(arch="transformer", model={"dmi": 3})
    with pytest.raises(ValueError, match="did you mean 'performer'"):
        SubquadConfig(arch="performr")
    with pytest.raises(ValueError, match="needs local with causal=True"):
        SubquadForCausalLM(config("local", causal=False))
    with pytest.raises(ValueError, match="needs local with causal=False"):
        SubquadForMaskedLM(config("local"))
    with pytest.raises(ValueError, match="format version 9; this library reads 1"):
        SubquadConfig(format_version=9)
    with pytest.raises(ValueError, match="num_heads must be int, not 'four'"):
        SubquadConfig(arch="local", model={"num_heads": "four"})
    with pytest.raises(ValueError, match="stem has no field 'positon'; did you mean 'position'"):
        SubquadConfig(stem={"positon": "none"})
    m, (ids, _) = causal_lm("local"), prompt()
    with pytest.raises(ValueError, match="take no position_ids"):
        m(ids, position_ids=ids)
    with pytest.raises(ValueError, match="take no output_attentions"):
        m(ids, output_attentions=True)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        m()
    with pytest.raises(ValueError, match="logits_to_keep does not go with labels"):
        m(ids, labels=ids, logits_to_keep=2)
    with pytest.raises(ValueError, match="at least 20 long"):
        m(ids, attention_mask=torch.ones(2, 5))
    with pytest.raises(ValueError, match="cannot keep labelled documents apart"):
        causal_lm("performer")(ids, document_ids=ids)
    cache = m(ids, use_cache=True).past_key_values
    assert isinstance(cache, StateCache)
    with pytest.raises(ValueError, match="the cache holds 2 rows and the batch has 1"):
        m(ids[:1], past_key_values=cache)
    with pytest.raises(ValueError, match="must be a subquad StateCache, not tuple"):
        m(ids, past_key_values=((ids, ids),))
    with pytest.raises(ValueError, match="cannot forget its last tokens"):
        cache.crop(3)
    with pytest.raises(ValueError, match="cache_implementation='static' does not apply"):
        m.generate(ids, max_new_tokens=2, cache_implementation="static")
