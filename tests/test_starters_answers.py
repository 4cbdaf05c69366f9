"""Every text task answers, in English and in Korean, with the models that are installed or come as packages: real inputs, real answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from hunmin import AutoTokenizer, pipeline, starters

pytestmark = pytest.mark.weights

CARD = "My card was stolen in the street yesterday."
MIA = "My name is Mia and I study in Seoul."


def ask(task: str, *inputs: Any, model: str = "starter", **options: Any) -> Any:
    return pipeline(task, model=model)(*inputs, **options)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("What a lovely film, I enjoyed every minute of it!", "POSITIVE"),
        ("I hated this. What a waste of time.", "NEGATIVE"),
        ("정말 재미있게 봤어요. 배우들 연기도 최고!", "POSITIVE"),
        ("지루하고 돈이 아까운 영화", "NEGATIVE"),
    ],
)
def test_sentiment(text: str, label: str) -> None:
    assert ask("sentiment-analysis", text)[0]["label"] == label


@pytest.mark.parametrize(
    ("name", "text", "label"),
    [
        ("en/banking77", CARD, "lost_or_stolen_card"),
        ("en/clinc150", "will it rain tomorrow in boston", "weather"),
        ("en/spam", "WINNER!! Claim your free prize now, call 09061701461", "spam"),
        ("en/spam", "See you at six then", "ham"),
        ("en/emotion", "Thank you so much!", "gratitude"),
        ("en/emotion", "I'm so sorry, I forgot your birthday.", "remorse"),
        ("en/grammar", "The dogs is hungry.", "unacceptable"),
        ("en/grammar", "The dogs are hungry.", "acceptable"),
        ("ko/topic", "손흥민 두 골 폭발…토트넘 3-1 승리", "스포츠"),
        ("ko/topic", "코스피 2% 급락…환율 연중 최고치", "경제"),
        ("ko/hate", "오늘 드라마 정말 재미있게 봤습니다", "none"),
        ("ko/intent", "내일 비 오나요", "question"),
        ("ko/intent", "불 좀 꺼 줘", "command"),
    ],
)
def test_labels(name: str, text: str, label: str) -> None:
    assert ask("text-classification", text, model=f"starter-{name}")[0]["label"] == label


@pytest.mark.parametrize(
    ("text", "labels", "first"),
    [
        ("The goalkeeper saved the penalty in the last minute.", ["sports", "politics", "cooking"], "sports"),
        ("Parliament passed the new tax law on Monday.", ["sports", "politics", "cooking"], "politics"),
        ("류현진, 시즌 10승 달성…다저스 승리", ["스포츠", "정치", "경제"], "스포츠"),
        ("여야, 예산안 놓고 국회에서 충돌", ["스포츠", "정치", "날씨"], "정치"),
    ],
)
def test_zero_shot(text: str, labels: list[str], first: str) -> None:
    assert ask("zero-shot-classification", text, candidate_labels=labels)["labels"][0] == first


@pytest.mark.parametrize(
    ("text", "found"),
    [(MIA, {("Mia", "PER"), ("Seoul", "LOC")}), ("배우 송강호 씨가 부산 영화제에 왔다.", {("송강호", "PS"), ("부산", "LC")})],
)
def test_names(text: str, found: set[tuple[str, str]]) -> None:
    answers = ask("ner", text, aggregation_strategy="simple")
    assert {(text[row["start"] : row["end"]], row["entity_group"]) for row in answers} == found


@pytest.mark.parametrize(
    ("question", "context", "answer"),
    [
        ("Where does Mia study?", MIA, "Seoul"),
        ("When was the bridge built?", "The bridge over the river was built in 1894 by a railway company.", "1894"),
    ],
)
def test_answers(question: str, context: str, answer: str) -> None:
    for model in ("starter", "starter-en/answers"):
        assert answer in ask("question-answering", model=model, question=question, context=context)["answer"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [("한라산의 높이는?", "1947미터"), ("제주도가 세계자연유산으로 등재된 해는?", "2007년"), ("측우기를 만든 사람은 누구인가?", "장영실")],
)
def test_korean_answers(question: str, answer: str) -> None:
    jeju = "제주도는 대한민국에서 가장 큰 섬이며, 한라산의 높이는 1947미터이다. 2007년 유네스코 세계자연유산으로 등재되었다."
    king = "세종대왕은 1443년에 훈민정음을 만들었다. 장영실은 세종의 명으로 측우기를 만들었다."
    asked = {"question": question, "context": king if answer == "장영실" else jeju}
    said = ask("question-answering", asked)
    assert said["answer"] == answer == asked["context"][said["start"] : said["end"]]


@pytest.mark.parametrize(
    ("text", "words"), [("A man is riding a [MASK].", {"bike", "bicycle"}), ("어제 본 [MASK] 정말 재미있었다.", {"영화", "드라마"})]
)
def test_masked_words(text: str, words: set[str]) -> None:
    assert {row["token_str"] for row in ask("fill-mask", text)} & words


def test_vectors_and_likeness() -> None:
    english = ask("sentence-similarity", {"source_sentence": "A cat sleeps.", "sentences": ["A kitten naps.", "Stocks fell."]})
    korean = ask("sentence-similarity", {"source_sentence": "비가 많이 온다.", "sentences": ["비가 많이 내린다.", "은행에서 돈을 찾았다."]})
    assert english[0] > 0.5 > english[1] and korean[0] > korean[1] + 0.2
    assert len(ask("feature-extraction", "A sentence.", pooling="auto")) == 384
    assert len(ask("feature-extraction", "문장 하나.", pooling="auto")) == 256


def test_rerank() -> None:
    documents = ["The Seine is in Paris.", "The Han flows through Seoul."]
    assert ask("rerank", {"query": "What flows through Seoul?", "documents": documents})[0]["index"] == 1
    korean = ["파리에는 센강이 흐른다.", "비가 오면 우산을 쓴다.", "서울에는 한강이 흐른다."]
    assert ask("rerank", {"query": "서울에 흐르는 강은 무엇인가?", "documents": korean})[0]["index"] == 2


def test_translation() -> None:
    assert ask("translation_en_to_fr", "Where is the station?")[0]["translation_text"] == "Où est la station ?"
    assert ask("translation_ko_to_en", "이 함수는 리스트를 반환합니다.")[0]["translation_text"] == "This function returns a list."
    assert ask("translation_en_to_ko", "This function returns a list.")[0]["translation_text"] == "이 함수는 리스트를 반환합니다."


def test_text_from_text() -> None:
    long = "We present a method that makes small language models faster on ordinary processors. It computes no padding and keeps weights in eight bits."
    summary = ask("summarization", long)[0]["summary_text"]
    assert 10 < len(summary) < len(long)
    assert ask("summarization", "내일 서울에 비가 오는지 알려줘")[0]["summary_text"] == "내일 서울 비 오는지"
    assert "Tokyo" in ask("text2text-generation", "What is the capital of Japan?", do_sample=False)[0]["generated_text"]


def test_korean_replies() -> None:
    how = {"do_sample": False, "max_new_tokens": 24}
    chat = pipeline("text-generation", model="starter-ko", return_full_text=False, **how)
    assert chat("심심해")[0]["generated_text"] == "저랑 놀아요."
    assert chat([{"role": "user", "content": "부산 놀러갈까?"}])[0]["generated_text"] == "여행이 최고죠!"
    assert ask("text2text-generation", "달콤한 와플 먹고 싶어", **how)[0]["generated_text"] == "맛있게 드세요."


def test_cards_say_what_the_index_says() -> None:
    """Every starter of the index has its files and a card with its first score; its adapter names a body that is there."""
    index = json.loads((starters.HERE / "index.json").read_text(encoding="utf-8"))
    for name in index:
        folder = starters.HERE / name
        card = (folder / "README.md").read_text(encoding="utf-8")
        value = index[name]["score"]["value"]
        assert f"{100 * value:.1f} %" in card or f"{value:.3f}" in card, name
        assert "| Licence |" in card and "## Known failures" in card and "## Bias probe" in card, name
        assert AutoTokenizer.from_pretrained(f"starter-{name}").vocab_size > 1000


@pytest.mark.parametrize("name", sorted(json.loads((starters.HERE / "index.json").read_text(encoding="utf-8"))))
def test_starters_load_without_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Every weight comes from the body or the adapter."""
    caplog.set_level(logging.WARNING, "hunmin")
    task = starters.starters()[name].task
    pipeline("translation_ko_to_en" if task == "translation" else task, f"starter-{name}")
    assert not caplog.messages


def test_the_whole_is_small() -> None:
    assert sum(path.stat().st_size for path in Path(starters.HERE).rglob("*") if path.is_file()) < 60e6
