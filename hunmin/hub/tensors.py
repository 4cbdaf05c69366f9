"""Files of tensors: safetensors, ``pytorch_model.bin`` and GGUF behind one interface, and writing of safetensors in shards."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hunmin.errors import FormatError, InputError, SourceError, say
from hunmin.hub.config import read_json
from hunmin.hub.guard import whole

if TYPE_CHECKING:
    from hunmin.hub.files import Source

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLE, PICKLES = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHTS = (SINGLE, INDEX, PICKLE, PICKLES)


class TensorFile(Protocol):
    """Tensors by name. ``tensor`` may return a view of a memory-mapped file; nothing is read before it is used."""

    def names(self) -> list[str]: ...

    def tensor(self, name: str, dtype: torch.dtype | None) -> Tensor: ...


class Safetensors:
    """One or more safetensors files, memory-mapped."""

    def __init__(self, paths: list[Path], index: dict[str, Path] | None = None) -> None:
        self._files: dict[str, tuple[Any, Path]] = {}
        for path in paths:
            try:
                handle: Any = safe_open(path, "pt").__enter__()
                found = list(handle.keys())
            except (SafetensorError, OSError, ValueError, RuntimeError) as error:
                raise broken(path, error) from None
            self._files.update(dict.fromkeys(found, (handle, path)))
        for name, path in (index or {}).items():
            if self._files.get(name, (None, None))[1] != path:
                raise FormatError(
                    say(
                        f"The index says that {path} holds {name}, but it does not. Fetch the model again.",
                        f"색인에는 {name}이(가) {path}에 있다고 되어 있지만 실제로는 없습니다. 모델을 다시 받으세요.",
                    )
                )

    def names(self) -> list[str]:
        return list(self._files)

    def tensor(self, name: str, dtype: torch.dtype | None) -> Tensor:
        handle, path = self._files[name]
        try:
            t: Tensor = handle.get_tensor(name)
        except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
            raise broken(path, error) from None
        return cast(t, dtype)


class TorchFile:
    """``pytorch_model.bin`` files: a pickle of tensors, read by a loader that runs no code in it."""

    def __init__(self, paths: list[Path]) -> None:
        self._tensors: dict[str, Tensor] = {}
        for path in paths:
            try:
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))  # old ones are no zip
            except pickle.UnpicklingError as error:
                if "GLOBAL" not in str(error):
                    raise broken(path, say("its pickle is broken", "피클이 깨졌습니다")) from None
                raise FormatError(
                    say(
                        f"{path} holds more than tensors (a pickle with code) and was not opened. Ask for a safetensors version of the model.",
                        f"{path}에 텐서가 아닌 것(코드가 든 피클)이 있어 열지 않았습니다. safetensors 형식의 모델을 사용하세요.",
                    )
                ) from None
            except Exception as error:  # a broken zip or pickle surfaces as almost any exception
                raise broken(path, error) from None
            if not isinstance(state, dict) or not all(isinstance(k, str) and _plain(v) for k, v in state.items()):
                raise broken(path, say("it is not a table of tensors", "텐서 목록이 아닙니다"))
            self._tensors.update(state)

    def names(self) -> list[str]:
        return list(self._tensors)

    def tensor(self, name: str, dtype: torch.dtype | None) -> Tensor:
        return cast(self._tensors[name], dtype)


def _plain(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and value.device.type == "cpu"


def cast(t: Tensor, dtype: torch.dtype | None) -> Tensor:
    return t.to(dtype) if dtype is not None and t.is_floating_point() else t


def broken(path: Path, error: object) -> FormatError:
    cause = " ".join(str(error).split())[:200]
    return FormatError(
        say(
            f"{path} cannot be read, it is damaged or cut off: {cause}. Fetch it again.",
            f"{path}을(를) 읽을 수 없습니다. 손상되었거나 잘린 파일입니다: {cause}. 다시 받으세요.",
        )
    )


def open_tensors(source: Source) -> TensorFile:
    """The weights that ``source`` holds. Raises SourceError when there are none, FormatError when they are broken."""
    if source.gguf is not None:
        from hunmin.hub.gguf import GGUF

        return GGUF(source.gguf)
    for single, index, kind in ((SINGLE, INDEX, Safetensors), (PICKLE, PICKLES, TorchFile)):
        if path := source.file(single):
            return kind([path])
        if path := source.file(index):
            weight_map = read_json(path).get("weight_map")
            if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
                raise FormatError(say(f"{path} has no weight_map.", f"{path}에 weight_map이 없습니다."))
            shards = {name: source.file(name) for name in dict.fromkeys(weight_map.values())}
            if missing := [name for name, shard in shards.items() if shard is None]:
                raise FormatError(
                    say(
                        f"{path} names {missing[0]}, which is not there. Fetch the model again.",
                        f"{path}에 적힌 {missing[0]} 파일이 없습니다. 모델을 다시 받으세요.",
                    )
                )
            paths = {name: shard for name, shard in shards.items() if shard is not None}
            if kind is TorchFile:
                return TorchFile(list(paths.values()))
            return Safetensors(list(paths.values()), {name: paths[shard] for name, shard in weight_map.items()})
    raise SourceError(
        say(
            f"{source.name} has no weights: neither {SINGLE} nor pytorch_model.bin nor a .gguf file.",
            f"{source.name}에 가중치 파일이 없습니다: {SINGLE}, pytorch_model.bin, .gguf 가운데 하나가 필요합니다.",
        )
    )


def size_of(text: int | str) -> int:
    """Bytes of a size such as ``"5GB"`` or ``"200MiB"``."""
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*", text, re.IGNORECASE)
    if not match:
        raise InputError(say(f"{text!r} is not a size; write it like '5GB'.", f"{text!r}은(는) 크기가 아닙니다. '5GB'처럼 적으세요."))
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(unit.upper() or " "))


def write_tensors(tensors: Iterator[tuple[str, Tensor]], folder: Path, max_shard_size: int | str = "5GB") -> list[Path]:
    """Save as safetensors, in shards of at most ``max_shard_size``; every file appears whole or not at all.

    Files are written beside their final names first: the model may still be mapped from the very files that they replace.
    """
    shards, sizes, limit = list[dict[str, Tensor]]([{}]), [0], size_of(max_shard_size)
    for name, t in tensors:
        size = t.numel() * t.element_size()
        if sizes[-1] and sizes[-1] + size > limit:
            shards.append({})
            sizes.append(0)
        shards[-1][name] = t
        sizes[-1] += size
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    with ExitStack() as parts:
        for file, shard in zip(files, shards, strict=True):
            part = parts.enter_context(whole(folder / file))
            try:
                save_file({k: v.detach().cpu().contiguous() for k, v in shard.items()}, part, {"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from None
        if count > 1:
            weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            text = json.dumps({"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}, indent=2, sort_keys=True)
            parts.enter_context(whole(folder / INDEX)).write_text(text + "\n", encoding="utf-8")
            files.append(INDEX)
    for old in (*folder.glob("model-*-of-*.safetensors"), folder / SINGLE, folder / INDEX):
        if old.name not in files:
            old.unlink(missing_ok=True)
    return [folder / file for file in files]
