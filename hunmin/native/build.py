"""Compile the CPU kernels: ``python -m hunmin.native``, and at installation (``hatch_build.py``), where a C++ compiler is there.

One source, ``kernels.cpp``, is compiled for each instruction set and linked into one library with a plain C interface; the choice between
them is made at run time. This module imports nothing of Hunmin, so that the installation can load it by its path.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = HERE / "src"
LIBRARY = HERE / ("kernels.dll" if sys.platform == "win32" else "kernels.so")
# Each level is a superset of the one before it. Flags by machine; a compiler that knows none of them builds the plain level alone.
LEVELS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "plain": [],
        "avx2": ["-mavx2", "-mfma", "-mf16c"],
        "avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "bf16")] + ["-mavx2", "-mfma", "-mf16c"],
    },
    "aarch64": {"plain": []},
}
# No -fassociative-math: a sum has one order, so that a row's result does not depend on how many rows stand beside it.
FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros"),
    *("-ffinite-math-only", "-ffp-contract=fast", "-Wall", "-Wno-unknown-pragmas", "-Wno-psabi"),
]


def version() -> str:
    """A fingerprint of the sources, built into the library: a library of other sources is never used."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(command: list[str]) -> None:
    """Raises RuntimeError with what the compiler said."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr.strip()[-2000:]}")


def build(out: Path = LIBRARY) -> Path:
    """Compile and link; returns the library. Raises RuntimeError without a compiler, or with what it said.

    The library names no OpenMP runtime: it uses the one that PyTorch has loaded, so that both share one set of threads.
    """
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise RuntimeError("no C++ compiler was found (c++, g++, clang++; set CXX)")
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    with tempfile.TemporaryDirectory() as folder:
        known = LEVELS.get(machine, {"plain": []})
        try:
            objects, levels = _compile(compiler, Path(folder), known, ["-fopenmp"])
        except RuntimeError:  # a compiler without OpenMP: one thread
            objects, levels = _compile(compiler, Path(folder), known, [])
        made = Path(folder) / "choice.o"
        defines = [f"-DHUNMIN_VERSION={version()}", *(f"-DHAS_{level.upper()}" for level in levels)]
        _run([compiler, *FLAGS, *defines, "-c", str(SOURCES / "choice.cpp"), "-o", str(made)])
        linked = Path(folder) / out.name
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
        _run([compiler, "-shared", "-O3", *undefined, "-o", str(linked), str(made), *objects])
        partial = out.with_suffix(f".{os.getpid()}.part")
        shutil.copy(linked, partial)
        partial.replace(out)
    return out


def _compile(compiler: str, folder: Path, levels: dict[str, list[str]], threads: list[str]) -> tuple[list[str], list[str]]:
    """Object files and levels. A level that the compiler cannot build is left out; the plain one it has to build."""

    def one(level: str) -> str | None:
        out = str(folder / f"{level}.o")
        try:
            _run([compiler, *FLAGS, *threads, *levels[level], f"-DLEVEL={level}", "-c", str(SOURCES / "kernels.cpp"), "-o", out])
        except RuntimeError:
            if level == "plain":
                raise
            return None
        return out

    with ThreadPoolExecutor() as pool:
        made = dict(zip(levels, pool.map(one, levels), strict=True))
    return [out for out in made.values() if out], [level for level, out in made.items() if out]
