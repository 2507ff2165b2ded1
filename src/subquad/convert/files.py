"""Tensors from files of others. No pickle is opened: torch files are read with weights_only."""

import json
import re
import zipfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = ["COPIED", "options", "read_config", "read_tensors", "read_torch", "state_dict"]

#: names that one storage may have: models share weights between layers, and not more often
_SHARED = 100

#: where training scripts put the state dict beside their own notes
HOLDERS = ("state_dict", "model", "model_state_dict")

#: what goes along unchanged, if it is there: tokenizers, processors, how to generate
COPIED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "chat_template.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. ValueError if there is none, or it is none."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no config.json; name the folder of a saved model")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, and settings by name are wanted")
    return found


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a saved model, whole or in shards. ValueError says what is wrong with them."""
    for name, read in (("model.safetensors", _safe), ("pytorch_model.bin", _torch_dict)):
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return read(whole)
        if index.is_file():
            return _shards(folder, index, read)
    raise ValueError(f"{folder} has neither model.safetensors nor pytorch_model.bin")


def read_torch(path: Path) -> Any:
    """A file of torch.save: tensors in plain containers, and an argparse.Namespace at most.

    ValueError names what else it holds: that would run code of its own. No file takes more memory
    than it fills.
    """
    _check_members(path)
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # torch raises the pickle module's own, which is not imported here
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            raise ValueError(
                f"{path} holds a {foreign[1]}, and reading that would run its code; where that "
                f"code is installed, save the tensors alone: {_alone(path)}"
            ) from error
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is damaged, or no file of torch.save: {reason}") from error


def _alone(path: Path) -> str:
    """What saves the tensors of a pickled model, in the torch that wrote it."""
    return (
        f'model = torch.load("{path.name}", map_location="cpu"); '
        'torch.save(model.state_dict(), "state.pt")'
    )


def _check_members(path: Path) -> None:
    """ValueError for a zip file whose members hold more than it does: torch packs none."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # older ones are no zip files
            return
    try:
        with zipfile.ZipFile(path) as opened:
            members = opened.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} is damaged, or no file of torch.save: {error}") from error
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"{path} is no file of torch.save: {member.filename} in it is packed, and may "
                "unpack to any size"
            )
    size, told = path.stat().st_size, sum(member.file_size for member in members)
    if told > size:
        raise ValueError(f"{path} is damaged: its members hold {told:,} bytes, and it has {size:,}")


def _check_sizes(tensors: dict[str, Tensor], path: Path) -> None:
    """ValueError for tensors that are larger than what is stored of them."""
    names: dict[int, int] = {}
    for name, t in tensors.items():
        if t.layout != torch.strided or t.device.type != "cpu":
            raise ValueError(f"{path}: {name} is {t.layout} on {t.device}, and no plain tensor")
        kept = t.untyped_storage()
        if t.numel() * t.element_size() > kept.nbytes():
            raise ValueError(
                f"{path}: {name} is {tuple(t.shape)}, {t.numel() * t.element_size():,} bytes, of "
                f"which {kept.nbytes():,} are stored; save it after .contiguous()"
            )
        names[kept.data_ptr()] = names.get(kept.data_ptr(), 0) + (t.numel() > 0)
        if names[kept.data_ptr()] > _SHARED:
            raise ValueError(
                f"{path}: more than {_SHARED} tensors, {name} among them, are the same stored bytes"
            )


def state_dict(found: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors by name in what a torch file holds, and the usual name that they stand under
    beside others, if they do.

    ValueError if there are none.
    """
    inside = {name: found.get(name) for name in HOLDERS} if isinstance(found, dict) else {}
    for name, held in ({None: found} | inside).items():
        if isinstance(held, dict) and held and all(isinstance(t, Tensor) for t in held.values()):
            _check_sizes(held, path)
            return dict(held), name
    raise ValueError(f"{path} holds no tensors by name")


def options(found: Any) -> dict[str, Any]:
    """The options of the command that trained what a torch file holds, as far as they are plain."""
    given = found.get("args") if isinstance(found, dict) else None
    given = vars(given) if isinstance(given, Namespace) else {}
    return {name: value for name, value in given.items() if _plain(value)}


def _plain(value: Any) -> bool:
    inner = value if isinstance(value, list | tuple) else [value]
    return all(one is None or isinstance(one, str | int | float) for one in inner)


def _safe(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or cut short: {error}") from error


def _torch_dict(path: Path) -> dict[str, Tensor]:
    return state_dict(read_torch(path), path)[0]


def _shards(folder: Path, index: Path, read: Callable[[Path], dict]) -> dict[str, Tensor]:
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{index} names no shards: {error}") from error
    made: dict[str, Tensor] = {}
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{index} names {name}, which is not in {folder}")
        made |= read(folder / name)
    return made
