"""What the papers' configurations call by name: positions, norms, feed-forward parts, wirings.

Strings exist in configurations only; `stack` turns them into objects.
"""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from math import inf
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import torch.nn.functional as F
from torch import nn

from subquad.nn.blocks import Block, PostNorm, PreNorm
from subquad.nn.mixer import Mixer
from subquad.nn.mlp import MLP, GatedMLP, quick_gelu, relu_squared
from subquad.nn.position import ALiBi, Position, Rotary, XLRelative
from subquad.nn.reversible import (
    MeanReversibleDecoder,
    MeanReversibleEncoder,
    Reversible,
    ReversibleDecoder,
    ReversibleEncoder,
)
from subquad.nn.stacks import Decoder, Encoder, Stack
from subquad.ops.positions import LinearRates, Llama3Rates

__all__ = [
    "blocks",
    "choose",
    "feed_forward",
    "fill",
    "normalise",
    "of_layer",
    "position",
    "stack",
]

NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "rms": partial(nn.RMSNorm, eps=1e-6),
}

MLPS: Mapping[str, Callable[..., nn.Module]] = {
    "gelu": MLP,
    "gelu_tanh": partial(MLP, activation=partial(F.gelu, approximate="tanh")),
    "quick_gelu": partial(MLP, activation=quick_gelu),
    "relu": partial(MLP, activation=F.relu),
    "relu_squared": partial(MLP, activation=relu_squared),
    "swish": partial(MLP, activation=F.silu),
    "swiglu": GatedMLP,
    "geglu": partial(GatedMLP, activation=F.gelu, bias=True),
}


class Wiring(NamedTuple):
    """A block, the stacks of such blocks, and how many streams the last norm spans (0: none)."""

    block: type[Block]
    encoder: type[Stack] = Encoder
    decoder: type[Stack] = Decoder
    closing: int = 1


WIRINGS: Mapping[str, Wiring] = {
    "pre": Wiring(PreNorm),
    "pre_open": Wiring(PreNorm, closing=0),
    "post": Wiring(PostNorm, closing=0),
    "reversible": Wiring(Reversible, ReversibleEncoder, ReversibleDecoder, closing=2),
    "reversible_mean": Wiring(Reversible, MeanReversibleEncoder, MeanReversibleDecoder),
}

