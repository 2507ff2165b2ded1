"""subquad swap as a user meets it: folders in, folders out, recovery in between."""

import json

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from subquad.cli import main
from subquad.hf.swapping import Exact, Looks, extend_positions, plan_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

WORDS = 261  # bytes and five marks
WIDE = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE |= {"intermediate_size": 40}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SUBQUAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    draw = torch.Generator().manual_seed(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "far"]
    picks = torch.randint(0, 10, (4000,), generator=draw).tolist()
    (tmp_path / "text.txt").write_text(" ".join(words[i] for i in picks))


def tokenizer(ends):
    marks = ["<s>", "</s>", "<pad>", "<mask>", "<unk>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate([*marks, *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>"} if ends else {}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def kept(name, model, ends=False):
    """A folder of a model whose attention is sharp."""
    torch.manual_seed(0)
    made = model()
    for p in made.parameters():
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=0.15)
    made.save_pretrained(name)
    tokenizer(ends).save_pretrained(name)


def gpt2(**fields):
    ends = {"bos_token_id": 0, "eos_token_id": 1}
    sizes = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **ends, **fields))


def roberta():
    return hf.RobertaForMaskedLM(
        hf.RobertaConfig(**WIDE, max_position_embeddings=67, pad_token_id=2, bos_token_id=0)
    )


def bert():
    return hf.BertModel(hf.BertConfig(**WIDE, max_position_embeddings=64, pad_token_id=2))


def said(capsys, *words, code=0):
    capsys.readouterr()
    assert main(["swap", *words]) == code
    out = capsys.readouterr()
    return out.out if code == 0 else out.err


def numbers(folder):
    return json.loads((folder / "swap.json").read_text())


@pytest.mark.slow
def test_learned_features_imitate_and_recover(tmp_path, capsys):
    kept("model", gpt2)
    quick = ["--context", "48", "--steps", "60", "--lr", "0.03", "--batch", "4"]
    out = said(capsys, "model", "dest", "--mixer", "learned", "--distill", "text.txt", *quick)
    assert "each of 2 layers imitates its attention, 60 steps" in out
    assert "the whole model is tuned, 60 steps" in out
    found = numbers(tmp_path / "dest")
    assert found["metric"] == "nats per token"
    errors = found["layer errors"]
    assert list(errors["swapped"]) == ["transformer.h.0.attn", "transformer.h.1.attn"]
    for name, error in errors["swapped"].items():
        assert errors["recovered"][name] < 0.7 * error
    assert found["recovered"] < found["swapped"]
    model = hf.AutoModelForCausalLM.from_pretrained("dest").eval()
    ids = hf.AutoTokenizer.from_pretrained("dest")("the cat sat on", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=5, do_sample=False).shape[1] == 19


@pytest.mark.slow
def test_a_masked_model_gets_longer(tmp_path, capsys):
    pytest.importorskip("peft", reason="adapters need peft")
    kept("model", roberta, ends=True)
    flags = ["--window", "8", "--global", "first", "--positions", "500", "--lora", "2"]
    out = said(
        capsys,
        "model",
        "dest",
        *flags,
        "--distill",
        "text.txt",
        "--context",
        "32",
        "--steps",
        "8",
        "--batch",
        "2",
    )
    assert "64 positions, repeated to 500" in out
    found = numbers(tmp_path / "dest")
    assert found["metric"] == "nats per hidden token"
    assert found["recovered"] < found["swapped"]
    model = hf.AutoModelForMaskedLM.from_pretrained("dest").eval()
    assert set(plan_of(model).values()) == {Looks("Window(8, 8)", first=True)}
    assert not any("lora" in name for name in model.state_dict())
    ids = torch.randint(5, WORDS, (1, 500))
    assert model(ids).logits.shape == (1, 500, WORDS)
    assert hf.AutoTokenizer.from_pretrained("dest").model_max_length == 500


