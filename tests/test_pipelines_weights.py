"""The text tasks with real weights, fetched once as packages: answers that make sense."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hunmin import pipeline
from hunmin.hub.opus import opus_mt_en_fr
from tests.real_golden import MINILM, REAL, SMOLLM2

pytestmark = pytest.mark.weights
GAME = "The goalkeeper saved a penalty in the last minute, and the fans in the stadium sang until the team left the pitch."
BRIDGE = "The old stone bridge was finished in 1889. It is 312 metres long, and the engineer Clara Weiss designed it for trains."


@pytest.fixture(scope="module")
def loaded() -> Any:
    """SmolLM2 and its tokenizer, once for all tasks."""
    made = pipeline("text-generation", model=SMOLLM2)
    return {"model": made.model, "tokenizer": made.tokenizer}


def test_translation_between_named_languages() -> None:
    rows = json.loads((REAL / "opus-mt-en-fr.json").read_text(encoding="utf-8"))[:3]
    translator = pipeline("translation_en_to_fr", model=str(opus_mt_en_fr()))
    answers = translator([row["text"] for row in rows])
    assert answers == [{"translation_text": row["translation"]} for row in rows]
    assert translator(rows[2]["text"]) == [answers[2]]
    (cut,) = translator(rows[2]["text"], max_new_tokens=3)
    assert len(cut["translation_text"]) < len(answers[2]["translation_text"])


def test_zero_shot_by_a_language_model(loaded: Any) -> None:
    classify = pipeline("zero-shot-classification", **loaded)
    texts = [GAME, "Parliament voted on the new law after the minister's speech.", "Heavy rain and strong wind are expected on Sunday."]
    answers = classify(texts, candidate_labels=["sports", "politics", "weather"])
    assert [answer["labels"][0] for answer in answers] == ["sports", "politics", "weather"]
    assert all(sum(answer["scores"]) == pytest.approx(1, abs=1e-5) for answer in answers)


def test_answers_by_a_language_model(loaded: Any) -> None:
    answer = pipeline("question-answering", **loaded)
    year = answer(question="When was the bridge finished?", context=BRIDGE)
    assert "1889" in year["answer"] and 0 < year["score"] <= 1
    assert year["start"] is None or BRIDGE[year["start"] : year["end"]] == year["answer"]
    assert "Weiss" in answer(question="Who designed the bridge?", context=BRIDGE)["answer"]


def test_summaries_by_a_language_model(loaded: Any) -> None:
    text = (BRIDGE + " Today only walkers and cyclists may cross it. ") * 2
    (row,) = pipeline("summarization", **loaded)(text, max_new_tokens=48, do_sample=False)
    assert list(row) == ["summary_text"] and 0 < len(row["summary_text"]) < len(text)
    assert "bridge" in row["summary_text"].lower() and "Summarize" not in row["summary_text"]


def test_similar_sentences() -> None:
    similar = pipeline("sentence-similarity", model=MINILM)
    sentences = ["A cat is sleeping on the sofa.", "The stock market fell on Monday.", "A kitten naps on the couch."]
    cosines = similar({"source_sentence": sentences[0], "sentences": sentences})
    assert cosines[0] == pytest.approx(1, abs=1e-5) and cosines[2] > 0.6 > 0.2 > cosines[1]
    vectors = pipeline("feature-extraction", model=MINILM)(sentences, pooling="auto", return_tensors=True)
    assert [float(v @ vectors[0]) for v in vectors] == pytest.approx(cosines, abs=1e-5)
