"""Model: stem + backbone + head, built from plain configuration, saved and loaded.

    output, state = model(inputs, valid=..., state=...)

Left padding is solved here, once: rows are rolled so that their first token stands at slot 0, run,
and rolled back. Everything inside sees padding on the right only.

Axes: B batch, N tokens, C model width, V vocabulary.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.archs import ARCHS, configure
from subquad.nn.choices import choose
from subquad.nn.heads import TokenHead
from subquad.nn.init import initialise
from subquad.nn.position import Learned, Sinusoidal
from subquad.nn.stacks import Decoder
from subquad.nn.state import ModelState
from subquad.nn.stems import TokenStem

__all__ = ["FORMAT", "Model", "build", "init_state", "load", "run", "save"]

#: version of what is written to disk
FORMAT = 1


class Model(nn.Module):
    """Stem, backbone and head (None: features come out)."""

    def __init__(self, stem: nn.Module, backbone: nn.Module, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stem, self.backbone, self.head = stem, backbone, head

    def forward(
        self,
        inputs: Tensor,
        *,
        valid: Tensor | None = None,
        label: Tensor | None = None,
        mark: Tensor | None = None,
        state: ModelState | None = None,
    ) -> tuple[Tensor, ModelState | None]:
        """Run a batch (B, N, ...); with a state, it follows what the state has seen.

        valid (B, N): which tokens are real (padding left or right).  label (B, N) keeps packed
        documents apart.  mark (B, N): tokens that SameLabel and Marked patterns ask about.
        """
        return run(
            self.stem,
            self.backbone,
            self.head,
            inputs,
            valid=valid,
            label=label,
            mark=mark,
            state=state,
        )

    @property
    def streams(self) -> bool:
        """Can it be fed piece by piece?"""
        return isinstance(self.backbone, Decoder)

    def init_state(self, batch: int) -> ModelState:
        """The state before the first token. ValueError if the model looks ahead."""
        return init_state(self.backbone, batch)


def run(
    stem: nn.Module,
    backbone: nn.Module,
    head: nn.Module | None,
    inputs: Tensor,
    *,
    valid: Tensor | None = None,
    label: Tensor | None = None,
    mark: Tensor | None = None,
    state: ModelState | None = None,
) -> tuple[Tensor, ModelState | None]:
    """What `Model.forward` does, for parts that live in another module."""
    first = None
    if valid is not None:
        # index of the first real token; rows without any stay where they are
        first = valid.to(torch.int8).argmax(1)
        inputs, valid = _roll(inputs, first), _roll(valid, first)
        label, mark = (None if t is None else _roll(t, first) for t in (label, mark))
    x, context = stem(inputs, valid, None if state is None else state.length)
    label = None if label is None else label[:, None]
    context = dataclasses.replace(context, label=label, mark=mark)
    y, layers = backbone(x, context, None if state is None else state.layers)
    y = y if head is None else head(y)
    y = y if first is None else _roll(y, -first)
    if state is None:
        return y, None
    seen = inputs.shape[1] if valid is None else valid.sum(1)
    return y, ModelState(state.length + seen, layers)


def init_state(backbone: nn.Module, batch: int) -> ModelState:
    """The state of a model around `backbone` before the first token of `batch` rows."""
    if not isinstance(backbone, Decoder):
        raise ValueError("this model looks ahead, so it cannot stream; build it with causal=True")
    device = next(backbone.parameters()).device
    length = torch.zeros(batch, dtype=torch.int64, device=device)
    return ModelState(length, backbone.init_state(batch))


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

    `model` holds fields of the architecture's Config.  `stem`: {"position": "none", "sinusoidal" or
    "learned", "max_len": ..., "dropout": ...}.  `head`: {"kind": "tokens" or "none", "bias": ...}.
    `tie` shares the embedding with the head. ValueError names what does not fit.
    """
    config = configure(arch, model)
    backbone = ARCHS[arch].build(config)
    made = Model(
        _stem(vocab_size, config.dim, **(stem or {})),
        backbone,
        _head(backbone.out_dim, vocab_size, **(head or {})),
    )
    initialise(made)
    if tie and made.head is not None:
        made.head.project.weight = made.stem.embedding.weight
    return made


def save(model: Model, folder: str | Path, config: dict[str, Any]) -> None:
    """Write weights (safetensors) and config.json; `config` holds the arguments of `build`."""
    from safetensors.torch import save_model

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "model.safetensors"))
    text = json.dumps({"format_version": FORMAT, **config}, indent=2)
    (folder / "config.json").write_text(text + "\n")


def load(folder: str | Path) -> Model:
    """The model that `save` wrote. ValueError if it was written by another version."""
    from safetensors.torch import load_model

    config = json.loads((Path(folder) / "config.json").read_text())
    version = config.pop("format_version", None)
    if version != FORMAT:
        raise ValueError(f"{folder} is of format version {version}; this library reads {FORMAT}")
    model = build(**config)
    load_model(model, str(Path(folder) / "model.safetensors"))
    return model


def _stem(
    vocab_size: int,
    dim: int,
    *,
    position: str = "none",
    max_len: int = 1024,
    dropout: float = 0.0,
    scale: float = 1.0,
) -> TokenStem:
    make = choose(
        "stem position",
        position,
        {
            "none": lambda: None,
            "sinusoidal": lambda: Sinusoidal(dim),
            "learned": lambda: Learned(dim, max_len),
        },
    )
    return TokenStem(vocab_size, dim, position=make(), scale=scale, dropout=dropout)


def _head(
    dim: int, vocab_size: int, *, kind: str = "tokens", bias: bool = False
) -> nn.Module | None:
    make = choose(
        "head",
        kind,
        {"tokens": lambda: TokenHead(dim, vocab_size, bias=bias), "none": lambda: None},
    )
    return make()


def _roll(t: Tensor, by: Tensor) -> Tensor:
    """Row b of t (B, N, ...) rolled left by by[b]."""
    n = t.shape[1]
    index = (torch.arange(n, device=t.device) + by[:, None]) % max(n, 1)
    return t.gather(1, index.view(*index.shape, *[1] * (t.dim() - 2)).expand_as(t))
