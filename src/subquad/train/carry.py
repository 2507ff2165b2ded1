"""Carry: what a model remembers from batch to batch, where each row of a batch is a lane that
reads on.

The memory is a constant: gradients stop at the border of a batch (truncated back-propagation). It
belongs to a checkpoint as weights do, one file per process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from subquad.hf.cache import StateCache
from subquad.nn.state import ModelState, detach
from subquad.train.checkpoint import reading

__all__ = ["Carry"]


class Carry:
    """Gives every batch the memory that the one before left; `start` makes that of the first."""

    def __init__(self, start: Callable[[int], ModelState], process: int) -> None:
        self.start, self.file = start, f"memory-{process}.safetensors"
        self.cache: StateCache | None = None

    def into(self, batch: dict[str, Tensor]) -> dict[str, Any]:
        """The batch with its memory as `past_key_values`, which the model's forward advances.

        ValueError if there are not as many rows as lanes.
        """
        rows = len(next(iter(batch.values())))
        state = self.start(rows) if self.cache is None else detach(self.cache.state)
        if len(state.length) != rows:
            raise ValueError(
                f"the memory holds {len(state.length)} lanes and this batch {rows} rows; a run "
                "goes on with the batch and the processes it was begun with"
            )
        self.cache = StateCache(state)
        return {**batch, "past_key_values": self.cache}

    def save(self, folder: Path) -> None:
        """Write the memory, if there is one yet."""
        from safetensors.torch import save_file

        if self.cache is not None:
            named = _named(self.cache.state)
            kept = {name: t.detach().clone().contiguous() for name, t in named.items()}
            save_file(kept, folder / self.file)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. ValueError if this process has no memory there."""
        from safetensors.torch import load_file

        if not (folder / self.file).is_file():
            raise ValueError(
                f"{folder} has no {self.file}; a run that carries a memory goes on with as many "
                "processes as it was begun with"
            )
        with reading(folder / self.file):
            found = load_file(folder / self.file)
        blank = self.start(len(found["length"]))
        names, device = _named(blank), blank.length.device
        if names.keys() != found.keys():
            raise ValueError(
                f"{folder / self.file} holds {', '.join(found)}, and the memory of this model is "
                f"{', '.join(names)}: it is another model's"
            )
        leaves = [found[name].to(device) for name in names]
        self.cache = StateCache(pytree.tree_unflatten(leaves, pytree.tree_structure(blank)))


def _named(state: ModelState) -> dict[str, Tensor]:
    """The tensors of a state by their paths in it: `length`, `layers.0.0.x`."""
    leaves, _ = pytree.tree_flatten_with_path(state)
    return {".".join(_step(key) for key in path): leaf for path, leaf in leaves}


def _step(key: Any) -> str:
    return str(key.name) if hasattr(key, "name") else str(getattr(key, "idx", key))
