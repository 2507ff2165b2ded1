"""Initialisation, in one place.

| module                           | distribution                                          |
|----------------------------------|-------------------------------------------------------|
| Linear weight, Embedding, weight | normal, standard deviation `std`                      |
| of a causal convolution          |                                                       |
| the maps that end a residual branch (`out`, `down`) | the same / sqrt(number of branches), |
|                                  | where no norm follows the sum                         |
| Linear bias, bias of words       | 0                                                     |
| other convolutions               | normal, 1 / sqrt(inputs of an output); bias 0         |
| norms                            | 1 and 0                                               |
| u, v of Transformer-XL           | normal, `std`                                         |
| tables of relative positions     | normal, `std`                                         |
| kernels of light convolutions    | normal, `std`                                         |
| learned spans                    | 0; by token: normal, `std`, and an offset of -4       |
| projections over positions       | normal, 1 / sqrt(rank)                                |
| temperatures                     | ln(1 / 0.07)                                          |
| random features, hashes          | never touched: they are drawn from their seeds        |

A stack that starts otherwise carries an `Init` as its `drawn`.
"""

from dataclasses import dataclass

from torch import nn

from subquad.nn.adaptive import AdaptiveHead
from subquad.nn.blocks import Block, PostNorm
from subquad.nn.contrast import Temperature
from subquad.nn.conv import CausalConv, DepthwiseConv
from subquad.nn.heads import TokenHead
from subquad.nn.lightconv import Kernels
from subquad.nn.lowrank import Projection
from subquad.nn.macaron import Macaron
from subquad.nn.position import XLBiases, XLRelative
from subquad.nn.span import DynamicSpan, RelativeTable, SpanRamp
from subquad.nn.stacks import Stack

__all__ = ["Init", "initialise", "initialise_one"]


#: what counts as inputs of a module
WIDTHS = {nn.Linear: "in_features", nn.Embedding: "embedding_dim", XLRelative: "head_dim"}

#: blocks whose sum of branches is normalised
ENDS_IN_NORM = PostNorm | Macaron


@dataclass(frozen=True)
class Init:
    """How widely weights are drawn: `std`, divided by sqrt(inputs of the map) if `by_inputs`.

    An embedding counts its width as inputs, and u and v of Transformer-XL that of a head. `head`:
    the deviation of untied logits, if another.
    """

    std: float = 0.02
    by_inputs: bool = False
    head: float | None = None

    def of(self, module: nn.Module) -> float:
        """The standard deviation of the weights of a module."""
        width = WIDTHS.get(type(module))
        inputs = getattr(module, width) if self.by_inputs and width else 1
        return self.std / inputs**0.5


def initialise(model: nn.Module, std: float = 0.02) -> None:
    """Draw all parameters of `model` anew from torch's default generator."""
    stacks = [m for m in model.modules() if isinstance(m, Stack)]
    how = next((m.drawn for m in stacks if m.drawn is not None), Init(std))
    heads: set[nn.Module] = {m.project for m in model.modules() if isinstance(m, TokenHead)}
    heads |= {w for m in model.modules() if isinstance(m, AdaptiveHead) for w in m.tables.words}
    # a block has a branch for each of its mixers, and one for its feed-forward part
    blocks = [block for m in stacks for block in m.blocks if isinstance(block, Block)]
    branches = sum(1 + len(block.mixers) for block in blocks)
    tamed = {
        m for block in model.modules() if isinstance(block, ENDS_IN_NORM) for m in block.modules()
    }
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        ends = last in ("out", "down") and branches > 0 and module not in tamed
        # kept, so that a single module can be drawn anew when a checkpoint lacks it
        wide = how.head if module in heads and how.head is not None else how.of(module)
        module.init_std = wide / branches**0.5 if ends else wide
        initialise_one(module)


def initialise_one(module: nn.Module) -> None:
    """Draw the parameters that `module` itself owns."""
    std = getattr(module, "init_std", 0.02)
    if isinstance(module, nn.Linear | CausalConv):
        nn.init.normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    elif isinstance(module, nn.Conv2d | DepthwiseConv):
        nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.BatchNorm1d):
        for name, parameter in module.named_parameters(recurse=False):
            nn.init.constant_(parameter, 0.0 if name == "bias" else 1.0)
    elif isinstance(module, AdaptiveHead):
        nn.init.zeros_(module.bias)
    elif isinstance(module, Projection):
        nn.init.normal_(module.weight, std=module.rank**-0.5)
    elif isinstance(module, RelativeTable | Kernels):
        nn.init.normal_(module.weight, std=std)
    elif isinstance(module, SpanRamp):
        nn.init.zeros_(module.span)
    elif isinstance(module, Temperature):
        nn.init.constant_(module.bias, module.START)
    elif isinstance(module, DynamicSpan):
        nn.init.normal_(module.weight, std=std)
        nn.init.constant_(module.offset, -4.0)
    elif isinstance(module, XLRelative | XLBiases):
        for _, parameter in module.named_parameters(recurse=False):
            nn.init.normal_(parameter, std=std)
