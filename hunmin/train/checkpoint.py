"""Checkpoints that are whole or not there: written beside their name, synced to the disk, then renamed."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hunmin.errors import FormatError, SourceError, say

PREFIX = "checkpoint"
OPTIMIZER, SCHEDULER, RNG, TRAINED = "optimizer.pt", "scheduler.pt", "rng_state.pth", "trained.safetensors"
Writer = Callable[[Path], Any]


class Checkpoints:
    """The checkpoints in ``root``, ``checkpoint-STEP`` each. A name exists only when everything in it is on the disk."""

    def __init__(self, root: str | Path, keep: int | None = None, *, threaded: bool = False) -> None:
        self.root, self.keep = Path(root), keep
        self._thread = ThreadPoolExecutor(1, "hunmin-checkpoint") if threaded else None
        self._writing: Future[Path] | None = None

    def all(self) -> list[Path]:
        """Complete checkpoints, the oldest first."""
        found = [(int(m[1]), path) for path in self.root.glob(f"{PREFIX}-*") if (m := re.fullmatch(rf"{PREFIX}-(\d+)", path.name))]
        return [path for _, path in sorted(found)]

    def last(self) -> Path | None:
        return self.all()[-1] if self.all() else None

    def path(self, step: int) -> Path:
        return self.root / f"{PREFIX}-{step}"

    def clean(self) -> None:
        """Remove what a process that was killed while it wrote has left behind."""
        for path in self.root.glob(f".{PREFIX}-*"):
            shutil.rmtree(path, ignore_errors=True)

    def write(self, step: int, writers: Sequence[Writer], best: str | None = None) -> Path:
        """Make ``checkpoint-step`` from what ``writers`` put into a folder, then remove old ones. In a thread where one was asked for.

        Raises SourceError when the disk refuses, of this checkpoint or of the one before that a thread wrote.
        """
        self.wait()
        if self._thread is None:
            return self._write(step, writers, best)
        self._writing = self._thread.submit(self._write, step, writers, best)
        return self.path(step)

    def wait(self) -> None:
        """Until the last checkpoint is on the disk."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, step: int, writers: Sequence[Writer], best: str | None) -> Path:
        final, folder = self.path(step), self.root / f".{PREFIX}-{step}-{os.getpid()}"
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for write in writers:
                write(folder)
            for path in folder.rglob("*"):
                if path.is_file():
                    _sync(path)
            if final.exists():  # a run that goes on from an earlier step
                final.rename(folder.with_name(folder.name + "-old"))
            folder.rename(final)
            _sync(self.root)
        except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
            shutil.rmtree(folder, ignore_errors=True)
            last = self.last()
            raise SourceError(
                say(
                    f"{final} could not be written: {error}. "
                    + (f"The last good checkpoint is {last}." if last else "There is none before."),
                    f"{final}을(를) 쓸 수 없습니다: {error}. "
                    + (f"마지막 정상 체크포인트: {last}." if last else "이전 체크포인트가 없습니다."),
                )
            ) from error
        shutil.rmtree(folder.with_name(folder.name + "-old"), ignore_errors=True)
        self._rotate(final, best)
        return final

    def _rotate(self, newest: Path, best: str | None) -> None:
        """Keep the newest checkpoints, and the best one among them."""
        if not self.keep:
            return
        kept = {newest} | ({Path(best)} if best else set())
        others = [path for path in self.all() if path not in kept]
        for path in others[: max(0, len(others) - max(0, self.keep - len(kept)))]:
            gone = path.with_name(f".{path.name}-gone")
            path.rename(gone)  # at once: a half removed checkpoint has no name
            shutil.rmtree(gone, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -------------------------------------------------------------- what goes in


def random_state() -> dict[str, Any]:
    """The random numbers to come, of Python, numpy and torch, as plain values and tensors."""
    kind, keys, place, has, cached = np.random.get_state(legacy=True)  # pyright: ignore[reportAssignmentType, reportGeneralTypeIssues]
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(internal), gauss], "torch": torch.random.get_rng_state()}
    state["numpy"] = [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), int(place), int(has), float(cached)]
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.random.get_rng_state_all()
    return state


def restore_random(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.random.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.random.set_rng_state_all(state["cuda"])


def copied(value: Any) -> Any:
    """A state on the CPU that later steps do not change."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return value


def saver(name: str, value: Any) -> Writer:
    """Writes ``value`` with ``torch.save``."""
    return lambda folder: torch.save(value, folder / name)


def read(path: Path) -> Any:
    """What :func:`saver` wrote; no code in the file is run. Raises FormatError when it is broken."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise FormatError(say(f"{path} cannot be read: {cause}", f"{path}을(를) 읽을 수 없습니다: {cause}")) from error
