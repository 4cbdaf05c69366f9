"""States of optimizers and averages whose tensors are spread over processes: written by all, read by any number.

Each process writes what it holds (``torch.distributed.checkpoint``). What is not spread stands in an ordinary file, with a string that starts with
``sharded:`` in place of every spread tensor.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as save_parts
from torch.distributed.tensor import DTensor

from hunmin.errors import FormatError, SourceError, say
from hunmin.train.parallel import like

MARK = "sharded:"
# What an index is made of, besides the classes of `torch.distributed.checkpoint.metadata`.
PLAIN = {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    *(("torch", str(kind).removeprefix("torch.")) for kind in vars(torch).values() if isinstance(kind, torch.dtype)),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}
Path_ = tuple[Any, ...]
Owner = Callable[[Path_], Tensor | None]


class Reader(FileSystemReader):
    """Reads a folder whose index is a pickle, without running code that somebody may have put into it."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _Known(file).load()
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Known(pickle.Unpickler):
    """Makes descriptions of tensors and files, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        described = module == "torch.distributed.checkpoint.metadata" and "." not in name
        found = super().find_class(module, name) if described or (module, name) in PLAIN else None
        if (module, name) in PLAIN or (isinstance(found, type) and found.__module__ == module):
            return found
        raise pickle.UnpicklingError(f"{module}.{name}")


def walk(value: Any, change: Callable[[Path_, Any], Any], path: Path_ = ()) -> Any:
    """Nested dictionaries and lists with every leaf changed; ``change`` gets the keys that lead to it, too."""
    if isinstance(value, dict):
        return {key: walk(item, change, (*path, key)) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return type(value)(walk(item, change, (*path, i)) for i, item in enumerate(value))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return change(path, value)


def apart(state: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """A state without its spread tensors, and those by key."""
    spread: dict[str, Tensor] = {}

    def change(path: Path_, value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        key = "/".join(map(str, (name, *path)))
        spread[key] = value.detach()
        return MARK + key

    return walk(state, change), spread


def save(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write spread tensors; every process writes its own. Raises SourceError, in all of them, when a disk refuses."""
    try:
        save_parts(tensors, checkpoint_id=folder)
    except (CheckpointException, OSError, RuntimeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise SourceError(
            say(f"{folder.parent}: the sharded state could not be written: {cause}", f"{folder.parent}: 상태를 쓸 수 없습니다: {cause}")
        ) from error


def joined(state: Any, owner: Owner, folder: Path) -> Any:
    """A state that :func:`apart` took apart - or one that never was - with its tensors spread as their owners are in this run.

    ``owner`` names the parameter that a place in the state belongs to. Raises FormatError when files are missing or broken.
    """
    templates: dict[str, Tensor] = {}
    sizes = _sizes(folder) if folder.is_dir() else {}

    def wanted(path: Path_, value: Any) -> Any:
        p = owner(path)
        if isinstance(value, str) and value.startswith(MARK):
            key = value.removeprefix(MARK)
            if key not in sizes:
                raise _broken(folder, f"{key} is missing")
            dtype, shape = sizes[key]
            if isinstance(p, DTensor) and p.shape == shape:
                templates[key] = torch.zeros_like(p, dtype=dtype)
            else:
                templates[key] = torch.zeros(shape, dtype=dtype, device=p.device if p is not None else "cpu")
            return value
        return like(value, p) if isinstance(value, Tensor) and isinstance(p, DTensor) and value.shape == p.shape else value

    def found(path: Path_, value: Any) -> Any:
        return templates[value.removeprefix(MARK)] if isinstance(value, str) and value.startswith(MARK) else value

    state = walk(state, wanted)
    if templates:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it says that one process reads alone, which is what we ask for
                load_parts(templates, storage_reader=Reader(folder), no_dist=not dist.is_initialized())
        except (CheckpointException, OSError, RuntimeError, ValueError) as error:
            raise _broken(folder, error) from error
    return walk(state, found)


def _sizes(folder: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    """Dtype and whole shape of every tensor in a folder."""
    try:
        stored: dict[str, Any] = Reader(folder).read_metadata().state_dict_metadata
        return {key: (held.properties.dtype, held.size) for key, held in stored.items()}
    except Exception as error:  # the file is a pickle: anything may surface
        raise _broken(folder, error) from error


def _broken(folder: Path, error: object) -> FormatError:
    cause = " ".join(str(error).split())[:200]
    return FormatError(say(f"{folder} cannot be read: {cause}", f"{folder}을(를) 읽을 수 없습니다: {cause}"))


def owner_in(optimizer: Any) -> Owner:
    """Whose state is at a place of ``optimizer.state_dict()``."""

    def owner(path: Path_) -> Tensor | None:
        part = optimizer
        if path[:1] == ("parts",):
            part, path = optimizer.parts[path[1]], path[2:]
        if path[:1] != ("state",) or not isinstance(path[1], int):
            return None
        params = [p for group in part.param_groups for p in group["params"]]
        return params[path[1]] if path[1] < len(params) else None

    return owner


def owner_among(weights: list[Tensor]) -> Owner:
    """Whose average is at a place of a moving average's state."""
    return lambda path: weights[path[1]] if path[:1] == ("average",) else None
