"""Starting is quick because nothing heavy is imported. The seconds are measured by benchmarks/startup.py."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hunmin

HEAVY = ("torch", "numpy", "transformers", "tokenizers", "huggingface_hub", "safetensors", "jinja2", "gguf", "rich")


def _loaded(code: str) -> set[str]:
    """The heavy modules that a fresh interpreter has after ``code``."""
    ask = f"import sys; print('\\n' + ' '.join(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{ask}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import hunmin",
        "from hunmin import pipeline",
        "import hunmin; dir(hunmin); hasattr(hunmin, '__wrapped__'); hasattr(hunmin, 'nothing')",
        "import sys; sys.argv = ['hunmin', '--help']\nfrom hunmin.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['hunmin', 'chat', '--help']\nfrom hunmin.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['hunmin', 'align', '--help']\nfrom hunmin.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import sys; sys.argv = ['hunmin', 'judge', '--help']\nfrom hunmin.cli import main\ntry: main()\nexcept SystemExit: pass",
        "import hunmin.align.formats, hunmin.align.shapes, hunmin.align.code, hunmin.align.api, hunmin.align.obscure",
        "import sys; sys.argv = ['hunmin', 'train', '--help']\nfrom hunmin.cli import main\ntry: main()\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert _loaded(code) == set()


def test_every_public_name_is_there() -> None:
    for name in hunmin.__all__:
        assert getattr(hunmin, name) is not None
    assert set(hunmin.__all__) <= set(dir(hunmin))


def test_the_names_for_editors_are_the_names_at_run_time() -> None:
    """The TYPE_CHECKING block and the table of ``hunmin/__init__.py`` say the same."""
    tree = ast.parse(Path(hunmin.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {(node.module, alias.name) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == {(module, name) for name, module in hunmin._HOME.items()}


def test_taught_class_names_are_made_on_demand() -> None:
    from hunmin import BertForMaskedLM, BertTokenizerFast, GPT2LMHeadModel

    assert {c.__name__ for c in (BertForMaskedLM, BertTokenizerFast, GPT2LMHeadModel)} == {
        "BertForMaskedLM",
        "BertTokenizerFast",
        "GPT2LMHeadModel",
    }
    assert hunmin.BertForMaskedLM is BertForMaskedLM


@pytest.mark.parametrize("name", ["nothing", "BertForNothing", "NothingModel", "__nothing__"])
def test_an_unknown_name_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError, match=f"cannot import name '{name}'"):
        exec(f"from hunmin import {name}")
