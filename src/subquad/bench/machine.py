"""The machine, and its ceilings: how fast it multiplies matrices and moves memory."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Ceiling", "ceilings", "machine"]

#: the side of the two matrices that are multiplied, and the bytes that are copied
SIDE, COPIED = 2048, 1 << 27


def machine() -> dict:
    """Processor, cores, threads and versions."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Ceiling:
    """FLOPs of a large matrix product and bytes of a large copy (read and written), per second."""

    flops: float
    bytes: float

    def floor(self, flops: int, moved: int) -> tuple[float, str]:
        """The least seconds that so many FLOPs and bytes could take, and what sets them."""
        product, traffic = flops / self.flops, moved / self.bytes
        return max((product, "product"), (traffic, "memory"))


def ceilings(dtype: torch.dtype) -> tuple[dict[str, Callable[[], object]], Callable]:
    """Two parties for `samples`, and what makes a Ceiling of their median seconds by name."""
    a, b = torch.randn(2, SIDE, SIDE).to(dtype)
    product = torch.empty_like(a)
    source = torch.ones(COPIED // 4)
    copy = torch.empty_like(source)
    parties = {
        "matrix product": lambda: torch.mm(a, b, out=product),
        "copy": lambda: copy.copy_(source),
    }

    def ceiling(seconds: dict[str, float]) -> Ceiling:
        return Ceiling(2 * SIDE**3 / seconds["matrix product"], 2 * COPIED / seconds["copy"])

    return parties, ceiling
