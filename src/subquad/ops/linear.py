"""Kernel attention: a sum over feature products, in time and memory linear in the length.

    out_i = sum_j phi(q_i).phi(k_j) v_j / sum_j phi(q_i).phi(k_j)

Choromanski et al., Rethinking Attention with Performers, https://arxiv.org/abs/2009.14794;
Katharopoulos et al., Transformers are RNNs, https://arxiv.org/abs/2006.16236.

Cost: O(N F (D + E)) time, O(1) memory beyond inputs and outputs, forward and backward; the state
is F (E + 1) numbers a head, whatever the length.

Ours: features are formed inside the loop over chunks and again in backward, never kept; random
features have no epsilon, and each key keeps its own log-scale, so the causal form sees nothing of
later positions (`linear_causal`); the state is an argument and a result, and differentiable.

Axes: B batch, N queries, M keys, H heads, K key heads, D head width, E value width, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from subquad.ops.linear_causal import kernel_causal
from subquad.ops.linear_chunk import FLOOR, KINDS, feature_count, working_dtype
from subquad.ops.linear_read import kernel_read
from subquad.ops.linear_sum import kernel_sum

__all__ = ["FeatureMap", "Sum", "accumulate", "kernel_attention", "read"]


FeatureMap = Callable[[Tensor, bool], Tensor]


@dataclass(frozen=True)
class Sum:
    """All that kernel attention keeps of the keys and values it has seen.

    `kv (B, H, F, E + 1)` is sum_j phi(k_j) [v_j, 1]^T / 2^top, at least float32; its last column
    is the sum of the features. `top (B, H)` is the running maximum of the keys' log-scales to
    base two, without gradient: only kv 2^top has a meaning, and that is differentiable.
    """

    kv: Tensor
    top: Tensor

    @classmethod
    def empty(cls, batch: int, num_heads: int, num_features: int, width: int, like: Tensor):
        """Return the state before any key, on the device and in the sum type of `like`."""
        dtype = working_dtype(like)
        kv = like.new_zeros(batch, num_heads, num_features, width + 1, dtype=dtype)
        return cls(kv, like.new_full((batch, num_heads), FLOOR, dtype=dtype))


pytree.register_dataclass(Sum)


@dataclass(frozen=True)
class _Lowered:
    """A feature map as the loops take it, and the number of its features."""

    kind: str
    projection: Tensor | None
    scale: float

    def count(self, k: Tensor) -> int:
        return feature_count(k.shape[-1], self.projection)


def _lower(feature_map: FeatureMap, width: int, scale: float | None) -> _Lowered:
    kind, projection = getattr(feature_map, "lower", lambda: ("none", None))()
    if kind not in KINDS:
        raise ValueError(f"feature map lowers to kind {kind!r}; the loops know {KINDS}")
    if (projection is None) if kind == "exp" else (kind == "elu" and projection is not None):
        raise ValueError(
            f"kind {kind!r} {'needs a' if projection is None else 'takes no'} projection in the "
            "loops; a feature map without lower() is evaluated as it is"
        )
    if projection is None:
        if scale is not None:
            raise ValueError(
                f"scale={scale} needs a feature map with a projection, and kind {kind!r} has none: "
                "multiply q and k by its square root instead"
            )
        return _Lowered(kind, None, 1.0)
    if projection.shape[-1] != width:
        raise ValueError(
            f"the projection takes rows of width {projection.shape[-1]}, q and k have {width}"
        )
    return _Lowered(kind, projection, width**-0.5 if scale is None else scale)


def _lift_keys(k: Tensor, valid: Tensor | None, feature_map: FeatureMap, low: _Lowered) -> Tensor:
    if low.kind != "none":
        return k
    # padding may hold NaN, which a map evaluated here would send into every gradient
    if valid is not None:
        k = k.masked_fill(~valid[:, None, :, None], 0)
    return feature_map(k, False)


def _check(k: Tensor, v: Tensor, valid: Tensor | None) -> None:
    if k.dim() != 4 or k.shape[:3] != v.shape[:3]:
        raise ValueError(
            f"k and v must be (B, K, M, D) and (B, K, M, E), got {_size(k)} and {_size(v)}"
        )
    if valid is not None and (valid.dtype != torch.bool or valid.shape != k.shape[::2][:2]):
        raise ValueError(
            f"valid must be bool of size {(k.shape[0], k.shape[2])}, "
            f"got {valid.dtype} of size {_size(valid)}"
        )


def _check_pair(q: Tensor, k: Tensor) -> None:
    same = q.dim() == 4 and q.shape[0] == k.shape[0] and q.shape[3] == k.shape[3]
    if not same or q.shape[1] % k.shape[1]:
        raise ValueError(
            "q and k must agree in batch and width, and the heads of k divide those of q, "
            f"got {_size(q)} and {_size(k)}"
        )


def _size(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def _start(state: Sum | None, heads: int, features: int, v: Tensor, k: Tensor) -> Sum:
    size = (k.shape[0], heads, features, v.shape[-1] + 1)
    if state is None:
        like = v if v.dtype == torch.float64 else k
        return Sum.empty(*size[:3], v.shape[-1], like)
    if state.kv.shape != size:
        raise ValueError(f"the state holds kv of size {_size(state.kv)}, this call needs {size}")
    return state


def accumulate(
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    valid: Tensor | None = None,
    state: Sum | None = None,
    scale: float | None = None,
) -> Sum:
    """Return the state after the keys k (B, K, M, D) and values v (B, K, M, E).

    `valid (B, M)`: False keys are left out, whatever they hold. `state`: what came before.
    """
    _check(k, v, valid)
    low = _lower(feature_map, k.shape[-1], scale)
    k = _lift_keys(k, valid, feature_map, low)
    state = _start(state, k.shape[1], low.count(k), v, k)
    return Sum(*kernel_sum(k, v, valid, low.projection, state.kv, state.top, low.kind, low.scale))


def read(q: Tensor, state: Sum, feature_map: FeatureMap, *, scale: float | None = None) -> Tensor:
    """Return out (B, H, N, E) of queries q (B, H, N, D) that see every key of the state.

    The heads of the state (B, K, ...) divide H. A state without keys gives zeros.
    """
    low = _lower(feature_map, q.shape[-1], scale)
    q = feature_map(q, True) if low.kind == "none" else q
    size, kv = (low.count(q),), state.kv
    if kv.shape[2] != size[0] or q.shape[0] != kv.shape[0] or q.shape[1] % kv.shape[1]:
        raise ValueError(f"q of size {_size(q)} with {size[0]} features cannot read {_size(kv)}")
    return kernel_read(q, kv, low.projection, low.kind, low.scale)[0]


def kernel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    *,
    causal: bool = True,
    valid: Tensor | None = None,
    state: Sum | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Sum]:
    """Attend with weights phi(q).phi(k), normalised; return out (B, H, N, E) and the state.

    q (B, H, N, D), k (B, K, M, D), v (B, K, M, E), any strides, K divides H. `feature_map` is
    `(x, is_query) -> (..., F)`, non-negative; one with `lower()` is evaluated inside the loop.
    `valid (B, M)`: False keys are left out and may hold NaN. `state`: what came before; the
    state returned stands after the last key. `scale`: a map with a projection sees q and k times
    scale^(1/2), default D^(-1/2); other maps see q and k as they are. Sums are at least float32.
    A query with nothing to look at gives zeros. Raises ValueError where sizes disagree.
    """
    _check(k, v, valid)
    _check_pair(q, k)
    if not causal:
        state = accumulate(k, v, feature_map, valid=valid, state=state, scale=scale)
        return read(q, state, feature_map, scale=scale), state
    if q.shape[2] != k.shape[2]:
        raise ValueError(
            f"causal attention pairs query i with keys up to i: {q.shape[2]} queries, "
            f"{k.shape[2]} keys; use causal=False, or pass the earlier keys as a state"
        )
    low = _lower(feature_map, q.shape[-1], scale)
    q = feature_map(q, True) if low.kind == "none" else q
    k = _lift_keys(k, valid, feature_map, low)
    state = _start(state, k.shape[1], low.count(k), v, k)
    out, _, _, kv, top = kernel_causal(
        q, k, v, valid, low.projection, state.kv, state.top, low.kind, low.scale
    )
    return out, Sum(kv, top)
