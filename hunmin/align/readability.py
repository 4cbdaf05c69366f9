"""How easily Python is read, as a number.

The score is the course's example of a reward (chapter 4): names, docstrings, type hints, short lines, one statement a line. Like every
reward it can be had without the work: a program that does nothing reads very well.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from statistics import fmean
from typing import Any

LINE = 79  # PEP 8
Function = ast.FunctionDef | ast.AsyncFunctionDef
_COUNTERS = frozenset("i j k n m x y".split())  # where one letter is the usual name


@dataclass(frozen=True)
class Readability:
    """The parts of the score, each 0 to 1; None where there is nothing to judge."""

    names: float | None
    docstrings: float | None
    hints: float | None
    lines: float | None
    statements: float | None

    @property
    def score(self) -> float:
        """The mean of the parts that can be judged; 0 without any."""
        return fmean(parts) if (parts := [value for part in fields(self) if (value := getattr(self, part.name)) is not None]) else 0.0


def readability(source: str) -> float:
    """The score of a program, 0 to 1; 0 for a text that is empty or no Python. A pure function of the text."""
    judged = judge(source)
    return judged.score if judged is not None else 0.0


def readability_reward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
    """:func:`readability` of the code in each completion: a reward function."""
    from hunmin.align.code import program

    return [readability(program(prompt, answer)) for prompt, answer in zip(prompts, completions, strict=True)]


def judge(source: str) -> Readability | None:
    """The parts of the score; None for a text that is empty or no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not tree.body:
        return None
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    documented = [node for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef) and not _dunder(node.name)]
    lengths = [len(line.rstrip()) for line in source.splitlines() if line.strip()]
    return Readability(
        names=_mean(_name(name, loop) for name, loop in _bound(tree)),
        docstrings=_mean(_docstring(node) for node in documented),
        hints=_mean(_hints(node) for node in functions),
        lines=_mean(max(0.0, 1 - max(0, length - LINE) / LINE) for length in lengths),
        statements=_mean(_statements(tree)),
    )


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def _dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _bound(tree: ast.AST) -> Iterator[tuple[str, bool]]:
    """Every name that is given a meaning, once, and whether it only counts rounds of a loop."""
    loops = {name.id for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension) for name in _targets(node.target)}
    found: dict[str, bool] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.id, node.id in loops)
        elif isinstance(node, Function | ast.ClassDef):
            found.setdefault(node.name, False)
        elif isinstance(node, ast.arg):
            found.setdefault(node.arg, False)
    yield from ((name, loop) for name, loop in found.items() if name not in ("self", "cls", "_") and not _dunder(name))


def _targets(node: ast.AST) -> Iterator[ast.Name]:
    return (name for name in ast.walk(node) if isinstance(name, ast.Name))


def _name(name: str, loop: bool) -> float:
    """1 for words, 0 for a letter; between them what is short, numbered or has no vowel."""
    if loop and name in _COUNTERS:
        return 1.0
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))
    letters = sum(map(len, words))
    if letters <= 2:
        return 0.2 * (letters - 1) if letters else 0.0
    spoken = fmean(1.0 if len(word) > 2 and (re.search(r"[aeiouy]", word, re.IGNORECASE) or not word.isascii()) else 0.5 for word in words)
    return spoken * (0.8 if re.search(r"\d", name) else 1.0)


def _docstring(node: Function | ast.ClassDef) -> float:
    text = ast.get_docstring(node) or ""
    return min(1.0, len(text.split()) / 5)


def _hints(node: Function) -> float:
    args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, *filter(None, (node.args.vararg, node.args.kwarg))]
    given = [arg.annotation is not None for arg in args if arg.arg not in ("self", "cls")] + [node.returns is not None]
    return fmean(given)


def _statements(tree: ast.AST) -> Iterator[float]:
    """For every statement: 0 where another one stands in its line, less than 1 where it nests loops, conditions and functions."""
    statements = [node for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    in_line = Counter(node.lineno for node in statements)
    for node in statements:
        knots = sum(isinstance(part, ast.comprehension | ast.IfExp | ast.Lambda | ast.NamedExpr) for part in _own(node))
        yield 0.0 if in_line[node.lineno] > 1 else 1 / max(1, knots)


def _own(node: ast.stmt) -> Iterator[ast.AST]:
    """The expressions of a statement, without those of the statements in it."""
    open_: list[ast.AST] = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]
    while open_:
        part = open_.pop()
        yield part
        open_ += [child for child in ast.iter_child_nodes(part) if not isinstance(child, ast.stmt)]