@pytest.mark.slow
def test_an_encoder_without_a_head(tmp_path, capsys):
    kept("model", bert, ends=True)
    out = said(
        capsys,
        "model",
        "dest",
        "--mixer",
        "favor",
        "--features",
        "8",
        "--distill",
        "text.txt",
        "--context",
        "32",
        "--steps",
        "10",
        "--batch",
        "4",
        "--lr",
        "0.01",
    )
    found = numbers(tmp_path / "dest")
    assert abs(found["before"]) < 1e-5 < found["recovered"] < found["swapped"]
    # random features have nothing to learn, so no layer imitates
    assert "imitates" not in out


def test_exact_layers_between(capsys):
    kept("model", gpt2)
    out = said(capsys, "model", "dest", "--mixer", "favor", "--exact-every", "2")
    assert "transformer.h.0.attn: Exact()" in out
    assert "transformer.h.1.attn: Features(map='favor', num_features=256, seed=0)" in out
    model = hf.AutoModelForCausalLM.from_pretrained("dest")
    assert plan_of(model)["transformer.h.0.attn"] == Exact()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere", "dest"], "nowhere holds no model of transformers"),
        (["model", "model"], "model is there already; name a folder that is not"),
        (
            ["model", "dest", "--mixer", "windw"],
            "no mixer is called 'windw'; did you mean 'window'",
        ),
        (["model", "dest", "--mixer", "pattern"], "--mixer pattern wants --pattern"),
        (["model", "dest", "--mixer", "relu", "--global", "first"], "relu has no pattern"),
        (["model", "dest", "--global", "last"], "no --global is called 'last'"),
        (["model", "dest", "--mixer", "lsh", "--buckets", "[3]"], "3 is not an even number"),
        (["model", "dest", "--mixer", "lsh", "--rounds", "0"], "rounds must be at least 1, not 0"),
        (["model", "dest", "--mixer", "lsh", "--window", "0"], "at least 1 token of a bucket"),
        (["model", "dest", "--layers", "[4]"], "layer 4 is none of the 2 layers, 0 to 1"),
        (["model", "dest", "--exact-every", "0"], "--exact-every is 0; it counts layers"),
        (["model", "dest", "--positions", "60"], "gpt2 has 64 positions already, 60 asked"),
        (["model", "dest", "--distill", "none.txt"], "there is nothing at none.txt"),
        (["model", "dest", "--distill", "tiny.txt"], "a row takes 64; give more text"),
        (["model", "dest", "--distill", "text.txt", "--steps", "-1"], "steps -1 and tune_steps"),
        (["model", "dest", "--globl", "first"], "there is no --globl; did you mean --global?"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, words, says):
    kept("model", gpt2)
    (tmp_path / "tiny.txt").write_text("too short")
    err = said(capsys, *words, code=2)
    assert says in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == [
        "model",
        "text.txt",
        "tiny.txt",
    ]


def cut_short(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def with_code(folder):
    (folder / "model.safetensors").unlink()
    torch.save(torch.nn.Linear(2, 2), folder / "pytorch_model.bin")


def lacking(folder):
    change(folder, lambda made: [made.pop(n) for n in sorted(made) if ".mlp." in n])


def another_shape(folder):
    change(folder, lambda made: made.update({"transformer.wte.weight": torch.ones(9, 32)}))


def of_another_version(folder):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "n_embd": "wide"}))


def change(folder, what):
    made = load_file(folder / "model.safetensors")
    what(made)
    save_file(made, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_short, "model cannot be read: SafetensorError"),
        (with_code, "model cannot be read: "),
        (lacking, "model lacks 8 tensors of a GPT2LMHeadModel: transformer.h.0.mlp.c_fc.bias, "),
        (another_shape, "model cannot be read: "),
        (of_another_version, "model holds no model of transformers: "),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_damaged_models_are_one_line_and_leave_nothing(tmp_path, capsys, spoil, says):
    kept("model", gpt2)
    spoil(tmp_path / "model")
    err = said(capsys, "model", "dest", code=2)
    assert says in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["model", "text.txt"]


