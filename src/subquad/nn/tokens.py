"""Stems of token numbers: an embedding, and what is added to it.

Axes: B batch, N tokens, C model width.
"""

from torch import Tensor, nn

from subquad.nn.context import Context
from subquad.nn.ends import Ends
from subquad.nn.ngrams import HeldTokens, NGrams

__all__ = ["NGramStem", "TokenStem"]


class TokenStem(nn.Module):
    """Token numbers (B, N) to features (B, N, C): an embedding, and positions and a norm if given.

    `embedding` is an `nn.Embedding`, or a `Tables` of adaptive input. Features (B, N, C) that come
    embedded already take the rest of the way. With `types`, a vector by the kind of each token is
    added (BERT's sentence A and B): numbers (B, N, 2) hold token and kind, and without a kind it is
    the first. `ends` marks tokens of whole rows, where no marks are given.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        types: nn.Embedding | None = None,
        ends: Ends | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding, self.position, self.types = embedding, position, types
        self.norm = nn.Identity() if norm is None else norm
        self.ends, self.scale = ends, scale
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context; rows begin at position `start` (B,), default 0.

        ValueError for rows in pieces where their ends are marked.
        """
        context, embedded = Context.of(tokens, valid, start), tokens.is_floating_point()
        if self.ends is not None:
            context = self.ends(tokens, context, start)
        kinds = None
        if self.types is not None and tokens.dim() == 3 and not embedded:
            tokens, kinds = tokens.unbind(-1)
        x = tokens if embedded else self.embedding(tokens) * self.scale
        if self.types is not None:
            x = x + (self.types.weight[0] if kinds is None else self.types(kinds))
        return self.finish(x, context, True)

    def finish(self, x: Tensor, context: Context, scaled: bool = False) -> tuple[Tensor, Context]:
        """Features of vectors x (B, N, C): scaled, unless they are, with positions and norm."""
        x = x if scaled else x * self.scale
        if self.position is not None:
            x = x + self.position(context.pos, context.valid).to(x.dtype)
        return context.clean(self.dropout(self.norm(x))), context


class NGramStem(TokenStem):
    """A token stem that adds vectors of the n-grams that end at each token, as
    `subquad.nn.NGrams`. In a stream it keeps the last few tokens.
    """

    def __init__(
        self,
        embedding: nn.Module,
        ngrams: NGrams,
        *,
        position: nn.Module | None = None,
        norm: nn.Module | None = None,
        scale: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(embedding, position=position, norm=norm, scale=scale, dropout=dropout)
        self.ngrams = ngrams

    def forward(
        self, tokens: Tensor, valid: Tensor | None = None, start: Tensor | None = None
    ) -> tuple[Tensor, Context]:
        """Features and context of whole rows. ValueError for pieces without a state."""
        if start is not None:
            raise ValueError(
                "a stream of n-grams needs the state of its stem: take one from Model.init_state"
            )
        x, context, _ = self.follow(tokens, valid, None, self.ngrams.begin(len(tokens)))
        return x, context

    def follow(
        self, tokens: Tensor, valid: Tensor | None, start: Tensor | None, held: HeldTokens
    ) -> tuple[Tensor, Context, HeldTokens]:
        """Features of tokens (B, N) that follow those held, and what is held then.

        ValueError for features in place of numbers.
        """
        if tokens.is_floating_point():
            raise ValueError(
                f"n-grams are made of token numbers, not of {tokens.dtype} features; pass "
                "input_ids, or build with stem={'kind': 'tokens'}"
            )
        found, held = self.ngrams(tokens, valid, held)
        x = (self.embedding(tokens) + found) / (1 + len(self.ngrams.sizes))
        return *self.finish(x, Context.of(tokens, valid, start)), held

    def init_state(self, batch: int, step: int) -> HeldTokens:
        """What is held before the first token; tokens come out as they come in."""
        return self.ngrams.begin(batch)
