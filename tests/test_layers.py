"""The rules that keep the code small: who may import whom, what may stand in ``nn``, and how long things may be."""

from __future__ import annotations

import ast
import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hunmin"
FILES = sorted(PACKAGE.rglob("*.py"))
LAYERS = {"nn": 0, "native": 0, "quantize": 0, "arch": 1, "hub": 2}  # everything else is 3; kernels and their twins stand side by side
ON_NN_ONLY = {"adapters", "quantize", "parallel"}
USES_PIPELINES = {"pipelines", "serve", "rag", "cli"}


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path, top_level_only: bool = False) -> frozenset[str]:
    """The modules of Hunmin that a file imports, inside functions too. ``from hunmin.arch import bert`` is ``hunmin.arch.bert``."""
    found: set[str] = set()
    for node in _tree(path).body if top_level_only else ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if (ROOT / name.replace(".", "/")).with_suffix(".py").exists() else str(node.module))
    return frozenset(name for name in found if name.split(".")[0] == "hunmin")


def _part(module: str) -> str:
    """``hunmin.nn.layers`` -> ``nn``, ``hunmin.auto`` -> ``auto``."""
    return (module.split(".") + [""])[1]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_a_layer_imports_only_lower_layers() -> None:
    wrong = [
        f"{_name(path)} imports {name}"
        for path in FILES
        for name in _imports(path)
        if _part(name) != "errors" and LAYERS.get(_part(name), 3) > LAYERS.get(_part(_module(path)), 3)
    ]
    assert not wrong


def test_what_acts_on_a_finished_model_knows_only_blocks() -> None:
    wrong = [
        f"{_name(path)} imports {name}"
        for path in FILES
        if (own := _part(_module(path))) in ON_NN_ONLY
        for name in _imports(path)
        if _part(name) not in {own, "nn", "native", "errors"}
    ]
    assert not wrong


def test_pipelines_are_imported_only_where_tasks_are_offered() -> None:
    wrong = [
        _name(path)
        for path in FILES
        if path != PACKAGE / "__init__.py"
        and _part(_module(path)) not in USES_PIPELINES
        and any(_part(n) == "pipelines" for n in _imports(path))
    ]
    assert not wrong


def test_transformers_is_a_peer_not_a_dependency() -> None:
    peers = {"transformers", "trl", "peft"}
    for path in FILES:
        names = {a.name for n in ast.walk(_tree(path)) if isinstance(n, ast.Import) for a in n.names}
        names |= {str(n.module) for n in ast.walk(_tree(path)) if isinstance(n, ast.ImportFrom)}
        assert not peers & {name.split(".")[0] for name in names}, _name(path)


def _architectures() -> list[Path]:
    return [p for p in sorted((PACKAGE / "arch").glob("*.py")) if not p.stem.startswith("_")]


def _parents(path: Path) -> set[str]:
    return {name.rpartition(".")[2] for name in _imports(path) if name.startswith("hunmin.arch.") and not name.startswith("hunmin.arch._")}


def _ancestors(stem: str) -> set[str]:
    parents = _parents(PACKAGE / "arch" / f"{stem}.py")
    return parents.union(*map(_ancestors, parents))


@pytest.mark.parametrize("path", _architectures(), ids=lambda p: p.stem)
def test_an_architecture_is_one_parent_and_blocks(path: Path) -> None:
    assert all(re.fullmatch(r"hunmin\.(nn(\..*)?|errors|arch\.\w+)", name) for name in _imports(path)), _imports(path)
    # One parent; what the parent itself stands on may be named too.
    parents = _parents(path)
    assert not parents or any(parents <= {p} | _ancestors(p) for p in parents), parents
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 150


def test_no_architecture_is_named_in_the_blocks() -> None:
    from hunmin.arch import FAMILIES

    words = {word.lower().replace("_", "-") for key, (file, stem) in FAMILIES.items() for word in (key, file, stem)}
    words |= {"bloom", "falcon", "phi", "whisper", "vit", "deberta", "wav2vec2", "neox", "mixtral", "opt", "pegasus", "mbart"}
    name = re.compile(rf"(?<![a-z0-9])({'|'.join(map(re.escape, sorted(words, key=len, reverse=True)))})(?![a-z])")
    wrong = [
        f"{_name(path)}:{number}: {match[0]}"
        for path in sorted((PACKAGE / "nn").glob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (match := name.search(line.lower().replace("_", "-")))
    ]
    assert not wrong


def test_the_documentation_lists_every_architecture() -> None:
    from hunmin.arch import FAMILIES

    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    assert [key for key in FAMILIES if f"`{key}`" not in page] == []


def test_nothing_is_long() -> None:
    wrong: list[str] = []
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        wrong += [f"{_name(path)}: {len(lines)} lines (400)"] * (len(lines) > 400)
        code = [re.sub(r"  # (pyright|type|noqa)\b.*", "", line) for line in lines]
        # ruff breaks code at 140; a sentence that it cannot break may be a little longer
        wrong += [f"{_name(path)}:{i}: {len(line)} characters (150)" for i, line in enumerate(code, 1) if len(line) > 150]
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                wrong += [f"{_name(path)}: {node.name} has {length} lines (60)"] * (length > 60)
    assert not wrong


def test_the_blocks_have_few_fields() -> None:
    from hunmin.nn.spec import Attn, Stack

    for block in (Attn, Stack):
        assert len(dataclasses.fields(block)) <= 14, block.__name__
