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

import subquad as sq
from catalog import tiny
from subquad.hf import (
    StateCache,
    SubquadConfig,
    SubquadForCausalLM,
    SubquadForMaskedLM,
    SubquadModel,
)

ARCHS = list(sq.ARCHS)
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
@pytest.mark.parametrize("arch", ARCHS)
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


@pytest.mark.parametrize("arch", ARCHS)
def test_continuing_from_a_returned_cache(arch):
    m, (ids, _) = causal_lm(arch), prompt()
    first = m(ids[:, :12], use_cache=True)
    rest = m(ids[:, 12:], past_key_values=first.past_key_values)
    whole = m(ids).logits
    torch.testing.assert_close(
        torch.cat((first.logits, rest.logits), 1), whole, rtol=1e-9, atol=1e-9
    )
    assert rest.past_key_values.get_seq_length() == 20
    out = m.generate(ids, max_new_tokens=5, return_dict_in_generate=True)
    more = torch.cat((out.sequences, torch.randint(1, 49, (2, 4))), 1)
    again = m.generate(more, past_key_values=out.past_key_values, max_new_tokens=5)
    assert torch.equal(again, m.generate(more, max_new_tokens=5))


@pytest.mark.parametrize("arch", ARCHS)
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


@pytest.mark.parametrize("arch", ARCHS)
def test_masked_language_model(arch, tmp_path):
    m, (ids, mask) = SubquadForMaskedLM(config(arch, causal=False)).eval(), prompt()
    labels = ids.masked_fill(torch.rand(ids.shape) > 0.3, -100)
    marks = torch.zeros_like(ids)
    marks[:, 0] = 1
    out = m(ids, attention_mask=mask, global_attention_mask=marks, labels=labels)
    assert out.loss.isfinite()
    m.save_pretrained(tmp_path)
    again = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids, mask, marks).logits, out.logits)


@pytest.mark.parametrize("arch", ARCHS)
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


@pytest.mark.parametrize("arch", ARCHS)
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
@pytest.mark.parametrize("arch", ARCHS)
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


@pytest.mark.parametrize("arch", ARCHS)
def test_bfloat16_and_float16_stay_finite(arch):
    ids, mask = prompt()
    for dtype in (torch.bfloat16, torch.float16):
        m = causal_lm(arch, dtype)
        assert torch.isfinite(m(ids, attention_mask=mask).logits[1]).all()


def test_properties_that_tools_read():
    c = config("performer")
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
    m, (ids, _) = causal_lm("local"), prompt()
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
