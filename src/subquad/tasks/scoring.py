"""How well a language model predicts documents: every token scored exactly once.

`windowed`: windows of C tokens that advance by S; the first window of a document is scored whole,
each later one in its last S tokens, so a token has between C - S and C tokens of past, fewer only
where the document begins.  `carried`: the state goes through each document, so a token has its
whole past, as far as the architecture reaches.  Nothing passes from one document to another, and
the boundary between documents is not scored.

Axes: B batch, N tokens.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from subquad.data.corpus import Corpus
from subquad.nn.state import select
from subquad.tasks.task import Share, add

__all__ = ["Tick", "carried", "gzip_bits", "nats", "protocol", "windowed"]

Tick = Callable[[int], None]
_SIDE_BY_SIDE = 8_192  # tokens in one call


def nats(
    model: nn.Module,
    corpus: Corpus,
    context: int,
    stride: int | None,
    share: Share,
    tick: Tick,
) -> float:
    """The nats of all tokens in eval mode: windowed, or carried for stride None."""
    was = model.training
    model.eval()
    how = {"batch": max(1, _SIDE_BY_SIDE // context), "share": share, "tick": tick}
    if stride is None:
        found = carried(model, corpus, context, **how)
    else:
        found = windowed(model, corpus, context, stride, **how)
    model.train(was)
    return found


@torch.no_grad()
def windowed(
    model: nn.Module,
    corpus: Corpus,
    context: int,
    stride: int,
    *,
    batch: int,
    share: Share,
    tick: Tick,
) -> float:
    """The nats of all tokens. `model` is a `subquad.Model`; tick(n) is told how many are done."""
    if not 0 < stride <= context:
        raise ValueError(
            f"a stride of {stride} does not fit a context of {context}: 1 to {context}"
        )
    at = next(model.parameters()).device
    total = 0.0
    windows = enumerate(_batches(_windows(corpus, context, stride), batch))
    for group in (group for number, group in windows if share.mine(number)):
        width = max(end - start for start, end, _ in group)
        ids = torch.zeros(len(group), width + 1, dtype=torch.int64)
        scored = torch.zeros(len(group), width, dtype=torch.bool)
        for row, (start, end, first) in enumerate(group):
            ids[row, : end - start + 1] = torch.from_numpy(corpus.read(start, end - start + 1))
            scored[row, first - start : end - start] = True
        # padding stands behind the text, where a causal model does not look
        ids = ids.to(at)
        logits, _ = model(ids[:, :-1])
        total += _nats(logits[scored.to(at)], ids[:, 1:][scored.to(at)])
        tick(int(scored.sum()))
    return add(share, total)[0]


@torch.no_grad()
def carried(
    model: nn.Module,
    corpus: Corpus,
    chunk: int,
    *,
    batch: int,
    share: Share,
    tick: Tick,
) -> float:
    """The nats of all tokens, documents read in chunks with the state carried on."""
    at = next(model.parameters()).device
    # long ones first, so that those read side by side end at about the same time
    documents = sorted(corpus.documents(), key=lambda document: -document[1])
    groups = enumerate(_batches(documents, batch))
    total = 0.0
    for group in (group for number, group in groups if share.mine(number)):
        state = model.init_state(len(group))
        done = 0
        while group:
            width = min(chunk, group[0][1] - done)
            ids = torch.zeros(len(group), width + 1, dtype=torch.int64)
            scored = torch.zeros(len(group), width, dtype=torch.bool)
            for row, (place, length) in enumerate(group):
                count = min(width, length - done)
                ids[row, : count + 1] = torch.from_numpy(corpus.read(place + done, count + 1))
                scored[row, :count] = True
            ids = ids.to(at)
            logits, state = model(ids[:, :-1], state=state)
            total += _nats(logits[scored.to(at)], ids[:, 1:][scored.to(at)])
            tick(int(scored.sum()))
            done += width
            # rows that have ended, and with them their padding, leave
            left = [row for row, (_, length) in enumerate(group) if length > done]
            if len(left) < len(group):
                state = select(state, torch.tensor(left, dtype=torch.int64))
                group = [group[row] for row in left]
    return add(share, total)[0]


def protocol(context: int, stride: int | None, unit: str) -> str:
    """How it was measured, in words; stride None means carried."""
    if stride is None:
        how = f"state carried through each document in chunks of {context:,} {unit}"
    else:
        how = (
            f"windows of {context:,} {unit}, stride {stride:,}: each scored once with between "
            f"{context - stride:,} and {context:,} {unit} of past, fewer only at the start"
        )
    return f"{how}; nothing passes between documents, ends of documents are not scored"


def gzip_bits(pieces: Iterable[bytes]) -> float:
    """The bits of `gzip -9` of all pieces joined."""
    packer, size = zlib.compressobj(9, wbits=31), 0
    for piece in pieces:
        size += len(packer.compress(piece))
    return 8.0 * (size + len(packer.flush()))


def _windows(corpus: Corpus, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(start, end, first scored) in the stream: inputs start to end - 1, targets one later."""
    for place, length in corpus.documents():
        done = min(context, length)
        if done:
            yield place, place + done, place
        while done < length:
            end = min(done + stride, length)
            yield place + max(0, end - context), place + end, place + done
            done = end


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while group := list(islice(items, size)):
        yield group


def _nats(logits: Tensor, targets: Tensor) -> float:
    return float(F.cross_entropy(logits.float(), targets, reduction="none").double().sum())
