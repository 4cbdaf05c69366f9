"""A file of settings against the classes that describe it: every key known, every value of its type, every error with its place."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hunmin.errors import InputError, say, short

T = TypeVar("T")
Keys = tuple[str | int, ...]
WORDS = {bool: ("true or false", "true나 false"), int: ("a whole number", "정수"), float: ("a number", "수"), str: ("a text", "문자열")}


@dataclass(frozen=True)
class Place:
    """Where a value stands: the file, the keys that lead to it, and the lines of all keys."""

    file: str
    path: Keys = ()
    lines: Mapping[Keys, int] = field(default_factory=dict[Keys, int], repr=False)

    def __truediv__(self, key: str | int) -> Place:
        return Place(self.file, (*self.path, key), self.lines)

    def __str__(self) -> str:
        line = self.lines.get(self.path)
        return f"{self.file}{f':{line}' if line else ''}: {'.'.join(map(str, self.path)) or say('the recipe', '레시피')}"

    def error(self, en: str, ko: str) -> InputError:
        """An InputError that begins with the place."""
        return InputError(f"{self}: {say(en, ko)}")

    def unknown(self, key: Any, known: Iterable[str]) -> InputError:
        """The error for a key that does not exist, with the closest that do, or all where there are few."""
        known = list(known)
        near = get_close_matches(str(key), known, 3) or ([] if len(known) > 20 else known)
        listed = ", ".join(near)
        en, ko = (f" Did you mean {listed}?", f" 혹시 {listed}인가요?") if near else ("", "")
        return (self / str(key)).error(f"there is no such key.{en}", f"그런 항목이 없습니다.{ko}")


def parse(text: str, file: str) -> tuple[Any, dict[Keys, int]]:
    """The values of a YAML text and the line of every key. Raises InputError for broken YAML and for a key that stands twice."""
    try:
        import yaml
    except ImportError as error:
        raise InputError(
            say("Recipes need PyYAML: pip install 'hunmin[train]'.", "레시피에는 PyYAML이 필요합니다: pip install 'hunmin[train]'.")
        ) from error

    lines: dict[Keys, int] = {}
    seen = set[int]()

    def walk(node: Any, path: Keys) -> None:
        if id(node) in seen:  # an alias
            return
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                lines[(*path, i)] = item.start_mark.line + 1
                walk(item, (*path, i))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, str(key.value))
                if here in lines:
                    raise Place(file, here, {here: key.start_mark.line + 1}).error(
                        "this key stands here twice.", "같은 항목이 두 번 있습니다."
                    )
                lines[here] = key.start_mark.line + 1
                walk(value, here)

    try:
        walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
        return yaml.safe_load(text), lines
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        mark = getattr(error, "problem_mark", None)
        at, cause = f"{file}:{mark.line + 1}" if mark else file, getattr(error, "problem", None) or " ".join(str(error).split())[:150]
        raise InputError(say(f"{at}: this is not valid YAML: {cause}.", f"{at}: 올바른 YAML이 아닙니다: {cause}.")) from error


def read_text(path: Path) -> str:
    """The text of a file. Raises InputError when it cannot be read or is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(say(f"{path} cannot be read: {error.strerror}.", f"{path}을(를) 읽을 수 없습니다: {error.strerror}.")) from error
    except UnicodeDecodeError as error:
        raise InputError(say(f"{path} is not UTF-8 text.", f"{path}은(는) UTF-8 텍스트가 아닙니다.")) from error


def key_of(item: dataclasses.Field[Any]) -> str:
    """What a field is called in a file: its name, unless Python needs that word itself."""
    return str(item.metadata.get("key", item.name))


