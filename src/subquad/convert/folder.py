"""Folders of others made ours, and ours made theirs.

    report = to_ours(source, dest)        config.json, weights, tokenizer files as they are
    report = to_theirs(source, dest)      the same the other way

A converted folder also has convert.json (whence it came, and that configuration) and, where ours
has no place for a tensor, aside.safetensors: so that the way back gives the same bits.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subquad.convert import FAMILIES, REFUSED
from subquad.convert.beside import copy, dictionaries, made_ours
from subquad.convert.family import Family
from subquad.convert.files import (
    options,
    read_config,
    read_tensors,
    read_torch,
    state_dict,
)
from subquad.convert.origin import KEPT, ORIGIN, held, kept_aside, read_origin
from subquad.convert.paths import merged
from subquad.convert.refusal import check_arguments
from subquad.convert.rows import report_keys
from subquad.nn.choices import choose

__all__ = ["convert", "from_file", "to_ours", "to_theirs"]


def convert(source: Path, dest: Path, family: str | None = None) -> str:
    """Write `dest`, an empty folder; one line of what was done comes back.

    Ours goes back to where it came from, or to `family`. ValueError for what cannot be converted.
    """
    try:
        return _convert(source, dest, family)
    except _NOT_THEIRS as error:  # settings of other types than their library writes
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{source} holds no model that can be converted: {reason}") from error


_NOT_THEIRS = (TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def _convert(source: Path, dest: Path, family: str | None) -> str:
    if not source.is_file() and read_config(source).get("model_type") == "subquad":
        return to_theirs(source, dest, family)
    if family is not None:
        raise ValueError(f"{source} is no model of subquad; only those can go to {family}")
    return from_file(source, dest) if source.is_file() else to_ours(source, dest)


def to_ours(source: Path, dest: Path) -> str:
    """A folder of theirs as one of ours."""
    plain = read_config(source)
    known = [family for family in FAMILIES.values() if family.tells and family.tells(plain)]
    named = str(plain.get("model_type"))
    for refusal in REFUSED:
        refusal.check(named, {})
    family = known[0] if known else choose("family to convert", named, FAMILIES)
    if family.defaults is None:
        config = _their_config(source)
    else:
        check_arguments(family, plain)
        config = merged(family.defaults, plain)
    family.head(config)  # first: a class that is refused is so whatever its weights
    said = _write(family, config, read_tensors(source), dest, {"config": plain})
    copy(source, dest)
    if family.defaults is None:
        made_ours(source, dest, plain)
    return said + family.beside(source, dest, config)


def from_file(source: Path, dest: Path) -> str:
    """A torch file of theirs as a folder of ours, of the first family whose names it holds."""
    found = read_torch(source)
    tensors, inside = state_dict(found, source)
    for refusal in REFUSED:
        refusal.check("", tensors)
    for family in FAMILIES.values():
        bare = family.signed(tensors)
        if bare is None:
            continue
        if family.infer is None:
            raise ValueError(
                f"{source} holds a {family.name}, and its tensors do not tell all its settings: "
                "save them as pytorch_model.bin in a folder, and beside them config.json with "
                f'{{"model_type": "{family.name}"}} and the arguments that it was made with'
            )
        told = options(found)
        config = family.infer(bare, told)
        origin = {"config": config, "file": source.name, "inside": inside, "options": told}
        said = _write(family, config, tensors, dest, origin)
        dictionaries(source.parent, dest)
        return said + family.beside(source.parent, dest, config)
    known = ", ".join(family.name for family in FAMILIES.values() if family.signature)
    raise ValueError(
        f"{source} holds tensors of no family that is known from its names ({known}); its first "
        f"are {', '.join(sorted(tensors)[:3])}"
    )


def _write(
    family: Family,
    config: Mapping[str, Any],
    theirs: Mapping[str, Tensor],
    dest: Path,
    origin: dict[str, Any],
) -> str:
    import subquad.hf as shell

    name, head = family.head(config)
    settings = family.ours(config, head)  # first: what it refuses explains the tensors
    tensors, aside, named = family.there(theirs, config, head)
    ours = shell.SubquadConfig(**settings, architectures=[head.ours])
    check(getattr(shell, head.ours), ours, tensors)
    ours.save_pretrained(dest)
    _save(tensors, dest)
    if aside:
        _save(aside, dest, KEPT)
    origin = {"family": family.name, "class": name, **named, **origin}
    (dest / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
    kept = f"; kept aside, unused: {', '.join(sorted(aside))}" if aside else ""
    note = f"; {family.note}" if family.note else ""
    return f"{name} to {head.ours}, {len(tensors)} tensors{kept}{note}"


def to_theirs(source: Path, dest: Path, to: str | None = None) -> str:
    """A folder of ours as one of theirs."""
    import subquad.hf as shell

    origin = read_origin(source)
    if to is None and origin is None:
        raise ValueError(f"{source} was not converted from another; say to what: --to FAMILY")
    family = choose("family to convert", to or origin["family"], FAMILIES)
    if origin is not None and origin["family"] != family.name:
        origin = None
    if origin is None and family.returns:
        raise ValueError(
            f"{source} did not come from {family.name}, whose settings it does not all tell; only "
            "what was converted from there goes back"
        )
    settings = shell.SubquadConfig.from_pretrained(source)
    ours = settings.to_dict()
    base = {} if origin is None else origin["config"]
    was = _whole(family, base) if base else {}
    if origin is None:
        name, head = family.standing(ours)
    else:
        name, head = family.head({**was, "architectures": [origin["class"]]})
    tensors = check(getattr(shell, head.ours), settings, read_tensors(source))
    config = merged(base, family.theirs(ours, head, was)) | {"architectures": [name]}
    family.agree(_whole(family, config), ours)
    named = {"prefix": head.prefix, "tied": []} if origin is None else origin
    aside = {} if origin is None else kept_aside(source)
    made = family.back(tensors, aside, _whole(family, config), head, named)
    if "file" in named:
        torch.save(held(made, named), dest / named["file"])
        dictionaries(source, dest)
        return f"{head.ours} to {named['file']}, {len(made)} tensors"
    _write_config(family, config, dest)
    _save(made, dest)
    copy(source, dest, named.get("made", ()))
    return f"{head.ours} to {name}, {len(made)} tensors"


def check(kind: type, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, without second names. ValueError unless they are those of such a model, by name
    and shape.
    """
    with torch.device("meta"):
        model = kind(config)
    tied = model.get_expanded_tied_weights_keys()
    tensors = {name: t for name, t in tensors.items() if name not in tied}
    wanted = {name: t.shape for name, t in model.state_dict().items() if name not in tied}
    report_keys([n for n in wanted if n not in tensors], [n for n in tensors if n not in wanted])
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            raise ValueError(
                f"{name} is {tuple(tensors[name].shape)}, and its configuration says {tuple(shape)}"
            )
    return tensors


