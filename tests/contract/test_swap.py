"""Attention swapped inside models of transformers: families, masks, generation, folders."""

import pytest
import torch
import transformers as hf

import subquad as sq
from pretrained import BOTH_WAYS, CAUSAL, GROUPED, PAIR, WIDE, WORDS, close, ids, made, padded
from subquad.hf import swapping
from subquad.hf.swapping import Exact, Features, Hashes, Looks, plan_of, restore, swap
from subquad.hf.swapping.attention import attentions
from subquad.hf.swapping.states import SumLayer

REPLACEMENTS = {
    "window": Looks("Window(3, 3)"),
    "window-first": Looks("Window(2, 2)", first=True),
    "strided": Looks("Strided(3) | Window(1)"),
    "favor": Features("favor", 16),
    "relu": Features("relu", 16),
    "elu": Features("elu"),
    "learned": Features("learned"),
    "lsh": Hashes(2, (4,), 3),
}


# --- swapped == original where the pattern allows everything -----------------------------------


@pytest.mark.parametrize("mixer", [sq.Full(), sq.Window(200, 200), Exact()], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", [*CAUSAL, *BOTH_WAYS])
def test_everything_allowed_is_the_original(name, side, mixer):
    model = made({**CAUSAL, **BOTH_WAYS}, name)
    if name == "mistral" and mixer != Exact():
        model.config.sliding_window = None  # its own window is what Exact keeps
    given = {"input_ids": ids(2, 17), "attention_mask": padded(side)}
    real = given["attention_mask"].bool()
    wanted = model(**given).logits[real]
    found = swap(model, mixer)(**given).logits[real]
    close(found, wanted)
    assert torch.equal(restore(model)(**given).logits[real], wanted)


def test_seq2seq_keeps_its_cross_attention():
    torch.manual_seed(0)
    model = hf.BartForConditionalGeneration(hf.BartConfig(**PAIR)).eval()
    given = {"input_ids": ids(2, 17), "attention_mask": padded("right")}
    given["decoder_input_ids"] = ids(2, 9)
    wanted = model(**given).logits
    assert [found.name for found in attentions(model)] == [
        f"model.{part}.layers.{i}.self_attn" for part in ("encoder", "decoder") for i in (0, 1)
    ]
    close(swap(model, sq.Full())(**given).logits, wanted)
    assert not torch.allclose(swap(model, sq.Window(2, 2))(**given).logits, wanted, atol=1e-5)


# --- masks ---------------------------------------------------------------------------------------


# models that look both ways count positions by slots, so padding on the left moves them anyway
SIDES = [(name, side) for name in CAUSAL for side in ("left", "right")]
SIDES += [(name, "right") for name in BOTH_WAYS]


@pytest.mark.parametrize("mixer", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize(("name", "side"), SIDES)
def test_batched_equals_alone(name, side, mixer):
    model = swap(made({**CAUSAL, **BOTH_WAYS}, name), mixer)
    given, mask = ids(2, 17), padded(side)
    more = {}
    if name in CAUSAL:  # generate() counts positions by the mask; a plain forward is told
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
    batched = model(given, attention_mask=mask, **more).logits
    for row, real, x in zip(batched, mask.bool(), given, strict=True):
        close(row[real], model(x[real][None]).logits[0])


@pytest.mark.parametrize("mixer", REPLACEMENTS.values(), ids=REPLACEMENTS)
@pytest.mark.parametrize("name", CAUSAL)
def test_the_future_moves_nothing(name, mixer):
    model = swap(made(CAUSAL, name), mixer)
    given = ids(1, 17)
    other = given.clone()
    other[:, 9:] = (other[:, 9:] + 1) % WORDS
    assert torch.equal(model(given).logits[:, :9], model(other).logits[:, :9])


def test_a_models_own_causal_mask_counts_where_its_modules_say_otherwise():
    """CLIP's text tower looks back by its mask; its modules say that they do not."""
    torch.manual_seed(0)
    config = hf.CLIPTextConfig(**{**WIDE, "vocab_size": WORDS}, eos_token_id=2)
    model = hf.CLIPTextModel(config).eval()
    wanted = model(given := ids(1, 17)).last_hidden_state
    close(swap(model, sq.Full())(given).last_hidden_state, wanted)


def test_other_masks_are_refused():
    model = swap(made(CAUSAL, "llama"), sq.Window(3))
    with pytest.raises(ValueError, match=r"a mask of shape \(1, 1, 5, 5\) says more than which"):
        model(ids(1, 5), attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool))
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    with pytest.raises(ValueError, match="knows causal, two-sided and sliding masks, not"):
        model(ids(1, 5), position_ids=packed, use_cache=False)
    with pytest.raises(ValueError, match="swapped attention writes no matrix of weights"):
        model(ids(1, 5), output_attentions=True)


# --- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", [*REPLACEMENTS.values(), Exact()], ids=[*REPLACEMENTS, "exact"])
@pytest.mark.parametrize("name", CAUSAL)
def test_steps_equal_the_whole(name, mixer):
    """Logits of every step of generate(), rows padded on the left, against one forward."""
    model = swap(made(CAUSAL, name), mixer)
    mask = padded("left", 9, (9, 6))
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    out = model.generate(
        ids(2, 9), attention_mask=mask, **how, output_logits=True, return_dict_in_generate=True
    )
    for row, (tokens, real) in enumerate(zip(out.sequences, mask.bool(), strict=True)):
        begun = int((~real).sum())
        whole = model(tokens[None, begun:]).logits[0, 9 - begun - 1 : -1]
        steps = torch.stack([step[row] for step in out.logits])
        close(steps, whole)


@pytest.mark.parametrize(
    "mixer", [Features("favor", 16), Looks("Window(3, 0)")], ids=["sum", "keys"]
)
def test_beams_and_bounded_state(mixer):
    model = swap(made(CAUSAL, "llama"), mixer)
    given = {"input_ids": ids(2, 9), "attention_mask": padded("left", 9, (9, 6))}
    how = {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    how |= {"pad_token_id": 0, "eos_token_id": None}
    found = model.generate(**given, **how)
    assert torch.equal(found, model.generate(**given, **how, use_cache=False))
    sizes = set()
    for count in (20, 40):
        out = model.generate(
            ids(1, 5),
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
        )
        layer = out.past_key_values.layers[0]
        sizes.add(layer.nbytes if hasattr(layer, "nbytes") else layer.keys.shape)
    assert len(sizes) == 1


def test_pairs_generate():
    torch.manual_seed(0)
    model = swap(hf.BartForConditionalGeneration(hf.BartConfig(**PAIR)).eval(), Features("elu"))
    given = {"input_ids": ids(2, 17), "attention_mask": padded("right"), "max_new_tokens": 9}
    found = model.generate(**given, num_beams=2, do_sample=False)
    assert torch.equal(
        found, model.generate(**given, num_beams=2, do_sample=False, use_cache=False)
    )


def test_hybrid_plan():
    model = made(CAUSAL, "llama")
    swap(model, Features("favor", 16))
    swap(model, Exact(), layers=[2])
    kinds = [type(one).__name__ for one in plan_of(model).values()]
    assert kinds == ["Features", "Features", "Exact"]
    out = model.generate(
        ids(1, 5), max_new_tokens=4, do_sample=False, pad_token_id=0, return_dict_in_generate=True
    )
    kept = [type(layer).__name__ for layer in out.past_key_values.layers]
    assert kept == ["SumLayer", "SumLayer", "DynamicLayer"]


def test_other_caches_are_refused():
    model = swap(made(CAUSAL, "llama"), Features("elu"))
    with pytest.raises(ValueError, match="cache_implementation='static' does not apply"):
        model.generate(ids(1, 5), max_new_tokens=2, cache_implementation="static")


# --- gradients, folders, refusals ----------------------------------------------------------------


@pytest.mark.parametrize("mixer", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_gradients_reach_the_projections(mixer):
    model = swap(made(CAUSAL, "llama"), mixer).train()
    model(ids(2, 9), labels=ids(2, 9)).loss.backward()
    for found in attentions(model):
        assert all(p.grad is not None and p.grad.any() for p in found.module.parameters())


@pytest.mark.parametrize("mixer", REPLACEMENTS.values(), ids=REPLACEMENTS)
def test_folders(tmp_path, mixer):
    model = swap(made(CAUSAL, "gpt2"), mixer, layers=[0, 2])
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert plan_of(again) == plan_of(model)
    assert torch.equal(again(ids(1, 17)).logits, model(ids(1, 17)).logits)
    # and once more, from what was read
    again.save_pretrained(tmp_path / "again")
    third = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(third(ids(1, 17)).logits, model(ids(1, 17)).logits)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (
            lambda: hf.LongformerModel(hf.LongformerConfig(**WIDE, attention_window=4)),
            "longformer does",
        ),
        (
            lambda: hf.T5Model(
                hf.T5Config(
                    vocab_size=WORDS, d_model=32, d_kv=8, d_ff=40, num_layers=1, num_heads=4
                )
            ),
            "t5 has .*relative_attention_bias",
        ),
    ],
    ids=["longformer", "t5"],
)
def test_families_that_cannot(model, says):
    with pytest.raises(ValueError, match=says):
        swap(model(), sq.Window(3))


def test_what_cannot_be():
    model = made(BOTH_WAYS, "bert")
    with pytest.raises(ValueError, match="layer 3 is none of the 3 layers, 0 to 2"):
        swap(model, sq.Window(3), layers=[3])
    with pytest.raises(ValueError, match="nothing is swapped in this BertForMaskedLM"):
        restore(model)
    with pytest.raises(ValueError, match="no feature map is called 'favour'; did you mean 'favor'"):
        Features("favour")
    with pytest.raises(ValueError, match="num_features is 0"):
        Features("favor", 0)
    with pytest.raises(ValueError, match="no pattern is called Windw; did you mean Window"):
        Looks("Windw(3)")
    with pytest.raises(ValueError, match="no replacement is called 'x'"):
        swapping.plans.from_json({"kind": "x"})


def test_learned_features_are_the_definition():
    part = Features("learned").build(2, 4, 0).feature_map.double()
    with torch.no_grad():
        part.weight.normal_()
    x = torch.randn(3, 2, 5, 4, dtype=torch.float64)
    turned = torch.stack([x[:, h] @ part.weight[h].T for h in range(2)], 1)
    wanted = torch.cat((turned.softmax(-1), (-turned).softmax(-1)), -1)
    torch.testing.assert_close(part(x, True), wanted)


# --- what must not pass in silence ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "read"),
    [
        (hf.BertForMaskedLM, hf.AutoModel),
        (hf.BertModel, hf.AutoModelForSequenceClassification),
    ],
    ids=["body", "head"],
)
def test_a_folder_keeps_its_attention_under_another_head(tmp_path, kept, read):
    torch.manual_seed(0)
    model = swap(kept(hf.BertConfig(**WIDE)).eval(), sq.Window(1, 1))
    model.save_pretrained(tmp_path)
    again = read.from_pretrained(tmp_path).eval()
    assert len(plan_of(again)) == 3
    given = ids(1, 17)
    (found,) = (getattr(again, "bert", again)(given).last_hidden_state,)
    close(found, getattr(model, "bert", model)(given).last_hidden_state)


