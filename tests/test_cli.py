"""The command line: what it prints, where, and with which exit code.

Pipelines and models are stand-ins, except for the tasks, which have tiny folders, and where ``weights`` is marked.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import hunmin
from hunmin.cli import chat, main
from hunmin.cli.models import size
from hunmin.cli.readable import readable
from hunmin.cli.table import width
from hunmin.errors import HunminError, InputError, SourceError
from hunmin.pipelines import TASKS, TAUGHT, canonical
from hunmin.starters import DEFAULTS, starters
from tests.pipeline_cases import MASKED, TEXT
from tests.test_pipelines import same as near


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """``cli("run", "task", stdin="...")`` as the shell would run it, in this process."""
    monkeypatch.setenv("HUNMIN_DEBUG", "")

    def call(*args: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["hunmin", *args])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as exit:
            main()
        return Done(int(exit.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A pipeline that says its input backwards; what it was called with."""
    seen: list[tuple[Any, ...]] = []

    def pipeline(task: str, model: str | None, **made: Any) -> Callable[..., Any]:
        if task != "text-generation":
            raise InputError(f"unknown task {task}")

        def run(inputs: Iterator[Any], **options: Any) -> Iterator[Any]:
            given = list(inputs)
            seen.append((model, made, given, options))
            return ([{"generated_text": text[::-1] if isinstance(text, str) else "object"}] for text in given)

        return run

    monkeypatch.setitem(vars(hunmin), "pipeline", pipeline)
    return seen


# run


def test_run_takes_arguments_options_and_a_model(cli: Callable[..., Done], calls: list[tuple[Any, ...]]) -> None:
    done = cli("run", "text-generation", "ab", "cd", "--model", "m", "--device", "cpu", "--set", "max_new_tokens=4", "--set", "prefix=x y")
    assert (done.code, done.out, done.err) == (0, "ba\ndc\n", "")
    assert calls == [("m", {"device": "cpu"}, ["ab", "cd"], {"batch_size": 1, "max_new_tokens": 4, "prefix": "x y"})]


def test_run_reads_lines_and_writes_json(cli: Callable[..., Done], calls: list[tuple[Any, ...]]) -> None:
    done = cli("run", "text-generation", "-", "--json", "--batch-size", "2", stdin="하나\n\ntwo\r\nthree")
    assert [json.loads(line) for line in done.out.splitlines()] == [[{"generated_text": t}] for t in ("나하", "owt", "eerht")]
    assert "나하" in done.out
    assert [(inputs, options) for _, _, inputs, options in calls] == [(["하나", "two", "three"], {"batch_size": 2})]


def test_run_names_the_line_that_it_skips(cli: Callable[..., Done], models: Path) -> None:
    lines = ["Rain.", "Sun.", '{"x": 1}', "Snow."]
    done = cli("run", "text-classification", "-m", str(models / "bert-topics"), "--set", "on_error=skip", "--json", stdin="\n".join(lines))
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and len(answers) == 4 and answers[2]["index"] == 2 and "label" in answers[3]


def test_a_pipe_needs_no_dash(cli: Callable[..., Done], calls: list[tuple[Any, ...]]) -> None:
    assert cli("run", "text-generation", stdin="ab\n").out == "ba\n"


def test_a_json_object_is_an_input(cli: Callable[..., Done], calls: list[tuple[Any, ...]]) -> None:
    """Only a whole object: other text that begins with a brace, and other JSON, stays text."""
    texts = ['{"question": "q", "context": "c"}', "{not json}", '["a"]', "3", '{"a": ' * 100_000]
    cli("run", "text-generation", *texts[:4], "--batch-size", "9")
    cli("run", "text-generation", "-", "--batch-size", "9", stdin="\n".join(texts))
    assert [inputs for _, _, inputs, _ in calls] == [[{"question": "q", "context": "c"}, *texts[1:n]] for n in (4, 5)]


