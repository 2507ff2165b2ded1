"""Ranks: which process holds which tokens of a sequence, and how they send to each other.

Process r holds tokens starts[r] .. starts[r] + lengths[r] - 1. Lengths may differ, and be 0.

`sent` counts the bytes that this process has handed to the group: all of a message to a peer,
2 (P - 1) / P of a sum over P processes and P - 1 copies of a gathered part, as rings send them.

Axes: B batch, N tokens of this process, P processes.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, distributed

__all__ = ["AllSum", "Gather", "Ranks"]


class Ranks:
    """The processes that hold one sequence, in order, and how many tokens each of them holds.

    Args:
        lengths: tokens of each process of the group.
        group: a process group; default: all processes.
    """

    def __init__(
        self, lengths: Sequence[int], group: distributed.ProcessGroup | None = None
    ) -> None:
        self.group = group
        self.size = distributed.get_world_size(group)
        if len(lengths) != self.size:
            raise ValueError(f"{len(lengths)} lengths are given for {self.size} processes")
        self.rank = distributed.get_rank(group)
        self.lengths = tuple(lengths)
        self.starts = tuple(accumulate(lengths, initial=0))
        self.sent = 0

    @classmethod
    def of(
        cls,
        tokens: int,
        group: distributed.ProcessGroup | None = None,
        device: torch.device | str = "cpu",
    ) -> "Ranks":
        """Ask every process how many tokens it holds; `device` is one that the group can send."""
        size = distributed.get_world_size(group)
        told = torch.zeros(size, dtype=torch.int64, device=device)
        told[distributed.get_rank(group)] = tokens
        distributed.all_reduce(told, group=group)
        return cls(told.tolist(), group)

    @property
    def tokens(self) -> int:
        """How many tokens this process holds."""
        return self.lengths[self.rank]

    @property
    def total(self) -> int:
        """How many all processes hold."""
        return self.starts[-1]

    def positions(self, device: torch.device) -> Tensor:
        """Where the tokens of this process stand in the sequence: (1, 1, N)."""
        at = self.starts[self.rank]
        return torch.arange(at, at + self.tokens, device=device).view(1, 1, -1)

    def check(self, tokens: int) -> None:
        """ValueError unless this process gives as many tokens as it has told the others."""
        if tokens != self.tokens:
            raise ValueError(
                f"process {self.rank} gives {tokens} tokens and has told the others "
                f"{self.tokens}; make a new Ranks for a batch of other lengths"
            )

    def exchange(self, out: dict[int, Tensor], into: dict[int, Tensor]) -> None:
        """Send `out` to peers and fill `into` from peers, all at once."""
        ops = []
        for act, parts in ((distributed.isend, out), (distributed.irecv, into)):
            for peer, part in parts.items():
                to = peer if self.group is None else distributed.get_global_rank(self.group, peer)
                ops.append(distributed.P2POp(act, part, to, self.group))
        self.sent += sum(part.numel() * part.element_size() for part in out.values())
        for work in distributed.batch_isend_irecv(ops) if ops else ():
            work.wait()

    def reduce(self, x: Tensor, how: Any = distributed.ReduceOp.SUM) -> Tensor:
        """The sum of x over all processes, or their maximum; x stays as it is."""
        total = x.detach().clone(memory_format=torch.contiguous_format)
        self.sent += 2 * (self.size - 1) * total.numel() * total.element_size() // self.size
        distributed.all_reduce(total, how, group=self.group)
        return total

    def gather(self, x: Tensor) -> list[Tensor]:
        """x of all processes, which must be of one size."""
        mine = x.detach().contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        self.sent += (self.size - 1) * mine.numel() * mine.element_size()
        distributed.all_gather(parts, mine, group=self.group)
        return parts


class AllSum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.reduce(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return ctx.ranks.reduce(grad), None


class Gather(torch.autograd.Function):
    """Parts (B, H, K, ...) of all processes in a row: (B, H, P K, ...)."""

    @staticmethod
    def forward(ctx, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks, ctx.width = ranks, x.shape[2]
        return torch.cat(ranks.gather(x), 2)

    @staticmethod
    def backward(ctx, grad: Tensor):
        total = ctx.ranks.reduce(grad)
        return total.narrow(2, ctx.ranks.rank * ctx.width, ctx.width), None
