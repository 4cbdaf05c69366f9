"""Every text task with its options against the results of transformers 4.50.0, the last that had them all, on small random models."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from hunmin import pipeline
from tests.pipeline_cases import CALLS

GOLDEN = Path(__file__).parent / "golden" / "pipelines"
RESULTS = json.loads((GOLDEN / "results.json").read_text(encoding="utf-8"))


@cache
def built(task: str, folder: Path, options: str) -> Any:
    return pipeline(task, model=str(folder), **json.loads(options))


def pipe(models: Path, task: str, name: str, **options: Any) -> Any:
    return built(task, models / name, json.dumps(options))


def same(got: Any, want: Any, where: str = "") -> None:
    """Equal shapes, keys and texts; numbers within a relative error of 1e-4."""
    if isinstance(want, dict):
        assert set(got) == set(want), where
        for key in want:
            same(got[key], want[key], f"{where}.{key}")
    elif isinstance(want, list):
        assert len(got) == len(want), f"{where}: {got} != {want}"
        for i, (a, b) in enumerate(zip(got, want, strict=True)):
            same(a, b, f"{where}[{i}]")
    elif isinstance(want, float):
        assert math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-6), f"{where}: {got} != {want}"
    else:
        assert got == want, f"{where}: {got!r} != {want!r}"


@pytest.mark.parametrize("index", range(len(CALLS)), ids=[f"{i}-{name}-{task}" for i, (name, task, *_) in enumerate(CALLS)])
def test_equals_transformers_4_50(index: int, models: Path) -> None:
    name, task, construction, arguments, options = CALLS[index]
    same(pipe(models, task, name, **construction)(*arguments, **options), RESULTS[index])
