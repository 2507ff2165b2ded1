"""Kept: what was made of rows, to be had again without making it anew."""

from collections.abc import Callable, Hashable

from torch import Tensor

__all__ = ["Kept"]


class Kept:
    """What `make` gives for a key, made once as long as there is room.

    room: bytes. What came first stays, what comes when there is no room left is made each time:
    an epoch asks for every row once, so giving up what was asked for longest ago would give up each
    row just before it is asked for again. What is kept must not be written into.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._made: dict[Hashable, dict[str, Tensor]] = {}

    def __call__(self, key: Hashable, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        found = self._made.get(key)
        if found is None:
            found = make()
            size = sum(t.nbytes for t in found.values())
            if size <= self.room:
                self.room -= size
                self._made[key] = found
        return found