def test_restored_after_loading(tmp_path):
    model = swap(made(CAUSAL, "llama"), sq.Window(1))
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    restore(again)
    assert type(again) is hf.LlamaForCausalLM
    assert torch.equal(again(ids(1, 9)).logits, restore(model)(ids(1, 9)).logits)


def test_packed_rows_of_a_sliding_window_are_refused():
    model = swap(made(CAUSAL, "mistral"), Exact())
    packed = torch.tensor([[0, 1, 2, 0, 1]])
    with pytest.raises(ValueError, match="knows causal, two-sided and sliding masks, not"):
        model(ids(1, 5), position_ids=packed, use_cache=False)


def test_scores_that_are_capped_are_refused():
    torch.manual_seed(0)
    config = hf.Gemma2Config(**GROUPED, head_dim=8, attn_logit_softcapping=1.0)
    model = swap(hf.Gemma2ForCausalLM(config).eval(), Exact())
    with pytest.raises(ValueError, match="Gemma2Attention caps its scores or adds sinks"):
        model(ids(1, 5))


@pytest.mark.parametrize("pattern", ["SameLabel()", "Window(1, 1) | Marked()"])
def test_patterns_of_labels_and_marks_are_refused(pattern):
    with pytest.raises(ValueError, match="asks for labels or marks, which a swapped model"):
        Looks(pattern)


def test_sums_that_keys_never_reached_are_refused():
    layer = SumLayer()
    layer.update(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4))
    with pytest.raises(ValueError, match="changes keys after its cache has seen them"):
        layer.update(torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 4))


def test_more_features_come_nearer_to_softmax():
    wanted = made(CAUSAL, "llama", 0.1)(given := ids(1, 17)).logits

    def apart(count):
        errors = []
        for seed in range(5):
            found = swap(made(CAUSAL, "llama", 0.1), Features("favor", count, seed))(given).logits
            errors.append(float((found - wanted).detach().square().mean()))
        return sorted(errors)[2]

    assert apart(2048) < apart(64) / 4
