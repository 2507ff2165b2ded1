"""What studies of swapped attention share: small models of transformers, trained here from scratch.

Words are bytes. Budgets are processor minutes, so that what other programs take costs none.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from measure import seconds_of
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from subquad.train.goals import Goal
from subquad.train.recover import Recovery, recover

__all__ = ["WORDS", "byte_tokens", "scratch", "spent"]

MARKS = ("<s>", "</s>", "<pad>", "<mask>", "<unk>")
#: bytes and marks
WORDS = 256 + len(MARKS)
TRIAL = 4  # steps that tell how long one takes


def byte_tokens(*, ends: bool) -> Any:
    """A tokenizer of bytes; ends: rows stand between two marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({c: i for i, c in enumerate([*MARKS, *alphabet])}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
    names |= {"cls_token": "<s>", "sep_token": "</s>"} if ends else {}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, **names)


def spent(minutes: float, model: Any, goal: Goal, how: Recovery) -> tuple[Any, dict]:
    """A model after so many processor minutes of `how`, in place, and what they were spent on.

    Its numbers of steps are taken from the time of a few and of five times as many, for reports
    take time too; 0 leaves a phase out.
    """
    phases = [name for name in ("steps", "tune_steps") if getattr(how, name)]

    def takes(steps: int) -> float:
        few = {"steps": 0, "tune_steps": 0, **dict.fromkeys(phases, steps)}
        return seconds_of(lambda: recover(copy.deepcopy(model), goal, replace(how, **few), print))

    less, more = takes(TRIAL), takes(5 * TRIAL)
    step = max((more - less) / (4 * TRIAL), less / 100)
    steps = max(1, int((minutes * 60 - less) / step))
    full = {"steps": 0, "tune_steps": 0, **dict.fromkeys(phases, steps)}
    found: list[Any] = []
    seconds = seconds_of(lambda: found.append(recover(model, goal, replace(how, **full), print)))
    return found[0], {**full, "processor seconds": round(seconds, 1)}


def scratch(
    folder: Path, make: Callable[[], Any], goal: Goal, minutes: float, **how: Any
) -> tuple[Any, dict]:
    """The model that a folder keeps, trained from scratch for so many minutes; and how it was.

    how: fields of `Recovery`, of which tuning takes a tenth of lr.
    """
    facts = folder / "trained.json"
    if not facts.exists():
        torch.manual_seed(how["seed"])
        alone = Recovery(steps=0, tune_steps=1_000_000, **how)
        model, told = spent(minutes, make(), goal, alone)
        model.save_pretrained(folder)
        told = {"steps": told["tune_steps"], "processor seconds": told["processor seconds"]}
        told |= {"parameters": sum(p.numel() for p in model.parameters())}
        facts.write_text(json.dumps(told))
    return type(make()).from_pretrained(folder).eval(), json.loads(facts.read_text())
