"""Starters that write: rows of the translator and of SmolLM2's adapters from tiny data, prefixes, and the check of JSON calls."""

from __future__ import annotations

import csv
import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent.parent / "recipes" / "starters"
if not HERE.is_dir():
    pytest.skip("the recipes are not part of this installation", allow_module_level=True)
sys.path.insert(0, str(HERE))

import generation  # noqa: E402
import generation_scores  # noqa: E402
import translation  # noqa: E402
import translation_scores  # noqa: E402
from measure import read_rows  # noqa: E402

from hunmin.align.recipe import read  # noqa: E402

NUMBERS = "하나 둘 셋 넷 다섯 여섯 일곱 여덟 아홉 열".split()
WORDS = "one two three four five six seven eight nine ten".split()


def pack(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw data of the kinds that the starters read, small: 100 sentences of each."""
    monkeypatch.setattr(translation, "HELD", {"tatoeba": 10, "docs": 10, "requests": 10, "chat": 10})
    folder = tmp_path / "raw" / "ko_en_parallel"
    pairs = [f"{a} {b} 본다.\tI see {x} and {y}." for a, x in zip(NUMBERS, WORDS, strict=True) for b, y in zip(NUMBERS, WORDS, strict=True)]
    for name in ("news_dev", "news_test", "jhe_dev", "jhe_eval"):
        own = [f"{name} {line}".replace("\t", f"\t{name} ") for line in pairs[:20]]
        pack(folder / f"{name}.tsv.gz", ["ko\ten", *own, "예:\tExample:"])
    pack(folder / "tatoeba.tsv.gz", ["ko\ten\tby", *(f"{line}\tsomeone" for line in pairs)])
    docs = [f"문서 {line}".replace("\t", "\tManual: ") + f"\tpage{i // 5}" for i, line in enumerate(pairs)]
    pack(folder / "python_docs.tsv.gz", ["ko\ten\tpage", *docs, "예:\tExample:\tpage3", "예:\tExample:\tpage4"])
    pack(
        tmp_path / "raw" / "warnikchow_ko" / "sae4k_v1.tsv.gz",
        [f"{a} {b} 알려줘\t{a} {b}\t0" for a in NUMBERS for b in NUMBERS]
        + [f"{NUMBERS[0]} {NUMBERS[1]} 뭐니\t{NUMBERS[0]} {NUMBERS[1]}\t0"],
    )
    small = tmp_path / "raw" / "songys_chatbot"
    small.mkdir()
    with (small / "ChatbotData.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Q", "A", "label"])
        table.writerows([[f"{a} {b} 어때", "좋아요.", 0] for a in NUMBERS for b in NUMBERS])
    return tmp_path / "raw"


# ---------------------------------------------------------------- the translator


def test_no_test_sentence_of_the_translator_is_in_training(raw: Path, tmp_path: Path) -> None:
    translation.prepare(raw, tmp_path / "out")
    test, train = read_rows(tmp_path / "out" / "test.jsonl"), translation.known(tmp_path / "out")
    assert {row["domain"] for row in test} == {
        *(f"{name}-{way}" for name in ("news", "jhe", "tatoeba", "docs") for way in ("ko-en", "en-ko")),
        "requests",
        "chat",
    }
    strip = translation.without_prefix
    learned = {translation.plain(text) for row in train for text in (strip(row["text"]), row["target"])}
    for row in test:
        assert translation.plain(strip(row["text"])) not in learned
        if row["domain"] != "chat":  # replies recur
            assert translation.plain(row["target"]) not in learned
    assert sum(row["domain"] == "tatoeba-ko-en" for row in test) == 10


def test_the_first_token_says_the_task(raw: Path, tmp_path: Path) -> None:
    from hunmin.text import AutoTokenizer

    translation.prepare(raw, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out" / "tokenizer"))
    for row in translation.known(tmp_path / "out") + read_rows(tmp_path / "out" / "test.jsonl"):
        first = tokenizer.convert_ids_to_tokens(tokenizer(row["text"])["input_ids"])[0]
        assert first in translation.PREFIXES
        assert translation.without_prefix(row["text"]) == row["text"][len(first) + 1 :]
        assert (first == translation.KOREAN) == ("본다" in row["target"] or row["target"] == "예:")
    assert translation.without_prefix("뜻 없는 말") == "뜻 없는 말"


def test_held_out_rows_come_in_whole_groups_without_what_others_say() -> None:
    rows = [(f"글 {i}", f"text {i}") for i in range(30)] + [("같은 말", "the same"), ("같은 말", "The same!")]
    train, test = translation.held_out(rows, 8, lambda i: str(i % 16))
    assert len(test) == 8
    assert not {translation.plain(a) for a, _ in train} & {translation.plain(a) for a, _ in test}
    assert ("같은 말", "the same") not in test  # it stands in two groups


def test_pipelines_put_the_prefixes_of_the_configuration(raw: Path, tmp_path: Path) -> None:
    from hunmin import pipeline
    from hunmin.auto import AutoModelForSeq2SeqLM
    from hunmin.hub.config import Config
    from hunmin.text import AutoTokenizer

    translation.prepare(raw, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "out" / "tokenizer"))
    small = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    wide = {"d_model": 16, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 64, "vocab_size": len(tokenizer)}
    AutoModelForSeq2SeqLM.from_config(Config("marian", **small, **wide, **ids)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    translation.settle(tmp_path / "model")
    tasks = {
        "translation_ko_to_en": translation.ENGLISH,
        "translation_en_to_ko": translation.KOREAN,
        "summarization": translation.SUMMARY,
        "text2text-generation": translation.REPLY,
    }
    for task, prefix in tasks.items():
        made = pipeline(task, str(tmp_path / "model"))
        tokens = tokenizer.convert_ids_to_tokens(made.preprocess("하나 둘 본다.")["input_ids"])
        assert tokens[0] == prefix
        assert [token for token in tokens if token in translation.PREFIXES] == [prefix]
        assert isinstance(next(iter(made("하나", max_new_tokens=3)[0].values())), str)


def test_scores_of_a_corpus_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    said, true = ["I see one and two.", "I see a cat here."] * 3, ["I see one and two.", "We saw a cat there."] * 3
    value, low, high = translation_scores.corpus("chrF", said, true, False)
    assert value == pytest.approx(sacrebleu.corpus_chrf(said, [true]).score / 100)
    assert low <= value <= high
    assert translation_scores.corpus("BLEU", said, true, False)[0] == pytest.approx(sacrebleu.corpus_bleu(said, [true]).score / 100)


# ---------------------------------------------------------------- adapters for SmolLM2


@pytest.mark.parametrize("starter", generation.STARTERS, ids=lambda one: one.name)
def test_recipes_of_adapters_are_read(starter: Any) -> None:
    checked = read("sft", HERE / starter.recipe)
    assert checked.recipe.output == f"runs/starters/{starter.name}"
    assert checked.recipe.data.train == f"runs/starters/data/{starter.name}/train.jsonl"
    assert checked.recipe.model == starter.base
    assert checked.recipe.adapter is not None
    assert not checked.recipe.adapter.merge


def conversation(i: int) -> dict[str, Any]:
    function = {"name": f"find_{WORDS[i % 10]}", "description": "Finds", "parameters": {"properties": {"n": {"type": "integer"}}}}
    call = {"name": function["name"], "arguments": {"n": i}}
    turns = [("human", f"Hello {i}"), ("gpt", "Yes?"), ("human", f"Find {i}"), ("function_call", json.dumps(call)), ("observation", "{}")]
    return {"tools": json.dumps([function]), "conversations": [{"from": a, "value": b} for a, b in turns]}


def test_calls_are_asked_for_with_other_functions_and_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "CALLS_HELD", 8)
    path = tmp_path / "raw" / "sft_preference_en" / "glaive_toolcall_en_demo.json.gz"
    pack(path, [json.dumps([conversation(i) for i in range(30)] + [{"tools": "", "conversations": []}])])
    generation.tools(tmp_path / "raw", tmp_path / "out")
    train, test = read_rows(tmp_path / "out" / "train.jsonl"), read_rows(tmp_path / "out" / "test.jsonl")
    assert (len(train), len(test)) == (44, 8)
    assert not {row["prompt"][-1]["content"] for row in train} & {row["messages"][-1]["content"] for row in test}
    for row in test:
        assert row["tool"] in row["functions"]
        assert len({one["name"] for one in row["functions"]}) == 3
        assert row["messages"][0]["role"] == "system"
        assert f'"{row["tool"]["name"]}"' in row["messages"][0]["content"]
    assert generation_scores.called(train[0]["completion"][0]["content"]) is not None


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', True),
        (' {"name": "f", "arguments": {}}\n', True),
        ('Sure! {"name": "f", "arguments": {}}', False),
        ('{"name": "f"}', False),
        ('{"name": "f", "arguments": "a"}', False),
        ('["f"]', False),
        ('{"name": "f", "arguments": {', False),
    ],
)
def test_a_call_is_a_json_object_with_a_name_and_arguments(text: str, right: bool) -> None:
    assert (generation_scores.called(text) is not None) is right


def test_summaries_hold_out_papers_and_are_asked_as_the_pipeline_asks(tmp_path: Path) -> None:
    from hunmin.pipelines.text2text import PROMPTS

    def paper(i: int) -> str:
        return json.dumps(
            {"source": [f"We study {i}.", "It works."], "target": [f"A study of the number {i}, which shows that it works well."]}
        )

    pack(tmp_path / "raw" / "scitldr_a" / "train.jsonl.gz", [paper(i) for i in range(20)])
    pack(tmp_path / "raw" / "scitldr_a" / "test.jsonl.gz", [paper(i) for i in range(15, 25)])
    long = "He was born in Seoul in 1970 and went to school there until he was eighteen years old , when he left ."
    pack(tmp_path / "raw" / "wiki_split" / "tune.tsv.gz", [f"{long}\tHe was born in Seoul . <::::> He left it ."])
    generation.summaries(tmp_path / "raw", tmp_path / "out")
    train, test = read_rows(tmp_path / "out" / "train.jsonl"), read_rows(tmp_path / "out" / "test.jsonl")
    asked = {row["prompt"][0]["content"] for row in train}
    assert len(train) == 16
    assert not {PROMPTS["summarization"].format(text=row["text"]) for row in test} & asked
    assert PROMPTS["summarization"].format(text="He was born in Seoul. He left it.") in asked


def test_yes_and_no_come_equally_often() -> None:
    rows = [{"answer": "yes"}] * 9 + [{"answer": "no"}] * 3
    assert [row["answer"] for row in generation.balanced(rows, 8)] == ["yes"] * 3 + ["no"] * 3


@pytest.mark.parametrize(("text", "right"), [("We show it.", True), ("We show it. It works.", False), ("We show", False), ("", False)])
def test_one_short_sentence(text: str, right: bool) -> None:
    assert generation_scores.brief(text) is right
