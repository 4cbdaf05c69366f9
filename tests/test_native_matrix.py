"""The CPU kernels against their PyTorch twins: products of few rows, unpacking, and the blocks of GGUF as tiles."""

from __future__ import annotations

import shutil
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hunmin.hub.gguf_blocks import SIZES, dequantize
from hunmin.native import ORDER, Library, library
from hunmin.native.matrix import Matrix, multiply, unpack
from hunmin.quantize.blocks import KEPT, tiles
from hunmin.quantize.tiles import rounded


def levels() -> list[Library]:
    """The library at every level that this processor has."""
    found = library()
    return [] if found is None else [Library(found.handle, level) for level in ORDER[: ORDER.index(found.level) + 1]]


def test_the_kernels_are_built_where_they_can_be() -> None:
    """Else every other test of them would be skipped in silence."""
    assert library() is not None or not any(map(shutil.which, ("c++", "g++", "clang++"))), "run: python -m hunmin.native"


each_level = pytest.mark.parametrize("kernels", levels(), ids=lambda k: k.level)
SHAPES = [(1, 32), (16, 64), (49, 96), (33, 200), (5, 10), (64, 576)]


def error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm().clamp(min=1e-9)).item()


@pytest.mark.parametrize("kind", KEPT)
def test_blocks_of_gguf_keep_their_numbers(kind: str) -> None:
    """Tiles stand for what ``dequantize`` gives; scales of K types are rounded to half precision."""
    rows, width = 21, 512
    generator = np.random.default_rng(0)
    raw = (
        gguf.quants.quantize(generator.standard_normal((rows, width), np.float32), gguf.GGMLQuantizationType[kind])
        if kind[-1] in "01"
        else None
    )
    if raw is None:  # the reader's package cannot write K types: random bytes with sensible scales
        raw = generator.integers(0, 256, (rows, width // 256 * SIZES[kind][1]), dtype=np.uint8)
        half = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        blocks = raw.reshape(-1, SIZES[kind][1])
        for at in (208,) if kind == "Q6_K" else (0, 2):
            blocks[:, at : at + 2] = half
    data = torch.from_numpy(raw.copy())
    want = torch.empty(rows, width)
    dequantize(data, kind, want)
    got = tiles(data, kind, (rows, width))
    assert got.bits == (4 if "4" in kind else 8)
    assert error(got.numbers(torch.float32), want) < (1e-7 if kind[-1] in "01" else 5e-4)


@each_level
@pytest.mark.parametrize("kind", ["int8", "int4", "q4_1", "q6_k", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_equal_their_twin(kernels: Library, kind: str, shape: tuple[int, int]) -> None:
    """Rounding rows to 8 bits costs under one percent; plain weights keep the precision of their type. Rows do not depend on each other."""
    torch.manual_seed(0)
    weight, bias = torch.randn(shape), torch.randn(shape[0])
    if kind in ("int8", "int4"):
        stored: Any = rounded(weight, kind, 32)  # type: ignore[arg-type]
    elif kind in ("q4_1", "q6_k"):
        width = -(-shape[1] // 256) * 256
        data = np.random.default_rng(1).integers(
            0, 255, (shape[0], width // (32 if kind == "q4_1" else 256) * SIZES[kind.upper()][1]), dtype=np.uint8
        )
        blocks = data.reshape(-1, SIZES[kind.upper()][1])
        for at in (0, 2) if kind == "q4_1" else (208,):
            blocks[:, at : at + 2] = np.frombuffer(np.float16(0.02).tobytes(), np.uint8)
        stored = tiles(torch.from_numpy(data), kind.upper(), (shape[0], width))
    else:
        stored = weight.to(getattr(torch, kind))
    dense = stored.float() if isinstance(stored, torch.Tensor) else stored.numbers(torch.float32)
    x = torch.randn(7, dense.shape[1])
    matrix = Matrix.of(stored, bias)
    got = multiply(kernels, x, matrix)
    limit = {"float32": 1e-6, "bfloat16": 4e-3}.get(kind, 1.2e-2)
    assert error(got, x @ dense.T + bias) < limit
    for i in range(7):
        assert torch.equal(multiply(kernels, x[i : i + 1], matrix)[0], got[i])


@each_level
@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_unpacking_equals_its_twin(kernels: Library, kind: Any, shape: tuple[int, int]) -> None:
    stored = rounded(torch.randn(shape), kind)
    assert torch.equal(unpack(kernels, stored), stored.numbers(torch.bfloat16))