def build(cls: type[T], values: Any, place: Place) -> T:
    """An object of a dataclass from what stands in a file.

    A field with ``metadata={"rest": True}`` takes keys that no other field has. Raises InputError for anything that does not fit.
    """
    items = {key_of(item): item for item in dataclasses.fields(cast("Any", cls))}
    rest = next((item.name for item in items.values() if item.metadata.get("rest")), None)
    hints, out, more = get_type_hints(cls), dict[str, Any](), dict[str, Any]()
    known = [key for key, item in items.items() if item.name != rest]
    if not isinstance(values, Mapping):
        listed = ", ".join(known)
        raise place.error(f"must be keys with values ({listed}), not {short(values)}.", f"키와 값({listed})이어야 합니다: {short(values)}.")
    for key, value in cast("Mapping[Any, Any]", values).items():
        if str(key) in known:
            name = items[str(key)].name
            out[name] = fit(hints[name], value, place / str(key))
        elif rest is not None:
            more[str(key)] = value
        else:
            raise place.unknown(key, known)
    for item in items.values():
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING and item.name not in out:
            raise (place / key_of(item)).error("this key is needed.", "꼭 있어야 하는 항목입니다.")
    return cls(**out, **({rest: more} if rest else {}))


def fit(kind: Any, value: Any, place: Place) -> Any:
    """``value`` as a ``kind``. Numbers written as text (1e-4 is one in YAML) become numbers. Raises InputError where it is none."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _one_of(parts, value, place)
    if origin is Literal:
        return choice(value, parts, place)
    if dataclasses.is_dataclass(kind):
        return build(cast("type[Any]", kind), value, place)
    if origin is list and isinstance(value, list):
        return [fit(parts[0], item, place / i) for i, item in enumerate(cast("list[Any]", value))]
    if origin is tuple and isinstance(value, list) and len(cast("list[Any]", value)) == len(parts):
        return tuple(fit(part, item, place / i) for i, (part, item) in enumerate(zip(parts, cast("list[Any]", value), strict=True)))
    if origin is dict and isinstance(value, Mapping):
        return {str(key): fit(parts[1], item, place / str(key)) for key, item in cast("Mapping[Any, Any]", value).items()}
    found: Any = _plain(kind, value)
    if found is not None:
        return found
    raise _not(place, kind, value)


def choice(value: Any, known: Iterable[Any], place: Place) -> Any:
    """``value``, which is one of ``known``. Raises InputError otherwise."""
    known = list(known)
    value = "no" if value is False and "no" in known else value  # YAML reads a bare no as false
    if value in known and not isinstance(value, bool):
        return value
    near = get_close_matches(str(value), [str(part) for part in known], 1)
    listed, hint = ", ".join(map(str, known)), f" ({near[0]}?)" if near else ""
    raise place.error(f"is {short(value)}{hint}; it can be {listed}.", f"값이 {short(value)}입니다{hint}. 가능한 값: {listed}.")


def _plain(kind: Any, value: Any) -> Any:
    """A bool, number or text; None where ``value`` is none."""
    if kind is bool or isinstance(value, bool):
        if kind is str and value is False:
            return "no"
        return value if kind is bool and isinstance(value, bool) else None
    if kind in (int, float):
        try:
            found = float(value) if isinstance(value, int | float | str) else math.nan
        except (ValueError, OverflowError):
            return None
        if isinstance(value, int) or (kind is int and found.is_integer()):
            return int(value if isinstance(value, int) else found)
        return found if kind is float and math.isfinite(found) else None
    if kind is str:
        return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else None
    return None


def _one_of(parts: tuple[Any, ...], value: Any, place: Place) -> Any:
    if value is None and NoneType in parts:
        return None
    kinds = [part for part in parts if part is not NoneType]
    if len(kinds) == 1:
        return fit(kinds[0], value, place)
    for kind in kinds:  # the exact type first: a text that looks like a number stays a text
        if kind in WORDS and type(value) is kind:
            return value
    for kind in sorted(kinds, key=lambda kind: kind is str):  # and a number is one before it is a text
        try:
            return fit(kind, value, place)
        except InputError:
            continue
    raise _not(place, Union[tuple(kinds)], value)  # noqa: UP007 - the parts are known at run time only


def _not(place: Place, kind: Any, value: Any) -> InputError:
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    en, ko = (" / ".join(dict.fromkeys(_word(k)[side] for k in kinds)) for side in (0, 1))
    return place.error(f"must be {en}, not {short(value)}.", f"{ko}이어야 합니다: {short(value)}.")


def _word(kind: Any) -> tuple[str, str]:
    named = {list: ("a list", "목록"), tuple: ("a list", "목록"), dict: ("keys with values", "키와 값")}
    return WORDS.get(kind) or named.get(get_origin(kind) or kind) or ("keys with values", "키와 값")
