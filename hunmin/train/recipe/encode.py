"""From columns of a data set to rows of a model: token ids, and labels of the kind that the objective needs.

Every function takes a batch of columns, the numbers of its rows, and the :class:`Work` of the stage; cells that cannot be used raise
InputError with their row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hunmin.errors import InputError, short
from hunmin.nn.losses import IGNORE
from hunmin.train.recipe.schema import DataPart, Stage

Columns = dict[str, list[Any]]


@dataclass
class Work:
    """What a stage knows while it makes rows, batches and its trainer."""

    stage: Stage
    tokenizer: Any
    length: int  # tokens of a row
    labels: list[str] = field(default_factory=list[str])
    model: Any = None
    room: int = 0  # tokens that the model takes
    numbered: bool = False  # the data set holds numbers of labels, and names beside them

    @property
    def data(self) -> DataPart:
        return self.stage.data

    @property
    def options(self) -> dict[str, Any]:
        return self.stage.options

    def bad(self, column: str, row: int, en: str, ko: str) -> InputError:
        return self.stage.data_place.error(f"row {row}, column {column!r}: {en}", f"{row}행 {column!r} 열: {ko}")


def texts(rows: Columns, column: str, numbers: Sequence[int], work: Work) -> list[str]:
    """A column of texts."""
    for value, row in zip(rows[column], numbers, strict=True):
        if value is None or isinstance(value, list | dict):
            raise work.bad(column, row, f"a text is needed, not {short(value)}.", f"텍스트가 필요합니다: {short(value)}.")
    return [str(value) for value in rows[column]]


def lists(rows: Columns, column: str, numbers: Sequence[int], work: Work, separator: str | None = None) -> list[list[Any]]:
    """A column of lists; texts are split at ``separator`` (white space), or read where they are JSON."""
    out: list[list[Any]] = []
    for value, row in zip(rows[column], numbers, strict=True):
        if isinstance(value, str):
            value = _json_list(value) if value.startswith("[") else [part.strip() for part in value.split(separator) if part.strip()]
        if not isinstance(value, list):
            raise work.bad(column, row, f"a list is needed, not {short(value)}.", f"목록이 필요합니다: {short(value)}.")
        out.append(cast("list[Any]", value))
    return out


def _json_list(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _kept(encoded: Mapping[str, Any]) -> Columns:
    return {key: list(value) for key, value in encoded.items() if key in ("input_ids", "token_type_ids")}


def _pairs(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    second = work.data.text_pair
    pair = texts(rows, second, numbers, work) if second is not None else None
    return _kept(work.tokenizer(texts(rows, work.data.text, numbers, work), pair, truncation=True, max_length=work.length))


def plain(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """Texts alone. Where rows are packed nothing is lost: a text that is too long becomes several rows."""
    return _pieces(_plain(rows, numbers, work), work)


def causal(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """Texts that end with the end token."""
    end = work.tokenizer.eos_token_id
    room = work.length - 1 if work.stage.pack is None else None
    ids = _plain(rows, numbers, work)
    return _pieces([row if end is None or row[-1] == end else [*row[:room], end] for row in ids], work)


def _plain(rows: Columns, numbers: Sequence[int], work: Work) -> list[list[int]]:
    cut: dict[str, Any] = {"truncation": True, "max_length": work.length} if work.stage.pack is None else {"truncation": False}
    ids = work.tokenizer(texts(rows, work.data.text, numbers, work), **cut)["input_ids"]
    return [row for row in ids if len(row) > work.tokenizer.num_special_tokens_to_add()]


def _pieces(ids: list[list[int]], work: Work) -> Columns:
    size = min(work.room, work.stage.pack or work.room)
    return {"input_ids": [row[i : i + size] for row in ids for i in range(0, len(row), size)]}


def classes(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """A class for every text or pair."""
    column = str(work.data.label)
    return _pairs(rows, numbers, work) | {"labels": [class_of(v, column, n, work) for v, n in zip(rows[column], numbers, strict=True)]}


def class_of(value: Any, column: str, row: int, work: Work) -> int:
    """The number of a label: a name, or a number itself where the column holds numbers."""
    if str(value) in work.labels and not isinstance(value, bool) and not (work.numbered and isinstance(value, int)):
        return work.labels.index(str(value))
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and 0 <= value < len(work.labels):
        return int(value)
    listed = ", ".join(work.labels[:8]) + ("…" if len(work.labels) > 8 else "")
    raise work.bad(column, row, f"the label {short(value)} is none of {listed}.", f"라벨 {short(value)}이(가) {listed} 가운데 없습니다.")


def several(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """Zeros and ones for the labels of a text: from a column for each label, or from a column of lists of labels."""
    label = work.data.label or "label"
    if isinstance(label, list):
        flags = [[number(rows[name][i], name, row, work) for name in label] for i, row in enumerate(numbers)]
    else:
        held = [
            [class_of(v, label, row, work) for v in values]
            for values, row in zip(lists(rows, label, numbers, work, ","), numbers, strict=True)
        ]
        flags = [[float(i in values) for i in range(len(work.labels))] for values in held]
    return _pairs(rows, numbers, work) | {"labels": flags}


def number(value: Any, column: str, row: int, work: Work) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise work.bad(column, row, f"a number is needed, not {short(value)}.", f"수가 필요합니다: {short(value)}.") from None


def numbers_of(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """A number for every text or pair."""
    column = str(work.data.label)
    return _pairs(rows, numbers, work) | {"labels": [number(v, column, n, work) for v, n in zip(rows[column], numbers, strict=True)]}


def tags(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """A label for every word, at its first token; its other tokens have none. Or, where a text has as many labels as characters, a label for
    every character: tokens take that of their first one, as names end inside words where particles follow them.
    """
    column = str(work.data.label)
    named = lists(rows, column, numbers, work)
    if all(isinstance(text, str) and len(text) == len(theirs) for text, theirs in zip(rows[work.data.text], named, strict=True)):
        return _character_tags(rows, named, numbers, work)
    words = lists(rows, work.data.text, numbers, work)
    for mine, theirs, row in zip(words, named, numbers, strict=True):
        if len(mine) != len(theirs) or not mine:
            raise work.bad(column, row, f"{len(theirs)} labels for {len(mine)} words.", f"단어 {len(mine)}개에 라벨 {len(theirs)}개입니다.")
    texts_of_words = [[str(word) for word in row] for row in words]
    encoded, labels = work.tokenizer(texts_of_words, is_split_into_words=True, truncation=True, max_length=work.length), []
    for i, row in enumerate(numbers):
        at = encoded.word_ids(i)
        first = [place is not None and (j == 0 or at[j - 1] != place) for j, place in enumerate(at)]
        labels.append([class_of(named[i][w], column, row, work) if new else IGNORE for w, new in zip(at, first, strict=True)])
    return _kept(encoded) | {"labels": labels}


def _character_tags(rows: Columns, named: list[list[Any]], numbers: Sequence[int], work: Work) -> Columns:
    """Texts with a label for every character."""
    column = str(work.data.label)
    encoded = work.tokenizer(rows[work.data.text], truncation=True, max_length=work.length, return_offsets_mapping=True)
    labels = [
        [class_of(tags[start], column, row, work) if end > start else IGNORE for start, end in offsets]
        for tags, offsets, row in zip(named, encoded["offset_mapping"], numbers, strict=True)
    ]
    return _kept(encoded) | {"labels": labels}


def target(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """A text and the text to write."""
    written = work.tokenizer(text_target=texts(rows, work.data.target, numbers, work), truncation=True, max_length=work.length)
    return _pairs(rows, numbers, work) | {"labels": list(written["input_ids"])}


def answers(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """Windows over long contexts, with the first and last token of the answer; both 0 where it is not in the window."""
    questions, contexts = (texts(rows, column, numbers, work) for column in (work.data.question, work.data.context))
    encoded = work.tokenizer(
        questions, contexts, truncation="only_second", max_length=work.length, stride=min(128, work.length // 4),
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found = [answer(value, context, row, work) for value, context, row in zip(rows[work.data.answers], contexts, numbers, strict=True)]
    out = _kept(encoded) | {"start_positions": [], "end_positions": []}
    for i, of in enumerate(encoded["overflow_to_sample_mapping"]):
        begin, end = found[of]
        side, offsets = encoded.sequence_ids(i), encoded["offset_mapping"][i]
        inside = [j for j, part in enumerate(side) if part == 1]
        seen = inside and begin >= 0 and offsets[inside[0]][0] <= begin and offsets[inside[-1]][1] >= end
        first = max((j for j in inside if offsets[j][0] <= begin), default=0) if seen else 0
        last = min((j for j in inside if offsets[j][1] >= end), default=0) if seen else 0
        out["start_positions"].append(first)
        out["end_positions"].append(last)
    return out


def answer(value: Any, context: str, row: int, work: Work) -> tuple[int, int]:
    """First and last character (excluded) of an answer: SQuAD's ``{"text": […], "answer_start": […]}`` or a text; (-1, -1) without one."""
    if isinstance(value, str) and value.startswith("{"):
        value = _json_object(value)
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {"text": value}
    text, start = (item[0] if isinstance(item, list) and item else item for item in (given.get("text"), given.get("answer_start")))
    if not text:
        return -1, -1
    begin = start if isinstance(start, int) else context.find(str(text))
    if begin < 0 or context[begin : begin + len(str(text))] != str(text):
        raise work.bad(work.data.answers, row, f"{short(text)} is not in the context.", f"{short(text)}이(가) 본문에 없습니다.")
    return begin, begin + len(str(text))


