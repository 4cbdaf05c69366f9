"""From the ``data`` of a recipe to data sets: files of any usual kind, folders and Hub ids; splits, mixtures, and only the columns needed."""

from __future__ import annotations

import csv
import glob
import gzip
import json
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from hunmin.errors import InputError, SourceError, say, short
from hunmin.train.mixing import interleave, mixing_rates
from hunmin.train.recipe.checks import Place
from hunmin.train.recipe.schema import DataPart, MixPart

ENDINGS = {".csv": "csv", ".tsv": "tsv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".txt": "txt"}
Table = dict[str, list[Any]]
ROW = "row of the source"  # a column for error messages: its number stays with a row that moves to another split


@dataclass(frozen=True)
class Splits:
    """The data sets of a stage; those that the recipe does not name are None."""

    train: Any
    validation: Any = None
    test: Any = None


def load_splits(data: DataPart, needed: list[str], seed: int, place: Place) -> Splits:
    """Training, validation and test rows with the columns ``needed``.

    Raises InputError for files that cannot be read, columns that are not there (naming those that are), and splits without rows.
    """
    found: dict[str, Any] = {}
    if data.mix is not None:
        found["train"] = _mixed(data, data.mix, needed, seed, place / "mix")
    for name in ("train", "validation", "test"):
        value = getattr(data, name)
        if isinstance(value, str | list):
            found[name] = _columns(load(cast("str | list[str]", value), name, data, place / name), needed, place, name)
    for name, rows in found.items():
        if not len(rows):
            raise (place / name).error("there is no row in this data set.", "데이터셋에 행이 하나도 없습니다.")
    for name in ("test", "validation"):
        share = getattr(data, name)
        if isinstance(share, float | int):
            found["train"], found[name] = _cut(found["train"], share, seed, place / name)
    if data.max_rows is not None and data.max_rows < 1:
        raise (place / "max_rows").error("must be at least 1.", "1 이상이어야 합니다.")
    return Splits(**{name: first_rows(rows, data.max_rows or len(rows)) for name, rows in found.items()})


def _cut(train: Any, share: float, seed: int, place: Place) -> tuple[Any, Any]:
    """The training rows without ``share`` of them (below 1) or so many of them, and those."""
    count = int(share) if share >= 1 else round(share * len(train))
    if not 0 < count < len(train):
        raise place.error(
            f"{share} of {len(train)} training rows leaves one side empty.", f"학습 데이터 {len(train)}행을 {share}만큼 나눌 수 없습니다."
        )
    drawn = np.random.default_rng(seed).permutation(len(train))
    return train.select(np.sort(drawn[count:])), train.select(np.sort(drawn[:count]))


def _columns(rows: Any, needed: list[str], place: Place, split: str) -> Any:
    """Only the columns needed. Raises InputError naming those that are missing and those that are there."""
    if missing := [name for name in needed if name not in rows.column_names]:
        listed = ", ".join(rows.column_names) or say("none", "없음")
        raise place.error(
            f"{split} has no column {missing[0]!r}; its columns are: {listed}.",
            f"{split}에 {missing[0]!r} 열이 없습니다. 있는 열: {listed}.",
        )
    return rows.select_columns(needed).add_column(ROW, list(range(1, len(rows) + 1)))


def _mixed(data: DataPart, parts: list[MixPart], needed: list[str], seed: int, place: Place) -> Any:
    weights = [part.weight for part in parts if part.weight is not None]
    if not parts or (weights and (len(weights) < len(parts) or min(weights) <= 0)):
        raise place.error(
            "needs sources, and a weight above 0 for all of them or for none.",
            "출처가 있어야 하고 weight(0보다 큰 수)는 모두에 적거나 모두 빼야 합니다.",
        )
    sources: list[Any] = []
    for i, part in enumerate(parts):
        rows = load(part.train, "train", data, place / i / "train")
        rows = rows.rename_columns({old: new for old, new in part.rename.items() if old in rows.column_names})
        sources.append(_columns(rows, needed, place / i, "train"))
    chances = [weight / sum(weights) for weight in weights] if weights else mixing_rates([max(1, len(rows)) for rows in sources])
    try:
        return interleave(sources, chances, seed, "all_exhausted")
    except (ValueError, TypeError) as error:
        cause = " ".join(str(error).split())[:150]
        raise place.error(f"these sources do not go together: {cause}", f"함께 섞을 수 없는 데이터입니다: {cause}") from error


# ---------------------------------------------------------------- one source


def load(source: str | list[str], split: str, data: DataPart, place: Place) -> Any:
    """The rows of files, of a folder of ``datasets``, or of a data set on the Hub."""
    datasets = _library()
    names = [source] if isinstance(source, str) else source
    paths = [path for name in names for path in (sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else [name])]
    if not paths:
        raise place.error(f"no file matches {short(source)}.", f"{short(source)}에 맞는 파일이 없습니다.")
    if all(Path(path).is_file() for path in paths):
        tables = [_read(Path(path), data.format, place) for path in paths]
        return datasets.concatenate_datasets(tables) if len(tables) > 1 else tables[0]
    name, _, part = paths[0].partition(":") if not Path(paths[0]).exists() else (paths[0], "", "")
    if len(paths) > 1 or Path(name).suffix in ENDINGS:
        missing = next(path for path in paths if not Path(path).is_file())
        raise place.error(f"there is no file {missing}.", f"{missing} 파일이 없습니다.")
    return _of_library(datasets, name, part or split, data.config, place)


def _of_library(datasets: Any, name: str, split: str, config: str | None, place: Place) -> Any:
    """A split of a folder that ``save_to_disk`` made, or of a data set on the Hub."""
    try:
        if Path(name).is_dir():
            found = datasets.load_from_disk(name)
            if not isinstance(found, datasets.DatasetDict):
                return found
        else:
            found = datasets.load_dataset(name, config)
    except Exception as error:  # of many kinds: files, network, formats
        cause = " ".join(str(error).split())[:200]
        raise SourceError(f"{place}: " + say(f"{name} cannot be loaded: {cause}", f"{name}을(를) 불러올 수 없습니다: {cause}")) from error
    if split not in found:
        listed = ", ".join(found)
        raise place.error(f"{name} has no split {split!r}; it has {listed}.", f"{name}에 {split!r} 분할이 없습니다. 있는 것: {listed}.")
    return found[split]


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            say(
                "Recipes need the library datasets: pip install 'hunmin[train]'.",
                "레시피에는 datasets가 필요합니다: pip install 'hunmin[train]'.",
            )
        ) from error
    return datasets


