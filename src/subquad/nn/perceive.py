"""Perceive: a stack that reads an input of any size into a few latents, thinks, and is then asked.

    z = read(latents; x);   z = layers(z), perhaps with further reads;   y = answer(queries; z)

Jaegle et al., Perceiver, https://arxiv.org/abs/2103.03206, and Perceiver IO,
https://arxiv.org/abs/2107.14795. O(N K + layers K^2 + O K) time for N inputs, K latents and O
queries, O(N + K + O) memory.

Axes: B batch, N inputs, M memory, K latents, O queries, C model width, Z width of latents.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from subquad.nn.attention import divide
from subquad.nn.blocks import Block
from subquad.nn.choices import feed_forward, normalise
from subquad.nn.context import Context
from subquad.nn.cross import CrossAttention
from subquad.nn.mixer import Mixer
from subquad.nn.stacks import Encoder

__all__ = ["CrossBlock", "MeanAnswer", "QueryStack", "cross_block"]


class CrossBlock(nn.Module):
    """Features that read a memory of another width; norms of their own for either side.

        y = x + attention(norm(x), norm(memory));   y + mlp(norm(y))

    Without `residual` y is what attention found alone: for queries that only say what is asked.
    """

    #: it answers what it is asked
    answers = True

    def __init__(
        self,
        dim: int,
        memory_dim: int,
        mixer: Mixer,
        mlp: nn.Module,
        *,
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        dropout: float = 0.0,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.mixer, self.mlp, self.residual, self.out_dim = mixer, mlp, residual, dim
        self.norms = nn.ModuleList((norm(dim), norm(memory_dim), norm(dim)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """x (B, N, C) after it has read `Context.memory` (B, M, Z)."""
        memory = self.norms[1](context.clean_memory())
        found, _ = self.mixer(self.norms[0](x), replace(context, memory=memory))
        y = self.dropout(found)
        y = x + y if self.residual else y
        return y + self.dropout(self.mlp(self.norms[2](y)))


class MeanAnswer(nn.Module):
    """The mean of the latents, whatever is asked: the first Perceiver's answer, for labels."""

    answers = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out_dim = dim

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, N, Z) for x (B, N, C) and a memory (B, K, Z)."""
        return context.clean_memory().mean(1, keepdim=True).expand(-1, x.shape[1], -1)


class QueryStack(Encoder):
    """Latents read the inputs, blocks think about the latents, and queries read the answer there.

    rounds: for each pass through the blocks, which of `reads` goes before it, if any. So (0,) is
    Perceiver IO, (0, None) thinks twice with the same weights, and (0, 1, 1) reads thrice.
    Queries are `Context.queries` (B or 1, O, out_dim), and answers (B, O, out_dim); without them
    every input position asks, by its own features. ValueError for other rounds, or no latent.
    """

    def __init__(
        self,
        reads: Sequence[CrossBlock],
        blocks: Sequence[Block],
        answer: CrossBlock | MeanAnswer,
        *,
        latents: int,
        rounds: Sequence[int | None] = (0,),
    ) -> None:
        super().__init__(blocks, answer.out_dim)
        if latents < 1:
            raise ValueError(f"latents is {latents}; there must be at least 1 to read the input")
        if {r for r in rounds if r is not None} != set(range(len(reads))) or not reads:
            raise ValueError(f"rounds {tuple(rounds)} must name each of {len(reads)} reads")
        self.reads, self.answer = nn.ModuleList(reads), answer
        self.rounds, self.answers = tuple(rounds), answer.answers
        self.latents = nn.Embedding(latents, reads[0].out_dim)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> tuple[Tensor, None]:
        """Answers to `Context.queries`, or to all inputs, or to the last ones that are wanted.

        ValueError for labels, and for queries of another width than answers.
        """
        if context.label is not None:
            raise ValueError(
                "latents read the whole input and cannot keep labelled documents apart; give each "
                "document a row of its own"
            )
        x = context.clean(x)
        z = self.think(x, context)
        asks, told = self._asks(x, context)
        return self.recompute(self.answer, asks, replace(told, memory=z)), None

    def think(self, x: Tensor, context: Context) -> Tensor:
        """The latents (B, K, Z) after all rounds over x (B, N, C)."""
        slots = torch.arange(self.latents.num_embeddings, device=x.device)
        z = self.latents(slots).expand(x.shape[0], -1, -1)
        told = Context.of(z)
        source = replace(told, memory=x, memory_valid=context.valid)
        for read in self.rounds:
            if read is not None:
                z = self.recompute(self.reads[read], z, source)
            z, _ = self.row(z, told, None)
        return z

    def _asks(self, x: Tensor, context: Context) -> tuple[Tensor, Context]:
        """The queries, and what is known of them."""
        n, queries = x.shape[1], context.queries
        asks = x if queries is None else queries.expand(x.shape[0], -1, -1)
        if self.answers and asks.shape[-1] != self.out_dim:
            whose = "inputs that ask for themselves" if queries is None else "queries"
            raise ValueError(
                f"{whose} are {asks.shape[-1]} wide and this stack answers {self.out_dim} wide; "
                "they must agree"
            )
        if queries is not None:
            return asks, Context.of(asks)
        if context.last is None or context.last >= n:
            return x, Context(context.pos, context.valid)
        last = torch.arange(n - context.last, n, device=x.device)
        return x[:, last], Context(context.pos, context.valid).rows(last)


def cross_block(
    sizes: tuple[int, int, int],
    num_heads: int,
    *,
    key_dim: int | None = None,
    norm: str = "layer",
    mlp: str = "gelu",
    dropout: float = 0.0,
    residual: bool = True,
) -> CrossBlock:
    """A block that reads a memory; sizes: its width, that of the memory, that inside its MLP.

    `key_dim`: the width of all queries and keys, and values are then as wide as what reads; by
    default all are as wide as what is read.
    """
    dim, memory_dim, hidden = sizes
    mixer = CrossAttention(
        dim,
        num_heads,
        memory_dim=memory_dim,
        head_dim=divide(key_dim or memory_dim, num_heads),
        value_dim=divide(dim if key_dim else memory_dim, num_heads),
        dropout=dropout,
    )
    return CrossBlock(
        dim,
        memory_dim,
        mixer,
        feed_forward(mlp)(dim, hidden, dropout=dropout),
        norm=normalise(norm),
        dropout=dropout,
        residual=residual,
    )
