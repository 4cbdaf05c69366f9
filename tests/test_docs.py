"""The pages whose code is meant to run: every Python block is executed in order, and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)


@pytest.mark.weights
@pytest.mark.parametrize("page", ["docs/walkthrough.md", "README.md", "README.ko.md"])
def test_page_runs(page: str) -> None:
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    assert blocks
    names: dict[str, object] = {}
    for code, shown in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page, "exec"), names)
        if shown:
            assert printed.getvalue().strip() == shown.strip(), code


def test_readmes_show_the_same_commands() -> None:
    """The Korean page is a twin: same code, same commands."""

    def code(page: str) -> list[str]:
        blocks = re.findall(r"```(?:python|console)\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
        return [re.sub(r"\s*#.*", "", block) for block in blocks]

    def silent(blocks: list[str]) -> list[str]:
        return [re.sub(r"\"[^\"]*\"", '""', block) for block in blocks]

    assert silent(code("README.md")) == silent(code("README.ko.md"))