def _json_object(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def choices(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """A question with each of its choices, and the number of the right one."""
    named, column = work.data.choices, str(work.data.label)
    options = (
        [[rows[name][i] for name in named] for i in range(len(numbers))]
        if isinstance(named, list)
        else lists(rows, named, numbers, work, "|")
    )
    questions = texts(rows, work.data.text, numbers, work)
    out: Columns = {"labels": []}
    for i, row in enumerate(numbers):
        ends = [str(option) for option in options[i]]
        encoded = _kept(work.tokenizer([questions[i]] * len(ends), ends, truncation=True, max_length=work.length))
        for key, value in encoded.items():
            out.setdefault(key, []).append(value)
        out["labels"].append(_right(rows[column][i], ends, column, row, work))
    return out


def _right(value: Any, options: list[str], column: str, row: int, work: Work) -> int:
    """The number of the right choice, given as its number, its letter or itself."""
    letter = "ABCDEFGHIJ".find(value.strip().upper()) if isinstance(value, str) and len(value.strip()) == 1 else -1
    if str(value) in options:
        return options.index(str(value))
    at = int(value) if isinstance(value, int) or (isinstance(value, str) and value.strip().isdigit()) else letter
    if not 0 <= at < len(options):
        raise work.bad(
            column,
            row,
            f"{short(value)} names none of {len(options)} choices.",
            f"{short(value)}은(는) 선택지 {len(options)}개에 없습니다.",
        )
    return at


def together(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """The token ids of texts that belong together, and of one that does not; a label where the recipe names its column."""
    named = [name for name in (work.data.text, work.data.text_pair, work.data.negative) if name is not None]
    out: Columns = {}
    for role, name in zip(("anchor", "positive", "negative"), named, strict=False):
        out[role] = list(work.tokenizer(texts(rows, name, numbers, work), truncation=True, max_length=work.length)["input_ids"])
    column = str(work.data.label)
    if work.data.label is not None:
        out["label"] = [number(value, column, row, work) for value, row in zip(rows[column], numbers, strict=True)]
    return out


def documents(rows: Columns, numbers: Sequence[int], work: Work) -> Columns:
    """Lists of sentences as lists of token ids without special tokens; texts are split into lines."""
    found = lists(rows, work.data.text, numbers, work, "\n")
    return {"sentences": [list(work.tokenizer([str(s) for s in document], add_special_tokens=False)["input_ids"]) for document in found]}