POSITIONS: Mapping[str, Callable[..., Position]] = {
    "none": lambda heads, width: Position(),
    "rotary": lambda heads, width, base=10000.0: Rotary(width, base=base),
    "rotary_linear": lambda heads, width, base, factor: Rotary(
        width, base=base, rates=LinearRates(factor)
    ),
    "rotary_llama3": lambda heads, width, base, *bands: Rotary(
        width, base=base, rates=Llama3Rates(*bands)
    ),
    "rotary_half": lambda heads, width: Rotary(width, width=width // 4 * 2),
    "alibi": lambda heads, width: ALiBi(heads),
    "xl": lambda heads, width: XLRelative(heads, width),
}

#: how many numbers stand after a colon in the name of a position
_NUMBERS = {"rotary": 1, "rotary_linear": 2, "rotary_llama3": 5}


def choose(kind: str, name: str, table: Mapping[str, Any]) -> Any:
    """The entry `name` of a table. ValueError with the nearest name if there is none."""
    # from JSON it may be anything
    if isinstance(name, str) and name in table:
        return table[name]
    near = get_close_matches(str(name), table, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no {kind} is called {name!r}; {hint}known: {', '.join(table)}")


def fill(what: str, config: type, fields: Mapping[str, Any]) -> Any:
    """A Config dataclass from plain fields, as they stand in JSON; lists become tuples.

    ValueError for an unknown field, with the nearest name, or for a value of another type.
    """
    kinds = get_type_hints(config)
    for name, value in fields.items():
        if name not in kinds:
            near = get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{what} has no field {name!r}; {hint}known: {', '.join(kinds)}")
        if not _fits(value, kinds[name]):
            kind = getattr(kinds[name], "__name__", str(kinds[name]))
            if get_args(kinds[name]):
                kind = str(kinds[name])
            raise ValueError(f"{what}: {name} must be {kind}, not {value!r}")
    return config(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return isinstance(value, list | tuple) and all(_fits(v, inner) for v in value)
    if kind in (float, int):
        numbers = int if kind is int else int | float
        return isinstance(value, numbers) and not isinstance(value, bool) and -inf < value < inf
    return isinstance(value, kind)


def of_layer(name: str, values: tuple[int, ...], layer: int, num_layers: int) -> int:
    """The entry of one layer in a field that has one for all layers, or one for each.

    ValueError for another number of entries.
    """
    if len(values) not in (1, num_layers):
        raise ValueError(
            f"{name} has {len(values)} entries and the model {num_layers} layers; "
            f"give 1 or {num_layers}"
        )
    return values[layer % len(values)]


def position(name: str, num_heads: int, head_dim: int) -> Position:
    """A position inside attention, by its name in settings; "rotary:500000" has that base.

    "rotary_linear:BASE,FACTOR" and "rotary_llama3:BASE,FACTOR,LOW,HIGH,LENGTH" turn slower
    (`subquad.ops.positions`). ValueError for other numbers than a name takes.
    """
    word, numbers = _numbered("position", name, _NUMBERS)
    return choose("position", word, POSITIONS)(num_heads, head_dim, *numbers)


def normalise(name: str) -> Callable[[int], nn.Module]:
    """A norm, by its name in a configuration: width -> module; "layer:1e-12" has that epsilon."""
    word, numbers = _numbered("norm", name, dict.fromkeys(NORMS, 1))
    made = choose("norm", word, NORMS)
    return partial(made, eps=numbers[0]) if numbers else made


def _numbered(kind: str, name: str, known: Mapping[str, int]) -> tuple[str, tuple[float, ...]]:
    """A name, and the numbers after its colon, as many as are `known` of it; one may be left out.

    ValueError where there can be none, or other ones.
    """
    word, colon, said = str(name).partition(":")
    count = known.get(word, 0)
    if not colon and count < 2:
        return name, ()
    try:
        numbers = tuple(float(number) for number in said.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(0 < number < inf for number in numbers):
        few = "stands a positive number"
        wanted = f"stand {count} positive numbers, commas between" if count > 1 else few
        raise ValueError(
            f"{kind} {name!r}: after a colon {wanted}, and before it one of {', '.join(known)}"
        )
    return word, numbers


def feed_forward(name: str) -> Callable[..., nn.Module]:
    """A feed-forward part, by its name in a configuration: width, hidden width -> module."""
    return choose("mlp", name, MLPS)


def blocks(
    mixers: Sequence[Mixer],
    dim: int,
    ffn_dim: int,
    *,
    norm: str = "layer",
    mlp: str = "gelu",
    wiring: str = "pre",
    dropout: float = 0.0,
    chunk: int | None = None,
) -> list[Block]:
    """A block around each mixer; the feed-forward parts take `chunk` positions at a time."""
    make_norm, make_mlp = normalise(norm), feed_forward(mlp)
    make = choose("wiring", wiring, WIRINGS).block
    return [
        make(
            dim,
            [mixer],
            make_mlp(dim, ffn_dim, dropout=dropout),
            norm=make_norm,
            dropout=dropout,
            chunk=chunk,
        )
        for mixer in mixers
    ]


def stack(
    mixers: Sequence[Mixer],
    dim: int,
    ffn_dim: int,
    *,
    causal: bool,
    norm: str = "layer",
    mlp: str = "gelu",
    wiring: str = "pre",
    dropout: float = 0.0,
    chunk: int | None = None,
) -> Stack:
    """A block around each mixer, in a Decoder if causal, else in an Encoder.

    `chunk`: how many positions the feed-forward parts take at a time; None for all.
    """
    look = {"norm": norm, "mlp": mlp, "wiring": wiring}
    made = blocks(mixers, dim, ffn_dim, **look, dropout=dropout, chunk=chunk)
    way = choose("wiring", wiring, WIRINGS)
    last = normalise(norm)(way.closing * dim) if way.closing else None
    return (way.decoder if causal else way.encoder)(made, dim, last)
