"""A pipeline for every language: each text goes to the model of its own, which is loaded when the first such text comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, cast

from hunmin.errors import language
from hunmin.pipelines.base import Pipeline
from hunmin.starters import language_of


class ByLanguage:
    """Behaves as the pipeline of the text's language. Everything but a call (``model``, ``tokenizer``, …) is that of the user's language."""

    def __init__(self, make: Callable[[str], Pipeline], languages: Iterable[str], name: str) -> None:
        self._make, self._languages, self._name = cache(make), list(languages), name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for some, before there is anything
            raise AttributeError(name)
        return getattr(self._of(language()), name)

    def __repr__(self) -> str:
        return f"{self._name}({', '.join(self._languages)})"

    def _of(self, spoken: str) -> Pipeline:
        return self._make(spoken if spoken in self._languages else self._languages[0])

    def __call__(self, *args: Any, **options: Any) -> Any:
        """As :meth:`hunmin.pipelines.Pipeline.__call__`. A list or an iterator of inputs may mix languages; what is named is of one."""
        inputs: Any = args[0] if args else None
        rest = args[1:]
        if not _several(inputs):
            return self._of(language_in(args[0] if args else options))(*args, **options)
        if not isinstance(inputs, Sequence) and not hasattr(inputs, "__getitem__"):
            return self._streamed(iter(inputs), rest, options)
        items = list(inputs)
        spoken = [language_in(item) for item in items]
        if len(set(spoken)) < 2:
            return self._of(spoken[0] if spoken else language())(*args, **options)
        answers = dict[int, Any]()
        for one in set(spoken):
            mine = [i for i, other in enumerate(spoken) if other == one]
            texts = [items[i] for i in mine]
            found = self._of(one)(texts if len(texts) > 1 else texts * 2, *rest, **options)  # some pipelines unpack a list of one
            answers.update(zip(mine, found[: len(texts)], strict=True))
        return [answers[i] for i in range(len(items))]

    def _streamed(self, inputs: Iterator[Any], rest: tuple[Any, ...], options: dict[str, Any]) -> Iterator[Any]:
        for spoken, run in groupby(inputs, language_in):
            yield from self._of(spoken)(run, *rest, **options)


def _several(inputs: Any) -> bool:
    """Whether ``inputs`` holds inputs, rather than being one: a conversation is one."""
    if isinstance(inputs, str | bytes | Mapping) or not isinstance(inputs, Iterable):
        return False
    first: Any = cast("Sequence[Any]", inputs)[0] if isinstance(inputs, list) and inputs else None
    return not (isinstance(first, Mapping) and "role" in first)


def language_in(item: Any) -> str:
    """The language of all text in an input."""
    return language_of(" ".join(_texts(item)))


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield item
    elif isinstance(item, Mapping | list | tuple):
        parts = cast("Mapping[str, Any]", item).values() if isinstance(item, Mapping) else cast("Sequence[Any]", item)
        yield from (text for part in parts for text in _texts(part))
