"""Use of a trained language model: continue documents, score them, follow a stream.

Axes: B batch, N tokens, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from subquad.data.documents import Kind, of_elements
from subquad.data.vocabulary import Symbols, Vocabulary

__all__ = ["compose", "generate", "score", "stream"]

_NEW_TOKENS = 300  # where documents are not all of one length
_PIECE = 1024  # tokens of a prompt that are read at once


def generate(
    model: Any, words: Vocabulary, prompt: bytes, *, max_new_tokens: int, **how: Any
) -> bytes:
    """A continuation of the prompt; `how` as in `continued`."""
    ids = continued(model, words, prompt, max_new_tokens=max_new_tokens, **how)[0]
    return words.decode(ids)


def compose(
    model: Any,
    words: Vocabulary,
    kind: Kind,
    prompt: bytes,
    out: Path | None,
    *,
    max_new_tokens: int | None = None,
    **how: Any,
) -> str:
    """Documents that begin with the prompt, as what they are made of: returned as text, or written
    to a file. Of a text only the continuation. `how` as in `continued`.

    Where all documents have one length, they are drawn whole. ValueError if the kind is no text
    and `out` no file for it.
    """
    kind.check(out)
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} in")
    begun, unsaid = b"", words.unsaid
    if isinstance(words, Symbols) and kind.words is not None:
        begun = words.encode(prompt).tobytes()
    if kind.length is not None:
        if len(begun) >= kind.length:
            raise ValueError(
                f"the prompt has {len(begun)} tokens and a {kind.member} {kind.length}"
            )
        if max_new_tokens is None:
            max_new_tokens = kind.length - len(begun)
        unsaid = [words.boundary, *unsaid]
    most = _NEW_TOKENS if max_new_tokens is None else max_new_tokens
    how |= {"max_new_tokens": most, "unsaid": unsaid}
    rows = continued(model, words, prompt, **how)
    if kind.words is None:
        made = [words.decode(ids) for ids in rows]
    else:
        made = [begun + bytes(i for i in ids if i < kind.words.count) for ids in rows]
    if out is None:
        return kind.shown(made)
    kind.write(made, out)
    return f"{len(made)} written to {out}"


@torch.no_grad()
def continued(
    model: Any,
    words: Vocabulary,
    prompt: bytes,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    count: int = 1,
    unsaid: Sequence[int] | None = None,
    streamer: Any = None,
    go_on: Callable[[], None] = lambda: None,
) -> list[list[int]]:
    """Tokens that follow the prompt, `count` times; temperature 0 takes the likeliest each time.

    unsaid: tokens that do not come up; default: those that no document holds.  go_on: called before
    each piece of a long prompt; what it raises ends the reading.
    """
    if temperature < 0 or not 0 < top_p <= 1 or max_new_tokens < 1 or count < 1:
        raise ValueError(
            f"temperature {temperature} must not be negative, top_p {top_p} lies above 0 and up "
            f"to 1, max_new_tokens {max_new_tokens} and count {count} are at least 1"
        )
    ids = begin(words, prompt).to(model.device).expand(count, -1)
    how: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        how = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if never := [*(words.unsaid if unsaid is None else unsaid)]:
        how["suppress_tokens"] = never
    devices = [model.device] if model.device.type == "cuda" else []
    # a caller's own random numbers go on as if nothing had been drawn
    with torch.random.fork_rng(devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=_read(model, ids, go_on),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            **how,
        )
    return out[:, ids.shape[1] :].tolist()


def _read(model: Any, ids: Tensor, go_on: Callable[[], None]) -> Any:
    """The cache after a prompt (B, N) but for its last piece, which generate() reads; None of a
    short one."""
    cache = None
    for piece in ids.split(_PIECE, 1)[:-1]:
        go_on()
        cache = model(
            input_ids=piece, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).past_key_values
    return cache


@torch.no_grad()
def score(model: Any, words: Vocabulary, kind: Kind, text: bytes, top: int = 5) -> dict[str, Any]:
    """How well the model foresaw a document, and what it expects next.

    The metric of its kind, its whole past in view.  bits: of each token.  next: the likeliest
    tokens that may follow, with their probabilities: as text, where a byte that is none by itself
    stands as \\xNN; as numbers where documents are no text.
    """
    ids = begin(words, text).to(model.device)
    logits = model(input_ids=ids).logits[0].float()
    nats = F.cross_entropy(logits[:-1], ids[0, 1:], reduction="none").double()
    likely = logits[-1].softmax(-1).topk(min(top, logits.shape[-1]))
    document = of_elements(kind, text if kind.words is None else words.encode(text).tobytes())
    return {
        **kind.measure(float(nats.sum()), len(nats), document),
        "bits": (nats / 0.6931471805599453).tolist(),
        "next": [
            (words.decode([i]).decode(errors="backslashreplace") if kind.words is None else i, p)
            for p, i in zip(likely.values.tolist(), likely.indices.tolist(), strict=True)
        ],
    }


@torch.no_grad()
def stream(model: Any, words: Vocabulary, items: Iterable[int | bytes | str]) -> Iterator[Tensor]:
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


def begin(words: Vocabulary, text: bytes) -> Tensor:
    """Token numbers (1, N) of a text as the beginning of a document."""
    ids = torch.as_tensor(words.encode(text).astype("int64"))
    return torch.cat((torch.tensor([words.boundary]), ids))[None]
