"""A model's forward pass as one graph of plain torch, for any batch and length.

The graph is captured with the operators of this library as single nodes, and those are then stated
again in plain torch (`subquad.ops.plain`): it needs nothing of this library to run, and what has no
such statement is refused by name instead of leaving with a hole in it.

Axes: B batch, N tokens, V vocabulary, L labels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from subquad.hf.classification import (
    SubquadForQuestionAnswering,
    SubquadForSequenceClassification,
    SubquadForTokenClassification,
)
from subquad.hf.images import SubquadForImageClassification
from subquad.hf.modeling import SubquadForCausalLM, SubquadForMaskedLM
from subquad.ops.plain import PLAIN

__all__ = ["Graph", "capture", "whole"]

#: tokens of the example that a graph is captured with
EXAMPLE = 48
#: a limit beyond this is none
LONGEST = 1 << 40

_READERS = (
    SubquadForCausalLM,
    SubquadForMaskedLM,
    SubquadForSequenceClassification,
    SubquadForTokenClassification,
    SubquadForQuestionAnswering,
)


@dataclass(frozen=True)
class Graph:
    """A captured graph: its inputs and outputs by name, and what else is known of it.

    lengths: the fewest and the most tokens that it takes (None: no limit, or no tokens).
    module: what was captured, which the graph must equal.  more: other inputs to compare it on.
    """

    program: ExportedProgram
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    module: nn.Module
    more: Callable[[], list[tuple[Tensor, ...]]]
    lengths: tuple[int, int | None] | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)


def whole(model: Any) -> Graph:
    """The graph from whole inputs to logits: input_ids and attention_mask (B, N) int64, 0 for
    padding on either side, or pixel_values (B, C, H, W).

    ValueError for a class that cannot be exported yet, and for an operator without a plain form.
    """
    model = model.eval()
    if isinstance(model, SubquadForImageClassification):
        stem = model.config.stem
        size, channels = stem["image_size"], stem["channels"]
        size = size if isinstance(size, list) else [size, size]
        made = _Pictures(model)
        program = capture(made, (torch.zeros(2, channels, *size),), ({0: Dim.DYNAMIC},))

        def more() -> list[tuple[Tensor, ...]]:
            return [(torch.rand(b, channels, *size),) for b in (1, 3)]

        return Graph(program, ("pixel_values",), ("logits",), made, more)
    if not isinstance(model, _READERS):
        known = ", ".join(c.__name__ for c in (*_READERS, SubquadForImageClassification))
        raise ValueError(
            f"{type(model).__name__} cannot be exported: what can is {known}; the others read "
            "sound, series or two inputs, or decode over an encoder"
        )
    made = _Tokens(model)
    vocab = model.config.vocab_size
    axes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    program = capture(made, _batch(2, EXAMPLE, vocab), (axes, axes))
    least, most = _lengths(program)
    least = _fewest(program, least, vocab)

    def longer() -> list[tuple[Tensor, ...]]:
        shapes = ((1, least), (3, 2 * EXAMPLE + 3), (1, 5 * EXAMPLE + 1), (2, EXAMPLE // 3))
        return [_batch(b, n, vocab) for b, n in shapes if least <= n <= (most or n)]

    spans = isinstance(model, SubquadForQuestionAnswering)
    outputs = ("start_logits", "end_logits") if spans else ("logits",)
    names = ("input_ids", "attention_mask")
    return Graph(program, names, outputs, made, longer, (least, most))


def capture(module: nn.Module, example: tuple[Any, ...], axes: tuple[Any, ...]) -> ExportedProgram:
    """The graph of a module in plain torch; axes: which axes of each input may have any size.

    ValueError where torch cannot capture it, or an operator has no plain form.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(module, example, dynamic_shapes=axes, strict=False)
    except MemoryError:
        raise
    except Exception as error:  # whatever torch makes of what it cannot capture
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise ValueError(f"cannot be exported: {reason}") from error
    missing = sorted({str(op) for op in _operators(program) if op not in PLAIN})
    if missing:
        raise ValueError(
            f"{', '.join(missing)} cannot be exported: subquad.ops.plain states it nowhere in "
            "plain torch"
        )
    return program.run_decompositions(dict(PLAIN))


class _Tokens(nn.Module):
    """Logits (B, N, V), or (B, L), of tokens and their mask, as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask)
        spans = getattr(out, "start_logits", None)
        return (out.logits,) if spans is None else (out.start_logits, out.end_logits)


class _Pictures(nn.Module):
    """Logits (B, L) of pictures, as a tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return (self.model(pixel_values=pixel_values).logits,)


def _batch(rows: int, length: int, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Tokens, and a mask whose second row ends early, and third begins late."""
    ids = torch.randint(0, vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    mask[1:2, length - length // 4 :] = 0
    mask[2:3, : length // 3] = 0
    return ids, mask


def _lengths(program: ExportedProgram) -> tuple[int, int | None]:
    """The fewest and most tokens that the captured graph is the same for."""
    first = next(n for n in program.graph.nodes if n.name == "input_ids")
    symbol = first.meta["val"].shape[1].node.expr
    found = program.range_constraints[symbol]
    most = None if found.upper > LONGEST else int(found.upper)
    # torch makes a case of its own of size 1, which this graph may not fit
    return max(2, int(found.lower)), most


def _fewest(program: ExportedProgram, least: int, vocab_size: int) -> int:
    """The fewest tokens that are taken: some conditions stand in guards of the graph alone."""
    run = program.module()
    for length in range(least, EXAMPLE):
        try:
            run(*_batch(1, length, vocab_size))
        except AssertionError:
            continue
        return length
    return EXAMPLE


def _operators(program: ExportedProgram) -> set[Any]:
    nodes = (n for n in program.graph.nodes if n.op == "call_function")
    return {n.target for n in nodes if str(n.target).startswith("subquad")}


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
