"""Other people's implementations, where they are installed: small adapters in one table.

What is not installed is told by name (`absent`). `pip install "subquad[bench,peers]"` brings those
that are no dependency of ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from subquad.bench import peer_layers as layers
from subquad.bench import peer_models as models
from subquad.bench.party import Made, Party, Size

__all__ = ["PEERS", "Peer", "absent", "present"]


@dataclass(frozen=True)
class Peer:
    """`package` as it is imported; `beside`: the mixers or architectures of ours that do alike."""

    name: str
    package: str
    beside: tuple[str, ...]
    make: Callable[[Size, int], Made]
    causal: bool = False
    whole: bool = False


def present(names: Sequence[str]) -> list[Party]:
    """The installed peers of these mixers and architectures."""
    return [
        Party(peer.name, peer.make, peer.causal, peer.whole, _first(peer, names))
        for peer in PEERS
        if set(peer.beside) & set(names) and find_spec(peer.package)
    ]


def absent(names: Sequence[str]) -> list[str]:
    """The peers of these that are not installed, by name."""
    wanted = [peer for peer in PEERS if set(peer.beside) & set(names)]
    return [peer.name for peer in wanted if not find_spec(peer.package)]


def _first(peer: Peer, names: Sequence[str]) -> str:
    return next(name for name in peer.beside if name in names)


_PERFORMER, _REFORMER = "performer_pytorch", "reformer_pytorch"
_LSH = ("hashed-causal", "sorted-chunks")

PEERS: tuple[Peer, ...] = (
    Peer("performer-pytorch", _PERFORMER, ("random-features",), partial(layers.performer, False)),
    Peer(
        "performer-pytorch causal",
        _PERFORMER,
        ("random-features-causal",),
        partial(layers.performer, True),
        causal=True,
    ),
    Peer(
        "performer-pytorch model",
        _PERFORMER,
        ("performer",),
        models.performer_model,
        causal=True,
        whole=True,
    ),
    Peer("reformer-pytorch", _REFORMER, _LSH, partial(layers.reformer, False), causal=True),
    Peer("reformer-pytorch masked", _REFORMER, _LSH, partial(layers.reformer, True), causal=True),
    Peer("transformers Reformer", "transformers", _LSH, layers.hf_reformer, causal=True),
    Peer("local-attention", "local_attention", ("window-causal",), layers.local, causal=True),
    Peer("linformer", "linformer", ("low-rank",), layers.linformer),
    Peer("transformers Longformer", "transformers", ("window",), layers.longformer),
    Peer(
        "transformers Perceiver",
        "transformers",
        ("perceiver", "perceiver_io"),
        models.hf_perceiver,
        whole=True,
    ),
    Peer("conformer", "conformer", ("conformer",), models.conformer, whole=True),
    Peer(
        "perceiver-ar-pytorch",
        "perceiver_ar_pytorch",
        ("perceiver_ar",),
        models.perceiver_ar,
        causal=True,
        whole=True,
    ),
    Peer(
        "x-transformers",
        "x_transformers",
        ("transformer",),
        models.x_transformers,
        causal=True,
        whole=True,
    ),
)
