"""Results of pipelines as text for people."""

from __future__ import annotations

from typing import Any, cast

from hunmin.cli.table import table
from hunmin.errors import say

# Columns of a row, in this order; the score stands before the longest, which come last.
_SHORT, _LONG = ("word", "answer", "token_str", "label", "entity", "entity_group"), ("sequence", "document")


def readable(result: Any, given: Any = None) -> str:
    """The result for the input ``given``: its text, a table of labels, words or answers with scores, or the shape of an array of numbers."""
    if hasattr(result, "tolist"):
        result = result.tolist()
    if isinstance(result, dict):
        return _object(cast(dict[str, Any], result))
    if isinstance(result, float):
        return f"{result:.4f}"
    if not isinstance(result, list):
        return str(result)
    items = cast(list[Any], result)
    if isinstance(given, dict) and "sentences" in given:  # cosines
        sentences = cast(list[str], given["sentences"])
        return table([(f"{cosine:.4f}", _line(text)) for cosine, text in zip(items, sentences, strict=True)])
    if shape := _shape(items):
        flat = items
        while isinstance(flat[0], list):
            flat = cast(list[Any], flat[0])
        return f"{shape}  " + " ".join(f"{x:.4f}" for x in flat[:6]) + (" ..." if len(flat) > 6 else "")
    if items and all(isinstance(item, dict) and "score" in item for item in items):
        return table([_cells(item) for item in items])
    return ("\n\n" if any(isinstance(item, list) for item in items) else "\n").join(map(readable, items))


def _object(fields: dict[str, Any]) -> str:
    if "error" in fields:
        return f"{say('error', '오류')}: {fields['error']}"
    if "labels" in fields:  # zero-shot classification
        return table([(label, f"{score:.4f}") for label, score in zip(fields["labels"], fields["scores"], strict=True)])
    if "score" in fields:
        return "  ".join(_cells(fields))
    text = next((value for key, value in fields.items() if key.endswith("text")), None)
    if isinstance(text, list):  # a conversation: its last message is new
        return str(cast(list[dict[str, Any]], text)[-1].get("content", ""))
    return str(text) if text is not None else "  ".join(f"{key}={value}" for key, value in fields.items())


def _cells(fields: dict[str, Any]) -> tuple[str, ...]:
    cells = [_line(fields[key]) for key in _SHORT if key in fields]
    cells.append(f"{float(fields['score']):.4f}")
    if "word" in fields:
        cells.append(f"{fields['start']}-{fields['end']}")
    cells += [_line(fields[key]) for key in _LONG if key in fields]
    return tuple(cells)


def _line(text: Any) -> str:
    """Text in one line; a dash for none, which is an answer too."""
    return " ".join(str(text).split()) or "-"


def _shape(items: Any) -> tuple[int, ...]:
    """Shape of nested lists of numbers; ``()`` when they are anything else."""
    shape: list[int] = []
    while isinstance(items, list) and items:
        level = cast(list[Any], items)
        shape.append(len(level))
        items = level[0]
    return tuple(shape) if isinstance(items, int | float) else ()
