"""Initialisation, in one place.

| module                           | distribution                                          |
|----------------------------------|-------------------------------------------------------|
| Linear weight, Embedding         | normal, standard deviation `std`                      |
| the maps that end a residual branch (`out`, `down`) | the same / sqrt(2 * number of blocks), |
|                                  | where no norm follows the sum                         |
| Linear bias                      | 0                                                     |
| norms                            | 1 and 0                                               |
| u, v of Transformer-XL           | normal, `std`                                         |
| tables of relative positions     | normal, `std`                                         |
| learned spans                    | 0                                                     |
| random features, hashes          | never touched: they are drawn from their seeds        |
"""

from torch import nn

from subquad.nn.blocks import PostNorm
from subquad.nn.position import XLBiases, XLRelative
from subquad.nn.span import RelativeTable, SpanRamp
from subquad.nn.stacks import Stack

__all__ = ["initialise", "initialise_one"]


def initialise(model: nn.Module, std: float = 0.02) -> None:
    """Draw all parameters of `model` anew from torch's default generator."""
    depth = sum(len(m.blocks) for m in model.modules() if isinstance(m, Stack))
    tamed = {m for block in model.modules() if isinstance(block, PostNorm) for m in block.modules()}
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        ends = last in ("out", "down") and depth > 0 and module not in tamed
        # kept, so that a single module can be drawn anew when a checkpoint lacks it
        module.init_std = std / (2 * depth) ** 0.5 if ends else std
        initialise_one(module)


def initialise_one(module: nn.Module) -> None:
    """Draw the parameters that `module` itself owns."""
    std = getattr(module, "init_std", 0.02)
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        for name, parameter in module.named_parameters(recurse=False):
            nn.init.constant_(parameter, 0.0 if name == "bias" else 1.0)
    elif isinstance(module, RelativeTable):
        nn.init.normal_(module.weight, std=std)
    elif isinstance(module, SpanRamp):
        nn.init.zeros_(module.span)
    elif isinstance(module, XLRelative | XLBiases):
        for _, parameter in module.named_parameters(recurse=False):
            nn.init.normal_(parameter, std=std)
