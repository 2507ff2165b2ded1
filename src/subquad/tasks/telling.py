"""What a task says on stderr while it works, beside the numbers on stdout."""

import sys

__all__ = ["tell"]


def tell(text: str) -> None:
    """Say what is left out."""
    print(text, file=sys.stderr)