def _read(path: Path, kind: str | None, place: Place) -> Any:
    """The rows of one file. Raises InputError naming the line where something is wrong."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    kind = kind or ENDINGS.get(suffixes[-1] if suffixes else "")
    if kind is None:
        raise (place).error(
            f"the ending of {path.name} is none of {', '.join(ENDINGS)}; say data.format.",
            f"{path.name}의 확장자는 {', '.join(ENDINGS)} 가운데 없습니다. data.format을 적으세요.",
        )
    datasets = _library()
    try:
        if kind == "parquet":
            from pyarrow import ArrowException, parquet

            try:
                return datasets.Dataset(parquet.read_table(path))
            except ArrowException as error:
                raise ValueError(str(error)) from error
        table = READERS[kind](path)
        return datasets.Dataset.from_dict(table)
    except InputError:
        raise
    except (OSError, ValueError, TypeError, csv.Error, RecursionError) as error:  # ArrowInvalid is a ValueError
        cause = " ".join(str(error).split())[:150]
        raise place.error(f"{path} cannot be read as {kind}: {cause}", f"{path}을(를) {kind}(으)로 읽을 수 없습니다: {cause}") from error


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    with (
        gzip.open(path, "rt", encoding="utf-8-sig", newline="")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8-sig", newline="") as file
    ):
        yield file


def _separated(path: Path, separator: str) -> Table:
    """A file with a header and as many cells in every row."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    quoting = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE  # tabs need no quotes, and texts have single ones
    with _opened(path) as file:
        lines = csv.reader(file, delimiter=separator, quoting=quoting, strict=separator == ",")
        head = next(lines, [])
        if len(set(head)) < len(head):
            raise InputError(say(f"{path.name}: the header names a column twice.", f"{path.name}: 머리글에 같은 열이 두 번 있습니다."))
        table: Table = {name: [] for name in head}
        for cells in lines:
            if not cells:
                continue
            if len(cells) != len(head):
                raise InputError(
                    say(
                        f"{path.name}, line {lines.line_num}: {len(cells)} columns, the header has {len(head)}.",
                        f"{path.name} {lines.line_num}번째 줄: 열이 {len(cells)}개인데 머리글은 {len(head)}개입니다.",
                    )
                )
            for name, cell in zip(head, cells, strict=True):
                table[name].append(cell)
    return table


def _json_lines(path: Path) -> Table:
    rows: list[Any] = []
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise InputError(
                    say(f"{path.name}, line {number}: not JSON: {error}.", f"{path.name} {number}번째 줄: JSON이 아닙니다: {error}.")
                ) from error
    return _table(rows, path)


def _json(path: Path) -> Table:
    """A list of rows, an object with a list of rows in ``data``, or an object of columns."""
    with _opened(path) as file:
        value = json.load(file)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if isinstance(value, dict):
        columns = cast("dict[str, Any]", value)
        sizes = {name: len(column) if isinstance(column, list) else -1 for name, column in columns.items()}
        if len(set(sizes.values())) > 1 or -1 in sizes.values():
            listed = ", ".join(f"{name}: {size}" for name, size in sizes.items())[:150]
            raise InputError(
                say(f"{path.name}: its columns are of unequal length ({listed}).", f"{path.name}: 열의 길이가 서로 다릅니다({listed}).")
            )
        return columns
    return _table(value, path)


def _table(rows: Any, path: Path) -> Table:
    """Rows as columns; a row that lacks a key has None there."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in cast("list[Any]", rows)):
        raise InputError(say(f"{path.name}: rows must be JSON objects.", f"{path.name}: 각 행은 JSON 객체여야 합니다."))
    items = cast("list[dict[str, Any]]", rows)
    names = dict.fromkeys(name for row in items for name in row)
    return {name: [row.get(name) for row in items] for name in names}


def _lines(path: Path) -> Table:
    """A text a line; empty lines are left out."""
    with _opened(path) as file:
        return {"text": [line for raw in file if (line := raw.strip())]}


READERS: dict[str, Callable[[Path], Table]] = {
    "csv": lambda path: _separated(path, ","),
    "tsv": lambda path: _separated(path, "\t"),
    "json": _json,
    "jsonl": _json_lines,
    "txt": _lines,
}


def first_rows(rows: Any, count: int) -> Any:
    """The first ``count`` rows of a data set."""
    return rows.select(range(min(len(rows), count)))


def texts_of(rows: Any, columns: list[str], batch: int = 1000) -> Iterator[str]:
    """Every text of some columns, lists of texts too, for a tokenizer to learn from."""
    for start in range(0, len(rows), batch):
        block = rows[start : start + batch]
        for name in columns:
            for value in block[name]:
                yield from (str(item) for item in (cast("list[Any]", value) if isinstance(value, list) else [value]) if item is not None)
