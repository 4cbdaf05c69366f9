"""The text listings that the course teaches, as written: only the library's name in the import line is replaced.

Small random models stand where a listing leaves the choice to the task, or names a Hub id, so results are checked by form and not by wording.
"""

from __future__ import annotations

import ast
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hunmin import AutoTokenizer, pipelines
from hunmin.errors import SourceError, warn_once
from hunmin.hub import files

# task that has a default: the tiny model that stands for it
DEFAULTS = {
    "text-classification": "bert-topics",
    "zero-shot-classification": "roberta-nli",
    "fill-mask": "roberta-mask",
    "token-classification": "bert-ner",
    "question-answering": "bert-qa",
    "summarization": "bart",
    "translation": "t5",
    "feature-extraction": "bert",
}
PROMPT, FREE = "I skipped my breakfast and now I'm starving. I've gotta", "Finally my summer session is over. I am free."
IDS = {"HuggingFaceTB/SmolLM2-360M": "words", "gpt2": "words", "Helsinki-NLP/opus-mt-ko-en": "t5"}

L4 = f"""
from transformers import pipeline
classifier = pipeline("sentiment-analysis")
classifier("{FREE}")
"""
L5 = f"""
from transformers import pipeline
classifier = pipeline("sentiment-analysis")
classifier(
["{FREE}", "I'm starving."]
)
"""
L6 = """
from transformers import pipeline
classifier = pipeline("zero-shot-classification")
classifier(
"I learned 'Automata and Formal Languages' from summer session.",
candidate_labels=["education", "politics", "business"],
)
"""
L7 = f"""
from transformers import pipeline
generator = pipeline("text-generation")
generator("{PROMPT}")
"""
L8 = f"""
from transformers import pipeline
generator = pipeline("text-generation", num_return_sequences=2, max_length=15)
generator("{PROMPT}")
"""
L9_BUILT = """
from transformers import pipeline
generator = pipeline("text-generation", num_return_sequences=2, max_length=15, model="HuggingFaceTB/SmolLM2-360M")
generator("텍스트1")
"""
L9_CALLED = """
from transformers import pipeline
generator = pipeline("text-generation", model="HuggingFaceTB/SmolLM2-360M")
generator(
"텍스트1",
max_length=10,
num_return_sequences=2,
)
"""
L10 = """
from transformers import pipeline
unmasker = pipeline("fill-mask")
unmasker("I'm having an grande-sized iced americano and some <mask> at starbucks.", top_k=2)
"""
L11 = """
from transformers import pipeline
ner = pipeline("ner", grouped_entities=True)
ner("My name is Mia and I go to Ewha Womans University in Sinchon.")
"""
L12 = """
from transformers import pipeline
question_answerer = pipeline("question-answering")
question_answerer(
question="Where am I?",
context="I'm having a tomato basil bagel at starbucks in Sinchon.",
)
"""
L13 = '''
from transformers import pipeline
summarizer = pipeline("summarization")
summarizer(
"""
To cook Jjapaghetti (also spelled Chapagetti), you'll need the instant noodle package, and optionally, some water and a pan.
First, boil water in a pot.
Add the noodles and vegetable flakes from the Jjapaghetti package.
Cook until the noodles are soft, usually around 4-5 minutes.
Drain most of the water, leaving about 1/4 cup.
Add the sauce powder and oil from the Jjapaghetti packets, and stir everything together until the noodles are well-coated.
Serve immediately. You can customize it with a fried egg, or other toppings if desired.
"""
)
'''
L14 = """
from transformers import pipeline
translator = pipeline("translation", model="Helsinki-NLP/opus-mt-ko-en")
translator("누군가 방금 스타벅스 계단을 올라오다가 음료를 쏟았다.")
"""
L_S4B = """
from transformers import pipeline

classifier = pipeline("text-classification")
text = "나는 자연어 처리를 위해 트랜스포머를 사용하는 것을 좋아합니다!"
result = classifier(text)

print(result)
"""
L_S4C = """
from transformers import pipeline
ner = pipeline("ner", grouped_entities=True)
text = "The Transformers library is a powerful tool for natural language processing that are used by developers."
entities = ner(text)
print(entities)
"""
L_S4D = """
from transformers import pipeline
generator = pipeline("text-generation", model="gpt2")

prompt = "한때 멀고 먼 곳에서,"
generated_text = generator(prompt, max_length=50, num_return_sequences=1)

print(generated_text)
"""


