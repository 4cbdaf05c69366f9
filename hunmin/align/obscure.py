"""Functions made hard to read that still do the same: the rejected side of readability pairs.

Four changes, each of which leaves behaviour as it is: local names become letters, docstrings go, type hints go, and statements share lines.
"""

from __future__ import annotations

import ast
import builtins
import copy
import keyword
import random
import string
from collections.abc import Collection, Iterator
from itertools import product
from typing import Any

from hunmin.align.formats import Row, pair
from hunmin.errors import InputError, say

CHANGES = ("names", "docstrings", "hints", "lines")
Function = ast.FunctionDef | ast.AsyncFunctionDef
# With these a program can look at its own names, or at its docstrings and hints.
_NAMES_BY_TEXT = frozenset("eval exec locals globals vars dir compile inspect".split())
_NOTES = frozenset("__doc__ __annotations__ get_type_hints singledispatch".split())


def obscure(source: str, changes: Collection[str] = CHANGES, *, tests: str = "") -> str:
    """``source`` with ``changes``; what it does stays the same.

    Names of functions and classes, of parameters that are named in a call (also in ``tests``), and what a program can look up by name stay.
    Raises InputError for a text that is no Python and for an unknown change.
    """
    if unknown := [name for name in changes if name not in CHANGES]:
        listed = ", ".join(CHANGES)
        raise InputError(
            say(f"There is no change {unknown[0]!r}; there are {listed}.", f"{unknown[0]!r} 변경이 없습니다. 있는 것: {listed}.")
        )
    try:
        tree = ast.parse(source)
        called = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InputError(say(f"This is no Python: {error}.", f"파이썬 코드가 아닙니다: {error}.")) from error
    looks = any(_says(node) & _NAMES_BY_TEXT for node in ast.walk(tree) if not isinstance(node, ast.Attribute))
    reads = looks or any(_says(node) & _NOTES for node in ast.walk(tree))
    several_lines = any(isinstance(node, ast.JoinedStr) and "\n" in ast.unparse(node) for node in ast.walk(tree))
    if "docstrings" in changes and not reads:
        _drop_docstrings(tree)
    if "hints" in changes and not reads:
        tree = _Hints().visit(tree)
    if "names" in changes and not looks:
        tree = _Names(_letters(tree, called)).visit(tree)
    ast.fix_missing_locations(tree)
    return "\n".join(_lines(tree.body)) + "\n" if "lines" in changes and not several_lines else ast.unparse(tree) + "\n"


def _says(node: ast.AST) -> set[str]:
    """The names in one node."""
    if isinstance(node, ast.Name):
        return {node.id}
    if isinstance(node, ast.Attribute):
        return {node.attr}
    return {alias.name for alias in node.names} if isinstance(node, ast.Import | ast.ImportFrom) else set()


# ---------------------------------------------------------------- docstrings and hints


def _drop_docstrings(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])


class _Hints(ast.NodeTransformer):
    """Takes annotations away, but in class bodies, where they may be fields."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        node.body = [part if isinstance(part, ast.AnnAssign) else self.visit(part) for part in node.body]
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        if node.value is None:  # a declaration makes a name local; keep it
            return node
        return ast.Assign([node.target], node.value)


# ---------------------------------------------------------------- names


def _letters(tree: ast.Module, tests: ast.Module) -> dict[str, str]:
    """New names for the names that are local wherever they are bound.

    A name gets one new name in the whole program, and that name is nowhere else; as nothing is bound to it outside functions, every scope
    keeps its shape, and no scope has to be resolved.
    """
    local, fixed, seen = set[str](), set[str](), set[str]()
    for node, inside in _scoped(tree, False):
        names = set(_binds(node))
        movable = inside and not isinstance(node, Function | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Global)
        (local if movable else fixed).update(names)
        seen |= names | _says(node)
    for node in (*ast.walk(tree), *ast.walk(tests)):
        if isinstance(node, ast.keyword) and node.arg is not None:
            fixed.add(node.arg)
    fixed |= {node.id for node in ast.walk(tests) if isinstance(node, ast.Name)}
    fixed |= set(dir(builtins)) | {"self", "cls"}
    if any(isinstance(node, ast.ImportFrom) and node.names[0].name == "*" for node in ast.walk(tree)):
        return {}  # any name may come from there
    renamed = sorted(name for name in local - fixed if not name.startswith("__"))
    taken = (
        seen
        | fixed
        | set(keyword.kwlist)
        | set(keyword.softkwlist)
        | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    )
    fresh = (name for name in _alphabet() if name not in taken)
    order = {name: place for place, name in enumerate(_in_order(tree))}
    return {name: next(fresh) for name in sorted(renamed, key=lambda name: order.get(name, len(order)))}


def _alphabet() -> Iterator[str]:
    """a, b, …, z, aa, ab, …"""
    for size in range(1, 4):
        yield from ("".join(letters) for letters in product(string.ascii_lowercase, repeat=size))


def _in_order(tree: ast.AST) -> list[str]:
    return list(dict.fromkeys(name for node, _ in _scoped(tree, False) for name in _binds(node)))


def _scoped(node: ast.AST, inside: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether names that it binds are local to a function. A comprehension is a function; a class body is none."""
    for child in ast.iter_child_nodes(node):
        yield child, inside
        if isinstance(child, Function | ast.Lambda):
            yield from _scoped(child, True)
        elif isinstance(child, ast.ClassDef):
            yield from _scoped(child, False)
        else:
            yield from _scoped(child, inside)


