"""Model: stem + backbone + head, built from plain configuration, saved and loaded.

    output, state = model(inputs, valid=..., state=...)

Padding is solved here, once: real tokens are moved to the front of each row, in order, run, and
moved back. Everything inside sees padding on the right only, wherever it stood.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.archs import ARCHS, configure
from subquad.nn.choices import choose, fill
from subquad.nn.context import Context, agree, described, rolled, take
from subquad.nn.heads import HEADS, LabelHead, VectorHead
from subquad.nn.init import initialise
from subquad.nn.queries import asked
from subquad.nn.state import ModelState, same_rows
from subquad.nn.stems import STEMS
from subquad.nn.streams import bounded, delay, ended, init_memory, init_state, read

__all__ = [
    "FORMAT",
    "Model",
    "build",
    "complete",
    "init_memory",
    "init_state",
    "load",
    "run",
    "save",
]

#: version of what is written to disk
FORMAT = 1


class Model(nn.Module):
    """Stem, backbone and head (None: features come out)."""

    def __init__(self, stem: nn.Module, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = stem, backbone, head

    def forward(
        self,
        inputs: Tensor | dict[str, Tensor],
        *,
        valid: Tensor | None = None,
        label: Tensor | None = None,
        mark: Tensor | None = None,
        state: ModelState | None = None,
        last: int | None = None,
    ) -> tuple[Tensor, ModelState | None]:
        """Run a batch (B, N, ...), images and arrays as their stem takes them, or several by name;
        with a state, it follows what the state has seen.

        valid (B, N): which tokens are real, wherever padding stands.  label (B, N) keeps packed
        documents apart.  mark (B, N): the tokens that Marked patterns ask about.  last: give only
        the outputs of the last so many slots. A head that asks gets answers (B, O, C) instead. A
        stem that makes fewer tokens of its inputs (frames) has those of a row at its left.
        """
        parts = self.stem, self.backbone, self.head
        return run(*parts, inputs, valid=valid, label=label, mark=mark, state=state, last=last)

    @property
    def streams(self) -> bool:
        """Can it be fed piece by piece?"""
        return hasattr(self.backbone, "init_state")

    def init_state(self, batch: int) -> ModelState:
        """The state before the first token. ValueError if the model looks ahead."""
        return init_state(self.backbone, batch, self.stem)

    def flush(self, state: ModelState) -> tuple[Tensor, ModelState]:
        """The outputs that a stream still withholds, when no more input comes."""
        inputs, state = ended(state)
        return self(inputs, state=state)

    @property
    def delay(self) -> int:
        """How many inputs follow the first that an output stands for before it comes, at most."""
        return delay(self.stem, self.backbone)

    @property
    def bounded(self) -> bool:
        """Can it be fed piece by piece, with a state that stops growing?"""
        return self.streams and bounded(self.backbone)

    def init_memory(self, batch: int) -> ModelState:
        """What training carries from segment to segment, before the first."""
        return init_memory(self.backbone, batch, self.stem)


def run(
    stem: Callable[..., tuple[Tensor, Context]],
    backbone: nn.Module,
    head: nn.Module | None,
    inputs: Tensor | dict[str, Tensor],
    *,
    valid: Tensor | None = None,
    label: Tensor | None = None,
    mark: Tensor | None = None,
    state: ModelState | None = None,
    last: int | None = None,
    asks: nn.Module | None = None,
) -> tuple[Tensor, ModelState | None]:
    """What `Model.forward` does, for parts that live in another module.

    asks: the head whose queries are answered, where `head` is None and it is applied afterwards.
    """
    same_rows(state, inputs)
    order, place, given = None, None, valid
    if valid is not None:
        inputs = agree(inputs, valid=valid, label=label, mark=mark)
        order, place = rolled(valid)
        inputs, valid = take(inputs, order), take(valid, order)
        label, mark = (None if t is None else take(t, order) for t in (label, mark))
    x, context, kept = read(stem, inputs, valid, state)
    if context.valid is not valid:
        given = context.valid  # a stem that makes other tokens of them tells which are real
    described(stem, x, label, mark)
    queries = asked(asks if head is None else head, backbone)
    label = None if label is None else label[:, None]
    mark = context.mark if mark is None else mark
    # rows that are not full end at different slots: then all outputs are needed
    last_in = last if order is None else None
    context = replace(context, label=label, mark=mark, queries=queries, last=last_in)
    y, layers = backbone(x, context, None if state is None else state.layers)
    # fewer outputs than inputs are those of each row's last tokens, already at the right; answers
    # to queries stand where they were asked
    if place is not None and queries is None and y.shape[1] == place.shape[1]:
        y = take(y, place)
    y = y if last is None else y[:, max(0, y.shape[1] - last) :]
    if isinstance(head, LabelHead | VectorHead):
        y = head(y, given)
    elif head is not None:
        y = head(y)
    if state is None:
        return y, None
    seen = x.shape[1] if context.valid is None else context.valid.sum(1)
    return y, ModelState(state.length + seen, layers, kept)


def build(
    arch: str,
    model: dict[str, Any],
    *,
    vocab_size: int,
    stem: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    tie: bool = True,
) -> Model:
    """A freshly initialised model from plain fields, as they stand in config.json.

    `model` holds fields of the architecture's Config; `stem` those of `subquad.nn.stems.STEMS`, its
    "kind" among them, and `head` those of `subquad.nn.heads.HEADS`. `tie` shares the embedding with
    the head where the backbone gives features as wide as it takes; two streams side by side have a
    head of their own. ValueError names what does not fit, and the nearest name.
    """
    config = configure(arch, model)
    backbone = ARCHS[arch].build(config)
    first = _part("stem", stem, STEMS).build(config.dim, vocab_size)
    last = _part("head", head, HEADS).build(backbone.out_dim, vocab_size)
    made = Model(first, backbone, last)
    initialise(made)
    words = getattr(first, "embedding", None)
    if tie and words is not None and hasattr(last, "tie") and backbone.out_dim == config.dim:
        last.tie(words)
    return made


def complete(
    arch: str,
    model: dict[str, Any] | None,
    stem: dict[str, Any] | None,
    head: dict[str, Any] | None,
) -> dict[str, dict[str, Any]]:
    """All fields of the three parts, defaults included: what must be written to disk.

    A default that changes in a later version then leaves old checkpoints as they are.
    """
    parts = {"stem": (stem, STEMS), "head": (head, HEADS)}
    full = {"model": plain(asdict(configure(arch, model or {})))}
    for what, (fields, table) in parts.items():
        kind = (fields or {}).get("kind", "tokens")
        full[what] = {"kind": kind, **plain(asdict(_part(what, fields, table)))}
    return full


def plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as JSON holds them: lists instead of tuples."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def save(model: Model, folder: str | Path, config: dict[str, Any]) -> None:
    """Write weights (safetensors) and config.json; `config` holds the arguments of `build`."""
    from safetensors.torch import save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
    parts = complete(config["arch"], config["model"], config.get("stem"), config.get("head"))
    text = json.dumps({"format_version": FORMAT, **config, **parts}, indent=2)
    (folder / "config.json").write_text(text + "\n")


def load(folder: str | Path) -> Model:
    """The model that `save` wrote. ValueError if it is of another version, or damaged; no memory is
    taken for weights that the file does not hold."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_model

    path, weights = Path(folder), str(Path(folder) / "model.safetensors")
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        version = config.pop("format_version", None)
        if version != FORMAT:
            raise ValueError(f"it is of format version {version}; this library reads {FORMAT}")
        with torch.device("meta"):
            wanted = {name: [*t.shape] for name, t in build(**config).state_dict().items()}
        with safe_open(weights, "pt") as there:
            for name in there.keys():  # noqa: SIM118  (it is no mapping)
                if (shape := there.get_slice(name).get_shape()) != wanted.get(name):
                    raise ValueError(f"{name} is {shape}, and config.json says {wanted.get(name)}")
        load_model(model := build(**config), weights)
    except (TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        raise ValueError(f"{folder} is damaged: {reason}") from error
    except ValueError as error:
        raise ValueError(f"{folder} cannot be loaded: {error}") from error
    return model


def _part(what: str, fields: dict[str, Any] | None, table: Any) -> Any:
    """The Config of a stem or head, by its kind."""
    given = dict(fields or {})
    return fill(what, choose(what, given.pop("kind", "tokens"), table), given)
