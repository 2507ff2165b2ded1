"""Use of a trained language model: continue a text, score it, follow a stream.

Axes: B batch, N tokens, V vocabulary.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.vocabulary import Bytes, Subwords

__all__ = ["generate", "score", "stream"]

Words = Bytes | Subwords


@torch.no_grad()
def generate(
    model: Any,
    words: Words,
    prompt: bytes,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    streamer: Any = None,
) -> bytes:
    """A continuation of the prompt; temperature 0 takes the likeliest token each time."""
    if temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1:
        raise ValueError(
            f"temperature {temperature} must not be negative, top_p {top_p} lies above 0 and up "
            f"to 1, max_new_tokens {max_new_tokens} is at least 1"
        )
    ids = begin(words, prompt).to(model.device)
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if isinstance(words, Bytes):
        how["suppress_tokens"] = [words.pad, words.hidden, words.mark]
    if seed is not None:
        torch.manual_seed(seed)
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max_new_tokens,
        streamer=streamer,
        **how,
    )
    return words.decode(out[0, ids.shape[1] :].tolist())


@torch.no_grad()
def score(model: Any, words: Words, text: bytes, top: int = 5) -> dict[str, Any]:
    """How well the model foresaw a text, and what it expects next.

    bits_per_byte: of the text as a document, its whole past in view.  bits: of each token.
    next: the likeliest tokens that may follow, with their probabilities.
    """
    ids = begin(words, text).to(model.device)
    logits = model(input_ids=ids).logits[0].float()
    bits = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none") / 0.6931471805599453
    likely = logits[-1].softmax(-1).topk(min(top, logits.shape[-1]))
    return {
        "bits_per_byte": float(bits.double().sum()) / max(len(text), 1),
        "bits": bits.tolist(),
        "next": [
            (words.decode([i]), p)
            for p, i in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        ],
    }


@torch.no_grad()
def stream(model: Any, words: Words, items: Iterable[int | bytes | str]) -> Iterator[Tensor]:
    """For each item in, the log-probabilities (V,) of the token that follows it, out at once.

    An item is a token number, or bytes or text, which may be several tokens. What is kept between
    items is the model's state, whose size the architecture bounds.
    """
    inner = model.model
    state = inner.init_state(1)
    _, state = inner(torch.tensor([[words.boundary]], device=model.device), state=state)
    for item in items:
        raw = item.encode() if isinstance(item, str) else item
        ids = [raw] if isinstance(raw, int) else words.encode(raw).tolist()
        if not ids:
            raise ValueError("an empty item came in, and nothing follows nothing")
        if not 0 <= min(ids) <= max(ids) < words.size:
            raise ValueError(f"token {max(ids)} is not in the vocabulary of {words.size}")
        logits, state = inner(torch.tensor([ids], device=model.device), state=state)
        yield logits[0, -1].float().log_softmax(-1)


def begin(words: Words, text: bytes) -> Tensor:
    """Token numbers (1, N) of a text as the beginning of a document."""
    return torch.tensor([[words.boundary, *words.encode(text).tolist()]])
