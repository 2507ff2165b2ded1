"""What comes into a forward of the shell: names that transformers uses, checked, in our words."""

from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.context import take
from subquad.nn.losses import IGNORED

__all__ = [
    "as_frames",
    "check_whole",
    "follow",
    "last_outputs",
    "last_targets",
    "loss_options",
    "model_inputs",
    "real_outputs",
    "token_inputs",
]

#: arguments of transformers' loss functions
LOSS = ("num_items_in_batch", "ignore_index", "shift_labels")

#: what is read: exactly one of them
INPUTS = ("input_ids", "inputs_embeds", "pixel_values", "input_features", "input_values")

#: arguments that describe tokens
TOKENS = (
    "input_ids",
    "inputs_embeds",
    "attention_mask",
    "global_attention_mask",
    "document_ids",
    "token_type_ids",
)


def loss_options(given: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of the loss function out of `given`."""
    return {name: given.pop(name) for name in LOSS if name in given}


def token_inputs(given: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Inputs (B, N), (B, N, C), (B, S, Y, X) or (B, T, bands), and valid, mark and label as
    `subquad.model.run` takes them.

    ValueError for an argument that nothing here would honour.
    """
    for name, value in given.items():
        # transformers passes some switches down; unset, they ask for nothing
        if name not in (*TOKENS, *INPUTS) and value is not None and value is not False:
            raise ValueError(
                f"subquad models take no {name}; they take {', '.join(TOKENS)} "
                "(positions follow from attention_mask, attention maps from subquad.viz)"
            )
    found = [given[name] for name in INPUTS if given.get(name) is not None]
    if len(found) != 1:
        raise ValueError(
            "pass either input_ids or inputs_embeds, and not both; pixel_values alone for pictures "
            "and input_features alone for frames"
        )
    (inputs,) = found
    if given.get("input_values") is not None:
        inputs = as_frames(inputs)
    marks = given.get("global_attention_mask")
    return inputs, {
        "valid": _valid(given.get("attention_mask"), inputs.shape[1]),
        "mark": None if marks is None else marks.bool(),
        "label": given.get("document_ids"),
    }


def as_frames(waves: Tensor) -> Tensor:
    """Waves (B, S) as frames of one band (B, S, 1). ValueError for another form."""
    if waves.dim() != 2:
        raise ValueError(f"input_values must be (batch, samples), not {tuple(waves.shape)}")
    return waves.unsqueeze(-1)


def with_kinds(stem: nn.Module, inputs: Tensor, given: dict[str, Any]) -> Tensor:
    """Token numbers beside their kinds (B, N, 2), if the stem tells kinds apart and they are given.

    Other stems have no such vectors, and take no notice. ValueError where tokens come embedded.
    """
    kinds = given.get("token_type_ids")
    if kinds is None or getattr(stem, "types", None) is None:
        return inputs
    if inputs.is_floating_point():
        raise ValueError(
            "token_type_ids go with input_ids; add the vectors of kinds to inputs_embeds"
        )
    return torch.stack((inputs, kinds), -1)


def model_inputs(config: Any, stem: nn.Module, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What the stem reads of the arguments of `forward`, and what the backbone is told besides.

    ValueError for arguments that this model has no place for.
    """
    check_kinds(config, given)
    inputs, options = token_inputs(given)
    check_whole(stem, given)
    return with_kinds(stem, inputs, given), options


def check_kinds(config: Any, given: dict[str, Any]) -> None:
    """ValueError for kinds that differ within a row, where a model is one of theirs without what
    told them apart: `config.token_types` is 1. Kinds of padding say nothing.
    """
    kinds, mask = given.get("token_type_ids"), given.get("attention_mask")
    if kinds is None or getattr(config, "token_types", None) != 1:
        return
    if torch.compiler.is_compiling() or not kinds.numel():
        return
    valid = torch.ones_like(kinds, dtype=torch.bool) if mask is None else mask.bool()
    first, last = (
        kinds.masked_fill(~valid, kinds.max()).amin(1),
        kinds.masked_fill(~valid, kinds.min()).amax(1),
    )
    if bool((first < last).any()):
        raise ValueError(
            "token_type_ids tell kinds of tokens apart, and this model was converted without what "
            "tells them apart: leave them out, or give all tokens of a row the same"
        )


def check_whole(stem: nn.Module, given: dict[str, Any]) -> None:
    """ValueError for pictures or frames where others are read, or the other way round."""
    if given.get("input_values") is not None and not getattr(stem, "waves", False):
        raise ValueError(
            "models like this take no input_values; those with the stem {'kind': 'waves'} do"
        )
    heard = [given.get(name) is not None for name in ("input_features", "input_values")]
    if any(heard) != (hears := getattr(stem, "frames", False)):
        raise ValueError(
            "this model reads frames, so pass input_features"
            if hears
            else "this model reads no frames; one with the stem {'kind': 'frames'} does"
        )
    pictures, whole = given.get("pixel_values") is not None, getattr(stem, "whole", False)
    if pictures and not whole:
        raise ValueError(
            "this model reads tokens, so pass input_ids; one with the stem {'kind': 'patches'} "
            "reads pixel_values"
        )
    if whole and not pictures:
        raise ValueError("this model reads pictures, so pass pixel_values")


def real_outputs(stem: nn.Module, attention_mask: Tensor | None) -> Tensor | None:
    """Which outputs of a batch are real; a stem that makes other tokens of its inputs tells."""
    if attention_mask is None:
        return None
    valid, tell = attention_mask.bool(), getattr(stem, "real", None)
    return valid if tell is None else tell(valid)


def last_targets(
    labels: Tensor | None,
    targets: Tensor | None,
    attention_mask: Tensor | None,
    outputs: int,
    options: dict[str, Any],
) -> tuple[Tensor | None, Tensor | None]:
    """Labels and targets (B, N) of each row's last `outputs` tokens, right-aligned.

    A model that trains on its last positions alone gives so few outputs (B, outputs, C). The count
    of scored tokens in `options` shrinks likewise. ValueError for labels where there is one output,
    which none of them follows.
    """
    if labels is not None and outputs == 1 < labels.shape[1]:
        raise ValueError(
            f"of {labels.shape[1]} tokens this model trains on the last one alone, and no label "
            "follows it: make `latents` at least 2, or give `targets`, what follows each token"
        )

    def last(given: Tensor | None) -> Tensor | None:
        if given is None or outputs >= given.shape[1]:
            return given
        valid = _valid(attention_mask, given.shape[1])
        if valid is not None:
            order = valid.to(torch.int8).argsort(dim=1, stable=True)
            given = take(given.masked_fill(~valid, IGNORED), order)
        return given[:, given.shape[1] - outputs :]

    kept = last(labels)
    if kept is not labels and options.get("num_items_in_batch") is not None:
        # the first label has no output before it
        some, every = ((t[:, 1:] != IGNORED).sum() for t in (kept, labels))
        options["num_items_in_batch"] = options["num_items_in_batch"] * some / every.clamp(min=1)
    return kept, last(targets)


def last_outputs(
    targets: Tensor, known: Tensor, attention_mask: Tensor | None, outputs: int
) -> tuple[Tensor, Tensor]:
    """Targets (B, N), and which of them are known, of each row's last `outputs` tokens, as
    `last_targets`; none of padding is known.
    """
    valid = _valid(attention_mask, targets.shape[1])
    if valid is not None:
        known = known & valid
        if outputs < targets.shape[1]:
            order = valid.to(torch.int8).argsort(dim=1, stable=True)
            targets, known = take(targets, order), take(known, order)
    first = targets.shape[1] - outputs
    return targets[:, first:], known[:, first:]


def follow(given: dict[str, Any], length: int) -> None:
    """Extend marks and documents to `length` tokens: new ones unmarked, of the last document."""
    for name in ("global_attention_mask", "document_ids"):
        t = given.get(name)
        missing = 0 if t is None else length - t.shape[1]
        if missing > 0:
            last = t[:, -1:] if name == "document_ids" else torch.zeros_like(t[:, -1:])
            given[name] = torch.cat((t, last.expand(-1, missing)), 1)


def _valid(attention_mask: Tensor | None, slots: int) -> Tensor | None:
    """The mask of the last `slots` tokens as validity, None where all are real."""
    if attention_mask is None:
        return None
    if attention_mask.dim() != 2 or attention_mask.shape[1] < slots:
        raise ValueError(
            f"attention_mask must be (batch, length so far), at least {slots} long, "
            f"not {tuple(attention_mask.shape)}"
        )
    valid = attention_mask[:, -slots:].bool() if slots else attention_mask[:, :0].bool()
    if not torch.compiler.is_compiling() and bool(valid.all()):
        return None
    return valid
