"""Errors that name the source they are about, and files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from hunmin.errors import HunminError, SourceError, say


@contextmanager
def about(name: str) -> Generator[None]:
    """Errors name the source ``name`` that they are about."""
    try:
        yield
    except HunminError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error


@contextmanager
def whole(path: Path) -> Generator[Path]:
    """A file to write in place of ``path``. It takes that name when all went well; otherwise it is deleted and what was there stays.

    Raises SourceError when it cannot be written: no space, no right.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        cause = error.strerror or str(error)
        raise SourceError(say(f"{path} cannot be written: {cause}.", f"{path}을(를) 쓸 수 없습니다: {cause}.")) from error
    finally:
        with suppress(OSError):
            part.unlink()
