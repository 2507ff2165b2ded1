"""One step of a language model as a graph: a token and a state in, logits and the state out.

The state of kernel attention and of windows has a constant size; that of attention over everything
grows by one slot with every token. Empty slots stand at the left and are told to be so, so that a
state begins with the size that it keeps.

Axes: B batch, M kept tokens, V vocabulary.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from subquad.hf.exporting.graphs import Graph, capture
from subquad.hf.modeling import SubquadForCausalLM
from subquad.model import run
from subquad.nn.hashed import HashedPast
from subquad.nn.latent import Latents
from subquad.nn.mixer import Mixer
from subquad.nn.past import Past
from subquad.nn.state import ModelState, select
from subquad.ops.lowering import without

__all__ = ["step"]

#: what a state holds decides its next size: no graph can say so
_BY_CONTENT = {
    HashedPast: "which tokens it keeps goes by their hashes",
    Latents: "its latents are formed again at every anchor",
}


def step(model: SubquadForCausalLM) -> Graph:
    """The graph of one token: input_ids (B, 1) int64 and the state by name, to logits (B, 1, V)
    and the state after it. `initial` is the state before the first token, of one row.

    ValueError for a model that does not stream, or whose state no graph can follow.
    """
    model = model.eval()
    parts = model.model
    if not parts.streams:
        raise ValueError(f"{model.config.arch} looks ahead or reads whole inputs: it has no step")
    example, initial = _states(model)
    names = tuple(_names(example))
    leaves, spec = pytree.tree_flatten(example)
    made = _Step(model, spec)
    axes = [_axes(name, leaf) for name, leaf in zip(names, leaves, strict=True)]
    ids = torch.zeros(2, 1, dtype=torch.int64)
    program = capture(made, (ids, leaves), ({0: Dim.AUTO}, axes))
    outs = [n.meta["val"] for n in program.graph.output_node().args[0]][1:]
    grows = [_grows(name, out, leaf) for name, out, leaf in zip(names, outs, leaves, strict=True)]
    first = [
        _cut(name, leaf, out, more)
        for name, leaf, out, more in zip(
            names, pytree.tree_leaves(initial), outs, grows, strict=True
        )
    ]

    def later() -> list[tuple[Tensor, ...]]:
        start = [t.expand(3, *t.shape[1:]).clone() for t in first]
        return [(torch.randint(0, model.config.vocab_size, (3, 1)), start)]

    into, out = (tuple(f"{way}.{name}" for name in names) for way in ("state", "next"))
    return Graph(
        program,
        ("input_ids", *into),
        ("logits", *out),
        made,
        later,
        None,
        dict(zip(into, first, strict=True)),
    )


class _Step(nn.Module):
    """Logits (B, 1, V) of one token and the leaves of the state after it."""

    def __init__(self, model: nn.Module, spec: Any) -> None:
        super().__init__()
        self.model, self.spec = model, spec

    def forward(self, input_ids: Tensor, state: list[Tensor]) -> tuple[Tensor, ...]:
        parts = self.model.model
        before = pytree.tree_unflatten(state, self.spec)
        y, after = run(parts.stem, parts.backbone, parts.head, input_ids, state=before)
        return (y, *pytree.tree_leaves(after))


def _states(model: SubquadForCausalLM) -> tuple[ModelState, ModelState]:
    """A state of two rows that have read as much as any layer keeps, and the one before the first
    token in the same sizes, of one row.
    """
    parts = model.model
    width = 2 + max([0, *(_reach(m) for m in parts.modules() if isinstance(m, Mixer))])
    ids = torch.randint(0, model.config.vocab_size, (3, width))
    valid = torch.ones(3, width, dtype=torch.bool)
    valid[2] = False  # a row of padding stays before its first token, but gets the others' size
    with torch.no_grad():
        state = parts(ids, valid=valid, state=parts.init_state(3))[1]
    kept = pytree.tree_leaves(state, lambda x: isinstance(x, tuple(_BY_CONTENT)))
    for reason in (_BY_CONTENT[type(t)] for t in kept if type(t) in _BY_CONTENT):
        raise ValueError(f"the step of {model.config.arch} cannot be exported: {reason}")
    state = pytree.tree_map(
        lambda t: _filled(t, width) if isinstance(t, Past) else t, state, is_leaf=_is_past
    )
    return select(state, torch.tensor([0, 1])), select(state, torch.tensor([2]))


def _reach(mixer: Mixer) -> int:
    """How far back a mixer looks, if that is bounded."""
    pattern = getattr(mixer, "pattern", None)
    rest = None if pattern is None else without(pattern, labels=True, marks=False)
    return 0 if rest is None else rest.reach()[0] or 0


def _filled(past: Past, width: int) -> Past:
    """A past with empty slots at the left, up to `width`, every one told to be real or empty."""
    missing = width - past.count
    kept = {name: nnf.pad(getattr(past, name), (0, 0, missing, 0)) for name in past.kept}
    real = torch.ones_like(past.pos, dtype=torch.bool) if past.valid is None else past.valid
    pos = nnf.pad(past.pos, (missing, 0))
    wider = replace(past, pos=pos, valid=nnf.pad(real, (missing, 0)), **kept)
    return replace(wider, pos=wider.pos[:, -1:] + torch.arange(1 - width, 1))


def _names(state: ModelState) -> list[str]:
    """The names of a state's tensors, such as layers.0.kv."""
    found, _ = pytree.tree_flatten_with_path(state)
    return [pytree.keystr(path).replace("[", ".").replace("]", "").strip(".") for path, _ in found]


def _slots(name: str, t: Tensor) -> int | None:
    """The axis of kept tokens in a leaf of a Past."""
    last = name.rsplit(".", 1)[-1]
    return {"pos": 1, "valid": 1, "k": t.dim() - 2, "v": t.dim() - 2}.get(last)


def _axes(name: str, t: Tensor) -> dict[int, Any]:
    axis = _slots(name, t)
    return {0: Dim.AUTO} if axis is None else {0: Dim.AUTO, axis: Dim.AUTO}


def _grows(name: str, out: Tensor, before: Tensor) -> bool:
    axis = _slots(name, before)
    return axis is not None and not isinstance(out.shape[axis], int)


def _cut(name: str, t: Tensor, out: Tensor, grows: bool) -> Tensor:
    """The first state as wide as a constant one is, or one empty slot if it grows."""
    axis = _slots(name, t)
    if axis is None:
        return t.contiguous()
    width = 1 if grows else int(out.shape[axis])
    return t.narrow(axis, t.shape[axis] - width, width).contiguous()


def _is_past(x: Any) -> bool:
    return isinstance(x, Past)