ENTITY = {"entity": "B-LOC", "score": np.float32(0.25), "index": 4, "word": "서울", "start": 3, "end": 5}
GROUP = {"entity_group": "PER", "score": 0.5, "word": "Mia Kim", "start": 9, "end": 16}
FILLED = {"score": 0.5, "token": 7, "token_str": "cat", "sequence": "The cat sat."}


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([{"generated_text": "a"}, {"generated_text": "b"}], "a\nb"),
        ({"generated_text": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "a"),
        ([{"generated_token_ids": [1, 2]}], "generated_token_ids=[1, 2]"),
        ([{"summary_text": "short"}], "short"),
        ({"label": "POSITIVE", "score": 0.98}, "POSITIVE  0.9800"),
        ([{"label": "up", "score": 0.75}, {"label": "down", "score": 0.25}], "up    0.7500\ndown  0.2500"),
        ([ENTITY, GROUP], "서울     B-LOC  0.2500  3-5\nMia Kim  PER    0.5000  9-16"),
        ([FILLED], "cat  0.5000  The cat sat."),
        ([[FILLED], [FILLED]], "cat  0.5000  The cat sat.\n\ncat  0.5000  The cat sat."),
        ({"answer": "Paris", "score": 0.9, "start": 3, "end": 8}, "Paris  0.9000"),
        ({"answer": "Paris", "score": 0.9, "start": None, "end": None}, "Paris  0.9000"),
        ({"answer": "", "score": 0.9, "start": 0, "end": 0}, "-  0.9000"),
        ({"sequence": "s", "labels": ["날씨", "food"], "scores": [0.75, 0.25]}, "날씨  0.7500\nfood  0.2500"),
        ([{"index": 1, "score": 0.9, "document": "a\nb"}], "0.9000  a b"),
        ({"error": "no mask", "index": 0}, "error: no mask"),
        (0.5, "0.5000"),
        ([[[0.5, 1.0], [2.0, 3.0]]], "(1, 2, 2)  0.5000 1.0000"),
        (torch.ones(1, 7), "(1, 7)  1.0000 1.0000 1.0000 1.0000 1.0000 1.0000 ..."),
        ("text", "text"),
        ([], ""),
    ],
)
def test_results_for_people(result: Any, text: str) -> None:
    assert readable(result) == text


def test_cosines_stand_beside_their_sentences() -> None:
    assert readable([0.5, -0.25], {"source_sentence": "s", "sentences": ["a", "b\nc"]}) == "0.5000   a\n-0.2500  b c"


# every task, with tiny folders


