"""What a model returns: values by attribute, by key and by index."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any


class Output(OrderedDict[str, Any]):
    """``out.logits``, ``out["logits"]`` and ``out[0]``. Values that are None are left out of keys and indices, and read as None."""

    def __init__(self, **values: Any) -> None:
        super().__init__({k: v for k, v in values.items() if v is not None})
        object.__setattr__(self, "_known", frozenset(values))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in self.__dict__.get("_known", ()):
            return None
        raise AttributeError(f"This output has no {name!r}, only {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(self.values())
