"""What a tokenizer raises whose own rules fail on a text: a bare Exception, or a panic of its Rust,
which is no Exception, and has no name to import."""

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["failing"]


@contextmanager
def failing(name: str, what: str) -> Iterator[None]:
    """Either of them as a ValueError that names the tokenizer and what it cannot do."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"tokenizer {name} cannot {what}: {reason}") from None