QA = json.dumps({"question": "Where is the cat?", "context": TEXT})
RERANK = json.dumps({"query": "cat", "documents": [TEXT, "Rain falls."]})
PAIR = json.dumps({"text": "It rains.", "text_pair": "The sun shines."})
LABEL, NUMBER = r"(sports|politics|weather)", r"-?\d+\.\d{4}"
# task, model, input, options, what is printed (a pattern), keys of the JSON line
TASK_RUNS = [
    ("sentiment-analysis", "bert-topics", TEXT, [], rf"{LABEL}  {NUMBER}\n", {"label", "score"}),
    ("text-classification", "bert-topics", PAIR, ["top_k=2"], rf"({LABEL} +{NUMBER}\n){{2}}", {"label", "score"}),
    ("ner", "bert-ner", TEXT, [], rf"(\S+ +[BI]-(PER|LOC)  {NUMBER}  \d+-\d+\n)+", {"entity", "score", "index", "word", "start", "end"}),
    ("fill-mask", "bert-mask", MASKED["bert-mask"], ["top_k=1"], rf"\S+  {NUMBER}  the.+\n", {"score", "token", "token_str", "sequence"}),
    ("question-answering", "bert-qa", QA, [], rf".+  {NUMBER}\n", {"score", "start", "end", "answer"}),
    ("question-answering", "bert-qa", QA, ["top_k=2"], rf"(.+  {NUMBER}\n){{2}}", {"score", "start", "end", "answer"}),
    ("rerank", "bert-score", RERANK, [], rf"({NUMBER}  .+\n){{2}}", {"index", "score", "document"}),
    (
        "zero-shot-classification", "roberta-nli", TEXT, ["candidate_labels=sports, food"], rf"((sports|food) +{NUMBER}\n){{2}}",
        {"sequence", "labels", "scores"},
    ),
    ("summarization", "bart", TEXT, ["max_new_tokens=4"], r"(?s).+\n", {"summary_text"}),
    ("translation_en_to_fr", "t5", TEXT, [], r".+\n", {"translation_text"}),
    ("text2text-generation", "t5", TEXT, ["num_beams=2", "num_return_sequences=2", "max_new_tokens=4"], r"(.+\n){2}", {"generated_text"}),
    ("text-generation", "gpt2", TEXT, ["max_new_tokens=2", "do_sample=false"], rf"(?s){re.escape(TEXT)}.*\n", {"generated_text"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("task", "model", "text", "options", "pattern", "keys"), TASK_RUNS, ids=[f"{task}-{i}" for i, (task, *_) in enumerate(TASK_RUNS)]
)
def test_every_task(
    cli: Callable[..., Done], models: Path, task: str, model: str, text: str, options: list[str], pattern: str, keys: set[str]
) -> None:
    """For people, and as one JSON line for each line that comes in."""
    args = ["run", task, "--model", str(models / model), *(part for option in options for part in ("--set", option))]
    done = cli(*args, text)
    assert done.code == 0, done.err
    assert re.fullmatch(pattern, done.out)
    lines = cli(*args, "-", "--json", "--batch-size", "2", stdin=f"{text}\n" * 3).out.splitlines()
    assert len(lines) == 3
    near(json.loads(lines[1]), json.loads(lines[0]))  # how rows share batches may round otherwise
    for row in json.loads(lines[0]) if lines[0].startswith("[") else [json.loads(lines[0])]:
        assert set(row) == keys


def test_cosines(cli: Callable[..., Done], models: Path) -> None:
    given = json.dumps({"source_sentence": "The cat sat.", "sentences": ["The cat sat.", "Rain falls."]})
    args = ["run", "sentence-similarity", "--model", str(models / "bert"), given]
    assert re.fullmatch(rf"1\.0000 +The cat sat\.\n{NUMBER} +Rain falls\.\n", cli(*args).out)
    same, other = json.loads(cli(*args, "--json").out)
    assert same == pytest.approx(1.0)
    assert other < same


def test_an_empty_line_between_tables(cli: Callable[..., Done], models: Path) -> None:
    args = ["run", "text-classification", "--model", str(models / "bert-topics"), TEXT, "Rain falls."]
    assert [len(part.splitlines()) for part in cli(*args, "--set", "top_k=2").out.split("\n\n")] == [2, 2]
    assert len(cli(*args).out.splitlines()) == 2


def test_every_task_is_tried() -> None:
    tried = {canonical(task) for task, *_ in TASK_RUNS} | {"sentence-similarity", "feature-extraction"}
    assert tried >= set(TASKS)


def test_a_task_says_what_it_takes(cli: Callable[..., Done], models: Path) -> None:
    done = cli("run", "question-answering", "--model", str(models / "bert-qa"), "no object")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: question-answering needs a question")


# tasks


def test_tasks(cli: Callable[..., Done]) -> None:
    """Every task with the model that it was taught with and its starters, and every starter with how good it is."""
    done = cli("tasks")
    assert (done.code, done.err) == (0, "")
    tasks, held, chat_models = done.out.split("\n\n")
    head, *rows = tasks.splitlines()
    assert head.split("  ")[0] == "TASK" and head.split()[-2:] == ["ENGLISH", "KOREAN"]
    table = {task: tuple(rest) for task, *rest in map(str.split, rows)}
    assert list(table) == sorted({*TASKS, *DEFAULTS})
    assert table["token-classification"][0] == "ner"
    assert table["text-classification"][1:] == (TAUGHT["text-classification"][0], "starter-en/sentiment", "starter-ko/sentiment")
    assert table["translation"][0] == "translation_XX_to_YY"
    assert "summarization" in chat_models
    assert {line.split()[0] for line in held.splitlines()[1:]} == {starter.source for starter in starters().values()}
    assert starters()["en/chat"].score in held


def test_tasks_in_korean_stand_in_columns() -> None:
    """Hangul takes two cells of a terminal."""
    shown = _shell("tasks", env={**os.environ, "HUNMIN_LANG": "ko", "PYTHONUTF8": "1"}, encoding="utf-8")
    head, first, *_ = shown.stdout.splitlines()
    assert head.startswith("작업 ")
    assert width(head[: head.index("강의의")]) == first.index(TAUGHT["feature-extraction"][0])


# errors


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["run"],
        ["--nothing"],
        ["run", "text-generation", "a", "--set", "x"],
        ["run", "text-generation", "a", "--batch-size", "0"],
    ],
)
def test_wrong_usage_is_two(cli: Callable[..., Done], args: list[str]) -> None:
    done = cli(*args)
    assert (done.code, done.out) == (2, "")
    assert "Usage: hunmin" in done.err
    assert "Traceback" not in done.err


