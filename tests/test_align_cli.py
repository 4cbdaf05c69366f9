"""``hunmin align``, ``curate``, ``judge`` and ``chat --compare``: what they print and leave behind."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hunmin.align.files import read_rows, write_rows
from hunmin.align.recipe import METHODS, found, read, run
from hunmin.align.shapes import detect
from hunmin.cli import chat
from hunmin.cli.compare import Comparison, side_by_side
from hunmin.cli.table import width
from hunmin.errors import InputError, SourceError
from tests.test_cli import Done, cli

__all__ = ["cli"]

PAIRS = [
    {"prompt": f"the {word} is", "chosen": f" a good {word}", "rejected": f" bad {word} no"}
    for word in ("cat", "dog", "tree", "river", "house", "hat")
]
PROMPTS = [{"prompt": row["prompt"], "word": row["prompt"].split()[1]} for row in PAIRS]
REWARD = "def size(prompts, completions, **_):\n    return [float(len(c)) for c in completions]\ndef word(completions, word, **_):\n    return [float(w in c) for c, w in zip(completions, word)]\n"
QUIET: dict[str, Any] = {
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "html_report": False,
    "max_steps": 1,
    "per_device_train_batch_size": 2,
}


@pytest.fixture
def folder(tmp_path: Path, models: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", PAIRS)
    write_rows(tmp_path / "prompts.jsonl", PROMPTS)
    (tmp_path / "mine.py").write_text(REWARD)
    (tmp_path / "model").symlink_to(models / "gpt2")
    return tmp_path


def recipe(folder: Path, method: str, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"model": str(folder / "model"), "output": str(folder / "out"), "training": dict(QUIET)}
    about = METHODS[method]
    made["data"] = {"train": str(folder / ("prompts.jsonl" if about.reward else "pairs.jsonl"))}
    if about.reward:
        made["reward"] = {"function": f"{folder}/mine.py:size"}
        made["training"] |= {"max_completion_length": 4, "num_generations": 2}
    if method == "ppo":
        made["training"] = QUIET | {"max_completion_length": 4}
    if method == "best-of-n":
        made["training"] = {}
    return made | more


# ---------------------------------------------------------------- align


def test_every_method_names_what_exists() -> None:
    for method in METHODS.values():
        assert callable(found(method.trainer))
        assert method.config is None or callable(found(method.config))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "best-of-n"])
def test_a_method_trains_and_saves(folder: Path, method: str) -> None:
    from hunmin.auto import load

    made = recipe(folder, method)
    results = run(method, made)
    assert results["train"]["train_runtime"] > 0
    load(made["output"], "SequenceClassification" if method == "reward" else "CausalLM")
    assert json.loads((folder / "out" / "results.json").read_text())[method]["train"] == results["train"]
    with pytest.raises(InputError, match="holds a run already"):
        run(method, made)


def test_an_adapter_is_merged_or_kept(folder: Path) -> None:
    lora = {"lora": {"r": 2, "target_modules": ["c_attn"]}}
    run("dpo", recipe(folder, "dpo", adapter=lora, data={"train": str(folder / "pairs.jsonl"), "validation": 2}))
    assert (folder / "out" / "model.safetensors").exists() and not (folder / "out" / "adapter_config.json").exists()
    run("sft", recipe(folder, "sft", adapter=lora | {"merge": False}, output=str(folder / "second")))
    assert (folder / "second" / "adapter_config.json").exists()


def test_a_quantized_model_is_trained_as_numbers(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from hunmin import AutoModelForCausalLM, AutoTokenizer

    base = folder / "model"
    AutoModelForCausalLM.from_pretrained(str(base), quantization="int8").save_pretrained(folder / "packed")
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(folder / "packed")
    lora = {"lora": {"r": 2, "target_modules": ["c_attn"]}}
    run("sft", recipe(folder, "sft", model=str(folder / "packed"), adapter=lora))
    assert "stored quantized" in caplog.text and (folder / "out" / "model.safetensors").exists()
    caplog.clear()
    run("sft", recipe(folder, "sft", model=str(folder / "packed"), adapter=lora | {"merge": False}, output=str(folder / "second")))
    assert "stored quantized" not in caplog.text and (folder / "second" / "adapter_config.json").exists()


def test_the_best_of_several_answers(folder: Path) -> None:
    rewards = [{"function": f"{folder}/mine.py:size", "weight": 2.0}, {"function": f"{folder}/mine.py:word"}]
    made = recipe(folder, "best-of-n", reward=rewards, samples=3, keep=2, generation={"max_new_tokens": 4})
    results = run("best-of-n", made)
    rows = read_rows(folder / "out" / "best.jsonl")
    assert len(rows) == 12 and results["best"]["prompts"] == 6
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert first["prompt"] == second["prompt"] and first["score"] >= second["score"]
        assert first["score"] >= 2 * len(first["completion"])
    assert detect(rows).name == "prompt-completion"
    assert run("best-of-n", made, resume=True) == results


def test_the_command_shows_and_carries_out(folder: Path, cli: Callable[..., Done]) -> None:
    (folder / "dpo.yaml").write_text(json.dumps(recipe(folder, "dpo")))
    shown = cli("align", "dpo", str(folder / "dpo.yaml"), "--dry-run", "--set", "training.beta=0.5", "--set", "data.validation=2")
    assert shown.code == 0 and "4 + 2 (preference)" in shown.out and "training.beta" in shown.out and '"chosen"' in shown.out
    assert not (folder / "out").exists()
    done = cli("align", "dpo", str(folder / "dpo.yaml"), "--set", "data.validation=2")
    assert done.code == 0, done.err
    assert f"saved in {folder / 'out'}" in done.out and "validation" in done.out


def test_texts_become_a_conversation(folder: Path) -> None:
    from hunmin.align.recipe import rows_of

    checked = read("dpo", recipe(folder, "dpo", data={"train": str(folder / "pairs.jsonl"), "chat": True, "max_rows": 2}))
    rows = rows_of(checked).train
    assert len(rows) == 2 and rows[0]["prompt"] == [{"role": "user", "content": PAIRS[0]["prompt"]}]
    assert rows[0]["rejected"] == [{"role": "assistant", "content": PAIRS[0]["rejected"]}]


@pytest.mark.parametrize(
    ("method", "change", "why"),
    [
        ("dpo", {"reward": {"function": "a:b"}}, "reward: dpo climbs no reward"),
        ("grpo", {"reward": None}, "reward: is needed"),
        ("grpo", {"reward": {"url": "http://x"}}, "one of url"),
        ("dpo", {"training": {"betta": 1}}, "betta.*Did you mean beta"),
        ("dpo", {"training": {"loss_type": "sigmoidal"}}, "loss_type"),
        ("dpo", {"training": {"output_dir": "x"}}, "says this with output"),
        ("sft", {"generation": {"top_k": 1}}, "generation: is of best-of-n"),
        ("best-of-n", {"keep": 5}, "keep: is 1 to 4"),
        ("dpo", {"data": {"train": "no.jsonl"}}, "data.train: .*no.jsonl"),
        ("dpo", {"adapter": {"merge": True}}, "names one of lora"),
        ("dpo", {"modle": "x"}, "Did you mean model"),
        ("dop", {}, "dpo"),
    ],
)
def test_recipes_that_do_not_fit(folder: Path, method: str, change: dict[str, Any], why: str) -> None:
    base = recipe(folder, method if method in METHODS else "dpo")
    with pytest.raises(InputError, match=why):
        run(method, base | change)
    assert not (folder / "out" / "results.json").exists()


def test_rows_that_do_not_fit_the_method(folder: Path) -> None:
    write_rows(folder / "chat.jsonl", [{"Q": "a", "A": "b"}])
    with pytest.raises(InputError, match=r"recipe: data.train: Rows of the form question-answer can be read as sft, prompts"):
        run("dpo", recipe(folder, "dpo", data={"train": str(folder / "chat.jsonl")}))


# ---------------------------------------------------------------- curate and judge


def test_curate_prints_what_went(folder: Path, cli: Callable[..., Done]) -> None:
    (folder / "recipe.yaml").write_text(f"output: {folder}/clean.jsonl\nsteps:\n  - length: {{max_chars: 35}}\n")
    done = cli("curate", str(folder / "pairs.jsonl"), str(folder / "recipe.yaml"))
    assert done.code == 0, done.err
    gone = [row for row in PAIRS if len("\n".join(row.values())) > 35]
    assert f"length: {len(gone)} of 6 rows left out" in done.out and f"{6 - len(gone)} of 6 rows are left." in done.out
    assert 0 < len(gone) < 6 and f"the {gone[0]['prompt'].split()[1]} is" in done.out
    assert read_rows(folder / "clean.jsonl") == [row for row in PAIRS if row not in gone] and (folder / "clean.html").exists()
    (folder / "clean.html").unlink()
    assert cli("curate", str(folder / "pairs.jsonl"), str(folder / "recipe.yaml"), "--dry-run", "--samples", "0").code == 0
    assert not (folder / "clean.html").exists()


def test_judge_compares_pairs_and_rates_answers(folder: Path, cli: Callable[..., Done]) -> None:
    out = folder / "judged.jsonl"
    done = cli("judge", str(folder / "pairs.jsonl"), "--function", f"{folder}/mine.py:size", "--output", str(out))
    assert done.code == 0, done.err
    winners = [
        "chosen" if len(row["chosen"]) > len(row["rejected"]) else "tie" if len(row["chosen"]) == len(row["rejected"]) else "rejected"
        for row in PAIRS
    ]
    assert [row["winner"] for row in read_rows(out)] == winners and f"{winners.count('chosen')} (" in done.out
    write_rows(
        folder / "answers.jsonl",
        [
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "four"}]},
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ab"}]},
        ],
    )
    done = cli("judge", str(folder / "answers.jsonl"), "--function", f"{folder}/mine.py:size", "--output", str(out))
    assert [row["score"] for row in read_rows(out)] == [4.0, 2.0] and "3.0000" in done.out
    assert cli("judge", str(folder / "pairs.jsonl")).code == 1


def test_a_reward_model_is_a_judge(folder: Path, cli: Callable[..., Done]) -> None:
    run("reward", recipe(folder, "reward"))
    done = cli("judge", str(folder / "pairs.jsonl"), "--reward", str(folder / "out"), "--output", str(folder / "judged.jsonl"))
    assert done.code == 0, done.err
    assert {row["winner"] for row in read_rows(folder / "judged.jsonl")} <= {"chosen", "rejected"}


# ---------------------------------------------------------------- two models side by side


@dataclass
class Voice:
    """A stand-in for a model in a conversation."""

    word: str
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    messages: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    system: str | None = None

    def reply(self, text: str) -> str:
        if text == "fail":
            raise SourceError("no answer")
        return f"{self.word} {text} {len(self.messages)}"

    def reset(self, system: str | None) -> None:
        self.messages = []


@pytest.fixture
def voices(monkeypatch: pytest.MonkeyPatch) -> dict[str, Voice]:
    made = {"a": Voice("alpha"), "b": Voice("beta")}
    monkeypatch.setattr(chat, "load", lambda model, **_: made[model])
    return made


def test_choices_become_preference_rows(cli: Callable[..., Done], voices: dict[str, Voice], tmp_path: Path) -> None:
    path = tmp_path / "chosen.jsonl"
    lines = ["hello", "what", "1", "next", "2", "again", "=", "/reset", "fail", "fresh", "1", "/quit", "not read"]
    done = cli("chat", "--compare", "a", "b", "--preferences", str(path), "--seed", "3", stdin="\n".join(lines))
    assert done.code == 0, done.err
    rows = read_rows(path)
    assert len(rows) == 3 and detect(rows).name == "preference" and "error: no answer" in done.err
    for row in rows:
        better, worse = (row[side][0]["content"] for side in ("chosen", "rejected"))
        names = {"a": "alpha", "b": "beta"}
        assert better.startswith(names[row["model_chosen"]]) and worse.startswith(names[row["model_rejected"]])
    assert [message["role"] for message in rows[1]["prompt"]] == ["user", "assistant", "user"]
    assert rows[1]["prompt"][1] == rows[0]["chosen"][0] and len(rows[2]["prompt"]) == 1
    wins = {name: sum(row["model_chosen"] == name for row in rows) for name in "ab"}
    assert f"a: {wins['a']}, b: {wins['b']}, neither: 1" in done.out and str(path) in done.out


def test_the_places_of_the_models_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hunmin.cli.compare.choose", lambda: 0)
    made = Comparison((Voice("alpha"), Voice("beta")), ("a", "b"), tmp_path / "p.jsonl", random.Random(0))  # type: ignore[arg-type]
    for turn in range(20):
        made.ask(str(turn))
    assert min(made.wins[:2]) >= 4 and made.wins[2] == 0 and len(read_rows(made.path)) == 20
    assert made.models[0].messages == made.models[1].messages and len(made.models[0].messages) == 40


def test_equal_answers_are_no_choice(cli: Callable[..., Done], voices: dict[str, Voice], tmp_path: Path) -> None:
    voices["b"].word = "alpha"
    done = cli("chat", "same", "--compare", "a", "b", "--preferences", str(tmp_path / "p.jsonl"))
    assert done.code == 0 and "same answer" in done.out and not (tmp_path / "p.jsonl").exists()


def test_an_answer_without_a_choice_is_forgotten(voices: dict[str, Voice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Comparison((voices["a"], voices["b"]), ("a", "b"), tmp_path / "p.jsonl")  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", open("/dev/null"))  # noqa: SIM115
    with pytest.raises(EOFError):
        made.ask("hello")
    assert voices["a"].messages == [] and not made.path.exists()
    sys.stdin.close()


@pytest.mark.parametrize("cells", [20, 43, 80])
def test_two_columns_fit_and_lose_nothing(cells: int) -> None:
    left, right = "한국어는띄어쓰기없이길게이어지는문장도있습니다 " * 3 + "\n\nend", "a " * 50 + "supercalifragilistic" * 4
    shown = side_by_side(left, right, cells)
    room = max(20, (cells - 3) // 2)
    lines = [line.split(" │") for line in shown.split("\n")]
    assert all(width(a) <= room and width(b.strip()) <= room for a, b in lines)
    for column, text in ((0, left), (1, right)):
        assert "".join("".join(parts[column].split()) for parts in lines)[3:] == "".join(text.split())
