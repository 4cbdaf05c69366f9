"""Fused CPU kernels in C++ behind a plain C interface. Each has a PyTorch twin, which serves where the library was not built.

``HUNMIN_NATIVE`` chooses: ``off`` (never), ``plain``, ``avx2`` or ``avx512`` (at most this level); unset: the best that the processor has.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hunmin.errors import say, warn_once
from hunmin.native.build import LIBRARY, version

ORDER = ("plain", "avx2", "avx512")


class Library:
    """The compiled library at one level: ``library.name(…)`` calls the C function ``hm_name_LEVEL``."""

    def __init__(self, handle: ctypes.CDLL, level: str) -> None:
        self.handle, self.level = handle, level

    @functools.cached_property
    def many(self) -> bool:
        """Whether many rows are multiplied faster than by PyTorch, and fastest in 8 bits: with AVX-512 VNNI and BF16, and without AMX."""
        return self.level == "avx512" and not torch.cpu._is_amx_tile_supported()  # pyright: ignore[reportPrivateUsage]

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.handle, f"hm_{name}_{self.level}")
        function.restype = None
        setattr(self, name, function)
        return function


def _openmp() -> None:
    """Make the OpenMP runtime of PyTorch visible to the library, which names none itself. One runtime means one set of threads."""
    if sys.platform == "win32":
        return
    folder = Path(torch.__file__).parent
    found = [*folder.glob("lib/libgomp*"), *folder.glob("../torch.libs/libgomp*"), *folder.glob("lib/libomp*")]
    for name in (*map(str, found), "libgomp.so.1"):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
        except OSError:
            continue


@functools.cache
def library() -> Library | None:
    """The kernels at the level of this processor; None where they are switched off, were not built, or are of other sources."""
    wanted = os.environ.get("HUNMIN_NATIVE", ORDER[-1])
    if wanted == "off" or not LIBRARY.exists():
        return None
    try:
        _openmp()
        handle = ctypes.CDLL(str(LIBRARY))
        handle.hm_version.restype = handle.hm_level.restype = ctypes.c_char_p
        fits = handle.hm_version().decode() == version()
    except (OSError, AttributeError):
        fits, handle = False, None
    if not fits or handle is None:
        warn_once(
            say(
                "The CPU kernels are of another version and stay unused. Build them again: python -m hunmin.native",
                "CPU 커널이 다른 버전이라 쓰지 않습니다. 다시 빌드하세요: python -m hunmin.native",
            )
        )
        return None
    best = handle.hm_level().decode()
    return Library(handle, min(best, wanted if wanted in ORDER else best, key=ORDER.index))


def address(t: Tensor | None) -> ctypes.c_void_p:
    """Where a contiguous tensor's numbers are; null for None."""
    return ctypes.c_void_p(t.data_ptr() if t is not None else None)
