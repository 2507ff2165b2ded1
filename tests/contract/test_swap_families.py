"""Every family that the documentation names: exact where all is allowed, folders, hybrid plans."""

import pytest
import torch
import transformers as hf

import subquad as sq
from pretrained import BOTH_WAYS, CAUSAL, FAMILIES, OTHERS, close, ids, inputs, made, padded
from subquad.hf import swap
from subquad.hf.swapping import Exact, Features, Hashes, Looks, plan_of, restore
from subquad.hf.swapping.attention import attentions

AUTO = {
    **dict.fromkeys(CAUSAL, hf.AutoModelForCausalLM),
    **dict.fromkeys(BOTH_WAYS, hf.AutoModelForMaskedLM),
    "vit": hf.AutoModelForImageClassification,
    "bart": hf.AutoModelForSeq2SeqLM,
    "whisper": hf.AutoModelForSpeechSeq2Seq,
}
KINDS = (Features("favor", 16), Looks("Window(3, 3)"), Exact(), Hashes(2, (4,), 3))


def hybrid(model):
    """Another kind in each layer, one after the other."""
    for layer in range(len(attentions(model))):
        swap(model, KINDS[layer % len(KINDS)], layers=[layer])
    return model


@pytest.mark.parametrize("mixer", [sq.Full(), sq.Window(200, 200), Exact()], ids=str)
@pytest.mark.parametrize("name", OTHERS)
def test_everything_allowed_is_the_original(name, mixer):
    model = made(FAMILIES, name)
    wanted = model(**inputs(name)).logits
    close(swap(model, mixer)(**inputs(name)).logits, wanted)
    assert torch.equal(restore(model)(**inputs(name)).logits, wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_folders_of_hybrid_plans(tmp_path, name):
    model = hybrid(made(FAMILIES, name))
    model.save_pretrained(tmp_path)
    again = AUTO[name].from_pretrained(tmp_path).eval()
    assert type(again).__name__ == type(model).__name__
    assert plan_of(again) == plan_of(model)
    assert {type(one) for one in plan_of(again).values()} >= {Features, Looks}
    assert torch.equal(again(**inputs(name)).logits, model(**inputs(name)).logits)


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_reach_what_makes_queries_keys_and_values(name):
    model = hybrid(made(FAMILIES, name))
    model(**inputs(name)).logits.square().mean().backward()
    for found in attentions(model):
        # a key's bias adds the same to every score of a query: softmax does not feel it
        weights = [p for p in found.module.parameters() if p.dim() > 1]
        assert all(p.grad is not None and p.grad.isfinite().all() for p in weights)
        assert all(p.grad.any() for p in weights)


@pytest.mark.parametrize("name", [*CAUSAL, "bart", "whisper"])
def test_hybrid_plans_generate(name):
    """Sums, windows and all keys side by side: with a cache as without, rows padded too."""
    model = hybrid(made(FAMILIES, name))
    given = {k: v for k, v in inputs(name).items() if k != "decoder_input_ids"}
    if name in CAUSAL:
        given = {"input_ids": ids(2, 9), "attention_mask": padded("left", 9, (9, 6))}
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    for beams in (1, 2):
        found = model.generate(**given, **how, num_beams=beams)
        without = model.generate(**given, **how, num_beams=beams, use_cache=False)
        assert torch.equal(found, without)


@pytest.mark.parametrize("mixer", KINDS, ids=lambda one: one.kind)
def test_padding_says_nothing_to_an_encoder_of_pairs(mixer):
    model = swap(made(FAMILIES, "bart"), mixer)
    given = inputs("bart")
    real = given["attention_mask"].bool()
    batched = model(**given).logits
    for row in range(2):
        alone = {
            "input_ids": given["input_ids"][row][real[row]][None],
            "decoder_input_ids": given["decoder_input_ids"][row][None],
        }
        close(batched[row], model(**alone).logits[0])
