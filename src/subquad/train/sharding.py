"""Sharding: every process keeps a part of all weights, gradients and optimizer moments.

Zhao et al., PyTorch FSDP, 2023, https://arxiv.org/abs/2304.11277, by torch's `fully_shard`: a block
gathers its weights when it runs, forward and again in backward, and keeps only its part in between.
With P processes each sends (P - 1) / P of the weights three times a step: gathered twice, and their
gradients reduced once; data parallelism sends them twice.

What is written is whole: a run begun sharded goes on unsharded, and the other way round.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils import _pytree as pytree

from subquad.nn.blocks import Block
from subquad.nn.reversible import Reversible

__all__ = ["check_shardable", "gathered", "kept_whole", "like_parameters", "shard"]


def check_shardable(model: nn.Module, processes: int) -> None:
    """ValueError for one process, and for models that look at their weights outside of a forward
    pass, where a process holds only its part."""
    if processes < 2:
        raise ValueError(
            "train.shard spreads weights over several processes, and there is one: start with "
            "torchrun --nproc-per-node N -m subquad.cli train ..."
        )
    for name, module in model.named_modules():
        if callable(getattr(module, "penalty", None)):
            raise ValueError(
                f"train.shard: {name} ({type(module).__name__}) adds a price of its weights to the "
                "loss, and no process holds all of them; leave train.shard out"
            )
    for name, p in model.named_parameters():
        if p.dim() == 0:
            raise ValueError(
                f"train.shard: {name} is a single number, which cannot be spread; leave it out"
            )


def shard(model: nn.Module, device: torch.device) -> None:
    """Spread the weights of a model over all processes, block by block, in place.

    What blocks share with each other, and what runs outside of a block's forward (the halves of
    reversible blocks), is spread with the rest of the model.
    """
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    blocks = [m for m in model.modules() if isinstance(m, Block) and not isinstance(m, Reversible)]
    inner = {id(m) for block in blocks for m in block.modules() if m is not block}
    blocks = [block for block in dict.fromkeys(blocks) if id(block) not in inner]
    uses = Counter(id(p) for p in _every(model, blocks))
    for block in blocks:
        if all(uses[id(p)] == 1 for p in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def _every(model: nn.Module, blocks: list[Block]) -> Iterator[nn.Parameter]:
    """Parameters, once for each block that has them and once for the rest."""
    inside = {id(m) for block in blocks for m in block.modules()}
    for block in blocks:
        yield from block.parameters()
    rest = [m for m in model.modules() if id(m) not in inside]
    yield from {id(p): p for m in rest for p in m.parameters(recurse=False)}.values()


def kept_whole(model: nn.Module, make: Callable[..., Any]) -> Callable[..., Any]:
    """A function that looks at weights, and runs while every process holds all of them."""

    def run(*args: Any) -> Any:
        parts = [m for m in model.modules() if isinstance(m, FSDPModule)]
        for part in parts:
            part.unshard()
        try:
            return make(*args)
        finally:
            for part in parts:
                part.reshard()

    return run


def gathered(tree: Any) -> Any:
    """The same containers, every spread tensor whole, on the CPU. All processes must call this."""
    known: dict[int, Tensor] = {}  # what goes by two names stays one

    def one(t: Any) -> Any:
        if not isinstance(t, DTensor):
            return t
        if id(t) not in known:
            known[id(t)] = t.detach().full_tensor().cpu()
        return known[id(t)]

    return pytree.tree_map(one, tree)


def like_parameters(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer whose tensors are whole, each spread as its parameter is."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    places = [i for group in state["param_groups"] for i in group["params"]]
    spread = {}
    for i, p in zip(places, params, strict=True):
        spread[i] = {
            name: distribute_tensor(t.to(p.device), p.device_mesh, p.placements, src_data_rank=None)
            if isinstance(p, DTensor) and isinstance(t, Tensor) and t.shape == p.shape
            else t
            for name, t in state["state"].get(i, {}).items()
        }
    return {**state, "state": {i: kept for i, kept in spread.items() if kept}}
