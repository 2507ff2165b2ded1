"""What tasks over pairs begin with: both sides of a run, or of a checkpoint that was converted."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from subquad.archs import PAIRS
from subquad.hf import SubquadConfig

__all__ = ["ends_in", "pair_in", "standing"]

_BOTH = ("dim", "num_heads", "ffn_dim", "dropout")  # sizes that encoder_decoder has once
_ENDS = ("stem", "head", "tie_word_embeddings")


def pair_in(folder: Path, told: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The pair of `PAIRS` in a folder, and its fields; told: what config.json says.

    What no run of ours trained is an "encoder_decoder": its fields can say all there is of both
    sides. ValueError if the folder holds one model.
    """
    path = folder / "run.json"
    facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if facts.get("arch") in PAIRS:
        return facts["arch"], facts["model"]
    reader, cross = told.get("encoder"), dict(told.get("cross") or {})
    if reader is None:
        raise ValueError(f"{folder} holds one model, and this task wants an encoder and a decoder")
    sides = {"encoder": reader, "decoder": told}
    made = {name: told["model"][name] for name in _BOTH if name in told["model"]}
    for side, about in sides.items():
        fields = {k: v for k, v in about["model"].items() if k not in made or made[k] != v}
        made[f"{side}_layers"] = fields.pop("num_layers")
        made |= {side: about["arch"], f"{side}_fields": fields}
    return "encoder_decoder", {**made, "cross": cross.pop("kind", "full"), "cross_fields": cross}


def ends_in(folder: Path, stems: Sequence[str], heads: Sequence[str], wanted: str) -> dict:
    """Both stems and the head of the pair in a folder, for `standing`.

    ValueError unless the encoder's stem and the head are of these kinds; `wanted` says what is.
    """
    told = SubquadConfig.from_pretrained(folder, local_files_only=True)
    hint = f"begin from {wanted}"
    if told.encoder is None:
        raise ValueError(f"{folder} holds one model, and no encoder with a decoder; {hint}")
    reads, gives = told.encoder["stem"]["kind"], told.head["kind"]
    if reads not in stems or gives not in heads:
        raise ValueError(
            f"{folder} reads {reads!r} and ends in a head of kind {gives!r}, which is not what "
            f"this task does; {hint}"
        )
    ends = {name: getattr(told, name) for name in _ENDS}
    return {**ends, "encoder": told.encoder["stem"], "words": told.encoder.get("words")}


def standing(parts: dict[str, Any], ends: dict[str, Any] | None) -> dict[str, Any]:
    """The parts of a pair, with the ends that training begins with, if with any."""
    if ends is None:
        return parts
    encoder = {**parts["encoder"], "stem": ends["encoder"]}
    return {**parts, **{name: ends[name] for name in _ENDS}, "encoder": encoder}
