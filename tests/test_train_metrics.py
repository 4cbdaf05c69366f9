"""Metrics: ours against scikit-learn's and SciPy's numbers, the libraries' against numbers by hand."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hunmin.errors import InputError
from hunmin.train import evaluation, metrics

CASES = json.loads((Path(__file__).parent / "golden" / "train" / "metrics.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=[f"{case['kind']}-{len(case['p'])}" for case in CASES])
def test_equals_the_reference(case: dict[str, Any]) -> None:
    p, r = case["p"], case["r"]
    for average, want in case.get("f1", {}).items():
        assert metrics.f1(p, r, average) == pytest.approx(want), average
    for name, want in case.items():
        if isinstance(want, float):
            assert list(metrics.compute(name, p, r).values()) == pytest.approx([want], abs=1e-12), name


def test_constants_correlate_with_nothing() -> None:
    assert metrics.pearson([1, 1, 1], [1, 2, 3]) == {"pearson": 0.0}
    assert metrics.spearman([2.0, 2.0], [1, 5]) == {"spearman": 0.0}
    assert metrics.f1([0, 0], [0, 0]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert metrics.f1(["yes", "no"], ["yes", "yes"], positive="yes") == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3})


def test_perplexity() -> None:
    assert metrics.perplexity(math.log(7)) == pytest.approx(7) and metrics.perplexity(1000) == math.inf


def test_what_does_not_fit() -> None:
    for call in (
        lambda: metrics.accuracy([1, 2], [1]),
        lambda: metrics.accuracy([], []),
        lambda: metrics.f1([1], [1], "harmonic"),
        lambda: metrics.f1([[1, 0]], [[1, 0]]),
        lambda: metrics.compute("beauty", [1], [1]),
        lambda: metrics.squad(["a"], []),
        lambda: metrics.squad([{"id": "1", "prediction_text": "a"}], [{"id": "2", "answers": {"text": ["a"]}}]),
        lambda: metrics.seqeval([["O"]], [["O", "O"]]),
        lambda: metrics.rouge(["a"], []),
    ):
        with pytest.raises(InputError):
            call()


def test_answers() -> None:
    """Of the four words "cat sat on mat" (articles do not count) three are in both texts: F1 = 2 * 3 / (3 + 4)."""
    found = metrics.squad(["The Cat, sat mat!", "Paris"], [["cat sat on the mat"], ["London", "paris."]])
    assert found == pytest.approx({"exact_match": 50.0, "f1": 100 * (6 / 7 + 1) / 2})
    predictions = [{"id": "b", "prediction_text": ""}, {"id": "a", "prediction_text": "1066"}]
    references = [{"id": "a", "answers": {"text": ["1066", "in 1066"], "answer_start": [0, 3]}}, {"id": "b", "answers": {"text": []}}]
    assert metrics.squad(predictions, references) == {"exact_match": 100.0, "f1": 100.0}
    assert metrics.squad(["", "no"], [[], []])["exact_match"] == 50.0
    assert metrics.squad(["훈민정음은 글자다"], [["훈민정음은 글자"]])["f1"] == 50.0
    assert metrics.normalize_answer("  The  an-swer: A. ") == "answer"


def test_entities() -> None:
    """Of two entities one is found; a third was not there."""
    said, true = [["B-PER", "I-PER", "O", "B-LOC"], ["O"]], [["B-PER", "I-PER", "O", "B-ORG"], ["O"]]
    for options in ({}, {"scheme": "IOB2"}):
        found = metrics.seqeval(said, true, **options)
        assert {k: v for k, v in found.items() if k.startswith("overall_")} == pytest.approx(
            {"overall_precision": 0.5, "overall_recall": 0.5, "overall_f1": 0.5, "overall_accuracy": 0.8}
        )
        assert found["PER_f1"] == 1.0 and found["LOC_f1"] == found["ORG_f1"] == 0.0
    with pytest.raises(InputError, match="IOB9"):
        metrics.seqeval(said, true, scheme="IOB9")


def test_translations() -> None:
    same = metrics.sacrebleu(["the cat sat on the mat"], [["the cat sat on the mat"]])
    assert same["score"] == pytest.approx(100.0) and same["bp"] == 1.0 and same["sys_len"] == same["ref_len"] == 6
    one = metrics.sacrebleu(["a b c d e"], ["a b c d f"])["score"]
    assert one == pytest.approx(100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    assert metrics.sacrebleu(["a b c d e"], [["x", "a b c d e"]])["score"] == pytest.approx(100.0)
    short = metrics.sacrebleu(["a b c d"], ["a b c d e f g h"])
    assert short["bp"] == pytest.approx(math.exp(1 - 8 / 4)) and short["score"] == pytest.approx(100 * short["bp"])
    assert metrics.chrf(["훈민정음"], ["훈민정음"]) == {"score": pytest.approx(100.0)}
    assert 0 < metrics.chrf(["훈민정음은"], ["훈민정음"], word_order=2)["score"] < 100


def test_summaries() -> None:
    """Four of five words and three of four pairs are shared; the longest common sequence has four."""
    found = metrics.rouge(["a b c d e"], [["z", "a b c d f"]])
    assert found == pytest.approx({"rouge1": 0.8, "rouge2": 0.75, "rougeL": 0.8, "rougeLsum": 0.8})
    assert metrics.rouge(["jumping"], ["jumps"], ["rouge1"], use_stemmer=True) == {"rouge1": 1.0}
    assert metrics.rouge(["소리 글자"], ["소리 글"], ["rouge1"], tokenizer=SimpleNamespace(tokenize=str.split)) == {"rouge1": 0.5}


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    for call, package in ((lambda: metrics.chrf(["a"], ["a"]), "sacrebleu"), (lambda: metrics.rouge(["a"], ["a"]), "rouge-score")):
        with pytest.raises(InputError, match=rf"pip install 'hunmin\[metrics\]' \(or pip install {package}\)"):
            call()


# ---------------------------------------------------------------- for the Trainer


def test_ready_metrics() -> None:
    logits, classes = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]]), np.array([0, 1, 0])
    want = {"accuracy": 2 / 3, "f1_macro": 2 / 3}
    assert evaluation.classification_metrics((logits, classes)) == pytest.approx(want)
    assert evaluation.classification_metrics(((logits, "hidden states"), classes)) == pytest.approx(want)
    several = evaluation.multi_label_metrics((np.array([[1.0, -1.0], [-1.0, 2.0]]), np.array([[1.0, 0.0], [1.0, 1.0]])))
    assert several == pytest.approx({"f1_micro": 0.8, "f1_macro": (2 / 3 + 1) / 2, "accuracy": 0.5})
    numbers = evaluation.regression_metrics((np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])))
    assert numbers == pytest.approx({"mse": 1 / 3, "pearson": math.sqrt(27 / 28), "spearman": 1.0})
    tokens = np.array([[[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]]), np.array([[1, 1, -100]])
    assert evaluation.language_model_metrics(tokens) == {"accuracy": 0.5}
    assert evaluation.language_model_metrics((tokens[0].argmax(-1), tokens[1])) == {"accuracy": 0.5}


def test_ready_metrics_of_tags_and_texts() -> None:
    names = {0: "O", 1: "B-PER", 2: "I-PER"}
    logits = np.eye(3)[[[1, 2, 0, 1], [0, 1, 2, 2]]]
    labels = np.array([[1, 2, 0, -100], [0, 1, 0, -100]])
    found = evaluation.token_classification_metrics(names)((logits, labels))
    assert found == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 5 / 6})
    words = ["<pad>", "a", "b", "c", "d", "e"]

    def decode(rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [" ".join(words[i] for i in row if i) for row in rows]

    tokenizer = SimpleNamespace(pad_token_id=0, batch_decode=decode)
    scores = evaluation.generation_metrics(tokenizer, ["sacrebleu", "rouge"])
    found = scores((np.array([[1, 2, 3, 4, 5, -100]]), np.array([[1, 2, 3, 4, 5, -100]])))
    assert found["sacrebleu"] == pytest.approx(100.0) and found["rougeL"] == 1.0