@pytest.fixture(scope="module")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models, and "words": a GPT-2 whose tokens are about as long as those of a real one."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers import models as kinds

    place = tmp_path_factory.mktemp("listings")
    shutil.copytree(models, place, dirs_exist_ok=True)
    shutil.copytree(models / "gpt2", place / "words")
    backend = Tokenizer(kinds.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    room = AutoTokenizer.from_pretrained(models / "gpt2").vocab_size
    special, letters = ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        [PROMPT, "텍스트1"] * 4, trainers.BpeTrainer(vocab_size=room, special_tokens=special, initial_alphabet=letters, show_progress=False)
    )
    backend.save(str(place / "words" / "tokenizer.json"))
    return place


@pytest.fixture
def run(folders: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Executes a listing; returns its last value and the names that it bound."""
    resolve = files.resolve
    ids = {name: folders / local for name, local in IDS.items()}
    ids |= {wanted: folders / DEFAULTS[task] for task, (wanted, _) in pipelines.TAUGHT.items() if task in DEFAULTS}
    ids |= {"starter-en/nli": folders / "roberta-nli", "starter-en/chat": folders / "words"}

    def local(source: Any, **options: Any) -> Any:
        if isinstance(source, files.Source):
            return source
        if source not in ids:
            raise SourceError(f"{source} is not here")
        options.pop("revision", None)
        return resolve(ids[source], **options)

    monkeypatch.setattr("hunmin.hub.files.resolve", local)
    monkeypatch.setattr("hunmin.auto.resolve", local)
    warn_once.cache_clear()
    caplog.set_level(logging.WARNING, "hunmin")

    def execute(listing: str) -> tuple[Any, dict[str, Any]]:
        assert listing.count("from transformers import") == 1
        tree = ast.parse(listing.replace("from transformers import", "from hunmin import"))
        last, names = tree.body.pop(), dict[str, Any]()
        exec(compile(tree, "listing", "exec"), names)
        assert isinstance(last, ast.Expr)
        return eval(compile(ast.Expression(last.value), "listing", "eval"), names), names

    return execute


def is_label(row: Any, names: tuple[str, ...] = ("sports", "politics", "weather")) -> bool:
    return set(row) == {"label", "score"} and row["label"] in names and type(row["score"]) is float and 0 < row["score"] < 1


def test_one_text_gives_a_list_of_one(run: Any) -> None:
    result, _ = run(L4)
    assert isinstance(result, list) and len(result) == 1 and is_label(result[0])


def test_a_list_gives_a_list(run: Any) -> None:
    result, _ = run(L5)
    alone, _ = run(L4)
    assert isinstance(result, list) and len(result) == 2 and all(map(is_label, result))
    assert result[0]["label"] == alone[0]["label"] and result[0]["score"] == pytest.approx(alone[0]["score"], rel=1e-5)


def test_zero_shot(run: Any) -> None:
    result, _ = run(L6)
    assert list(result) == ["sequence", "labels", "scores"]
    assert result["sequence"] == "I learned 'Automata and Formal Languages' from summer session."
    assert sorted(result["labels"]) == ["business", "education", "politics"]
    assert result["scores"] == sorted(result["scores"], reverse=True) and sum(result["scores"]) == pytest.approx(1, abs=1e-6)


def test_a_missing_model_is_said(run: Any, caplog: pytest.LogCaptureFixture) -> None:
    run(L6)
    run(L6)
    assert [m for m in caplog.messages if "No model was supplied" in m] == [
        next(m for m in caplog.messages if "zero-shot-classification" in m)
    ]


def test_generated_text(run: Any) -> None:
    result, _ = run(L7)
    assert isinstance(result, list) and len(result) == 1 and list(result[0]) == ["generated_text"]
    assert result[0]["generated_text"].startswith(PROMPT) and len(result[0]["generated_text"]) > len(PROMPT)


def test_generated_text_with_defaults(run: Any) -> None:
    """max_length=15 counts the prompt, as the text beside the listing says."""
    result, names = run(L8)
    tokenizer = names["generator"].tokenizer
    assert len(tokenizer(PROMPT)["input_ids"]) < 15
    assert len(result) == 2 and all(list(row) == ["generated_text"] and row["generated_text"].startswith(PROMPT) for row in result)
    assert all(len(tokenizer(row["generated_text"])["input_ids"]) <= 16 for row in result)


@pytest.mark.parametrize("listing", [L9_BUILT, L9_CALLED], ids=["built", "called"])
def test_options_at_construction_and_at_a_call(run: Any, listing: str) -> None:
    result, _ = run(listing)
    assert len(result) == 2 and all(list(row) == ["generated_text"] and row["generated_text"].startswith("텍스트1") for row in result)


def test_filled_masks(run: Any) -> None:
    result, names = run(L10)
    assert len(result) == 2 and all(list(row) == ["score", "token", "token_str", "sequence"] for row in result)
    assert result[0]["score"] >= result[1]["score"] and all(type(row["token"]) is int for row in result)
    for row in result:
        assert row["token_str"] == names["unmasker"].tokenizer.decode([row["token"]])
        assert row["sequence"].startswith("I'm having an grande-sized iced americano and some")
        assert row["sequence"].endswith(" at starbucks.") and "<mask>" not in row["sequence"]


@pytest.mark.parametrize("listing", [L11, L_S4C], ids=["L11", "L-S4c"])
def test_grouped_entities(run: Any, listing: str, capsys: pytest.CaptureFixture[str]) -> None:
    result, names = run(listing)
    if result is None:  # the listing prints them
        result = names["entities"]
        assert capsys.readouterr().out.startswith("[")
    text = names.get("text", "My name is Mia and I go to Ewha Womans University in Sinchon.")
    assert isinstance(result, list) and result
    for row in result:
        assert list(row) == ["entity_group", "score", "word", "start", "end"]
        assert row["entity_group"] in ("PER", "LOC") and isinstance(row["score"], np.float32)
        assert (type(row["start"]), type(row["end"])) == (int, int)
        assert row["word"].lower().replace("##", "").replace(" ", "") == text[row["start"] : row["end"]].lower().replace(" ", "")


def test_answers(run: Any) -> None:
    result, _ = run(L12)
    context = "I'm having a tomato basil bagel at starbucks in Sinchon."
    assert list(result) == ["score", "start", "end", "answer"] and type(result["score"]) is float
    assert context[result["start"] : result["end"]] == result["answer"] != ""


def test_summaries(run: Any) -> None:
    result, names = run(L13)
    assert isinstance(result, list) and len(result) == 1 and list(result[0]) == ["summary_text"] and result[0]["summary_text"]
    shorter = names["summarizer"]("Drain most of the water.", max_length=8, min_length=2)
    assert list(shorter[0]) == ["summary_text"]


def test_translations(run: Any) -> None:
    result, names = run(L14)
    assert isinstance(result, list) and len(result) == 1 and list(result[0]) == ["translation_text"] and result[0]["translation_text"]
    assert list(names["translator"]("음료를 쏟았다.", max_length=8, min_length=2)[0]) == ["translation_text"]


def test_a_text_in_a_language_that_the_model_does_not_know(run: Any, caplog: pytest.LogCaptureFixture, models: Path) -> None:
    """Listing L-S4b: Korean for an English model. The answer comes, in the taught form, and with a warning."""
    _, names = run(L_S4B)
    assert len(names["result"]) == 1 and is_label(names["result"][0])
    assert sum("was not made for this text" in message for message in caplog.messages) == 1


def test_a_korean_prompt_for_a_byte_level_model(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, names = run(L_S4D)
    result = names["generated_text"]
    assert len(result) == 1 and list(result[0]) == ["generated_text"] and result[0]["generated_text"].startswith("한때 멀고 먼 곳에서,")
    assert capsys.readouterr().out.startswith("[{'generated_text': '한때")
