"""What a run shows while it goes on: bars and logged lines in a terminal, a table in a notebook."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tqdm import tqdm

from hunmin.train.callbacks import NotebookTable, shown
from tests.runs import rows, trainer


def screen(text: str) -> list[str]:
    """The lines of a terminal after ``text``: carriage returns and cursor movements applied."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", text):
        if part == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif part == "\r":
            column = 0
        elif part == "\x1b[A":
            row = max(0, row - 1)
        else:
            assert not part.startswith("\x1b"), part
            lines[row] = lines[row].ljust(column)[:column] + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines]


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars that draw every step, as those of a slow run do."""
    slow = {"mininterval": 0, "miniters": 1, "delay": 0, "ncols": 80}
    monkeypatch.setattr("hunmin.train.callbacks.bar", lambda **options: tqdm(**{**options, **slow}))


def test_bars_and_lines_do_not_tear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    run = trainer(tmp_path, disable_tqdm=False, per_device_eval_batch_size=2)
    run.train()
    run.evaluate()
    monkeypatch.undo()
    lines = [line for line in screen(both.getvalue()) if line]
    logged = [str(shown({key: value for key, value in logs.items() if key != "step"})) for logs in run.state.log_history]
    assert [line for line in lines if line.startswith("{")] == logged
    bars = [line for line in lines if not line.startswith("{")]
    assert len(bars) == 2 and "4/4" in bars[0] and bars[0].startswith("100%")  # of the run, and of the evaluation after it
    assert "\x1b[A" in both.getvalue()  # an evaluation's bar stood below the run's, and is gone


def test_a_prediction_closes_its_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hunmin import ProgressCallback

    drawn = io.StringIO()
    monkeypatch.setattr(sys, "stderr", drawn)
    run = trainer(tmp_path, disable_tqdm=False, per_device_eval_batch_size=2)
    run.predict(rows(6))
    progress = run.pop_callback(ProgressCallback)
    assert isinstance(progress, ProgressCallback) and progress.inner is None
    assert "100%" in drawn.getvalue() and "3/3" in drawn.getvalue()


def test_notebook_table_is_escaped_and_short(monkeypatch: pytest.MonkeyPatch) -> None:
    views: list[str] = []

    class View:
        def update(self, page: str) -> None:
            views.append(page)

    def display(page: str, display_id: bool) -> View:
        views.append(page)
        return View()

    module = ModuleType("IPython.display")
    vars(module).update(HTML=str, display=display)
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    table = NotebookTable()
    table.add(1, {"loss": 1.0, "eval_runtime": 2.0, "eval_steps_per_second": 3.0})
    table.add(1, {"eval_<b>": "<script>"})
    assert len(views) == 2 and views[1].count("<tr>") == 2 and "runtime" not in views[1] and "per_second" not in views[1]
    assert "<th>eval_&lt;b&gt;</th>" in views[1] and "<script>" not in views[1]
    for step in range(2, 150):
        table.add(step, {"loss": 1.0})
    assert views[-1].count("<tr>") == 101 and "<td>149</td>" in views[-1] and "<td>49</td>" not in views[-1]