def test_tensors_too_many_are_told(tmp_path, capsys):
    kept("model", gpt2)
    change(tmp_path / "model", lambda made: made.update({"transformer.h.9.x": torch.ones(1)}))
    out = said(capsys, "model", "dest")
    assert "left out: 1 tensors that are none of a GPT2LMHeadModel's: transformer.h.9.x" in out


def test_a_swapped_folder_is_not_swapped_again(capsys):
    kept("model", gpt2)
    said(capsys, "model", "dest")
    assert "dest is swapped already" in said(capsys, "dest", "other", code=2)


@pytest.mark.parametrize(
    ("make", "first"), [(gpt2, 0), (roberta, 3), (bert, 0)], ids=["gpt2", "roberta", "bert"]
)
def test_positions_are_repeated(make, first):
    torch.manual_seed(0)
    model = make().eval()
    table = model.get_parameter(
        next(n for n, _ in model.named_parameters() if "position_embeddings" in n or "wpe" in n)
    )
    old = table.detach().clone()
    size = len(old) - first
    ids = torch.randint(5, WORDS, (1, size))
    wanted = model(ids)[0]
    assert extend_positions(model, 2 * size + 7) == (size, 2 * size + 7)
    assert torch.equal(model(ids)[0], wanted)
    new = next(p for n, p in model.named_parameters() if "position_embeddings" in n or "wpe" in n)
    repeated = torch.cat((old, old[first:], old[first : first + 7]))
    assert torch.equal(new, repeated)
    assert model(torch.randint(5, WORDS, (1, 2 * size + 7)))[0].isfinite().all()


def test_rotary_positions_need_no_table():
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**WIDE, max_position_embeddings=64))
    assert extend_positions(model, 128) == (64, 128)
    assert model.config.max_position_embeddings == 128


def test_a_model_without_either():
    t5 = hf.T5Model(hf.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="t5 has no table of learnt positions and no rotary ones"):
        extend_positions(t5, 64)


PLACED = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 20,
}
OFFSET = {
    "biogpt": lambda: hf.BioGptForCausalLM(hf.BioGptConfig(**WIDE, max_position_embeddings=20)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=40,
            word_embed_proj_dim=32,
            max_position_embeddings=20,
        )
    ),
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**PLACED)),
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**PLACED)),
    "plbart": lambda: hf.PLBartForConditionalGeneration(hf.PLBartConfig(**PLACED)),
}


@pytest.mark.parametrize("name", OFFSET)
def test_positions_after_rows_that_a_class_adds(tmp_path, name):
    torch.manual_seed(0)
    model = OFFSET[name]().eval()
    short, long = (torch.randint(5, WORDS, (1, n)) for n in (20, 50))
    wanted = model(short)[0]
    assert extend_positions(model, 50) == (20, 50)
    assert torch.equal(model(short)[0], wanted)
    model.save_pretrained(tmp_path / "long")
    again = type(model).from_pretrained(tmp_path / "long").eval()
    assert torch.equal(again(long)[0], model(long)[0])


def test_positions_that_cannot_be_repeated():
    sizes = {k: v for k, v in PLACED.items() if k != "max_position_embeddings"}
    marks = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    whisper = hf.WhisperModel(hf.WhisperConfig(**sizes, **marks, num_mel_bins=8))
    with pytest.raises(
        ValueError, match=r"whisper counts its positions apart \(encoder\.embed_pos"
    ):
        extend_positions(whisper, 4000)
    marian = hf.MarianModel(hf.MarianConfig(**PLACED, pad_token_id=1, decoder_start_token_id=2))
    with pytest.raises(ValueError, match=r"encoder\.embed_positions, a table of sines, which"):
        extend_positions(marian, 64)


@pytest.mark.slow
@pytest.mark.parametrize(("make", "ends"), [(gpt2, False), (bert, True)], ids=["gpt2", "bert"])
def test_recovery_on_rows_longer_than_the_model_was(tmp_path, capsys, make, ends):
    kept("model", make, ends)
    long = ["--positions", "160", "--context", "128", "--steps", "2", "--batch", "2"]
    out = said(capsys, "model", "dest", "--window", "8", "--distill", "text.txt", *long)
    assert ", 64 tokens" in out
    found = numbers(tmp_path / "dest")
    assert (found["context before"], found["context"]) == (64, 128)
    assert found["recovered"] == found["recovered"]  # a number


