"""A Python function as the JSON schema that chat templates show to a model."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hunmin.errors import InputError, say

_SIMPLE = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    tuple: "array",
    type(None): "null",
}
_SECTION = re.compile(r"\n\s*(?:Args|Arguments|Parameters|Returns|Raises|Examples?)\s*:", re.IGNORECASE)
_ARGS = re.compile(r"\n\s*Args:\n(.*?)(?=\n\s*(?:Returns|Raises|Examples?):|\Z)", re.DOTALL)
_RETURNS = re.compile(r"\n\s*Returns:\n(.*?)(?=\n\s*(?:Raises|Examples?):|\Z)", re.DOTALL)
_ARGUMENT = re.compile(r"^\s*(\w+)\s*(?:\([^)]*\))?\s*:\s*(.*?)\s*(?=^\s*\w+\s*(?:\([^)]*\))?\s*:|\Z)", re.DOTALL | re.MULTILINE)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def json_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """``{"type": "function", "function": {"name", "description", "parameters"}}`` from type hints and a Google-style docstring.

    Raises:
        InputError: no docstring, or an argument without type hint or description.
    """
    if not callable(function):
        raise InputError(say("A tool is a function or a JSON schema.", "도구는 함수나 JSON 스키마여야 합니다."))
    name, doc = getattr(function, "__name__", "function"), inspect.getdoc(function)
    if not doc:
        raise _problem(name, "needs a docstring", "docstring이 필요합니다")
    args = _ARGS.search(doc)
    described = {arg: " ".join(text.split()) for arg, text in _ARGUMENT.findall(args.group(1))} if args else {}
    hints = get_type_hints(function)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints or parameter.name not in described:
            raise _problem(
                name, f"'{parameter.name}' needs a type hint and a description", f"'{parameter.name}'에 타입 힌트와 설명이 필요합니다"
            )
        text, schema = described[parameter.name], _hint(name, hints[parameter.name])
        if choices := _CHOICES.search(text):
            schema["enum"] = json.loads(choices.group(1))
            text = text[: choices.start()].strip()
        properties[parameter.name] = schema | {"description": text}
        if parameter.default is inspect.Parameter.empty:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties} | ({"required": required} if required else {})
    out: dict[str, Any] = {"name": name, "description": _SECTION.split("\n" + doc)[0].strip(), "parameters": parameters}
    if "return" in hints:
        returns = _RETURNS.search(doc)
        out["return"] = _hint(name, hints["return"]) | ({"description": " ".join(returns.group(1).split())} if returns else {})
    return {"type": "function", "function": out}


def _hint(name: str, hint: Any) -> dict[str, Any]:
    """The schema of a type hint."""
    if hint is Any:
        return {}
    if hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [_hint(name, arg) for arg in args if arg is not type(None)]
        if len(kinds) == 1:
            schema = kinds[0]
        elif all(list(kind) == ["type"] for kind in kinds):
            schema = {"type": sorted(kind["type"] for kind in kinds)}
        else:
            schema = {"anyOf": kinds}
        return schema | ({"nullable": True} if type(None) in args else {})
    if origin is Literal:
        kinds = {_SIMPLE[type(arg)] for arg in args}
        return {"type": kinds.pop() if len(kinds) == 1 else sorted(kinds), "enum": list(args)}
    if origin is list:
        return {"type": "array", "items": _hint(name, args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _hint(name, args[1])}
    if origin is tuple:
        return {"type": "array", "prefixItems": [_hint(name, arg) for arg in args]}
    raise _problem(name, f"the type {hint} has no JSON form", f"{hint} 타입은 JSON으로 나타낼 수 없습니다")


def _problem(name: str, en: str, ko: str) -> InputError:
    return InputError(say(f"Tool {name}(): {en}.", f"도구 {name}(): {ko}."))
