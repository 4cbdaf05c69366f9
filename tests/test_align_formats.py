"""Rows of instructions and preferences from one form into another: templates, pairs, shapes of public data sets, files."""

from __future__ import annotations

import gzip
import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hunmin.align import formats, shapes
from hunmin.align.files import Journal, read_rows, write_rows
from hunmin.errors import FormatError, InputError

# Listing 4.1 of the course, its text as printed, without the scan's stray ")".
LISTING: dict[str, str] = {
    "instruction": "Create a classification task by clustering the given list of items.",
    "input": "Apples, oranges, bananas, strawberries, pineapples",
    "output": "Class 1: Apples, Oranges\nClass 2: Bananas, Strawberries\nClass 3:Pineapples",
    "text": "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
    "appropriately completes the request. \n\n### Instruction: \nCreate a classification task by clustering the given list of items. \n\n"
    "### Input: \nApples, oranges, bananas, strawberries, pineapples \n\n### Response: \nClass 1: Apples, Oranges\n"
    "Class 2: Bananas, Strawberries\nClass 3:Pineapples",
}
USER, BOT = "user", "assistant"


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# ---------------------------------------------------------------- the course's template


def test_the_text_of_listing_4_1() -> None:
    assert formats.alpaca_text(LISTING) == LISTING["text"]
    made = formats.alpaca(LISTING)
    assert made["prompt"].endswith("### Response: \n") and made["completion"] == LISTING["output"]


def test_the_f_string_of_listing_4_2() -> None:
    instruction, input, output = LISTING["instruction"], LISTING["input"], LISTING["output"]
    text = f"""

Below is an instruction that describes a task, paired with an input that provides further context.
Write a response that appropriately completes the request. \n\n 
### Instruction: \n{instruction}\n\n
### Input: \n{input}\n\n 
### Response: \n{output}

"""  # noqa: W291 - as printed
    assert formats.alpaca_text(LISTING, "listing-4.2") == text


@pytest.mark.parametrize("template", formats.TEMPLATES)
@given(instruction=st.text("ab{}\\\n가", min_size=1), given_=st.text("ab{}\\\n 가"), output=st.text())
def test_a_template_holds_what_is_put_into_it(template: str, instruction: str, given_: str, output: str) -> None:
    made = formats.alpaca({"instruction": instruction, "input": given_, "output": output}, template)
    assert f"\n{instruction}" in made["prompt"] and made["completion"].startswith(output)
    assert ("### Input:" in made["prompt"]) == bool(given_.strip()) == (f"\n{given_}" in made["prompt"] and bool(given_.strip()))


def test_braces_in_an_instruction_are_text() -> None:
    made = formats.alpaca({"instruction": "Explain {input} and {0}", "input": "{instruction}", "output": "x"})
    assert "Explain {input} and {0}" in made["prompt"] and "\n{instruction} \n" in made["prompt"]


@pytest.mark.parametrize("row", [{}, {"instruction": 3, "output": "x"}, {"instruction": "x"}, {"instruction": "x", "output": None}])
def test_a_row_that_is_no_instruction(row: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="instruction and output"):
        formats.alpaca(row)


# ---------------------------------------------------------------- rankings, scores, thumbs


def test_the_ranking_of_the_course() -> None:
    rows = formats.ranking_pairs("q", {"A": "a", "B": "b", "C": "c"}, "A > C > B")
    assert [(row["chosen"], row["rejected"]) for row in rows] == [("a", "c"), ("a", "b"), ("c", "b")]


