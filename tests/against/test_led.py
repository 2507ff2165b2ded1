"""LED and BART of transformers at tiny random size, their weights in our parts: equal outputs."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    LEDConfig,
    LEDForConditionalGeneration,
    LEDModel,
)

from converting import config, converted
from subquad.convert.folder import convert

SIZES = {
    "vocab_size": 60,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}
TOKENS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}


def loud(model):
    """Weights large enough that every part matters."""
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.double().eval()


@pytest.fixture
def in_full_precision(monkeypatch):
    """Their softmax is float32 whatever the weights are; here it is as wide as what it is given."""
    softmax = torch.nn.functional.softmax

    def wide(x, dim=None, _stacklevel=3, dtype=None):
        return softmax(x, dim, dtype=None if x.dtype == torch.float64 else dtype)

    monkeypatch.setattr(torch.nn.functional, "softmax", wide)


def led():
    torch.manual_seed(0)
    lengths = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 40}
    config = LEDConfig(**SIZES, **TOKENS, **lengths, attention_window=[8, 12])
    theirs = loud(LEDForConditionalGeneration(config))
    return theirs


def bart():
    torch.manual_seed(0)
    config = BartConfig(**SIZES, **TOKENS, max_position_embeddings=64)
    return loud(BartForConditionalGeneration(config))


def source(marks=None):
    ids = torch.randint(3, 60, (3, 37))
    mask = (torch.arange(37) < torch.tensor([37, 20, 3])[:, None]).long()
    ids = ids.masked_fill(mask == 0, 1)
    given = {"input_ids": ids, "attention_mask": mask}
    if marks is not None:
        given["global_attention_mask"] = torch.zeros_like(ids)
        given["global_attention_mask"][:, marks] = 1
    return given


SOURCES = {
    "led": (led, {"marks": [0]}),
    "led-two-marks": (led, {"marks": [0, 2]}),
    "led-no-marks": (led, {}),
    "bart": (bart, {}),
}


@pytest.mark.parametrize("name", SOURCES)
def test_equal_logits(name, in_full_precision, tmp_path):
    make, how = SOURCES[name]
    theirs, given = make(), source(**how)
    ours = converted(theirs, tmp_path)
    written = torch.randint(3, 60, (3, 15))
    found = ours(**given, decoder_input_ids=written)
    wanted = theirs(**given, decoder_input_ids=written)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=1e-9, atol=1e-9)
    real = given["attention_mask"] > 0
    memory, theirs_ = found.encoder_last_hidden_state, wanted.encoder_last_hidden_state
    torch.testing.assert_close(memory[real], theirs_[real], rtol=1e-9, atol=1e-9)
    labels = written.masked_fill(torch.arange(15) > torch.tensor([14, 9, 3])[:, None], -100)
    losses = [m(**given, labels=labels).loss for m in (ours, theirs)]
    # both take the loss in float32
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6, check_dtype=False)


MODES = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "returned": {"num_beams": 4, "num_return_sequences": 2},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SOURCES)
def test_equal_words(name, mode, in_full_precision, tmp_path):
    make, how = SOURCES[name]
    theirs, given = make(), source(**how)
    ours = converted(theirs, tmp_path)
    # random weights would say one word for ever
    options = {"max_new_tokens": 14, "no_repeat_ngram_size": 1, **MODES[mode]}
    for model in (ours, theirs):
        model.generation_config.forced_eos_token_id = None  # BART's own
    words = [m.generate(**given, **options) for m in (ours, theirs)]
    assert torch.equal(*words)
    assert len(words[0].unique()) > 9


BODIES = {"led": (LEDModel, led), "bart": (BartModel, bart)}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_alone_writes_as_theirs_does(name, in_full_precision, tmp_path):
    """As its class with a head reads it: equal features, logits and words; and the way back."""
    body, make = BODIES[name]
    whole = make()
    model = loud(body(whole.config))
    ours = converted(model, tmp_path)
    assert config(tmp_path / "theirs")["architectures"] == [body.__name__]
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    went, came = (load_file(tmp_path / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    assert config(tmp_path / "theirs") == config(tmp_path / "back")

    head = type(whole).from_pretrained(tmp_path / "theirs").eval()
    given = source(**({"marks": [0]} if name == "led" else {}))
    written = {"decoder_input_ids": torch.randint(3, 60, (3, 15))}
    with torch.no_grad():
        found, wanted = ours(**given, **written), model(**given, **written)
        features = found.logits @ torch.linalg.pinv(model.shared.weight).T
    real = given["attention_mask"] > 0
    memory = wanted.encoder_last_hidden_state[real]
    torch.testing.assert_close(found.encoder_last_hidden_state[real], memory, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features, wanted.last_hidden_state, rtol=1e-8, atol=1e-8)
    words = [m.generate(**given, max_new_tokens=9, no_repeat_ngram_size=1) for m in (ours, head)]
    assert torch.equal(*words)


def test_a_bias_that_a_body_has_no_place_for(tmp_path):
    model = loud(BartModel(bart().config))
    ours = converted(model, tmp_path)
    torch.nn.init.ones_(ours.model.decoder.head.project.bias)
    ours.save_pretrained(tmp_path / "ours")
    (tmp_path / "back").mkdir()
    with pytest.raises(ValueError, match=r"decoder.head.project.bias is not zero, and they have"):
        convert(tmp_path / "ours", tmp_path / "back")
