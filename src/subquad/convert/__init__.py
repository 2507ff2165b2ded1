"""Converters: checkpoints of others as ours and back, by tables that can be read against theirs.

One file per family: its rows of tensors (`subquad.convert.rows`) and fields of settings
(`subquad.convert.fields`). `FAMILIES` is the only list of them, by `model_type`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from subquad.convert import (
    adaptive_span,
    bert,
    gpt2,
    krasserm,
    led,
    linformer,
    lite,
    llama,
    longformer,
    perceiver,
    performer,
    reformer,
    transfo_xl,
    vit,
    wav2vec2,
    xlnet,
)
from subquad.convert.family import Family

__all__ = ["FAMILIES"]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        one.name: one
        for one in (
            gpt2.GPT2,
            llama.LLAMA,
            llama.MISTRAL,
            llama.QWEN2,
            bert.BERT,
            bert.ROBERTA,
            bert.BIGBIRD,
            longformer.LONGFORMER,
            longformer.ALLENAI,
            led.LED,
            led.BART,
            vit.VIT,
            perceiver.PERCEIVER,
            reformer.REFORMER,
            wav2vec2.WAV2VEC2_CONFORMER,
            xlnet.XLNET,
            transfo_xl.TRANSFO_XL,
            transfo_xl.ORIGINAL,
            adaptive_span.ADAPTIVE_SPAN,
            linformer.LINFORMER,
            performer.PERFORMER,
            lite.LITE,
            krasserm.LANGUAGE,
            krasserm.TEXTS,
            krasserm.IMAGES,
        )
    }
)