def _whole(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """All their settings, defaults too. ValueError for some that go together in no model there."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if family.defaults is not None:
        return merged(family.defaults, config)
    try:
        return AutoConfig.for_model(family.name, **_without_type(config)).to_dict()
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{family.name} has no such settings: {reason}") from error


def _write_config(family: Family, config: Mapping[str, Any], dest: Path) -> None:
    from transformers import AutoConfig

    if family.defaults is None:
        AutoConfig.for_model(family.name, **_without_type(config)).save_pretrained(dest)
        return
    named = {} if family.tells and family.tells(config) else {"model_type": family.name}
    text = json.dumps({**config, **named}, indent=2)
    (dest / "config.json").write_text(text + "\n", encoding="utf-8")


def _their_config(source: Path) -> dict[str, Any]:
    """All settings, defaults too, as the transformers at hand reads them."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
    except (KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the transformers at hand does not read {source}/config.json: {reason}"
        ) from error


def _without_type(config: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in config.items() if k not in ("model_type", "transformers_version")}


def _save(tensors: Mapping[str, Tensor], dest: Path, name: str | None = None) -> None:
    """One file, or shards where they would be large; each tensor in memory of its own."""
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import save_file

    own = {key: t.contiguous().clone() for key, t in tensors.items()}
    dest.mkdir(parents=True, exist_ok=True)
    if name is not None:
        save_file(own, dest / name)
        return
    save_torch_state_dict(own, dest, metadata={"format": "pt"})
