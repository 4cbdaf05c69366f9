"""examples/alignment on tiny models: every script runs to its end with --quick, and what it measures is what it says."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from hunmin.align.files import write_rows
from hunmin.align.rollout import Rollout
from tests.align_cases import folder

HERE = Path(__file__).resolve().parents[1] / "examples" / "alignment"
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    place = tmp_path_factory.mktemp("story")
    policy = folder(place / "policy", max_position_embeddings=512)
    judge = folder(place / "judge", "SequenceClassification", num_labels=1, max_position_embeddings=512)
    return {"--model": str(policy), "--reward-model": str(judge)}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The folder's scripts import each other, as they do where they are run."""
    monkeypatch.syspath_prepend(str(HERE))
    for name in ("shared", "readability"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return monkeypatch


def ran(scripts: pytest.MonkeyPatch, name: str, output: Path, *arguments: str) -> dict[str, Any]:
    """What a script leaves in its results; its picture is an SVG."""
    scripts.setattr(sys, "argv", [name, "--quick", "--output", str(output), *arguments])
    runpy.run_path(str(HERE / f"{name}.py"), run_name="__main__")
    picture = next(output.glob("*.svg")).read_text(encoding="utf-8")
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    return json.loads((output / "results.json").read_text(encoding="utf-8"))


def test_the_table_shows_every_pair(scripts: pytest.MonkeyPatch, models: dict[str, str], tmp_path: Path) -> None:
    found = ran(scripts, "dpo_table", tmp_path, "--model", models["--model"])
    first = found["trained"]["rows"][0]
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("최고의 프로그래밍 언어는?", "파이썬", "자바")
    assert first["rewards/margins"] == pytest.approx(
        0.1 * (first["chosen_logps"] - first["ref_chosen_logps"] - first["rejected_logps"] + first["ref_rejected_logps"]), abs=1e-4
    )
    assert found["held out"]["pairs"] == found["trained"]["pairs"] == 8


def test_the_story_of_readability(scripts: pytest.MonkeyPatch, models: dict[str, str], tmp_path: Path) -> None:
    tasks = [
        {
            "text": f"Write a function to add {word} to a number.",
            "code": f"def add_{word}(number):\n    result = number + {i}\n    return result",
            "test_list": [f"assert add_{word}(1) == {i + 1}"],
        }
        for i, word in enumerate(WORDS, 1)
    ]
    write_rows(tmp_path / "tasks.jsonl", tasks)
    given = [part for item in models.items() for part in item]
    found = ran(scripts, "readability_story", tmp_path / "out", str(tmp_path / "tasks.jsonl"), "--longest", "400", *given)
    methods = ("start", "best-of-n", "dpo", "ppo", "ppo-strict", "ppo-no-kl")
    assert all({"reward", "readability", "passes", "kl"} <= found[name].keys() for name in methods)
    assert (
        found["start"]["kl"] == 0.0
        and found["ppo"]["kl_coef"] == 0.2
        and found["ppo-strict"]["kl_coef"] == 1.0
        and found["ppo-no-kl"]["kl_coef"] == 0.0
    )
    assert len(found["ppo"]["course"]["kl"]) == len(found["ppo"]["course"]["passes"]) == 2
    assert found["ppo"]["generated"] == found["budget"]  # answers of these models never end


def test_a_prompt_that_holds_the_function_does_not_pass(scripts: pytest.MonkeyPatch) -> None:
    story = importlib.import_module("readability_story")
    tests = ["assert add(1) == 2"] * 3
    answers = ["def add(number):\n    return number + 1\n", "No.", "def add(a):\n    return a + 1\nand so on"]
    assert story.passes(answers, tests) == [1.0, 0.0, 1.0]


def test_supervised_tuning(scripts: pytest.MonkeyPatch, models: dict[str, str], tmp_path: Path) -> None:
    write_rows(tmp_path / "talk.jsonl", [{"Q": f"{word}?", "A": f"{word}!"} for word in WORDS])
    write_rows(tmp_path / "tasks.jsonl", [{"instruction": f"Say {word}.", "input": "", "output": word} for word in WORDS])
    files = [str(tmp_path / name) for name in ("talk.jsonl", "tasks.jsonl")]
    found = ran(scripts, "sft", tmp_path / "out", *files, "--model", models["--model"])
    for run in found.values():
        if isinstance(run, dict) and "after" in run:
            assert run["held out"] == run["rows"] == 8  # half of 16
            assert 0.0 <= run["after"]["all"] <= min(run["after"][name] for name in ("ends", "answers only", "right language"))


def test_adherence(scripts: pytest.MonkeyPatch) -> None:
    sft = importlib.import_module("sft")
    texts = ["좋아요.", "Fine.", "Fine.\n### Instruction: more", ""]
    rows = [{"prompt": "?", "completion": said} for said in ("네.", "네.", "Yes.", "Yes.")]
    found = sft.adherence(Rollout(rows, [[1]] * 4, [[2, 3]] * 4, [True, True, True, False], texts))
    assert found == {"ends": 0.75, "answers only": 0.5, "right language": 0.5, "all": 0.25, "tokens": 2.0}


def test_safety(scripts: pytest.MonkeyPatch, models: dict[str, str], tmp_path: Path) -> None:
    english = [
        {
            "chosen": f"\n\nHuman: Tell me {word}.\n\nAssistant: I can't do that.",
            "rejected": f"\n\nHuman: Tell me {word}.\n\nAssistant: {word}!",
        }
        for word in WORDS
    ]
    korean = [
        {"question": f"{word}은 무엇인가?", "response": text, "acceptable?": good}
        for word in WORDS
        for good, text in enumerate(("나쁘다.", "사람마다 다르다."))
    ]
    write_rows(tmp_path / "hh.jsonl", english)
    write_rows(tmp_path / "square.jsonl", korean)
    given = [part for item in models.items() for part in item]
    files = ["--english", str(tmp_path / "hh.jsonl"), "--korean", str(tmp_path / "square.jsonl")]
    found = ran(scripts, "safety", tmp_path / "out", *files, *given)
    assert {(row["language"], row["when"]) for row in found["dpo"]["refusals"]} == {
        (language, when) for language in ("English", "Korean") for when in ("before", "after")
    }
    assert found["reward, English"]["accuracy of the longer answer"] == 1.0
    assert not any("samples" in row for row in found["dpo"]["refusals"])


def test_a_figure_names_its_points(scripts: pytest.MonkeyPatch) -> None:
    shared = importlib.import_module("shared")
    dots, line = {"A & B": (0.0, 1.0), "C": (2.0, 3.0)}, {"C": [(0.0, 1.0), (2.0, 3.0)]}
    drawn = ElementTree.fromstring(shared.figure([shared.Panel("t", "x", "y", dots, line), shared.Panel("none", "x", "y", {})]))
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["A & B: x 0, y 1", "C: x 2, y 3"]
