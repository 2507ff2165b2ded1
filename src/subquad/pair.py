"""Pair: an encoder reads a source, a decoder that attends to what was read writes.

    memory, known = pair.encode(source, valid=...)
    logits, state = pair.decode(tokens, memory, known, state=...)

Each side moves its own padding (`subquad.model.run`); the memory stands at the source's slots, with
its own validity, and need not be moved.

Axes: B batch, M source tokens, N target tokens, C model width, V vocabulary.
"""

from dataclasses import asdict, replace
from itertools import count
from typing import Any

from torch import Tensor, nn

from subquad.archs import ARCHS, configure
from subquad.model import Model, complete, run
from subquad.model import build as build_model
from subquad.nn.adaptive import share
from subquad.nn.choices import choose, fill
from subquad.nn.context import Context
from subquad.nn.crosses import CROSSES, Reading
from subquad.nn.init import initialise
from subquad.nn.mixer import Mixer
from subquad.nn.pairs import attending
from subquad.nn.state import ModelState

__all__ = ["Pair", "build", "complete_cross", "complete_encoder"]


class Pair(nn.Module):
    """An encoder, a model without a head; and a decoder, whose backbone attends to a memory."""

    def __init__(self, encoder: Model, decoder: Model) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(
        self, source: Tensor, *, valid: Tensor | None = None, mark: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The memory (B, M, C) of a source (B, M, ...), and which of its tokens are real.

        valid, mark (B, M): as in `Model.forward`. ValueError if some are not real, and the encoder
        gives no output for each.
        """
        memory, _ = self.encoder(source, valid=valid, mark=mark)
        # a stem that makes other tokens of its inputs tells which are real
        tell = getattr(self.encoder.stem, "real", None)
        valid = valid if valid is None or tell is None else tell(valid)
        if valid is not None and memory.shape[1] != valid.shape[1]:
            raise ValueError(
                f"the encoder gives {memory.shape[1]} outputs for {valid.shape[1]} tokens, so it "
                "is not known which of them are real: give sources without padding"
            )
        return memory, valid

    def decode(
        self,
        tokens: Tensor,
        memory: Tensor | None,
        memory_valid: Tensor | None = None,
        *,
        valid: Tensor | None = None,
        state: ModelState | None = None,
        last: int | None = None,
    ) -> tuple[Tensor, ModelState | None]:
        """Logits (B, N, V) of tokens (B, N), and the state after them if one came in.

        A state reads the memory at its first call and keeps what it needs: from then on `memory`
        must be None. A row without a memory decodes as if there were no cross-attention but its
        biases. valid, last: as in `Model.forward`.
        """
        _check(tokens, memory, memory_valid)

        def stem(x: Tensor, real: Tensor | None, start: Tensor | None) -> tuple[Tensor, Context]:
            x, context = self.decoder.stem(x, real, start)
            return x, replace(context, memory=memory, memory_valid=memory_valid)

        backbone, head = self.decoder.backbone, self.decoder.head
        return run(stem, backbone, head, tokens, valid=valid, state=state, last=last)

    def forward(
        self,
        source: Tensor,
        tokens: Tensor,
        *,
        source_valid: Tensor | None = None,
        mark: Tensor | None = None,
        valid: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, N, V): what follows each of the tokens (B, N), given a source (B, M, ...)."""
        memory, known = self.encode(source, valid=source_valid, mark=mark)
        return self.decode(tokens, memory, known, valid=valid)[0]

    def init_state(self, batch: int) -> ModelState:
        """The decoder's state before the first token and before it has read a memory."""
        return self.decoder.init_state(batch)


def build(
    arch: str,
    model: dict[str, Any],
    *,
    encoder: dict[str, Any],
    vocab_size: int,
    stem: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    cross: dict[str, Any] | None = None,
    tie: bool = True,
) -> Pair:
    """A freshly initialised pair from plain fields, as they stand in config.json.

    The decoder is described as in `subquad.model.build`, and so is the encoder: "arch", "model" and
    "stem"; with "words" it has a vocabulary of its own, of so many. `cross`, what reads the memory
    in each layer, has the fields of `subquad.nn.crosses.CROSSES`, its "kind" among them. `tie`
    shares one table of words among encoder, decoder and head where each has one of the same size;
    an encoder with a vocabulary of its own keeps its table. ValueError names what does not fit, and
    the nearest name.
    """
    first = complete_encoder(encoder)
    own = first.pop("words", None)
    words = vocab_size if own is None else own
    reader = build_model(**first, head={"kind": "none"}, vocab_size=words)
    config = configure(arch, model)
    writer = build_model(arch, model, vocab_size=vocab_size, stem=stem, head=head, tie=False)
    # modules do not say what their attributes are
    reads: Any = reader.backbone
    writes: Any = writer.backbone
    made, layers = _cross(cross), count()
    reading = Reading(config.dim, config.num_heads, reads.out_dim, config.dropout)

    def look() -> Mixer:
        return made.build(reading, next(layers))

    writer.backbone = attending(writes, look)
    # once more: with three branches a block, each begins smaller
    initialise(writer)
    if tie:
        last: Any = writer.head
        ours = writer.stem.embedding
        if hasattr(last, "tie"):
            last.tie(ours)
        other = getattr(reader.stem, "embedding", None) if own is None else None
        if type(other) is type(ours) is nn.Embedding and other.weight.shape == ours.weight.shape:
            share(other, ours)
    return Pair(reader, writer)


def complete_encoder(encoder: dict[str, Any]) -> dict[str, Any]:
    """All fields of an encoder, defaults included: what must be written to disk.

    It looks both ways unless its fields say otherwise. ValueError for anything but "arch", "model",
    "stem" and "words", with the nearest name, or as `subquad.model.complete`.
    """
    known: dict[str, Any] = {"arch": "transformer", "model": {}, "stem": {}, "words": None}
    for name in encoder:
        choose("part of an encoder", name, known)
    given = {**known, **{k: v for k, v in encoder.items() if v is not None}}
    fields = given["model"]
    config = choose("architecture", given["arch"], ARCHS).Config
    if "causal" in config.__dataclass_fields__:
        fields = {"causal": False, **fields}
    full = complete(given["arch"], fields, given["stem"], {"kind": "none"})
    own = {} if given["words"] is None else {"words": given["words"]}
    return {"arch": given["arch"], "model": full["model"], "stem": full["stem"], **own}


def complete_cross(cross: dict[str, Any] | None) -> dict[str, Any]:
    """All fields of what reads the memory, defaults included. ValueError with the nearest name."""
    kind = (cross or {}).get("kind", "full")
    return {"kind": kind, **asdict(_cross(cross))}


def _cross(cross: dict[str, Any] | None) -> Any:
    given = dict(cross or {})
    return fill("cross", choose("cross-attention", given.pop("kind", "full"), CROSSES), given)


def _check(tokens: Tensor, memory: Tensor | None, valid: Tensor | None) -> None:
    if memory is not None and len(memory) != len(tokens):
        raise ValueError(
            f"the memory holds {len(memory)} rows and the batch has {len(tokens)}; they must agree"
        )
    if memory is not None and valid is not None and valid.shape != memory.shape[:2]:
        raise ValueError(
            f"memory_valid is {tuple(valid.shape)} and the memory {tuple(memory.shape[:2])}; "
            "(batch, length) must agree"
        )
