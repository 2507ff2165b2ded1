"""Every head that transformers has for some families: converted, or refused by its name.

And what heads and stems do by themselves as theirs do: marks, kinds, questions that hold no answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers.models.auto import modeling_auto

from converting import config, converted
from subquad.cli import main
from subquad.convert import FAMILIES
from subquad.convert.folder import convert

WORDS, LENGTH, BLOCK, DRAWS = 60, 40, 4, 2
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 90,
    "sep_token_id": 2,
}
BIG = {**SIZES, "block_size": BLOCK, "num_random_blocks": DRAWS}
LONG = {**SIZES, "pad_token_id": 1, "attention_window": [8, 12]}
DENSE = BLOCK * (5 + 2 * DRAWS)
FLOAT32 = 64 * torch.finfo(torch.float32).eps


def theirs(kind: str, fields: dict[str, Any]) -> Any:
    """Their class, its weights so large that every part matters."""
    torch.manual_seed(0)
    model = getattr(hf, kind)(getattr(hf, kind).config_class(**fields))
    for p in model.parameters():
        torch.nn.init.normal_(p, mean=float(p.dim() == 1), std=0.3)
    return model.eval()


def pair(kind: str, fields: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    """Ours and theirs in float64."""
    model = theirs(kind, fields)
    return converted(model, folder).double(), model.double()


def real(lengths: list[int], slots: int) -> Tensor:
    return (torch.arange(slots) < torch.tensor(lengths)[:, None]).long()


# --- all of them --------------------------------------------------------------------------------

FULL = ("bart", "bert", "big_bird", "gpt2", "led", "llama", "longformer", "mistral", "qwen2")
FULL += ("roberta", "vit", "xlnet")


def heads(family: str) -> set[str]:
    """The classes that any Auto class of transformers gives for a family."""
    tables = [t for name, t in vars(modeling_auto).items() if name.endswith("_MAPPING_NAMES")]
    found = [t[family] for t in tables if family in t]
    names = {n for one in found for n in ([one] if isinstance(one, str) else one)}
    own = modeling_auto.MODEL_MAPPING_NAMES[family].removesuffix("Model")  # others build on it
    return {name for name in names if name.startswith(own) and not name.endswith("Config")}


@pytest.mark.parametrize("family", FULL)
def test_every_head_converts_or_is_refused_by_name(family: str):
    known = FAMILIES[family]
    assert len(heads(family)) > 2
    assert heads(family) == heads(family) & {*known.heads, *known.refused}
    assert not {*known.heads} & {*known.refused}


REFUSED = [(family, name) for family in FULL for name in FAMILIES[family].refused]


@pytest.mark.parametrize(("family", "name"), REFUSED)
def test_a_refused_head_says_why(family, name, tmp_path, monkeypatch, capsys):
    """In one line, before any weights are looked for."""
    monkeypatch.chdir(tmp_path)
    assert hasattr(hf, name)
    Path("theirs").mkdir()
    Path("theirs/config.json").write_text(
        json.dumps({"model_type": family, "architectures": [name]})
    )
    assert main(["convert", "theirs", "ours"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{name} of {family} is not converted: it" in said
    assert not Path("ours").exists()


@pytest.mark.parametrize(
    ("kind", "fields", "says"),
    [
        ("BertLMHeadModel", SIZES, "this bert has is_decoder False, which ours does not compute"),
        (
            "BertForMaskedLM",
            SIZES | {"is_decoder": True},
            "this bert has is_decoder True, which ours does not compute; it needs False",
        ),
        (
            "BigBirdForQuestionAnswering",
            BIG | {"rescale_embeddings": True},
            "this big_bird has rescale_embeddings True, which ours does not compute; it needs",
        ),
    ],
)
def test_settings_of_heads_that_are_refused(kind, fields, says, tmp_path, capsys):
    theirs(kind, fields).save_pretrained(tmp_path / "theirs")
    capsys.readouterr()
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


# --- BigBird's marks ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["BigBirdForMaskedLM", "BigBirdForSequenceClassification"])
@pytest.mark.parametrize("lengths", [[DENSE, 3], [DENSE - 3, 9], [2, 1]])
def test_bigbird_looks_everywhere_by_itself(kind, lengths, tmp_path):
    """Up to 5 + 2 r blocks, as theirs: nothing is marked by hand."""
    ours, model = pair(kind, BIG, tmp_path)
    ids = torch.randint(3, WORDS, (2, lengths[0]))
    mask = real(lengths, lengths[0])
    given = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    with torch.no_grad():
        found, wanted = ours(**given).logits, model(**given).logits
        apart = ours(**given, global_attention_mask=torch.zeros_like(ids)).logits
    if wanted.dim() == 3:
        found, wanted, apart = (t[mask > 0] for t in (found, wanted, apart))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert lengths[0] < BLOCK or (apart - wanted).abs().max() > 0.01


def test_bigbird_marks_both_ends_of_longer_inputs(tmp_path):
    """Of each row its own; and the line says what is not theirs there."""
    ours, _ = pair("BigBirdForMaskedLM", BIG, tmp_path)
    (tmp_path / "again").mkdir()
    said = convert(tmp_path / "theirs", tmp_path / "again")
    assert "ours looks at random blocks, where theirs draws them in training alone" in said
    lengths = [DENSE + 14, DENSE + 5, DENSE]
    ids, mask = torch.randint(3, WORDS, (3, lengths[0])), real(lengths, lengths[0])
    marks = torch.zeros_like(ids)
    marks[:, :BLOCK] = 1
    marks[0, 48:50] = marks[1, 40:41] = marks[2, :DENSE] = 1
    with torch.no_grad():
        found = ours(ids, attention_mask=mask).logits
        wanted = ours(ids, attention_mask=mask, global_attention_mask=marks).logits
    torch.testing.assert_close(found[mask > 0], wanted[mask > 0], rtol=0, atol=0)


def test_bigbird_without_its_marks_does_not_go_back(tmp_path):
    ours, _ = pair("BigBirdForMaskedLM", BIG, tmp_path)
    told = config(tmp_path / "ours")
    told["stem"]["ends"] = 0
    (tmp_path / "ours" / "config.json").write_text(json.dumps(told))
    (tmp_path / "back").mkdir()
    with pytest.raises(ValueError, match=r"big_bird has stem.ends 4 here, and this model 0"):
        convert(tmp_path / "ours", tmp_path / "back")


# --- questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [False, True])
def test_bigbird_keeps_the_question_out_by_itself(kinds, tmp_path):
    """It is of the first kind of tokens and holds no answer; the first token may still be one."""
    ours, model = pair("BigBirdForQuestionAnswering", BIG, tmp_path)
    ids, mask = torch.randint(3, WORDS, (3, 30)), real([30, 22, 17], 30)
    ids[0, [9, 29]] = ids[1, [4, 21]] = 2  # the last has no separator
    given = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    if kinds:
        given["token_type_ids"] = torch.randint(0, 2, (3, 30))
    ends = {"start_positions": torch.tensor([12, 0, 5]), "end_positions": torch.tensor([14, 0, 9])}
    with torch.no_grad():
        found, wanted = ours(**given), model(**given)
        alone = [ours(**{k: v[:1] for k, v in given.items()}, **_first(ends)).loss]
        alone += [model(**{k: v[:1] for k, v in given.items()}, **_first(ends)).loss]
    for name in ("start_logits", "end_logits"):
        one, other = getattr(found, name)[mask > 0], getattr(wanted, name)[mask > 0]
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-10)
    assert (found.start_logits[0, 1:10] < -9e5).all()
    assert found.start_logits[0, 0] > -100
    torch.testing.assert_close(*alone, check_dtype=False)


def _first(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t[:1] for name, t in given.items()}


def test_longformer_marks_the_choices_by_itself(tmp_path):
    """Behind the second of three separators, as theirs; loss and gradients too."""
    ours, model = pair("LongformerForMultipleChoice", LONG, tmp_path)
    ids = torch.randint(3, WORDS, (2, 3, LENGTH))
    ids[0, :, [9, 10, 29]] = ids[1, :, [4, 5, LENGTH - 1]] = 2
    mask = real([30, LENGTH], LENGTH)[:, None].repeat(1, 3, 1)
    given = {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}
    labels = torch.tensor([2, 0])
    found, wanted = ours(**given, labels=labels), model(**given, labels=labels)
    apart = ours(**given, global_attention_mask=torch.zeros_like(ids))
    assert found.logits.shape == (2, 3)
    torch.testing.assert_close(found.logits, wanted.logits, rtol=FLOAT32, atol=FLOAT32)
    torch.testing.assert_close(found.loss, wanted.loss, rtol=FLOAT32, atol=FLOAT32)
    assert (apart.logits - found.logits).abs().max() > 0.01
    found.loss.backward()
    wanted.loss.backward()
    torch.testing.assert_close(
        ours.model.head.label.weight.grad, model.classifier.weight.grad, rtol=1e-4, atol=1e-4
    )
