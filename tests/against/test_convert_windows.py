"""Windows and slowed rotary positions of Llama's kin: official classes at tiny random size through
the converter, inputs longer than windows and than the lengths that rates were made for.

float64 on both sides; their angles are float32 whatever the weights are.
"""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

from converting import config, converted
from subquad.cli import main
from subquad.convert.folder import convert

WORDS, LENGTH, WINDOW, CLOSE = 60, 50, 7, 1e-5
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
}
MISTRAL = {**SIZES, "sliding_window": WINDOW}
QWEN2 = {**SIZES, "use_sliding_window": True, "sliding_window": WINDOW}
LISTED = ["sliding_attention", "full_attention", "sliding_attention"]
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
# of the four rates of a head one is fast, one between, two are slow
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}
#: kind, settings, the architecture here, and some of what it is told
CASES = {
    "mistral": ("Mistral", MISTRAL, "local", {"window": WINDOW - 1}),
    "mistral-itself": ("Mistral", MISTRAL | {"sliding_window": 1}, "local", {"window": 0}),
    "mistral-wide": ("Mistral", MISTRAL | {"sliding_window": 99}, "local", {"window": 98}),
    "mistral-without": ("Mistral", MISTRAL | {"sliding_window": None}, "transformer", {}),
    "mistral-slow": (
        "Mistral",
        MISTRAL | {"rope_parameters": LLAMA3},
        "local",
        {"position": "rotary_llama3:10000.0,8.0,1.0,4.0,100.0"},
    ),
    "qwen2-later": (
        "Qwen2",
        QWEN2 | {"max_window_layers": 1},
        "hybrid",
        {"kinds": ["full", "local", "local"], "window": WINDOW - 1},
    ),
    "qwen2-listed": (
        "Qwen2",
        QWEN2 | {"layer_types": LISTED},
        "hybrid",
        {"kinds": ["local", "full", "local"]},
    ),
    "qwen2-never": ("Qwen2", QWEN2, "hybrid", {"kinds": ["full"] * 3}),
    "qwen2-without": ("Qwen2", QWEN2 | {"sliding_window": None}, "transformer", {}),
    "qwen2-unused": ("Qwen2", QWEN2 | {"use_sliding_window": False}, "transformer", {}),
    "llama-linear": (
        "Llama",
        SIZES | {"rope_parameters": LINEAR},
        "transformer",
        {"position": "rotary_linear:10000.0,2.0"},
    ),
    "llama-3": (
        "Llama",
        SIZES | {"rope_parameters": LLAMA3, "tie_word_embeddings": True},
        "transformer",
        {"position": "rotary_llama3:10000.0,8.0,1.0,4.0,100.0"},
    ),
}


