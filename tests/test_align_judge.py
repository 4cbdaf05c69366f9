"""Judges: functions, reward models, and language models behind a server that comes and goes; and the pairs that they make."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hunmin.align.files import Journal
from hunmin.align.judge import FunctionJudge, JudgePart, LLMJudge, Verdict, function_at
from hunmin.align.synthetic import draw, judged_pairs, strong_versus_weak
from hunmin.errors import FormatError, InputError, SourceError, warn_once


class Server:
    """An OpenAI-compatible server whose answers are a function of the question: ``(status, body, headers)`` or a text."""

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.reply: Callable[[str], Any] = lambda text: "Fine. [[7]]"
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.questions.append(question)
                server.headers.append(dict(self.headers))
                found = server.reply(question["messages"][-1]["content"])
                status, body, headers = found if isinstance(found, tuple) else (200, {"choices": [{"message": {"content": found}}]}, {})
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    warn_once.cache_clear()
    made = Server()
    yield made
    made.close()


def judge(server: Server, **options: Any) -> LLMJudge:
    return LLMJudge(server.url, "judge-1", **{"pause": 0.001, "workers": 2, **options})


QUESTIONS = [f"question {n}" for n in range(6)]
ANSWERS = [f"answer {n}" for n in range(6)]


# ---------------------------------------------------------------- ratings


def test_answers_are_rated_in_order(server: Server) -> None:
    server.reply = lambda text: f"Reason. [[{int(re.findall('answer ([0-9])', text)[0]) + 1}]]"
    found = judge(server).score(QUESTIONS, ANSWERS)
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    (asked,) = {(q["model"], q["temperature"], q["max_tokens"]) for q in server.questions}
    assert asked == ("judge-1", 0, 512) and len(server.questions) == 6


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("[[3]]", 3.0),
        ("Not [[2]] but [[ 8.5 ]]", 8.5),
        ("[[4/10]]", 4.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("7", None),
        ("", None),
        (None, None),
    ],
)
def test_what_counts_as_a_rating(server: Server, reply: Any, rating: float | None) -> None:
    server.reply = lambda text: reply
    assert judge(server).score(["q"], ["a"]) == [rating]


def test_the_question_holds_everything_as_it_is(server: Server) -> None:
    prompt = [{"role": "system", "content": "S {answer}"}, {"role": "user", "content": "가 {scale}"}]
    judge(server, criteria="Only {prompt} counts.", scale=5).score([prompt], [[{"role": "assistant", "content": "{prompt} \\1"}]])
    text = server.questions[0]["messages"][-1]["content"]
    assert (
        "System: S {answer}\n\nUser: 가 {scale}" in text and "{prompt} \\1" in text and "Only {prompt} counts." in text and "1 to 5" in text
    )


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret\n")
    judge(server, key_env="MY_KEY", kept=tmp_path / "kept").score(["q"], ["a"])
    assert server.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in (tmp_path / "kept").read_text()
    judge(server).score(["q"], ["a"])
    assert "Authorization" not in server.headers[1]


# ---------------------------------------------------------------- comparisons


def chooses(server: Server, pick: Callable[[str, str], str]) -> None:
    def reply(text: str) -> str:
        first, second = re.findall(r"\[Answer of assistant [AB]\]\n(.*)\n", text)
        return f"[[{pick(first, second)}]]"

    server.reply = reply


def test_both_orders_must_agree(server: Server) -> None:
    chooses(server, lambda a, b: "A" if len(a) > len(b) else "B" if len(b) > len(a) else "C")
    firsts, seconds = ["long one", "x", "same"], ["x", "long one", "mesa"]
    expected = [Verdict("first"), Verdict("second"), Verdict("tie")]
    assert judge(server).compare(["q"] * 3, firsts, seconds) == expected and len(server.questions) == 4  # equal ones once
    chooses(server, lambda a, b: "A")  # a judge that likes what comes first
    assert judge(server).compare(["q"] * 3, firsts, seconds) == [Verdict("tie", False)] * 3
    once = judge(server, both_orders=False)
    assert once.compare(["q"] * 3, firsts, seconds) == [Verdict("first")] * 3


def test_a_judge_that_does_not_say(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.reply = lambda text: "Hard to tell."
    assert judge(server).compare(["q"], ["a"], ["b"]) == [Verdict(None, False)]
    assert "2 of 2 answers without a rating" in caplog.text


# ---------------------------------------------------------------- a server that comes and goes


def test_errors_that_pass_are_waited_for(server: Server) -> None:
    calls: dict[str, int] = {}

    def reply(text: str) -> Any:
        calls[text] = calls.get(text, 0) + 1
        failures: list[Any] = [(503, {}, {}), (429, {"error": "slow down"}, {"Retry-After": "0"}), (200, b"<html>", {}), "[[5]]"]
        return failures[min(calls[text] - 1, 3)]

    server.reply = reply
    asked = judge(server)
    assert asked.score(["q", "r"], ["a", "b"]) == [5.0, 5.0]
    assert set(calls.values()) == {4} and asked.api.asked == 2


@pytest.mark.parametrize("workers", [1, 3])
def test_a_judge_that_goes_away_costs_nothing_twice(server: Server, tmp_path: Path, workers: int) -> None:
    kept, paid = tmp_path / "kept.jsonl", list[str]()

    def reply(text: str) -> Any:
        if len(paid) >= 3:
            return 500, {"error": "gone"}, {}
        paid.append(text)
        return "[[6]]"

    server.reply = reply
    with pytest.raises(SourceError, match=rf"does not answer \(HTTP 500.*3 of 6 answers are kept in {re.escape(str(kept))}: run again"):
        judge(server, kept=kept, retries=1, workers=workers).score(QUESTIONS, ANSWERS)
    server.reply = lambda text: paid.append(text) or "[[6]]"
    again = judge(server, kept=kept, workers=workers)
    assert again.score(QUESTIONS, ANSWERS) == [6.0] * 6
    assert again.api.asked == 3 and len(paid) == len(set(paid)) == 6
    third = judge(server, kept=kept)
    assert third.score(QUESTIONS, ANSWERS) == [6.0] * 6 and third.api.asked == 0


def test_equal_questions_are_asked_once(server: Server) -> None:
    assert judge(server).score(["q"] * 5, ["a"] * 5) == [7.0] * 5
    assert len(server.questions) == 1


def test_other_settings_are_other_questions(server: Server, tmp_path: Path) -> None:
    for more in ({}, {"criteria": "Be strict."}, {"max_tokens": 9}):
        judge(server, kept=tmp_path / "kept", **more).score(["q"], ["a"])
    assert len(server.questions) == 3


def test_a_server_that_is_not_there() -> None:
    server = Server()
    server.close()
    with pytest.raises(SourceError, match=r"does not answer .*2 tries.*0 of 1 answers"):
        judge(server, retries=1).score(["q"], ["a"])


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((401, {"error": "bad key"}, {}), "Is OPENAI_API_KEY set"),
        ((404, {"error": "no such model"}, {}), "refuses: HTTP 404.*no such model"),
        ((302, {}, {"Location": "http://127.0.0.1:9/elsewhere"}), "refuses: HTTP 302"),
        ((200, {"object": "list"}, {}), "does not speak"),
        ((200, [], {}), "does not speak"),
    ],
)
def test_refusals_are_not_tried_again(server: Server, reply: Any, why: str) -> None:
    server.reply = lambda text: reply
    with pytest.raises(SourceError, match=why):
        judge(server).score(["q"], ["a"])
    assert len(server.questions) == 1


def test_a_url_is_one_of_the_web() -> None:
    for url in ("file:///etc/passwd", "localhost:8000", ""):
        with pytest.raises(InputError, match="http://"):
            LLMJudge(url, "m")


def test_answers_are_not_kept_in_other_files(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "x"}\n')
    with pytest.raises(FormatError, match="another one"):
        LLMJudge("http://localhost", "m", kept=tmp_path / "data.jsonl")


# ---------------------------------------------------------------- functions and reward models


def length(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(text)) for text in completions]


def test_a_function_is_a_judge_and_a_judge_is_a_reward() -> None:
    made = FunctionJudge(length)
    assert made.score(["q", "r"], ["abc", ""]) == made(["q", "r"], ["abc", ""], extra=[1, 2]) == [3.0, 0.0]
    assert made.compare(["q"] * 3, ["ab", "a", "a"], ["a", "ab", "b"]) == [Verdict("first"), Verdict("second"), Verdict("tie")]
    assert FunctionJudge(lambda **_: [None, float("nan")]).score(["q"] * 2, ["a"] * 2) == [None, None]


@pytest.mark.parametrize(("values", "why"), [([1.0], "1 numbers for 2"), ([1.0, "good"], "'good', not a number")])
def test_functions_that_do_not_rate(values: list[Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        FunctionJudge(lambda **_: values, "f").score(["q", "r"], ["a", "b"])


def test_a_judge_from_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def size(prompts, completions, **_): return [len(c) for c in completions]\nword = 'x'\n")
    made = JudgePart(function=f"{tmp_path}/mine.py:size").build()
    assert made.score(["q"], ["abcd"]) == [4.0]
    assert isinstance(JudgePart(url="http://localhost:1/v1", model="m").build(tmp_path / "kept"), LLMJudge)
    for wrong in (JudgePart(), JudgePart(url="http://x"), JudgePart(reward="a", function="b:c")):
        with pytest.raises(InputError, match="one of url"):
            wrong.build()
    for place, why in (
        ("size", "module:name"),
        (f"{tmp_path}/mine.py:word", "no function word"),
        ("no.such:f", "cannot be imported"),
        (f"{tmp_path}/no.py:f", "cannot be imported"),
    ):
        with pytest.raises(InputError, match=why):
            function_at(place)


# ---------------------------------------------------------------- pairs


def test_the_best_against_a_random_other() -> None:
    answers = [["a", "abc", "ab", "abc"], ["x"], ["bb", "aa"], ["long", "", " "]]
    rows = judged_pairs(list("qrst"), answers, FunctionJudge(length), seed=1)
    assert [(row["prompt"], row["chosen"], row["score_chosen"]) for row in rows] == [("q", "abc", 3.0)]
    assert rows[0]["rejected"] in ("a", "ab") and rows == judged_pairs(list("qrst"), answers, FunctionJudge(length), seed=1)
    drawn = {judged_pairs(["q"], answers[:1], FunctionJudge(length), seed=seed)[0]["rejected"] for seed in range(20)}
    assert drawn == {"a", "ab"}
    assert judged_pairs(["q"], answers[:1], FunctionJudge(length), "best-worst")[0]["rejected"] == "a"
    assert len(judged_pairs(["q"], answers[:1], FunctionJudge(length), "all", least=1.0)) == 1
    with pytest.raises(InputError, match="None of 1 prompts gives a pair"):
        judged_pairs(["q"], [["a", "b"]], FunctionJudge(length))


def test_strong_against_weak(caplog: pytest.LogCaptureFixture) -> None:
    assert strong_versus_weak(["q", "r"], ["good", "same"], ["bad", "same"]) == [{"prompt": "q", "chosen": "good", "rejected": "bad"}]
    assert "1 of 2 prompts give no pair" in caplog.text
    with pytest.raises(InputError, match="None of 1"):
        strong_versus_weak(["q"], ["a"], ["a"])
    with pytest.raises(InputError, match="2 prompts need as many"):
        strong_versus_weak(["q", "r"], ["a"], ["b"])


def test_answers_drawn_from_a_model_are_kept(models: Path, tmp_path: Path) -> None:
    from hunmin import AutoModelForCausalLM, AutoTokenizer

    folder = str(models / "gpt2")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    path, prompts = tmp_path / "drawn.jsonl", ["the cat", "a dog"]
    first = draw(model, tokenizer, prompts, 3, seed=5, kept=Journal(path), max_new_tokens=4)
    assert [len(several) for several in first] == [3, 3] and any(len(set(several)) > 1 for several in first)
    more = draw(model, tokenizer, [*prompts, "the dog"], 3, seed=5, kept=Journal(path), max_new_tokens=4)
    assert more[:2] == first and len(path.read_text().splitlines()) == 3
    assert draw(model, tokenizer, prompts, 3, seed=5, max_new_tokens=4) == first
