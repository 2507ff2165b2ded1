"""Pictures as arrays: from a file, from the bytes of one, or as they are; opened when asked for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

__all__ = ["SUFFIXES", "Opened", "Picture", "Pictured", "decode", "pillow"]

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
#: Pillow goes by content, and for other kinds (PostScript) starts programs
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_PILLOW = "pictures in JPEG or PNG need Pillow: pip install 'subquad[pictures]'"


def pillow() -> Any:
    """The module PIL.Image. ValueError with what to install if it is absent."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(_PILLOW) from error
    return Image


def decode(data: bytes | Path, says: str) -> np.ndarray:
    """The pixels of a picture file, uint8: (H, W) if it is grey, else (H, W, 3).

    Of 16 bits the upper 8 are kept. says: what it is, for the ValueError if it is damaged, or holds
    numbers of which nothing says how many are white.
    """
    image = pillow()
    bomb = image.DecompressionBombError
    damage = (OSError, SyntaxError, ValueError, EOFError, MemoryError, bomb)
    try:
        source = data if isinstance(data, Path) else io.BytesIO(data)
        with image.open(source, formats=_FORMATS) as opened:
            mode = opened.mode
            if mode.startswith("I;16"):
                return (np.asarray(opened) >> 8).astype(np.uint8)
            if mode not in {"I", "F"}:
                return np.asarray(opened if mode == "L" else opened.convert("RGB"))
    except damage as error:  # Pillow's words for it, and for sizes that nobody means
        reason = str(error) or "it asks for more memory than there is"
        raise ValueError(f"{says} is damaged: {reason}") from None
    raise ValueError(f"{says} holds numbers of 32 bits; write it with 8 or 16 bits a channel")


@dataclass(frozen=True)
class Picture:
    """A picture that is not opened yet.

    name: the same on every machine.  data: a file, the bytes of one, or pixels (H, W[, C]) uint8.
    """

    name: str
    data: Path | bytes | np.ndarray

    def there(self) -> bool:
        """Whether there is a file to open."""
        return not isinstance(self.data, Path) or self.data.is_file()

    def pixels(self) -> np.ndarray:
        """(H, W, C) uint8. ValueError if the file is damaged."""
        if isinstance(self.data, np.ndarray):
            found = self.data
        else:
            found = decode(self.data, str(self.data) if isinstance(self.data, Path) else self.name)
        return found[..., None] if found.ndim == 2 else found


class Opened(Sequence):
    """Rows that are kept closed; each is opened when it is asked for."""

    def __init__(self, closed: Sequence[dict[str, Any]]) -> None:
        self.closed = closed

    def open(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what it holds decoded."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.closed)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | Self:
        if isinstance(index, slice):
            return type(self)(self.closed[index])
        return self.open(self.closed[index])


class Pictured(Opened):
    """Rows whose field `image` is a Picture."""

    def open(self, row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "image": row["image"].pixels()}
