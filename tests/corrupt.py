"""Ways to damage files, and small real folders to damage."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.cases import CASES, Case
from tests.test_parity import write
from tests.text_kinds import fast

WILD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 7, 10**6, 10**9, 10**12, 2**63, 10**30, 0.5, -0.5, 1e-300, 1e300, float("nan"), float("inf"), "", "x",
    "3", "relu", "gelu", "../../etc/passwd", "\ud800", "a\nb", [], [1], [[]], ["a", 2], {}, {"0": "a"}, {"a": 0}, {"rope_type": "yarn"},
    {"rope_type": "linear", "factor": "x"}, {"a": {"b": {"c": []}}},
]  # fmt: skip


def case(name: str) -> Case:
    return next(c for c in CASES if c.id == name)


def folder(path: Path, name: str, task: str, weights: str = "single") -> Path:
    """A model with a tokenizer: weights in one safetensors file, in ``shards``, or in ``bin`` (``old``: the format before zip)."""
    write(case(name), task, path)
    config = json.loads((path / "config.json").read_text())
    fast(path)
    (path / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"]}, indent=1))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "max_new_tokens": 3, "do_sample": False}))
    single = path / "model.safetensors"
    if weights == "shards":
        from hunmin.hub.tensors import write_tensors

        tensors = {k: v.clone() for k, v in load_file(single).items()}
        write_tensors(iter(tensors.items()), path, "20KB")
    elif weights != "single":
        torch.save(load_file(single), path / "pytorch_model.bin", _use_new_zipfile_serialization=weights == "bin")
        single.unlink()
    return path


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Cut off, bits flipped, bytes put in, taken out, overwritten or swapped; as often in the first hundreds of bytes as anywhere."""
    out, end = bytearray(data), min(len(data), draw.choice([16, 200, 1000, len(data), len(data)]))
    at = draw.randrange(max(end, 1))
    size = draw.choice([1, 1, 2, 8, 64, 1024])
    match draw.choice(["cut", "flip", "flip", "insert", "delete", "zero", "ones", "swap", "repeat", "empty"]):
        case "cut":
            del out[at:]
        case "flip":
            for _ in range(draw.choice([1, 1, 2, 10])):
                out[draw.randrange(max(end, 1))] ^= 1 << draw.randrange(8)
        case "insert":
            out[at:at] = draw.randbytes(size)
        case "delete":
            del out[at : at + size]
        case "zero":
            out[at : at + size] = bytes(size)
        case "ones":
            out[at : at + size] = b"\xff" * size
        case "swap":
            other = draw.randrange(max(end, 1))
            out[at : at + size], out[other : other + size] = out[other : other + size], out[at : at + size]
        case "repeat":
            out[at:at] = out[at : at + size]
        case _:
            out = out[: draw.choice([0, 0, 1, 7, 8, 9])]
    return bytes(out)


def confused(value: Any, draw: random.Random) -> Any:
    """A JSON object with one of its values, however deep, replaced, removed, doubled under another key, or of another kind."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key, inner in list(part.items() if isinstance(part, dict) else enumerate(part)):
            places.append((part, key))
            if isinstance(inner, dict | list) and len(places) < 2000:
                walk(inner)

    walk(value := json.loads(json.dumps(value)))
    part, key = draw.choice(places)
    how = draw.choice(["wild", "wild", "wild", "number", "delete", "other"])
    if how == "delete":
        del part[key]
    elif how == "number" and type(part[key]) in (int, float):
        part[key] = draw.choice([part[key] + 1, part[key] * 2, -part[key], part[key] / 2, part[key] * 10**6, part[key] * 10**10])
    elif how == "other":
        part[key] = draw.choice(places)[0]
        value = json.loads(json.dumps(value)) if part[key] is not part and not cyclic(value) else {}
    else:
        part[key] = draw.choice(WILD)
    return value


def cyclic(value: Any) -> bool:
    try:
        json.dumps(value)
    except (ValueError, RecursionError):
        return True
    return False


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))