def made(kind, fields):
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    kind = getattr(hf, kind)
    model = kind(kind.config_class(**fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model.eval()


def tokens(*lengths, left=False):
    """Random words and their mask."""
    torch.manual_seed(1)
    most = max(lengths)
    mask = (torch.arange(most) < torch.tensor(lengths)[:, None]).long()
    return torch.randint(3, WORDS, (len(lengths), most)), mask.flip(1) if left else mask


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("body", [False, True], ids=["words", "body"])
def test_equal_outputs_and_the_way_back(name, body, tmp_path):
    kind, fields, arch, told = CASES[name]
    model = made(f"{kind}{'Model' if body else 'ForCausalLM'}", fields)
    ours = converted(model, tmp_path)
    found = config(tmp_path / "ours")
    assert found["arch"] == arch
    assert {key: found["model"][key] for key in told} == told
    (tmp_path / "back").mkdir()
    convert(tmp_path / "ours", tmp_path / "back")
    went, came = (load_file(tmp_path / w / "model.safetensors") for w in ("theirs", "back"))
    assert went.keys() == came.keys()
    assert all(torch.equal(went[k], came[k]) for k in went)
    assert config(tmp_path / "theirs") == config(tmp_path / "back")

    ids, mask = tokens(LENGTH, 33)
    with torch.no_grad():
        y, wanted = (m.double()(ids, attention_mask=mask) for m in (ours, model))
    y, wanted = (o.last_hidden_state if body else o.logits for o in (y, wanted))
    real = mask > 0
    torch.testing.assert_close(y[real], wanted[real], rtol=CLOSE, atol=CLOSE)
    assert wanted[real].std() > 0.02


@pytest.mark.parametrize("name", ["mistral", "mistral-slow", "qwen2-listed", "llama-3"])
def test_equal_words(name, tmp_path):
    """Far beyond the window, with padding on the left."""
    kind, fields, *_ = CASES[name]
    model = made(f"{kind}ForCausalLM", fields).double()
    converted(model, tmp_path)
    ours = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    ids, mask = tokens(12, 5, left=True)
    how = {"max_new_tokens": 24, "pad_token_id": 0, "eos_token_id": None, "do_sample": False}
    words = [m.generate(ids, attention_mask=mask, **how) for m in (ours, model)]
    assert torch.equal(*words)
    assert len(words[0].unique()) > 3


def test_a_window_counts_the_token_itself(tmp_path):
    """In one layer the first token reaches WINDOW outputs, its own among them."""
    model = made("MistralForCausalLM", {**MISTRAL, "num_hidden_layers": 1}).double()
    ours = converted(model, tmp_path)
    ids = tokens(20)[0]
    other = ids.clone()
    other[0, 0] = (ids[0, 0] + 1) % WORDS
    with torch.no_grad():
        for one in (model, ours):
            moved = (one(ids).logits != one(other).logits).any(-1)[0]
            assert moved.nonzero().flatten().tolist() == [*range(WINDOW)]


def test_slower_rates_matter(tmp_path):
    """Else equal outputs would say nothing of them."""
    ids = tokens(LENGTH)[0]
    slow, plain = (
        made("LlamaForCausalLM", SIZES | {"rope_parameters": rope})(ids).logits
        for rope in (LLAMA3, {"rope_type": "default", "rope_theta": 1e4})
    )
    assert (slow - plain).abs().max() > 0.01


@pytest.mark.parametrize("word", ["rope_type", "type"])
def test_as_older_files_spell_it(word, tmp_path):
    """`rope_scaling` beside `rope_theta`, as Llama 3.1 was released, and its first spelling."""
    model = made("LlamaForCausalLM", SIZES | {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}})
    model.save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    told = json.loads(path.read_text())
    scaling = told.pop("rope_parameters")
    told["rope_theta"], kind = scaling.pop("rope_theta"), scaling.pop("rope_type")
    path.write_text(json.dumps({**told, "rope_scaling": {**scaling, word: kind}}))
    for name in ("ours", "back"):
        (tmp_path / name).mkdir()
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back")
    assert config(tmp_path / "ours")["model"]["position"].startswith("rotary_llama3:500000.0,8.0,")
    read = [hf.AutoConfig.from_pretrained(tmp_path / name) for name in ("theirs", "back")]
    names = ("rope_type", "rope_theta", "factor", "original_max_position_embeddings")
    for key in names:
        assert read[0].rope_parameters[key] == read[1].rope_parameters[key]
    again = hf.AutoModelForCausalLM.from_pretrained(tmp_path / "back").eval()
    ids = tokens(20)[0]
    assert torch.equal(again(ids).logits, model(ids).logits)


NO_WINDOW = "sliding_window: a window of 0 holds no token; 1 is the token itself, null all"
NO_WIDTH = "head_dim is 16, and hidden_size 32 by num_attention_heads 4 is 8: ours gives each head"


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("Mistral", MISTRAL | {"sliding_window": 0}, NO_WINDOW),
        ("Qwen2", QWEN2 | {"sliding_window": 0, "layer_types": LISTED}, NO_WINDOW),
        (
            "Mistral",
            MISTRAL | {"rope_parameters": LINEAR | {"factor": 0.5}},
            "factor is 0.5; rates are div",
        ),
        (
            "Mistral",
            MISTRAL | {"rope_parameters": LLAMA3 | {"low_freq_factor": 4.0}},
            "low is 4.0, high 4.0",
        ),
        *((kind, SIZES | {"head_dim": 16}, NO_WIDTH) for kind in ("Llama", "Mistral", "Qwen2")),
    ],
    ids=["window", "window-qwen2", "factor", "bands", "width", "width-mistral", "width-qwen2"],
)
def test_what_cannot_be_is_said_in_one_line(kind, fields, says, tmp_path, capsys):
    made(f"{kind}ForCausalLM", fields).save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {"rope_type": "dynamic", "factor": 2.0},
    ],
    ids=lambda rope: rope["rope_type"],
)
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Qwen2"])
def test_other_rates_are_refused_by_name(kind, rope, tmp_path, capsys):
    model = made(f"{kind}ForCausalLM", SIZES | {"rope_parameters": rope | {"rope_theta": 1e4}})
    model.save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    word = rope["rope_type"]
    assert f"rope_parameters: {word!r} is none of 'default', 'linear', 'llama3'" in said
