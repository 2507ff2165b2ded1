"""What generate() carries for swapped layers: sums, a window of keys, or all keys."""

from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
)

from subquad.hf.swapping.replacements import Replacement
from subquad.nn.state import nbytes, select
from subquad.ops.linear import Sum

__all__ = ["SumLayer", "cache"]


class SumLayer(CacheLayerMixin):
    """Running sums of one layer. The attention function takes them from the keys that pass by,
    and leaves the new ones here.
    """

    is_sliding = is_compileable = is_croppable = supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.state: Sum | None = None
        self.seen, self.waits = 0, False
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The first call begins the sums."""

    def update(
        self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The new keys and values alone, the keys with this layer beside them.

        ValueError if the last ones never reached the attention function as they were.
        """
        if self.waits:
            raise ValueError(
                "this model changes keys after its cache has seen them (latent attention, say), so "
                "sums cannot stand for them; generate with use_cache=False, or swap to a pattern"
            )
        self.waits = True
        key = key.view(key.shape)
        key._subquad_layer = self  # type: ignore[attr-defined]
        self.seen += key.shape[2]
        return key, value

    def keep(self, state: Sum | None) -> None:
        """Take the sums after the keys that came last."""
        self.state, self.waits = state, False

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state, self.seen, self.waits = None, 0, False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.state = select(self.state, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.state = pytree.tree_map_only(
            Tensor, lambda t: t.repeat_interleave(repeats, 0), self.state
        )

    def batch_select_indices(self, indices: Tensor) -> None:
        self.state = select(self.state, indices)

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("running sums cannot forget their last tokens; start again")

    def offload(self) -> None:
        self.state = pytree.tree_map_only(Tensor, lambda t: t.to("cpu"), self.state)

    def prefetch(self) -> None:
        """Sums are small; they move when they are next read."""

    @property
    def nbytes(self) -> int:
        """Bytes that the sums hold now."""
        return nbytes(self.state)


def cache(plan: dict[int, Replacement], layers: int, *, crosses: bool) -> Cache:
    """A fresh cache of so many layers; layers without a replacement keep all keys. crosses: with
    one for keys of the encoder.
    """
    made = Cache(layers=[_layer(plan[i].kept() if i in plan else None) for i in range(layers)])
    if not crosses:
        return made
    return EncoderDecoderCache(made, Cache(layers=[DynamicLayer() for _ in range(layers)]))


def _layer(kept: int | None) -> CacheLayerMixin:
    if kept is None:
        return DynamicLayer()
    # of one key transformers would keep none, and then all
    return SumLayer() if kept == 0 else DynamicSlidingWindowLayer(max(2, kept))
