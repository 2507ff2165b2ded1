"""Rows as `predict` is given them: texts, files and rows of JSON that hold something to read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["renamed", "row_given"]

#: fields that hold a text
_TEXTS = ("text", "question", "context", "caption", "summary", "translation")


def row_given(raw: str | Path | dict[str, Any], reads: Sequence[str]) -> dict[str, Any]:
    """A row with the fields that are read; a text alone is the last of them.

    ValueError for a field that is missing, is no text, or leaves nothing to answer.
    """
    if isinstance(raw, dict):
        for field in reads:
            if field not in raw:
                raise ValueError(f"a row wants {field}; this one has {', '.join(raw)}")
            if field in _TEXTS and not isinstance(raw[field], str):
                raise ValueError(f"{field} is {raw[field]!r}, which is no text")
        row = {field: raw[field] for field in reads}
    else:
        row = {reads[-1]: _text(raw) if isinstance(raw, Path) else raw}
    value = row[reads[-1]]
    if isinstance(value, str | list) and not (value.strip() if isinstance(value, str) else value):
        raise ValueError(f"there is nothing in the {reads[-1]}, so there is nothing to answer")
    return row


def renamed(
    row: Mapping[str, Any], fields: Mapping[str, Sequence[str]], told: Mapping[str, str]
) -> dict[str, Any]:
    """A row with its fields, each from the column that is told for it or one of its names."""
    found = dict(row)
    for field, known in fields.items():
        names = (told.get(field, field), *known)
        if field not in row and (name := next((n for n in names if n in row), None)):
            found[field] = row[name]
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
