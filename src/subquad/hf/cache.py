"""Our streaming state as a transformers cache: what generate() carries, reorders and repeats."""

from collections.abc import Callable
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers.cache_utils import Cache, CacheLayerMixin

from subquad.nn.state import ModelState, nbytes, select

__all__ = ["StateCache"]


class _StateLayer(CacheLayerMixin):
    """Holds the state of the whole model, and counts the slots it has been given."""

    is_compileable = is_croppable = is_sliding = supports_early_init = False

    def __init__(self, state: ModelState) -> None:
        super().__init__()
        self.first = self.state = state
        self.seen = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The state is complete from the start."""

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        raise RuntimeError("a subquad state is advanced by the model, not by keys and values")

    def map(self, change: Callable[[Tensor], Tensor]) -> None:
        self.state = pytree.tree_map_only(Tensor, change, self.state)

    def get_seq_length(self) -> int:
        return self.seen

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def reset(self) -> None:
        self.state, self.seen = self.first, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.state = select(self.state, beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map(lambda t: t.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.map(lambda t: t[indices])

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError("a running state cannot forget its last tokens; start again from a copy")

    def offload(self) -> None:
        self.map(lambda t: t.to("cpu", non_blocking=True))

    def prefetch(self) -> None:
        self.map(lambda t: t.to(self.first.length.device, non_blocking=True))


class StateCache(Cache):
    """A cache of one layer that holds a ModelState; `state` is the current one."""

    def __init__(self, state: ModelState) -> None:
        super().__init__(layers=[_StateLayer(state)])
        self._source: ReferenceType[Tensor] | None = None

    @property
    def state(self) -> ModelState:
        return self.layers[0].state

    def advance(self, state: ModelState, slots: int) -> None:
        """Take the state after `slots` more tokens."""
        layer = self.layers[0]
        layer.state, layer.seen = state, layer.seen + slots

    def keep_source(self, memory: Tensor) -> None:
        """Remember which memory the state has read, without keeping it alive."""
        self._source = ref(memory)

    def has_read(self, memory: Tensor) -> bool:
        """Is this the memory that the state has read, or equal to it?"""
        known = None if self._source is None else self._source()
        if known is None or known.dtype != memory.dtype:
            return False
        return known is memory or torch.equal(known, memory)

    @property
    def nbytes(self) -> int:
        """Bytes that the state holds now."""
        return nbytes(self.state)

    @property
    def batch_size(self) -> int:
        return len(self.state.length)