def test_an_error_is_one_line(cli: Callable[..., Done], calls: list[tuple[Any, ...]]) -> None:
    assert cli("run", "nothing", "a") == Done(1, "", "error: unknown task nothing\n")


def _broken(*_: Any, **__: Any) -> None:
    raise ZeroDivisionError("a\nb")


def test_a_surprise_is_one_line_and_a_hint(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(hunmin), "pipeline", _broken)
    expected = "error: ZeroDivisionError: a b\nrerun as `hunmin --debug ...` to see where\n"
    assert cli("run", "text-generation", "a") == Done(1, "", expected)


@pytest.mark.parametrize("way", ["option", "environment"])
def test_debug_shows_the_traceback(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(hunmin), "pipeline", _broken)
    monkeypatch.setenv("HUNMIN_DEBUG", "1" if way == "environment" else "")
    monkeypatch.setattr(sys, "argv", ["hunmin", *(["--debug"] if way == "option" else []), "run", "text-generation", "a"])
    with pytest.raises(ZeroDivisionError):
        main()


def test_an_interrupt_is_130(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(vars(hunmin), "pipeline", interrupted)
    done = cli("run", "text-generation", "a")
    assert done.code == 130
    assert "Traceback" not in done.err


def _shell(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    code = "from hunmin.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=120, **options)


def test_a_missing_model_is_an_error_without_traceback(tmp_path: Path) -> None:
    done = _shell("info", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_errors_in_korean() -> None:
    korean = {**os.environ, "HUNMIN_LANG": "ko", "PYTHONUTF8": "1"}
    assert "모델과 대화합니다" in _shell("--help", env=korean, encoding="utf-8").stdout
    assert _shell("info", "./nowhere", env=korean, encoding="utf-8").stderr.startswith("오류: ")


@pytest.mark.skipif(os.name == "nt", reason="no broken pipes")
def test_a_closed_pipe_is_quiet() -> None:
    code = "from hunmin.cli import main; main()"
    with subprocess.Popen([sys.executable, "-c", code, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_has_examples_and_options(cli: Callable[..., Done]) -> None:
    for command in ("run", "chat", "tasks", "models", "names", "info"):
        done = cli(command, "--help")
        assert done.code == 0
        assert f"Examples:\n    hunmin {command}" in done.out


def test_version(cli: Callable[..., Done]) -> None:
    assert cli("--version") == Done(0, f"hunmin {hunmin.__version__}\n", "")


# chat


class Echo:
    """A model and its tokenizer: tokens are characters, and the answer is the last question in capitals."""

    chat_template = "yes"
    device = torch.device("cpu")

    def __init__(self, context: int = 1000) -> None:
        self.config = {"max_position_embeddings": context}
        self.options: dict[str, Any] = {}

    def apply_chat_template(self, messages: list[dict[str, str]], **_: Any) -> Any:
        self.last = messages[-1]["content"]
        ids = torch.tensor([[ord(c) for m in messages for c in m["content"]]])
        made = Inputs(input_ids=ids)
        return made

    def generate(self, input_ids: torch.Tensor, streamer: Any, **options: Any) -> torch.Tensor:
        self.options = options
        if self.last == "stop":
            raise KeyboardInterrupt
        streamer.end(self.last.upper())
        return torch.cat([input_ids, torch.tensor([[ord(c) for c in self.last.upper()]])], 1)

    def decode(self, ids: torch.Tensor, **_: Any) -> str:
        return "".join(map(chr, ids.tolist()))


class Inputs(dict[str, torch.Tensor]):
    def to(self, _: Any) -> Inputs:
        return self


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> chat.Conversation:
    """A conversation with Echo, which ``hunmin chat`` gets instead of a model."""
    echo: Any = Echo()
    made = chat.Conversation(echo, echo)

    def load(model: str, *, system: str | None = None, **_: Any) -> chat.Conversation:
        made.reset(system)
        return made

    monkeypatch.setattr(chat, "load", load)
    monkeypatch.setitem(vars(hunmin), "TextStreamer", lambda *_, **__: SimpleNamespace(end=print))
    return made


def test_chat_answers_a_prompt(cli: Callable[..., Done], talk: chat.Conversation) -> None:
    assert cli("chat", "hello", "--max-new-tokens", "7", "--temperature", "0.5", "--system", "S") == Done(0, "HELLO\n", "")
    assert [m["content"] for m in talk.messages] == ["S", "hello", "HELLO"]
    assert vars(talk.model)["options"] == {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5}


def test_temperature_zero_is_greedy(cli: Callable[..., Done], talk: chat.Conversation) -> None:
    cli("chat", "hello", "--temperature", "0")
    assert vars(talk.model)["options"] == {"max_new_tokens": 512, "do_sample": False}


def test_chat_reads_a_pipe_with_commands(cli: Callable[..., Done], talk: chat.Conversation, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    lines = ["one", "", "two", f"/save {file}", "/reset", "/system Be brief.", "three", "/help", f"/load {file}", "four", "/quit", "five"]
    done = cli("chat", stdin="\n".join(lines))
    assert done.code == 0
    assert [line for line in done.out.splitlines() if line.isupper()] == ["ONE", "TWO", "THREE", "FOUR"]
    assert "Be brief." in done.out
    assert "/save FILE" in done.out
    assert [m["content"] for m in talk.messages] == ["one", "ONE", "two", "TWO", "four", "FOUR"]


@pytest.mark.parametrize(("name", "content"), [("nowhere.json", None), ("bad.json", "{"), ("bad.json", '[{"role": 1}]'), ("bad.json", "3")])
def test_a_bad_conversation_file_is_an_error(talk: chat.Conversation, tmp_path: Path, name: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    talk.answer("one")
    with pytest.raises(HunminError, match=name):
        talk.take(f"/load {tmp_path / name}")
    assert len(talk.messages) == 2


def test_a_stopped_question_is_forgotten(talk: chat.Conversation) -> None:
    talk.answer("one")
    with pytest.raises(KeyboardInterrupt):
        talk.answer("stop")
    assert [m["content"] for m in talk.messages] == ["one", "ONE"]


def test_the_oldest_questions_leave_a_full_context(talk: chat.Conversation) -> None:
    talk.model.config = {"max_position_embeddings": 20}  # pyright: ignore
    talk.options = {"max_new_tokens": 5}
    talk.reset("sys")
    for text in ("aaaa", "bbbb", "cccc"):
        talk.answer(text)
    assert [m["content"] for m in talk.messages] == ["sys", "bbbb", "BBBB", "cccc", "CCCC"]


def test_the_terminal_loop(talk: chat.Conversation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    said = iter(["one", "", "stop", "/load nowhere.json", "two"])

    def ask(_: str) -> str:
        for line in said:
            return line
        raise EOFError

    monkeypatch.setattr("builtins.input", ask)
    monkeypatch.setattr(chat, "_history", lambda: None)
    chat._interactive(talk, "echo")
    seen = capsys.readouterr()
    assert [line for line in seen.out.splitlines() if line.isupper()] == ["ONE", "TWO"]
    assert seen.err.startswith("error: nowhere.json: ")


# models


def test_sizes() -> None:
    assert [size(n) for n in (0, 999, 1000, 94_200_000, 2.5e12)] == ["0 B", "999 B", "1.0 kB", "94.2 MB", "2500.0 GB"]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A cache with two models, and what was removed from it."""
    models = [SimpleNamespace(name=n, kind=k, bytes=b, last_used=0.0) for n, k, b in (("org/a", "hub", 5000), ("pypi:b==1", "pypi", 10**8))]
    removed: list[Any] = []
    monkeypatch.setattr("hunmin.hub.files.cached", lambda: models)

    def remove(name: str) -> int:
        if name not in {m.name for m in models}:
            raise SourceError(f"{name} is not in the cache.")
        removed.append(name)
        return 10**8

    monkeypatch.setattr("hunmin.hub.files.remove", remove)
    return removed


def test_models_lists_the_largest_first(cli: Callable[..., Done], shelf: list[Any]) -> None:
    rows = [line.split() for line in cli("models").out.splitlines()]
    assert [row[:3] for row in rows] == [
        ["NAME", "KIND", "SIZE"],
        ["pypi:b==1", "pypi", "100.0"],
        ["org/a", "hub", "5.0"],
        ["2", "models,", "100.0"],
    ]


def test_models_rm(cli: Callable[..., Done], shelf: list[Any]) -> None:
    assert cli("models", "rm", "pypi:b==1", stdin="n\n").code == 1
    assert shelf == []
    assert cli("models", "rm", "pypi:b==1", "--yes") == Done(0, "100.0 MB freed\n", "")
    assert shelf == ["pypi:b==1"]
    assert cli("models", "rm", "c").err.startswith("error: c is not in the cache")


# names, info, env


def test_names_prints_the_weight_table(cli: Callable[..., Done]) -> None:
    done = cli("names", "bert")
    assert done.code == 0
    rows = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert rows["bert.encoder.layer.*.attention.self.query"].endswith("attn.q")
    assert cli("names", "nothing").code == 1


def test_info_loads_no_weights(cli: Callable[..., Done], tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    done = cli("info", str(tmp_path))
    assert done.code == 0, done.err
    block = 12 * 32 * 32 + 13 * 32
    count = (99 + 64) * 32 + 2 * block + 2 * 32
    assert f"parameters       {count:,}\n" in done.out
    assert "gpt2 (GPT2LMHeadModel)" in done.out
    assert f"memory float32   {size(4 * count)}\n" in done.out
    assert "context          64\n" in done.out


def test_env(cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    done = cli("env")
    assert done.code == 0, done.err
    rows = dict(line.split(maxsplit=1) for line in done.out.splitlines())
    assert (rows["hunmin"], rows["torch"]) == (hunmin.__version__, torch.__version__)
    assert "secret" not in done.out


# with real weights


@pytest.mark.weights
def test_the_default_model_answers() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}
    done = _shell("chat", "What is the capital of Japan?", "--max-new-tokens", "16", "--temperature", "0", env=environment)
    assert done.returncode == 0, done.stderr
    assert "Tokyo" in done.stdout


# -------------------------------------------------------------- quantize


def test_quantize_measures_and_saves(cli: Callable[..., Done], models: Path, tmp_path: Path) -> None:
    """A classifier on labelled rows; the folder that is written answers as any other."""
    source, out, rows = models / "bert-topics", tmp_path / "out", tmp_path / "rows.csv"
    label = next(iter(json.loads((source / "config.json").read_text())["label2id"]))
    rows.write_text(f"text,label\nhello there,{label}\nrain again,{label}\n", encoding="utf-8")
    done = cli("quantize", str(source), "--to", "int8", "--check", str(rows), "--out", str(out))
    assert done.code == 0, done.err
    assert "accuracy" in done.out and "cosine" in done.out and str(out) in done.out
    assert json.loads((out / "config.json").read_text())["quantization_config"]["kind"] == "int8"
    assert cli("run", "text-classification", "hello", "-m", str(out)).code == 0
    assert '"auto": stored quantized' in cli("info", str(out)).out
    for options, said in ((["--group", "40"], "multiple of 32"), (["--to", "int4", "--method", "gptq"], "needs calibration texts")):
        done = cli("quantize", str(source), "--out", str(tmp_path / "no"), *options)
        assert done.code == 1 and said in done.err and not (tmp_path / "no").exists()
