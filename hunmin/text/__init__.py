"""Text to token ids and back: ``AutoTokenizer``, chat templates and streaming decode. Nothing heavy is imported until it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hunmin.text.batch import BatchEncoding as BatchEncoding
    from hunmin.text.load import AutoTokenizer as AutoTokenizer
    from hunmin.text.scratch import train_tokenizer as train_tokenizer
    from hunmin.text.stream import StreamDecoder as StreamDecoder
    from hunmin.text.tokenizer import Tokenizer as Tokenizer

_HOME = {
    "AutoTokenizer": "load",
    "BatchEncoding": "batch",
    "StreamDecoder": "stream",
    "Tokenizer": "tokenizer",
    "train_tokenizer": "scratch",
}

__all__ = ["AutoTokenizer", "BatchEncoding", "StreamDecoder", "Tokenizer", "train_tokenizer"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hunmin.text' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hunmin.text.{_HOME[name]}"), name)
