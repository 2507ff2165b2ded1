"""Pretrained models of transformers at tiny random size, for tests that swap their attention."""

import torch
import transformers as hf

WORDS = 31
SMALL = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
WIDE = {**SMALL, "intermediate_size": 40, "max_position_embeddings": 96}
GROUPED = {**WIDE, "num_key_value_heads": 2}
PAIR = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
CAUSAL = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=7)),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=3, n_head=4, n_positions=96)
    ),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**WIDE)),
}
BOTH_WAYS = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**WIDE)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**WIDE)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(vocab_size=WORDS, dim=32, n_layers=3, n_heads=4, hidden_dim=40)
    ),
}


def _whisper():
    sizes = {k: v for k, v in PAIR.items() if k not in ("bos_token_id", "eos_token_id")}
    config = hf.WhisperConfig(**sizes, max_source_positions=20, num_mel_bins=8)
    return hf.WhisperForConditionalGeneration(config)


def _vit():
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 40, "image_size": 16, "patch_size": 4}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes))


#: those that read something else, or read and write
OTHERS = {
    "vit": _vit,
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**PAIR)),
    "whisper": _whisper,
}
FAMILIES = {**CAUSAL, **BOTH_WAYS, **OTHERS}


def inputs(name):
    """What a model of a family is given: two rows."""
    draw = torch.Generator().manual_seed(2)
    if name == "vit":
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=draw)}
    if name == "whisper":
        sound = torch.randn(2, 8, 40, generator=draw)
        return {"input_features": sound, "decoder_input_ids": ids(2, 9)}
    given = {"input_ids": ids(2, 17), "attention_mask": padded("right")}
    return {**given, "decoder_input_ids": ids(2, 9)} if name == "bart" else given


def made(families, name, std=0.2):
    torch.manual_seed(0)
    model = families[name]().eval()
    for p in model.parameters():  # as drawn, attention would be almost flat
        if p.dim() > 1:
            torch.nn.init.normal_(p, std=std)
    return model


def ids(*shape):
    return torch.randint(4, WORDS, shape, generator=torch.Generator().manual_seed(1))


def padded(side, length=17, real=(17, 11)):
    slots = torch.arange(length)
    counts = torch.tensor(real)[:, None]
    return (slots < counts if side == "right" else slots >= length - counts).long()


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
