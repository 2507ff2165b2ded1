"""Configurations in YAML: groups of fields. Plain values only, and nothing that grows when read.

Aliases (`*name`) are refused: nine lines of them stand for a billion values. So is deep nesting,
which the parser in C would follow until its stack ends.
"""

from pathlib import Path
from typing import Any

__all__ = ["chosen", "read"]

_MOST, _DEPTH = 1 << 20, 20  # bytes; groups inside of each other


def read(config: str) -> Any:
    """What a configuration says. ValueError for what is no YAML, or more than settings need."""
    import yaml

    path = Path(config)
    if not path.is_file():
        raise ValueError(f"there is no configuration {config}")
    if (size := path.stat().st_size) > _MOST:
        raise ValueError(f"{config} has {size:,} bytes; a configuration has at most {_MOST:,}")
    try:
        text = path.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEPTH:
                raise ValueError(f"{config} nests more than {_DEPTH} groups")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"{config} has the alias *{event.anchor}; write its value there")
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{config} is not YAML: {error}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{config} is not UTF-8: {error}") from None


def chosen(config: str) -> dict[str, str]:
    """Name and preset in a configuration. ValueError if it is not made of groups of fields."""
    said = read(config)
    if not isinstance(said, dict):
        what = "is empty" if said is None else f"holds {said!r}"
        raise ValueError(f"{config} {what}; it wants groups of fields, as --print_config writes")
    for group in ("arch", "task", "train", "meta"):
        if not isinstance(said.get(group, {}), dict):
            raise ValueError(f"{config}: {group} is {said[group]!r} and must be a group of fields")
    arch = said.get("arch", {})
    found = {key: arch[key] for key in ("name", "preset") if arch.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"{config}: arch.{key} is {value!r} and must be a name")
    return found
