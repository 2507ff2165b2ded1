"""What `show` puts before a model, and the report of a run."""

import json
import os
from pathlib import Path
from typing import Any

from subquad.train.atomic import write_text
from subquad.train.folder import read_facts
from subquad.train.run import load

__all__ = ["report", "shown"]

_SAMPLE = 200  # tokens
_WORDS = ("tokenizer*", "vocab*", "*.model")  # files of tokenizers


def shown(folder: Path, given: str, views: Any, limit: int) -> Any:
    """What the model of a folder looks at. ValueError in one line for what it cannot."""
    if (folder / "run.json").is_file() or not (folder / "config.json").is_file():
        return _of_run(folder, given, views, limit)
    return _of_transformers(folder, given, views, limit)


def _of_run(folder: Path, given: str, views: Any, limit: int) -> Any:
    from subquad.viz.shown import look

    run = load(folder)
    found = run.task.look(run.model, _raw(given))
    for axis, labels in found.labels.items():
        _fits(len(labels), axis, limit)
    facts = run.facts
    told = {
        "architecture": facts["arch"],
        "task": facts["task"],
        "parameters": f"{facts['parameters']:,}",
        "trained on": facts["data"]["source"],
        "input": _short(given),
    }
    return look(
        run.model, found.inputs, title=folder.name or str(folder), labels=found.labels,
        over=found.over, facts=told, views=views,
    )  # fmt: skip


def _of_transformers(folder: Path, given: str, views: Any, limit: int) -> Any:
    """A model that is no run: ours through its mixers, another by its own matrices."""
    import transformers

    from subquad.viz import foreign
    from subquad.viz.places import places
    from subquad.viz.shown import look

    transformers.utils.logging.disable_progress_bar()
    model = _read(folder)
    if not any(file for kind in _WORDS for file in folder.glob(kind)):
        raise ValueError(f"{folder} has no tokenizer to read a text with")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"the tokenizer of {folder} cannot be read: {error}") from None
    raw = _raw(given)
    text = raw.read_text(encoding="utf-8") if isinstance(raw, Path) else given
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    if not ids.shape[1]:
        raise ValueError("there is no token in this text, so there is nothing to look at")
    most = getattr(model.config, "max_position_embeddings", None)
    _fits(ids.shape[1], "tokens", limit if most is None else min(limit, most))
    words = [tokenizer.decode([i]) or f"<{i}>" for i in ids[0].tolist()]
    how: dict[str, Any] = {"title": folder.name or str(folder), "labels": {"tokens": words}}
    how["facts"] = {"model": model.config.model_type, "input": _short(given)}
    if type(model).__name__.endswith("ForMultipleChoice"):
        # each is read by itself, so that a text is the only one of them
        ids = ids.unsqueeze(1)
        how["facts"]["choices"] = "the input is one of them, with its question"
    if any(True for _ in places(model)):
        return look(model, {"input_ids": ids}, views=views, **how)
    return foreign.look(model, {"input_ids": ids}, views=views, **how)


def _read(folder: Path) -> Any:
    """The model of a folder, as the class that wrote it."""
    import transformers

    import subquad.hf as ours

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no model of transformers: {error}") from error
    swapped = config.model_type == "subquad-swap"
    name = (config.head if swapped else None) or (config.architectures or ["AutoModel"])[0]
    if swapped:
        words = name.endswith(("ForCausalLM", "LMHeadModel"))
        kind = transformers.AutoModelForCausalLM if words else transformers.AutoModel
    else:
        kind = getattr(ours, name, None) or getattr(transformers, name, None)
    if kind is None:
        raise ValueError(f"{folder} is a {name}, which is known neither here nor to transformers")
    return kind.from_pretrained(folder, local_files_only=True).eval()


def _raw(given: str) -> Any:
    """A file, a row of JSON, or a text."""
    # os.path and not pathlib, which raises for what is too long to be a name: a text may be
    if os.path.isdir(given):
        raise ValueError(f"--input {given} is a folder; name a file")
    if os.path.isfile(given):
        return Path(given)
    if given.lstrip().startswith("{"):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _fits(count: int, what: str, limit: int) -> None:
    if count > limit:
        raise ValueError(
            f"the input has {count:,} {what} and {limit:,} are the limit; cut it, or raise --limit "
            "if the model reads more"
        )


def _short(given: str) -> str:
    text = " ".join(given.split())
    return text if len(text) <= 120 else text[:119] + "\N{HORIZONTAL ELLIPSIS}"


def report(folder: Path, out: Path | None = None) -> Path:
    """Write the report of a run; where it is."""
    from subquad.viz.report import page

    told = read_facts(folder)
    out = folder / "report.html" if out is None else out
    write_text(out, page(folder, told, _samples(folder, told)))
    return out


def _samples(folder: Path, told: dict[str, Any]) -> list[tuple[str, str]]:
    """What a language model of text writes by itself."""
    if told["task"] != "lm" or not (folder / "model.safetensors").is_file():
        return []
    run = load(folder)
    if run.task.kind.name != "text":
        return []
    how = {"temperature": 0.8, "top_p": 0.95}
    return [
        (
            f"From nothing, temperature 0.8, top-p 0.95, seed {seed}",
            run.generate("", max_new_tokens=_SAMPLE, seed=seed, **how),
        )
        for seed in (0, 1)
    ]
