"""Pathfinder: are the two discs the ends of one dashed path, or of two?

Every picture has two long paths and some shorter ones, white on black, of dashes whose direction
changes slowly. No path comes nearer to another, or to its own earlier dashes, than its gaps are
wide, so what belongs together can be seen. Two discs mark ends: both ends of one long path
("joined"), or an end of each ("apart").

The label decides nothing but which ends are marked, and a picture is drawn again until the discs
would lie about equally far apart under either label: only following the path tells. Rows with an
even number are joined, those with an odd one apart.

Linsley et al., 2018, https://arxiv.org/abs/1805.08315; Houtkamp and Roelfsema, 2010; 32 x 32 pixels
and a sequence of them as in Long Range Arena, Tay et al., 2021, https://arxiv.org/abs/2011.04006.
Ours differs in the equal distances, and in a pen of its own: dashes of 2 pixels with gaps of 1.5,
whatever the side, so that longer paths, not larger ones, make a larger picture harder.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from subquad.data.made import Made

__all__ = ["LABELS", "Pathfinder"]

LABELS = ("joined", "apart")
DASH, GAP = 2.0, 1.5  # in pixels, as all that follows
CLEAR = 3.0  # between the middle lines of two paths
RADIUS, MARGIN = 1.6, 2.5  # of a disc; around all paths
EVEN = 2.0  # how much the distances of the discs may differ between the labels
TURN, TRIES = 0.6, 32  # radians between two dashes, at most; ways tried for a path
_PLACES = np.linspace(0, 1, 5)[:, None]  # where on a dash it is compared with others


@dataclass(frozen=True)
class Pathfinder(Made):
    """Rows {"image": uint8 (side, side, 1), "label": "joined" or "apart"}.

    dashes: of each long path; the others have a third.  others: how many of them, at most.
    """

    side: int = 32
    dashes: int = 9
    others: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        # two long paths and what must stay clear around them, in a crowd that is still found soon
        need = 2 * self.dashes * (DASH + GAP) * CLEAR
        room = (self.side - 2 * MARGIN) ** 2
        if self.dashes < 3 or self.others < 0 or need > room / 3:
            most = int(room / 3 / (2 * (DASH + GAP) * CLEAR))
            raise ValueError(
                f"two paths of {self.dashes} dashes and {self.others} others do not fit into "
                f"{self.side} x {self.side} pixels; take 3 to {most} dashes, or a larger side"
            )

    def row(self, draw: np.random.Generator, index: int) -> dict[str, Any]:
        label = index % 2
        while True:
            paths = self._paths(draw)
            marked = _marked(draw, paths[:2]) if paths else None
            if marked:
                return {"image": self._drawn(paths, marked[label]), "label": LABELS[label]}

    def _paths(self, draw: np.random.Generator) -> list[np.ndarray]:
        """The paths of a picture, the long ones first; nothing where these found no room."""
        paths: list[np.ndarray] = []
        for dashes in [self.dashes] * 2 + [max(2, self.dashes // 3)] * self.others:
            path = self._path(draw, dashes, paths)
            if path is not None:
                paths.append(path)
            elif len(paths) < 2:
                return []
        return paths

    def _path(
        self, draw: np.random.Generator, dashes: int, others: list[np.ndarray]
    ) -> np.ndarray | None:
        """(dashes, 2, 2): the start and the end of each, (x, y); None where it found no room."""
        turns = draw.uniform(-TURN, TURN, (TRIES, dashes))
        turns[:, 0] = draw.uniform(0, 2 * np.pi, TRIES)
        angles = np.cumsum(turns, 1)
        ways = np.stack([np.cos(angles), np.sin(angles)], -1)
        ends = np.cumsum(ways, 1) * (DASH + GAP)
        tried = np.stack([ends - ways * DASH, ends], 2)
        # anywhere within the margins
        low, high = tried.min((1, 2)), tried.max((1, 2))
        free = self.side - 2 * MARGIN - (high - low)
        tried += (MARGIN - low + free * draw.random((TRIES, 2)))[:, None, None]
        taken = np.concatenate([_sampled(p) for p in others]) if others else np.zeros((0, 2))
        return next((p for p in tried[(free >= 0).all(1)] if _clear(p, taken)), None)

    def _drawn(self, paths: list[np.ndarray], discs: np.ndarray) -> np.ndarray:
        """(side, side, 1): lines a pixel wide and discs, their borders smooth."""
        middles = np.arange(self.side) + 0.5
        pixels = np.stack(np.meshgrid(middles, middles), -1)
        image = np.zeros((self.side, self.side))
        for start, end in np.concatenate(paths):
            way = end - start
            along = np.clip((pixels - start) @ way / (way @ way), 0, 1)[..., None]
            far = np.linalg.norm(pixels - start - along * way, axis=-1)
            image = np.maximum(image, 1 - far)
        for disc in discs:
            far = np.linalg.norm(pixels - disc, axis=-1)
            image = np.maximum(image, RADIUS + 0.5 - far)
        return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)[..., None]


def _sampled(dashes: np.ndarray) -> np.ndarray:
    """(5 n, 2): points on each of (n, 2, 2) dashes, close enough to stand for all of it."""
    return (dashes[:, None, 0] + _PLACES * (dashes[:, None, 1] - dashes[:, None, 0])).reshape(-1, 2)


def _clear(path: np.ndarray, taken: np.ndarray) -> bool:
    """Whether a path is nowhere near the points of others, nor a dash near one long before it."""
    points = _sampled(path)
    if len(taken) and np.square(points[:, None] - taken).sum(-1).min() < CLEAR**2:
        return False
    number = np.arange(len(points)) // len(_PLACES)
    near = np.square(points[:, None] - points).sum(-1) < CLEAR**2
    return not (near & (number[:, None] - number > 1)).any()


def _marked(
    draw: np.random.Generator, paths: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Two discs that are joined and two that are apart, about equally far; None without such."""
    one, two = (path[[0, -1], [0, 1]] for path in paths)
    joined = np.stack([one, two])
    apart = np.stack([np.stack([a, b]) for a in one for b in two])
    far = [np.linalg.norm(pair[:, 0] - pair[:, 1], axis=1) for pair in (joined, apart)]
    # and far enough to be two
    even = np.argwhere((np.abs(far[0][:, None] - far[1]) <= EVEN) & (far[1] >= 4 * RADIUS))
    if not len(even):
        return None
    first, second = even[draw.integers(len(even))]
    return joined[first], apart[second]
