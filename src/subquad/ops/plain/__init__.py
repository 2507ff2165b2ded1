"""The operators of this library in plain torch, for graphs that leave it.

`PLAIN` maps each operator of a forward pass to a function of the same arguments and results, made
of operations that every runtime has: no loop over data, any length. A graph that was captured with
the operators in it is exported with these in their place; the operators stay the faster here.

| operator | in plain torch it costs |
|---|---|
| band of finite reach over the same tokens | N (2 reach): blocks of queries |
| kernel_causal | N F D and (N / 64)^2 F D: chunks, and their states among each other |
| kernel_sum, kernel_read | N F D, with N F memory |
| all others | the whole N x M matrix |
"""

from collections.abc import Callable
from types import MappingProxyType

import torch

# the operators exist once their modules are imported
import subquad.ops.attend
import subquad.ops.gather
import subquad.ops.linear
import subquad.ops.lsh
from subquad.ops.plain.hashed import hashed
from subquad.ops.plain.kernel import kernel_causal, kernel_read, kernel_sum
from subquad.ops.plain.softmax import band, listed, rows, whole

__all__ = ["PLAIN"]

_ops = torch.ops.subquad

#: operator -> the same in plain torch
PLAIN: MappingProxyType[torch._ops.OpOverload, Callable] = MappingProxyType(
    {
        _ops.band.default: band,
        _ops.shifts.default: whole,
        _ops.columns.default: whole,
        _ops.drawn.default: whole,
        _ops.marked.default: whole,
        _ops.rows.default: rows,
        _ops.gather.default: listed,
        _ops.kernel_causal.default: kernel_causal,
        _ops.kernel_sum.default: kernel_sum,
        _ops.kernel_read.default: kernel_read,
        _ops.lsh.default: hashed,
    }
)