@given(st.permutations(list(range(5))), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_ranking_is_a_pair_for_every_two_that_differ(order: list[int], equal: list[bool]) -> None:
    letters = [chr(ord("A") + place) for place in order]
    ranking = letters[0] + "".join(f" {'=' if same else '>'} {letter}" for same, letter in zip(equal, letters[1:], strict=True))
    level = {order[0]: 0}
    for same, (before, place) in zip(equal, pairwise(order), strict=True):
        level[place] = level[before] + (not same)
    rows = formats.ranking_pairs("q", list("01234"), ranking)
    expected = {(str(a), str(b)) for a in level for b in level if level[a] < level[b]}
    assert {(row["chosen"], row["rejected"]) for row in rows} == expected and len(rows) == len(expected)


@pytest.mark.parametrize("ranking", ["A > B", "A > B > B", "A > B > D", [0, 1], [0, 1, 7], ""])
def test_a_ranking_of_other_answers(ranking: Any) -> None:
    with pytest.raises(InputError, match="once"):
        formats.ranking_pairs("q", ["a", "b", "c"], ranking)


@given(st.lists(st.one_of(st.none(), st.just(float("nan")), st.integers(0, 4).map(float)), max_size=6), st.sampled_from([0.0, 1.0]))
def test_scores_become_pairs(scores: list[float | None], least: float) -> None:
    answers = [f"{place}" for place in range(len(scores))]
    known = {a: s for a, s in zip(answers, scores, strict=True) if s is not None and s == s}
    rows = formats.score_pairs("q", answers, scores, least=least)
    assert {frozenset((row["chosen"], row["rejected"])) for row in rows} == {
        frozenset(two) for two in combinations(known, 2) if abs(known[two[0]] - known[two[1]]) > least
    }
    for row in rows:
        assert known[row["chosen"]] - known[row["rejected"]] == row["margin"] > least
    for which in ("best-worst", "best-random"):
        one = formats.score_pairs("q", answers, scores, which, least=least)
        assert len(one) == bool(rows) and all(row["score_chosen"] == max(known.values()) for row in one)


def test_scores_and_answers_of_different_number() -> None:
    with pytest.raises(InputError, match="2 answers have 1"):
        formats.score_pairs("q", ["a", "b"], [1.0])


@pytest.mark.parametrize(
    ("value", "up"), [(True, True), (1, True), ("👍", True), ("👍🏽", True), ("Up", True), (0, False), (-1, False), ("👎", False)]
)
def test_thumbs(value: Any, up: bool) -> None:
    assert formats.thumb(value) is up


@pytest.mark.parametrize("value", [None, 2, 0.5, "maybe", []])
def test_what_is_no_thumb(value: Any) -> None:
    with pytest.raises(InputError, match="thumb"):
        formats.thumb(value)


# ---------------------------------------------------------------- shapes

TREE: dict[str, Any] = {
    "message_tree_id": "t",
    "prompt": {"text": "q", "role": "prompter", "replies": [
        {"text": "worse", "role": "assistant", "rank": 1, "replies": [{"text": "why", "role": "prompter", "replies": []}]},
        {"text": "better", "role": "assistant", "rank": 0, "replies": [{"text": "and", "role": "prompter", "replies": [
            {"text": "one", "role": "assistant", "replies": []}]}]},
        {"text": "gone", "role": "assistant", "rank": 2, "deleted": True, "replies": []},
        {"text": "unranked", "role": "assistant", "replies": []},
    ]},
}  # fmt: skip
# shape: (row, what it is as the nearest kind, that kind)
EXAMPLES: dict[str, tuple[dict[str, Any], str, list[dict[str, Any]]]] = {
    "hh-rlhf": (
        {"chosen": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: go\n\nAssistant: no", "rejected": "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: go\n\nAssistant: ok"},
        "preference",
        [{"prompt": [turn(USER, "hi"), turn(BOT, "yes?"), turn(USER, "go")], "chosen": [turn(BOT, "no")], "rejected": [turn(BOT, "ok")]}],
    ),
    "oasst": (TREE, "preference", [{"prompt": [turn(USER, "q")], "chosen": [turn(BOT, "better")], "rejected": [turn(BOT, "worse")]}]),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "function_call", "value": "{}"}, {"from": "observation", "value": "1"}], "tools": "[]", "system": "S"},
        "sft",
        [{"messages": [turn("system", "S"), turn(USER, "hi"), turn(BOT, "{}"), turn("tool", "1")], "tools": "[]"}],
    ),
    "ultrafeedback": (
        {"instruction": "q", "completions": [{"response": "bad", "overall_score": 2}, {"response": "good", "overall_score": 9}, {"response": "?", "overall_score": "N/A"}]},
        "preference",
        [{"prompt": "q", "chosen": "good", "rejected": "bad", "score_chosen": 9.0, "score_rejected": 2.0, "margin": 7.0}],
    ),
    "binarized": (
        {"prompt": "q", "chosen": [turn(USER, "q"), turn(BOT, "a")], "rejected": [turn(USER, "q"), turn(BOT, "b")], "score_chosen": 8.0},
        "preference",
        [{"prompt": [turn(USER, "q")], "chosen": [turn(BOT, "a")], "rejected": [turn(BOT, "b")], "score_chosen": 8.0}],
    ),
    "orca": (
        {"system": "Be brief.", "question": "q", "chosen": "a", "rejected": "b"},
        "preference",
        [{"prompt": [turn("system", "Be brief."), turn(USER, "q")], "chosen": [turn(BOT, "a")], "rejected": [turn(BOT, "b")]}],
    ),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference", [{"prompt": "q", "chosen": "a", "rejected": "b"}]),
    "implicit-prompt": ({"chosen": "Say it: big", "rejected": "Say it: bad"}, "preference", [{"prompt": "Say it: ", "chosen": "big", "rejected": "bad"}]),
    "ranking": (
        {"prompt": "q", "answers": ["a", "b", "c"], "ranking": "B > A = C"},
        "preference",
        [{"prompt": "q", "chosen": "b", "rejected": "a"}, {"prompt": "q", "chosen": "b", "rejected": "c"}],
    ),
    "scores": (
        {"prompt": "q", "responses": ["a", "b"], "scores": ["1", "3"]},
        "preference",
        [{"prompt": "q", "chosen": "b", "rejected": "a", "score_chosen": 3.0, "score_rejected": 1.0, "margin": 2.0}],
    ),
    "unpaired": ({"prompt": "q", "completion": "a", "label": "False"}, "unpaired", [{"prompt": "q", "completion": "a", "label": False}]),
    "thumbs": ({"prompt": "q", "response": "a", "thumb": "👍"}, "unpaired", [{"prompt": "q", "completion": "a", "label": True}]),
    "messages": ({"messages": [turn(USER, "q"), turn(BOT, "a")]}, "sft", [{"messages": [turn(USER, "q"), turn(BOT, "a")]}]),
    "prompt-completion": ({"prompt": "q", "completion": "a"}, "sft", [{"prompt": "q", "completion": "a"}]),
    "question-answer": ({"Q": "질문", "A": "답", "label": "0"}, "sft", [{"prompt": "질문", "completion": "답"}]),
    "text": ({"text": "words"}, "sft", [{"text": "words"}]),
    "prompts": ({"prompt": "q", "test": "assert 1"}, "prompts", [{"prompt": "q", "test": "assert 1"}]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_shape_is_told_from_all_others_and_read(name: str) -> None:
    row, kind, expected = EXAMPLES[name]
    assert shapes.detect([{"nothing": None}, row]).name == name
    assert shapes.convert([row], kind) == expected  # type: ignore[arg-type]


def test_square_pairs_answers_to_one_question() -> None:
    rows = [{"question": "q", "response": text, "acceptable?": good} for text, good in (("a", 1), ("b", 0), ("c", 0))]
    assert [(r["chosen"], r["rejected"]) for r in shapes.convert(rows, "preference")] == [("a", "b"), ("a", "c")]
    assert [r["label"] for r in shapes.convert(rows, "unpaired")] == [True, False, False]


def test_a_tree_is_a_thread_along_the_best_answers() -> None:
    (thread,) = shapes.convert([TREE], "sft")
    assert [message["content"] for message in thread["messages"]] == ["q", "better", "and", "one"]


def test_instructions_for_a_chat() -> None:
    expected = [turn(USER, f"{LISTING['instruction']}\n\n{LISTING['input']}"), turn(BOT, LISTING["output"])]
    assert shapes.convert([LISTING], "sft", chat=True) == [{"messages": expected}]
    task = {"instruction": LISTING["instruction"], "instances": [{"input": LISTING["input"], "output": LISTING["output"]}]}
    assert shapes.convert([task], "sft", chat=True) == [{"messages": expected}]
    assert shapes.convert([task], "sft") == [formats.alpaca(LISTING)]


def test_pairs_serve_for_everything_that_asks_for_less() -> None:
    rows = [EXAMPLES["hh-rlhf"][0]]
    unpaired = shapes.convert(rows, "unpaired")
    assert [(row["completion"][0]["content"], row["label"]) for row in unpaired] == [("no", True), ("ok", False)]
    (example,) = shapes.convert(rows, "sft", chat=True)
    assert [message["content"] for message in example["messages"]] == ["hi", "yes?", "go", "no"]
    assert shapes.convert([example], "prompts") == [{"prompt": example["messages"][:-1]}]


def test_transcripts_that_part_before_the_answer_are_left_out() -> None:
    rows = [{"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}]
    with pytest.raises(InputError, match="None of 1 rows"):
        shapes.convert(rows, "preference")


@pytest.mark.parametrize(
    ("bad", "why"), [({"rejected": "a"}, "the same"), ({"chosen": " \n"}, "empty answer"), ({"rejected": [turn(BOT, "")]}, "empty")]
)
def test_rows_that_teach_nothing_are_counted_and_left_out(bad: dict[str, Any], why: str, caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert shapes.convert([good, good | bad], "preference") == [good]
    assert why in caplog.text and "1 ×" in caplog.text


def test_what_cannot_be_read_as_asked() -> None:
    with pytest.raises(InputError, match="alpaca can be read as sft, prompts, not as preference"):
        shapes.convert([LISTING], "preference")
    with pytest.raises(InputError, match=r"columns a, chosen .*hh-rlhf: rejected;"):
        shapes.detect([{"a": 1, "chosen": "x"}])
    with pytest.raises(InputError, match="Row 2 has no rejected"):
        shapes.convert([{"prompt": "q", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "a"}], "preference")
    with pytest.raises(InputError, match="no row"):
        shapes.detect([])
    with pytest.raises(InputError, match="Nobody is called 'cat'"):
        shapes.convert([{"conversations": [{"from": "cat", "value": "meow"}]}], "sft")


def test_messages_in_korean(korean: None) -> None:
    with pytest.raises(InputError, match="형식은"):
        shapes.convert([LISTING], "preference")


# ---------------------------------------------------------------- files


def test_files_are_read_by_their_ending(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "가", "rejected": "b"}, {"prompt": "q\u2028", "chosen": "c", "rejected": "d", "score_chosen": 1.5}]
    write_rows(tmp_path / "a.jsonl", rows[:1])
    write_rows(tmp_path / "b.jsonl", rows[1:])
    assert read_rows(tmp_path / "*.jsonl") == rows
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    assert read_rows(tmp_path / "c.json.gz", "preference") == rows
    (tmp_path / "d.csv").write_text("Q,A\n하나,둘\n", encoding="utf-8")
    assert read_rows(tmp_path / "d.csv", "sft") == [{"prompt": "하나", "completion": "둘"}]


@pytest.mark.parametrize(
    ("name", "text", "why"), [("a.jsonl", '{"a": 1}\n{', "line 2"), ("b.json", "[1]", "objects"), ("c.json.gz", "x", "read as json")]
)
def test_files_that_are_broken(tmp_path: Path, name: str, text: str, why: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=why):
        read_rows(tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file"):
        read_rows(tmp_path / "a.jsonl")
    with pytest.raises(InputError, match="No file matches"):
        read_rows(tmp_path / "*.jsonl")


def test_a_journal_survives_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"
    first = Journal(path)
    first.add("a", "x\u2028y")
    first.add("b", [1, None])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"key": "c", "val')
    second = Journal(path)
    assert second["a"] == "x\u2028y" and "b" in second and "c" not in second
    second.add("c", 3)
    assert Journal(path).kept == {"a": "x\u2028y", "b": [1, None], "c": 3}


def test_a_journal_is_not_written_over_other_files(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "q"}\n')
    with pytest.raises(FormatError, match="another one"):
        Journal(tmp_path / "data.jsonl")
