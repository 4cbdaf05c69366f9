"""The padding and truncation arguments of a tokenizer call, checked once and passed on as one value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import index
from typing import Any

from hunmin.errors import InputError, say, short, warn_once

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("right", "left")
UNLIMITED = int(1e20)  # model_max_length from here on means "not stated" (files write 1e30)


@dataclass(frozen=True)
class Options:
    """How to cut and fill: ``padding`` and ``truncation`` are one of the names above, ``max_length`` counts tokens with special ones."""

    padding: str
    truncation: str
    max_length: int | None
    stride: int = 0
    multiple: int | None = None
    side: str = "right"
    cut_side: str = "right"


def choose(name: str, value: Any, valid: tuple[str, ...], true: str, false: str) -> str:
    """``value`` as one of ``valid``, in any letter case; booleans and None stand for ``true`` and ``false``.

    Raises:
        InputError: anything else; the message lists the valid values.
    """
    if value is None or isinstance(value, bool):
        return true if value else false
    text = str(getattr(value, "value", value)).lower()
    if text not in valid:
        names = ", ".join(repr(v) for v in valid)
        raise InputError(
            say(f"{name}={value!r} is not known: use True, False, {names}.", f"{name}={value!r}: True, False, {names} 중에서 고르세요.")
        )
    return text


def whole(name: str, value: Any, least: int = 0) -> int:
    """``value`` as an integer of at least ``least``.

    Raises:
        InputError: not a whole number, or too small.
    """
    try:
        number = None if isinstance(value, bool) else index(value)
    except TypeError:
        number = None
    if number is None or number < least:
        raise InputError(
            say(f"{name}={short(value)} must be a whole number >= {least}.", f"{name}={short(value)}: {least} 이상의 정수여야 합니다.")
        )
    return number


def options(
    model_max_length: int,
    *,
    padding: Any = False,
    truncation: Any = None,
    max_length: int | None = None,
    stride: int = 0,
    multiple: int | None = None,
    side: str | None = None,
    own_side: str = "right",
    cut_side: str = "right",
) -> Options:
    """Resolve the arguments of a call as Hugging Face does.

    ``max_length`` alone truncates; ``padding="max_length"`` and ``truncation=True`` without it use the model's own length, and do nothing
    (with a warning) where the model states none.

    Raises:
        InputError: an unknown value, a negative length, or lengths that contradict each other.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = True
    pad = choose("padding", padding, PADDING, "longest", "do_not_pad")
    cut = choose("truncation", truncation, TRUNCATION, "longest_first", "do_not_truncate")
    max_length = None if max_length is None else whole("max_length", max_length)
    if max_length is None and (pad == "max_length" or cut != "do_not_truncate"):
        if model_max_length < UNLIMITED:
            max_length = model_max_length
        else:
            warn_once(
                say(
                    "This tokenizer states no maximum length: give max_length=... to pad or truncate to it.",
                    "이 토크나이저에는 최대 길이가 없습니다: 그 길이로 채우거나 자르려면 max_length=...를 주세요.",
                )
            )
            pad, cut = ("do_not_pad" if pad == "max_length" else pad), "do_not_truncate"
    multiple = None if multiple is None else whole("pad_to_multiple_of", multiple, 1)
    if multiple and max_length is not None and max_length % multiple and pad != "do_not_pad" and cut != "do_not_truncate":
        raise InputError(
            say(
                f"max_length={max_length} is not a multiple of pad_to_multiple_of={multiple}.",
                f"max_length={max_length}는 pad_to_multiple_of={multiple}의 배수가 아닙니다.",
            )
        )
    side = choose("padding_side", side or own_side, SIDES, "right", "right")
    return Options(pad, cut, max_length, whole("stride", stride), multiple, side, cut_side)


def batch(text: Any, pair: Any, split: bool) -> tuple[list[Any], bool]:
    """The inputs as the Rust library takes them, and whether they were a batch.

    A batch is a list of texts, of pairs ``(a, b)`` or ``[a, b]``, or with ``split`` of lists of words.

    Raises:
        InputError: something that is not text; the message says where.
    """
    if not isinstance(text, str) and not isinstance(text, Mapping) and isinstance(text, Iterable):
        text = list(text)  # a column of a dataset, a pandas series, an array of strings  # pyright: ignore[reportUnknownVariableType]
    many = isinstance(text, list) and (not split or not text or not isinstance(text[0], str))  # pyright: ignore[reportUnknownVariableType]
    if not many:
        return [_row("text", text, split) if pair is None else (_row("text", text, split), _row("text_pair", pair, split))], False
    rows: list[Any] = text  # pyright: ignore[reportUnknownVariableType, reportAssignmentType]
    if pair is None:
        return [_either(f"text[{i}]", row, split) for i, row in enumerate(rows)], True
    if isinstance(pair, str) or len(pair := list(pair)) != len(rows):
        raise InputError(
            say(
                f"text has {len(rows)} rows: text_pair must be a list of as many.",
                f"text는 {len(rows)}행입니다: text_pair도 같은 길이의 리스트여야 합니다.",
            )
        )
    return [
        (_row(f"text[{i}]", a, split), _row(f"text_pair[{i}]", b, split)) for i, (a, b) in enumerate(zip(rows, pair, strict=True))
    ], True


def _either(where: str, row: Any, split: bool) -> Any:
    """One row of a batch: a text or a pair (of word lists when ``split``)."""
    is_pair = isinstance(row, (list, tuple)) and len(row) == 2 and (not split or not isinstance(row[0], str))  # pyright: ignore[reportUnknownArgumentType]
    if is_pair:
        return _row(f"{where}[0]", row[0], split), _row(f"{where}[1]", row[1], split)
    return _row(where, row, split)


def _row(where: str, row: Any, split: bool) -> Any:
    """One text, or with ``split`` one list of words."""
    if not split and isinstance(row, str):
        return str(row)
    if split and isinstance(row, (list, tuple)) and all(isinstance(word, str) for word in row):  # pyright: ignore[reportUnknownVariableType]
        return list(row)  # pyright: ignore[reportUnknownArgumentType]
    wanted = ("a list of words", "단어 리스트") if split else ("a text or a pair of texts", "문자열이나 문자열 쌍")
    raise InputError(
        say(f"{where} must be {wanted[0]}, got {type(row).__name__}: {short(row)}", f"{where}: {wanted[1]}이어야 합니다({short(row)}).")
    )
