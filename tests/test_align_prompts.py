"""Rows as people write them, as tokens with labels on what is learnt."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import hunmin
from hunmin import InputError
from hunmin.align.prompts import Prompts, Split, formatted, implicit, template_of
from tests.align_cases import ALPACA, CHATML, CHATS, PAIRS, folder
from tests.text_kinds import KINDS

GENERATION = CHATML.replace(
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}",
    "{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{{ '\n' }}{% else %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endif %}",
)
TALK = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "world!"},
    {"role": "user", "content": "훈민정음은"},
    {"role": "assistant", "content": "소리라는 뜻이다."},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return hunmin.AutoTokenizer.from_pretrained(folder(tmp_path_factory.mktemp("prompts") / "model"))


def learnt(tokenizer: Any, row: dict[str, Any], **how: Any) -> tuple[str, str]:
    """The text of a row, and the part of it that is learnt."""
    options = {name: how.pop(name) for name in ("field", "completion_only", "assistant") if name in how}
    made = Prompts(tokenizer, **how).learnt(row, **options)
    assert made is not None and len(made["input_ids"]) == len(made["labels"])
    assert all(label in (-100, i) for i, label in zip(made["input_ids"], made["labels"], strict=True))
    return tokenizer.decode(made["input_ids"]), tokenizer.decode([i for i in made["labels"] if i != -100])


def test_texts_are_learnt_whole_and_ended_once(tokenizer: Any) -> None:
    assert learnt(tokenizer, {"text": "Hello world!"}) == ("Hello world!<|endoftext|>",) * 2
    assert learnt(tokenizer, {"text": "Hello<|endoftext|>"}) == ("Hello<|endoftext|>",) * 2
    assert learnt(tokenizer, {"body": "Hello"}, field="body")[0] == "Hello<|endoftext|>"


def test_answers_alone_are_learnt(tokenizer: Any) -> None:
    row = {"prompt": "Who jumps?", "completion": " The fox."}
    assert learnt(tokenizer, row) == ("Who jumps? The fox.<|endoftext|>", " The fox.<|endoftext|>")
    assert learnt(tokenizer, row, completion_only=False)[1] == "Who jumps? The fox.<|endoftext|>"


def test_alpaca_rows(tokenizer: Any) -> None:
    whole, answer = learnt(tokenizer, ALPACA[0])
    assert "### Input:\nIt is quick and brown.\n\n### Response:\nA fox.<|endoftext|>" in whole and answer == "A fox.<|endoftext|>"
    whole, answer = learnt(tokenizer, ALPACA[1])
    assert "### Input" not in whole and answer == "Hello world!<|endoftext|>"
    assert learnt(tokenizer, {**ALPACA[1], "text": "as it is"})[1] == "as it is<|endoftext|>"  # the column of listing 4.1


@pytest.mark.parametrize("template", [None, GENERATION])
def test_only_the_assistant_is_learnt(template: str | None, tokenizer: Any) -> None:
    whole, answer = learnt(tokenizer, {"messages": TALK}, assistant=True, template=template)
    assert answer == "world!<|im_end|>소리라는 뜻이다.<|im_end|>"
    assert whole == tokenizer.apply_chat_template(TALK, tokenize=False)
    assert learnt(tokenizer, {"messages": TALK})[1] == whole


def test_a_prompt_of_messages_ends_where_the_assistant_begins(tokenizer: Any) -> None:
    row = {"prompt": TALK[:1], "completion": TALK[1:2]}
    assert learnt(tokenizer, row)[1] == "world!<|im_end|>\n"
    assert learnt(tokenizer, {**row, "completion": "world!"})[1] == "world!<|im_end|>\n"
    assert learnt(tokenizer, {"prompt": TALK[:3], "completion": TALK[3:]}, assistant=True)[1].startswith("world!")


def test_rows_of_tokens_and_their_masks(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer, max_length=3)
    assert prompts.learnt({"input_ids": [5, 6, 7, 8]}) == {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}
    assert prompts.learnt({"input_ids": [5, 6], "completion_mask": [0, 1]}) == {"input_ids": [5, 6], "labels": [-100, 6]}
    assert prompts.learnt({"input_ids": [5, 6], "labels": [-100, 6]}) == {"input_ids": [5, 6], "labels": [-100, 6]}
    assert prompts.learnt({"input_ids": [5, 6, 7, 8], "labels": [-100, -100, -100, 8]}) is None
    assert Prompts(tokenizer, 3, keep_end=True).learnt({"input_ids": [5, 6, 7, 8]}) == {"input_ids": [6, 7, 8], "labels": [6, 7, 8]}


@pytest.mark.parametrize(
    ("limits", "prompt", "answer"),
    [
        ({}, [1, 2, 3, 4], [5, 6, 7]),
        ({"max_length": 5}, [1, 2, 3, 4], [5]),
        ({"max_length": 5, "keep_end": True}, [3, 4], [5, 6, 7]),
        ({"max_prompt_length": 2}, [3, 4], [5, 6, 7]),
        ({"max_completion_length": 1}, [1, 2, 3, 4], [5]),
        ({"max_prompt_length": 2, "max_length": 4}, [3, 4], [5, 6]),
    ],
)
def test_limits(limits: dict[str, Any], prompt: list[int], answer: list[int]) -> None:
    assert Prompts(None, **limits).fit(Split([1, 2, 3, 4], [5, 6, 7])) == (prompt, answer)


@pytest.mark.parametrize("limits", [{"max_length": 4}, {"max_length": 3, "keep_end": True}])
def test_a_prompt_that_leaves_no_room_is_noted(limits: dict[str, Any]) -> None:
    prompts = Prompts(None, **limits)
    prompts.left_out.rows = 1
    assert prompts.fit(Split([1, 2, 3, 4], [5, 6, 7])) is None
    assert prompts.left_out.found == {"too long": [0]}


def test_pairs_and_implicit_prompts(tokenizer: Any) -> None:
    prompts = Prompts(tokenizer)
    for row, chat in zip(PAIRS, CHATS, strict=True):
        for given in (row, chat):
            both = prompts.pair(given)
            assert both is not None
            assert both["chosen"].prompt == both["rejected"].prompt
            assert row["chosen"].strip() in tokenizer.decode(both["chosen"].answer)
        whole = {side: row["prompt"] + row[side] for side in ("chosen", "rejected")}
        assert prompts.pair(whole) == prompts.pair(dict(zip(("prompt", "chosen", "rejected"), implicit(*whole.values()), strict=True)))
    assert implicit("A cat sat", "A car sat") == ("A", " cat sat", " car sat")
    assert implicit("\n\nHuman: Hi\n\nAssistant: Yes", "\n\nHuman: Hi\n\nAssistant: No") == ("\n\nHuman: Hi\n\nAssistant:", " Yes", " No")
    talks = [*TALK[:1], {"role": "assistant", "content": "a"}], [*TALK[:1], {"role": "assistant", "content": "b"}]
    assert implicit(*talks)[0] == TALK[:1]


def test_a_start_token_stays_and_an_end_token_of_the_prompt_goes(tmp_path: Path) -> None:
    bos = hunmin.AutoTokenizer.from_pretrained(KINDS["roberta"](tmp_path / "roberta"))  # <s> text </s>
    both = Prompts(bos).split("Hello", " world!")
    assert bos.decode(both.prompt) == "<s>Hello" and bos.decode(both.answer) == " world!</s>"


def test_formatting_functions_of_both_generations() -> None:
    row = {"q": "Why", "a": "So"}
    assert formatted(row, lambda r: f"{r['q']}? {r['a']}.") == "Why? So."

    def taught(example: dict[str, list[str]]) -> list[str]:
        return [f"{example['q'][i]}? {example['a'][i]}." for i in range(len(example["q"]))]

    assert formatted(row, taught) == "Why? So."
    with pytest.raises(InputError, match="formatting_func returned 3"):
        formatted(row, lambda _: 3)


def test_what_cannot_be_learnt_is_counted(tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    prompts = Prompts(tokenizer, max_length=8)
    good = {"prompt": "a", "chosen": " b", "rejected": " c"}
    for row in (good, good | {"rejected": " b"}, good | {"chosen": ""}, good | {"prompt": "Hello " * 9}):
        prompts.pair(row)
    with caplog.at_level(logging.WARNING):
        prompts.left_out.tell()
    assert "3 of 4 rows were left out" in caplog.text and "identical" in caplog.text and "first: 1" in caplog.text
    assert prompts.left_out.found == {"equal": [1], "no answer": [2], "too long": [3]}


@pytest.mark.parametrize("row", [{}, {"prompt": "a"}, {"prompt": ["a"], "completion": "b"}, {"messages": [{"content": "a"}]}, {"text": 3}])
def test_rows_of_another_form_are_refused(row: dict[str, Any], tokenizer: Any) -> None:
    with pytest.raises(InputError, match="Rows need text"):
        Prompts(tokenizer).learnt(row)


def test_templates_from_files_and_their_errors(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x", encoding="utf-8")
    assert template_of(str(tmp_path)) == template_of(str(tmp_path / "chat_template.jinja")) == "x"
    assert template_of(None) is None
    forgets = "{% for m in messages %}{{ m['content'] if loop.last else '' }}{% endfor %}"
    with pytest.raises(InputError, match="does not say what the assistant"):
        Prompts(tokenizer, template=forgets).learnt({"messages": TALK}, assistant=True)
    with pytest.raises(InputError, match="is no token here"):
        Prompts(tokenizer, end="<|nothing|>").learnt({"text": "Hello"})
    tokenizer = hunmin.AutoTokenizer.from_pretrained(KINDS["gpt2"](tmp_path / "plain"))
    with pytest.raises(InputError, match="no default chat template"):
        Prompts(tokenizer).learnt({"messages": TALK})
