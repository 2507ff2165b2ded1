"""Every architecture spread over processes, compared with one that is whole.

    python -m torch.distributed.run ... tests/spreading.py FOLDER

Each process writes how far loss and gradients are, and how many bytes of weights it holds of all.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

from subquad.archs import ARCHS
from subquad.hf import SubquadConfig, SubquadForCausalLM
from subquad.train.sharding import check_shardable, gathered, shard

LENGTH = 24


def made(name: str) -> nn.Module:
    """A tiny language model, the same in every process."""
    torch.manual_seed(0)
    fields = dict(ARCHS[name].PRESETS["tiny"].__dict__)
    if "causal" in fields:
        fields["causal"] = True
    return SubquadForCausalLM(SubquadConfig(arch=name, model=fields, vocab_size=96)).eval()


def learn(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """The loss of one batch; gradients stay at the weights."""
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss.detach()


def compare(name: str) -> dict[str, float | str]:
    """How far a spread model is from a whole one, or why it cannot be spread."""
    size, rank = distributed.get_world_size(), distributed.get_rank()
    every = torch.randint(96, (2 * size, LENGTH), generator=torch.Generator().manual_seed(1))
    one, model = made(name), made(name)
    try:
        check_shardable(model, size)
    except ValueError as error:
        return {"refused": str(error)}
    expected = learn(one, every)
    shard(model, torch.device("cpu"))
    held = sum(p.to_local().nbytes for p in model.parameters() if isinstance(p, DTensor))
    loss = learn(model, every[2 * rank : 2 * rank + 2])
    distributed.all_reduce(loss)
    grads = gathered({name: p.grad for name, p in model.named_parameters()})
    weights = gathered(model.state_dict(keep_vars=True))
    far = [(loss / size - expected).abs().item()]
    for key, p in one.named_parameters():
        if p.grad is not None:
            far.append((grads[key] - p.grad).abs().max().item() if p.grad.numel() else 0.0)
        assert torch.equal(weights[key], p), f"{name}: {key} is not what it was"
    whole = sum(p.nbytes for p in one.parameters())
    return {"far": max(far), "held": held, "whole": whole}


def main() -> None:
    """Compare all in a process that torchrun has started."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    found = {name: compare(name) for name in ARCHS if hasattr(ARCHS[name].Config(), "causal")}
    path = Path(sys.argv[1]) / f"{distributed.get_rank()}.json"
    path.write_text(json.dumps(found))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
