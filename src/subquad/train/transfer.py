"""Transfer: weights of another run or checkpoint, parts that stay as they are, rates by depth.

Depth of a parameter: 0 for the stem, i + 1 for block i, and one more for what follows the blocks.
Its learning rate is lr * decay^(deepest - depth) (Howard and Ruder, 2018, "discriminative
fine-tuning", https://arxiv.org/abs/1801.06146).
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subquad.train.checkpoint import reading

__all__ = ["begin_from", "by_depth", "freeze"]

_SHOWN = 5
_SIDE = r"(?:(?:encoder|decoder|images|texts)\.)?"  # of a pair, or of towers


@torch.no_grad()
def begin_from(model: nn.Module, folder: Path) -> list[str]:
    """Copy the weights in `folder` into a model of the shell; the names of those that stay fresh.

    Stem and backbone must be there whole; heads are taken where they fit, and the rows of a smaller
    embedding become the first ones. ValueError for what does not fit.
    """
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    if not path.is_file():
        raise ValueError(f"{folder} has no model.safetensors to begin from")
    with reading(path):
        found = load_file(path)
    # a bare model has no name before its parts
    found = {name if name.startswith("model.") else f"model.{name}": t for name, t in found.items()}
    fresh, wrong, done, rest = [], [], set(), {}
    for name, own in model.state_dict(keep_vars=True).items():
        given = found.get(name)
        if given is not None and _fits(given, own, name):
            own[: len(given)].copy_(given) if own.dim() else own.copy_(given)
            done.add(own.data_ptr())
        else:
            rest[name] = own
    for name, own in rest.items():
        if own.data_ptr() in done:  # it shares what was copied
            continue
        if re.match(rf"model\.{_SIDE}head\.", name):
            fresh.append(name)
        else:
            given = found.get(name)
            had = "not there" if given is None else f"{tuple(given.shape)}, not {tuple(own.shape)}"
            wrong.append(f"{name} is {had}")
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"the weights in {folder} do not fit this model: {'; '.join(wrong[:_SHOWN])}{more}"
        )
    return fresh


def _fits(given: Tensor, own: Tensor, name: str) -> bool:
    if given.shape == own.shape:
        return True
    table = re.match(rf"model\.{_SIDE}stem\.embedding", name)
    grows = table is not None and given.shape[1:] == own.shape[1:]
    return grows and len(given) < len(own)


def freeze(model: nn.Module, parts: tuple[str, ...]) -> None:
    """Keep the parameters of some parts as they are: "stem", "backbone.blocks.0", "backbone".

    ValueError for a part that is not there, or if nothing is left to train.
    """
    named = {name.removeprefix("model."): p for name, p in model.named_parameters()}
    for part in parts:
        chosen = [p for name, p in named.items() if f"{name}.".startswith(f"{part}.")]
        if not chosen:
            known = sorted({re.match(r"(\w+(\.blocks\.\d+)?)", name)[1] for name in named})
            raise ValueError(f"--train.freeze {part}: there is no such part; known: {known}")
        for p in chosen:
            p.requires_grad_(False)
    if not any(p.requires_grad for p in named.values()):
        raise ValueError(f"--train.freeze {','.join(parts)} leaves nothing to train")


def by_depth(optimizer: torch.optim.Optimizer, model: nn.Module, decay: float) -> None:
    """Give every parameter of an optimizer the learning rate of its depth."""
    depths = _depths(model)
    deepest = max(depths.values(), default=0)
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        split: dict[int, list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            split[depths[id(p)]].append(p)
        for depth, params in sorted(split.items()):
            rate = group["lr"] * decay ** (deepest - depth)
            groups.append({**group, "params": params, "lr": rate})
    optimizer.param_groups = groups


def _depths(model: nn.Module) -> dict[int, int]:
    """Parameter (by its id) -> depth."""
    depths, blocks = {}, 0
    for name, p in model.named_parameters():
        found = re.search(r"blocks\.(\d+)\.", name)
        blocks = max(blocks, int(found[1]) + 1 if found else 0)
        if found:
            depths[id(p)] = int(found[1]) + 1
        elif ".stem." in f".{name}":
            depths[id(p)] = 0
    return {id(p): depths.get(id(p), blocks + 1) for p in model.parameters()}
