"""Paths into nested settings: names with dots between, and numbers for places of a list."""

from collections.abc import Mapping
from typing import Any

__all__ = ["get", "merged", "put"]


def get(settings: Mapping[str, Any], path: str) -> Any:
    """The setting of a path. ValueError if there is none, with the path."""
    found: Any = settings
    for name in path.split("."):
        if isinstance(found, list | tuple) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
            continue
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f"its configuration has no {path}; was it written by another version?")
        found = found[name]
    return found


def put(settings: dict[str, Any], path: str, value: Any, source: str = "") -> None:
    """Set the setting of a path, making what is on the way.

    ValueError if it is there with another value, from another `source`.
    """
    *way, last = path.split(".")
    for name in way:
        settings = settings.setdefault(name, {})
    if source and settings.get(last, value) != value:
        raise ValueError(
            f"{source} says {value!r}, where ours has {last} {settings[last]!r} already"
        )
    settings[last] = value


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, the new ones in place of the old."""
    both = dict(old)
    for name, value in new.items():
        inside = isinstance(value, Mapping) and isinstance(both.get(name), Mapping)
        both[name] = merged(both[name], value) if inside else value
    return both