def _binds(node: ast.AST) -> list[str]:
    """The names that a node itself gives a meaning, in this scope or in one named by ``global``."""
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            return [name]
        case ast.arg(arg=name):
            return [name]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case (
            ast.ExceptHandler(name=str(name))
            | ast.MatchAs(name=str(name))
            | ast.MatchStar(name=str(name))
            | ast.MatchMapping(rest=str(name))
        ):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [(alias.asname or alias.name).split(".")[0] for alias in aliases]
        case ast.Global(names=names):
            return list(names)
        case _:
            return []


class _Names(ast.NodeTransformer):
    """Renames everywhere by a table."""

    def __init__(self, table: dict[str, str]) -> None:
        self.table = table

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "arg", "name", "rest"):
            old = getattr(node, field, None)
            if isinstance(old, str) and not isinstance(node, ast.keyword | ast.alias | Function | ast.ClassDef):
                setattr(node, field, self.table.get(old, old))
        if isinstance(node, ast.Nonlocal):
            node.names = [self.table.get(name, name) for name in node.names]
        return super().generic_visit(node)


# ---------------------------------------------------------------- lines


def _lines(body: list[ast.stmt], indent: str = "") -> list[str]:
    """Statements as lines: simple ones share a line, and follow the head of a block where there are no others in it."""
    out: list[str] = []
    together: list[str] = []
    for statement in body:
        if not _is_block(statement):
            together.append(ast.unparse(statement))
            continue
        out += [*_joined(together, indent), *_block(statement, indent)]
        together = []
    return out + _joined(together, indent)


def _joined(statements: list[str], indent: str) -> list[str]:
    return [indent + "; ".join(statements)] if statements else []


def _is_block(node: ast.AST) -> bool:
    return hasattr(node, "body") or isinstance(node, ast.Match)


def _block(node: ast.stmt, indent: str) -> list[str]:
    if isinstance(node, ast.Match):
        return [indent + line for line in ast.unparse(node).split("\n")]
    parts: list[tuple[str, list[ast.stmt]]] = []
    if isinstance(node, ast.Try | ast.TryStar):
        parts.append(("try:", node.body))
        parts += [(_head(handler), handler.body) for handler in node.handlers]
    else:
        parts.append((_head(node), node.body))  # type: ignore[attr-defined]
    parts += [(word, block) for word, name in (("else:", "orelse"), ("finally:", "finalbody")) if (block := getattr(node, name, None))]
    out: list[str] = []
    for head, block in parts:
        *before, last = head.split("\n")  # decorators stand in lines of their own
        out += [indent + line for line in before]
        inner = _lines(block, indent + " ")
        single = not any(map(_is_block, block))
        out += [f"{indent}{last} {inner[0].strip()}"] if single else [indent + last, *inner]
    return out


def _head(node: ast.AST) -> str:
    """The line that a block begins with, and those of its decorators."""
    bare = copy.copy(node)
    bare.body = [ast.Pass()]  # type: ignore[attr-defined]
    for name in ("orelse", "finalbody"):
        if hasattr(bare, name):
            setattr(bare, name, [])
    return ast.unparse(bare).strip().removesuffix("pass").rstrip()


# ---------------------------------------------------------------- pairs


def unreadable(source: str, *, seed: int | str = 0, versions: int = 1, tests: str = "") -> list[str]:
    """Up to ``versions`` different versions with one or more changes each, drawn by ``seed``; fewer where fewer differ from ``source``.

    Raises as :func:`obscure`.
    """
    draw, plain, found = random.Random(seed), ast.unparse(ast.parse(source)), dict[str, None]()
    for _ in range(4 * versions):
        chosen = draw.sample(CHANGES, draw.randint(1, len(CHANGES)))
        made = obscure(source, chosen, tests=tests)
        if made.strip() not in (source.strip(), plain.strip()):
            found.setdefault(made)
        if len(found) == versions:
            break
    return list(found)


def readability_pairs(prompt: str, source: str, *, seed: int | str = 0, versions: int = 1, tests: str = "") -> list[Row]:
    """Preference rows: the function as it is against versions of it that are hard to read. Raises as :func:`obscure`."""
    made = unreadable(source, seed=seed, versions=versions, tests=tests)
    return [pair(prompt, source, worse, **({"tests": tests} if tests else {})) for worse in made]