def test_rows_longer_than_the_positions_are_refused(capsys):
    kept("model", gpt2)
    flags = ["--distill", "text.txt", "--context", "100"]
    says = "--context 100 is more than the {} positions of the model; --positions 100 repeats them"
    assert says.format(64) in said(capsys, "model", "dest", *flags, code=2)
    assert says.format(80) in said(capsys, "model", "dest", *flags, "--positions", "80", code=2)


def vit():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 40, "image_size": 16, "patch_size": 4}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes))


def test_pictures_keep_their_processor(tmp_path, capsys):
    torch.manual_seed(0)
    vit().save_pretrained("model")
    settings = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    said(capsys, "model", "dest", "--window", "4")
    assert json.loads((tmp_path / "dest" / "preprocessor_config.json").read_text()) == settings
    model = hf.AutoModelForImageClassification.from_pretrained("dest").eval()
    assert len(plan_of(model)) == 2
    assert "model has no tokenizer to read it" in said(
        capsys, "model", "other", "--distill", "stdlib", code=2
    )


def test_a_family_with_a_position_bias_is_refused_by_name(tmp_path, capsys):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4}
    hf.T5ForConditionalGeneration(hf.T5Config(vocab_size=WORDS, **sizes)).save_pretrained("t5")
    tokenizer(False).save_pretrained("t5")
    err = said(capsys, "t5", "dest", "--mixer", "favor", code=2)
    assert "t5 has " in err
    assert "relative_attention_bias" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "dest").exists()


def softcap():
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**WIDE, **sizes))


def sinks():
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    sizes |= {"num_local_experts": 2, "num_experts_per_tok": 1}
    return hf.GptOssForCausalLM(hf.GptOssConfig(**WIDE, **sizes))


def other_widths():
    sizes = {"num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 2, "topk_group": 1}
    sizes |= {"num_experts_per_tok": 2, "first_k_dense_replace": 2, "q_lora_rank": 8}
    sizes |= {"kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = hf.DeepseekV3Config(**WIDE, **sizes, moe_intermediate_size=16)
    return hf.DeepseekV3ForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "mixer", "says"),
    [
        (softcap, "window", "Gemma2ForCausalLM {}: Gemma2Attention caps its scores or adds sinks"),
        (sinks, "window", "GptOssForCausalLM {}: GptOssAttention caps its scores or adds sinks"),
        (other_widths, "favor", "DeepseekV3ForCausalLM {}: the projection takes rows of width 4"),
    ],
)
def test_what_no_forward_would_take_is_refused_before_anything_is_written(
    tmp_path, capsys, make, mixer, says
):
    kept("model", make)
    err = said(capsys, "model", "dest", "--mixer", mixer, code=2)
    assert says.format("does not run with its attention swapped") in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["model", "text.txt"]


def test_every_mixer_from_the_command_line(capsys):
    kept("model", gpt2)
    made = {
        "exact": "Exact()",
        "window": "Looks(pattern='Window(256, 256)', first=True)",
        "favor": "Features(map='favor', num_features=256, seed=0)",
        "linear": "Features(map='elu', num_features=256, seed=0)",
        "lsh": "Hashes(rounds=2, buckets=(4, 4), window=8, seed=0)",
    }
    more = {"window": ["--global", "cls"]}
    more["lsh"] = ["--rounds", "2", "--buckets", "[4,4]", "--window", "8"]
    for mixer, told in made.items():
        out = said(capsys, "model", mixer, "--mixer", mixer, *more.get(mixer, []))
        assert f"transformer.h.1.attn: {told}" in out
        assert str(plan_of(hf.AutoModelForCausalLM.from_pretrained(mixer))).count(told) == 2
