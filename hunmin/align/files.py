"""Rows from files and into files: whole, or as lines that are added one by one and survive a crash."""

from __future__ import annotations

import glob
import json
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hunmin.align.formats import Kind, Row
from hunmin.errors import FormatError, InputError, SourceError, say


def read_rows(source: str | os.PathLike[str], kind: Kind | None = None) -> list[Row]:
    """The rows of a .jsonl, .json, .csv, .tsv or .txt file (also .gz), or of all files that a pattern names; a name:split is a data set.

    ``kind`` converts them. Raises InputError for a file that cannot be read, naming the line, and as ``shapes.convert``.
    """
    name = os.fspath(source)
    paths = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name]
    if not paths:
        raise InputError(say(f"No file matches {name}.", f"{name}에 맞는 파일이 없습니다."))
    rows = [row for path in paths for row in (_rows(Path(path)) if Path(path).is_file() else _of_library(path))]
    if kind is None:
        return rows
    from hunmin.align.shapes import convert

    return convert(rows, kind)


def _rows(path: Path) -> list[Row]:
    from hunmin.train.recipe.sources import ENDINGS, READERS

    suffix = next((suffix.lower() for suffix in reversed(path.suffixes) if suffix.lower() != ".gz"), "")
    kind = ENDINGS.get(suffix)
    if kind is None or kind == "parquet":
        return _of_library(str(path))
    try:
        table = READERS[kind](path)
    except (OSError, ValueError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        cause = " ".join(str(error).split())[:150]
        raise InputError(
            say(f"{path} cannot be read as {kind}: {cause}", f"{path}을(를) {kind}(으)로 읽을 수 없습니다: {cause}")
        ) from error
    names, columns = list(table), list(table.values())
    return [{name: value for name, value in zip(names, values, strict=True) if value is not None} for values in zip(*columns, strict=True)]


def _of_library(name: str) -> list[Row]:
    """A .parquet file, a folder of ``datasets``, or a data set on the Hub."""
    from hunmin.train.recipe.checks import Place
    from hunmin.train.recipe.schema import DataPart
    from hunmin.train.recipe.sources import load

    found: Any = load(name, "train", DataPart(), Place("data"))
    return [{key: value for key, value in row.items() if value is not None} for row in found]


def write_rows(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Rows as JSON lines, in a file that is there whole or not at all. Returns their number. Raises SourceError if it cannot be."""
    target, count = Path(path), 0
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        part.replace(target)
    except OSError as error:
        raise SourceError(say(f"{target} cannot be written: {error.strerror}.", f"{target}에 쓸 수 없습니다: {error.strerror}.")) from error
    return count


class Journal:
    """Answers that were paid for, as lines of JSON in a file: each is on disk before the next one is used, and is found again by its key.

    A last line that a crash cut off is dropped. Safe for threads of one process; without a path it only remembers.
    Raises FormatError for a file that is something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = Path(path) if path is not None else None
        self.kept: dict[str, Any] = {}
        self._lock = threading.Lock()
        if self.path is not None and self.path.is_file():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        try:
            for line in whole.decode("utf-8").split("\n")[:-1]:  # a text may hold other line separators
                item = json.loads(line)
                self.kept[str(item["key"])] = item["value"]
        except (ValueError, TypeError, KeyError) as error:
            raise FormatError(
                say(
                    f"{path} is no file of kept answers: name another one.",
                    f"{path}은(는) 보관한 답의 파일이 아닙니다. 다른 파일을 적으세요.",
                )
            ) from error
        if len(whole) < len(text):
            os.truncate(path, len(whole))

    def __contains__(self, key: str) -> bool:
        return key in self.kept

    def __getitem__(self, key: str) -> Any:
        return self.kept[key]

    def add(self, key: str, value: Any) -> None:
        """Keep ``value``; it is written before this returns. Raises SourceError where it cannot be."""
        with self._lock:
            self.kept[key] = value
            if self.path is None:
                return
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
            except OSError as error:
                raise SourceError(
                    say(f"{self.path} cannot be written: {error.strerror}.", f"{self.path}에 쓸 수 없습니다: {error.strerror}.")
                ) from error
