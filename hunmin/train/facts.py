"""What a run was made of - settings, machine, data, model - as plain values for reports and model cards."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hunmin.errors import say, short
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.checkpoint import random_state, restore_random
from hunmin.train.data import sized

PACKAGES = ("hunmin", "torch", "tokenizers", "safetensors", "huggingface_hub", "datasets", "accelerate", "numpy")
SAMPLE, LONGEST = 64, 600


def settings(args: TrainingArguments) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments that differ from their defaults, and the others."""
    usual, values = TrainingArguments(args.output_dir).to_dict(), args.to_dict()
    changed = {name: value for name, value in values.items() if name not in usual or usual[name] != value}
    return changed, {name: value for name, value in values.items() if name not in changed}


def versions() -> dict[str, str]:
    """Installed packages that decide a run's numbers; none is imported for it."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(args: TrainingArguments) -> dict[str, Any]:
    """Where the run was computed."""
    device = args.device
    facts: dict[str, Any] = {
        say("System", "운영체제"): platform.platform(),
        say("Processor", "프로세서"): _processor(),
        say("Cores", "코어"): os.cpu_count(),
        say("Threads of torch", "torch 스레드"): torch.get_num_threads(),
        say("Device", "장치"): torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        say("Processes", "프로세스"): parallel.processes(),
    }
    return facts


def _processor() -> str:
    """The processor's name; Python alone knows only its architecture on Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def memory(device: torch.device) -> dict[str, int]:
    """Most bytes used so far: ``rss`` by this process, ``gpu`` by its tensors. Without what cannot be measured here."""
    found: dict[str, int] = {}
    if sys.platform != "win32":
        import resource

        found["rss"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if device.type == "cuda":
        found["gpu"] = torch.cuda.max_memory_allocated(device)
    return found


def size(count: float) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


# -------------------------------------------------------------- data


def parts(dataset: Any, name: str) -> dict[str, Any]:
    """A data set, or each of a dictionary of them, by name; nothing for None."""
    if dataset is None:
        return {}
    if isinstance(dataset, Mapping) and not hasattr(dataset, "column_names"):
        return {f"{name} {key}": part for key, part in dataset.items()}  # pyright: ignore[reportUnknownVariableType]
    return {name: dataset}


def data(dataset: Any, tokenizer: Any = None) -> dict[str, Any]:
    """Size, columns, fingerprint and first row of a data set. Nothing is drawn from a stream, nor from anybody's random numbers."""
    facts: dict[str, Any] = {say("Kind", "종류"): f"{type(dataset).__module__}.{type(dataset).__qualname__}"}
    if not sized(dataset) or not len(dataset):
        return facts | {say("Rows", "행"): say("a stream", "스트림") if not sized(dataset) else 0}
    kept = random_state()
    try:
        first = dataset[0]
        columns = getattr(dataset, "column_names", None) or (list(first) if isinstance(first, Mapping) else [])
        facts |= {say("Rows", "행"): len(dataset), say("Columns", "열"): ", ".join(map(str, columns))}
        return facts | {say("Fingerprint", "지문"): fingerprint(dataset), say("First row", "첫 행"): first_row(first, tokenizer)}
    finally:
        restore_random(kept)


def fingerprint(dataset: Any) -> str:
    """What tells two data sets apart: the fingerprint of ``datasets``, else a hash over evenly spaced rows and their number."""
    if isinstance(own := getattr(dataset, "_fingerprint", None), str):
        return f"{own} (datasets)"
    count, total = len(dataset), hashlib.sha256(str(len(dataset)).encode())
    rows = sorted({i * count // min(count, SAMPLE) for i in range(min(count, SAMPLE))})
    for row in rows:
        _digest(dataset[row], total)
    return total.hexdigest()[:32] + say(f" (SHA-256 over {len(rows)} rows)", f" (행 {len(rows)}개의 SHA-256)")


def _digest(value: Any, into: Any) -> None:
    """Hash a row by its values: the same for lists, arrays and tensors, and without addresses in memory."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):  # pyright: ignore[reportUnknownVariableType]
            into.update(f"{key}:".encode())
            _digest(value[key], into)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        into.update(f"[{len(value)}".encode())
        for item in value:
            _digest(item, into)
    else:
        plain = isinstance(value, str | bytes | int | float | None)
        into.update(f"{value!r};".encode() if plain else f"{type(value).__qualname__};".encode())


def first_row(row: Any, tokenizer: Any = None) -> str:
    """A row's values, a line each; its ids also as text where there is a tokenizer."""
    if not isinstance(row, Mapping):
        return short(row, LONGEST)
    lines = [f"{key}: {short(value, LONGEST // 4)}" for key, value in row.items()]
    ids = row.get("input_ids")
    if ids is not None and hasattr(tokenizer, "decode"):
        lines.append(f"= {short(str(tokenizer.decode(ids)), LONGEST)}")
    return "\n".join(lines)


# -------------------------------------------------------------- model


def model(module: Any) -> dict[str, Any]:
    """Name, architecture and size of a model."""
    inner = getattr(module, "base_model", module)  # under adapters
    counts = [(p.numel(), p.requires_grad) for p in module.parameters()]
    total, learns = sum(n for n, _ in counts), sum(n for n, trained in counts if trained)
    facts: dict[str, Any] = {
        say("Architecture", "구조"): getattr(inner, "architecture", type(module).__qualname__),
        say("Task", "과제"): getattr(inner, "task", None),
        say("Loaded from", "불러온 곳"): getattr(inner, "name_or_path", None) or None,
        say("Parameters", "매개변수"): f"{total:,}",
        say("Trainable", "학습되는 매개변수"): f"{learns:,} ({100 * learns / max(1, total):.4g} %)",
        say("Type of numbers", "수의 형식"): ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in module.parameters()})),
    }
    return {name: value for name, value in facts.items() if value is not None}
