"""Metrics. Those of a few lines are written here; sequence labels, BLEU, chrF and ROUGE come from the field's libraries.

``compute(name, predictions, references)`` finds each by name. All results are dictionaries of numbers between 0 and 1, unless said.
"""

from __future__ import annotations

import importlib
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hunmin.errors import InputError, say

Array = np.ndarray[Any, Any]
Scores = dict[str, float]
IGNORE = -100
SCHEMES = ("IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU")  # ways to write entities as tags, by seqeval's names
AVERAGES = ("binary", "micro", "macro", "weighted")


def _pair(predictions: Any, references: Any) -> tuple[Array, Array]:
    """Both as arrays of one shape. Raises InputError when they differ in length or are empty."""
    p, r = np.asarray(predictions), np.asarray(references)
    if p.shape != r.shape or not p.size:
        raise InputError(
            say(
                f"Predictions {p.shape} and references {r.shape} need the same shape and at least one entry.",
                f"예측 {p.shape}과 정답 {r.shape}은 모양이 같고 하나 이상이어야 합니다.",
            )
        )
    return p, r


# Classes


def accuracy(predictions: Any, references: Any) -> Scores:
    """The share of predictions that are right."""
    p, r = _pair(predictions, references)
    return {"accuracy": float((p == r).mean())}


def f1(predictions: Any, references: Any, average: str = "binary", positive: Any = 1) -> Scores:
    """F1 with precision and recall: of the ``positive`` class, over all decisions (micro), or the mean over classes (macro, weighted).

    A share of nothing is 0. For several labels at once give zeros and ones ``(B, L)`` and an average; "binary" needs ``(B,)``.
    """
    p, r = _pair(predictions, references)
    if average not in AVERAGES or (average == "binary" and p.ndim > 1):
        raise InputError(
            say(f"average={average!r}: use one of {', '.join(AVERAGES)}.", f"average={average!r}: {', '.join(AVERAGES)}만 됩니다.")
        )
    if p.ndim > 1:
        hit_p, hit_r = p.astype(bool), r.astype(bool)
    else:
        classes = np.unique(np.concatenate([p, r])) if average != "binary" else np.array([positive])
        hit_p, hit_r = (values[:, None] == classes for values in (p, r))
    right, said, true = (hit_p & hit_r).sum(0), hit_p.sum(0), hit_r.sum(0)
    if average == "micro":
        right, said, true = (count.sum(keepdims=True) for count in (right, said, true))
    values = {"precision": _share(right, said), "recall": _share(right, true), "f1": _share(2 * right, said + true)}
    weights = true if average == "weighted" and true.sum() else None
    return {name: float(np.average(value, weights=weights)) for name, value in values.items()}


def _share(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def mcc(predictions: Any, references: Any) -> Scores:
    """Matthews correlation, of two classes or more (Gorodkin 2004): -1 to 1, 0 when either side names one class only."""
    p, r = _pair(predictions, references)
    classes = np.unique(np.concatenate([p, r]))
    p, r = ((values[:, None] == classes).astype(np.float64) for values in (p, r))
    return {"matthews_correlation": _correlation(p, r)}


# Numbers


def _correlation(a: Array, b: Array) -> float:
    """Covariance over the root of the variances, summed over columns; 0 where one side is constant."""
    a, b = (values - values.mean(0) for values in (a, b))
    scale = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0


def pearson(predictions: Any, references: Any) -> Scores:
    """Pearson's correlation, -1 to 1; 0 where one side is constant."""
    p, r = _pair(predictions, references)
    return {"pearson": _correlation(p.astype(np.float64).ravel(), r.astype(np.float64).ravel())}


def spearman(predictions: Any, references: Any) -> Scores:
    """Spearman's correlation: that of the ranks, where equals share the mean of theirs."""
    p, r = (_ranks(values.ravel()) for values in _pair(predictions, references))
    return {"spearman": _correlation(p, r)}


def _ranks(values: Array) -> Array:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[group]


def mse(predictions: Any, references: Any) -> Scores:
    """Mean squared error."""
    p, r = _pair(predictions, references)
    return {"mse": float(((p.astype(np.float64) - r) ** 2).mean())}


def perplexity(loss: float) -> float:
    """exp of a mean cross-entropy in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 709 else math.inf


# Answers


def normalize_answer(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces, as the script of SQuAD has it (Rajpurkar et al. 2016)."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _overlap(prediction: str, reference: str) -> float:
    said, true = (normalize_answer(text).split() for text in (prediction, reference))
    if not said or not true:
        return float(said == true)
    return 2 * (Counter(said) & Counter(true)).total() / (len(said) + len(true))


def squad(predictions: Any, references: Any) -> Scores:
    """Exact match and F1 of words in percent, the best over the answers of a question (Rajpurkar et al. 2016).

    Predictions are texts or ``{"id", "prediction_text"}``; references lists of texts or ``{"id", "answers": {"text": [...]}}``. Where both
    have ids, these decide which belong together. A question without an answer is answered by the empty text (SQuAD 2.0).
    """
    said, true = _by_id(list(predictions)), _by_id(list(references))
    if set(said) != set(true) or not said:
        raise InputError(
            say(
                f"squad needs a prediction for every reference: {len(said)} predictions, {len(true)} references.",
                f"squad에는 정답마다 예측이 필요합니다: 예측 {len(said)}개, 정답 {len(true)}개.",
            )
        )
    pairs = [(_answers(said[key])[0], _answers(true[key])) for key in true]
    exact = [max(normalize_answer(text) == normalize_answer(answer) for answer in answers) for text, answers in pairs]
    words = [max(_overlap(text, answer) for answer in answers) for text, answers in pairs]
    return {"exact_match": 100 * float(np.mean(exact)), "f1": 100 * float(np.mean(words))}


def _by_id(items: list[Any]) -> dict[Any, Any]:
    return {item.get("id", i) if isinstance(item, Mapping) else i: item for i, item in enumerate(items)}


def _answers(item: Any) -> list[str]:
    if isinstance(item, Mapping):
        item = item["prediction_text"] if "prediction_text" in item else item.get("answers", ())
        item = item.get("text", ()) if isinstance(item, Mapping) else item
    return [str(item)] if isinstance(item, str) else [str(text) for text in item] or [""]


# From libraries


def _library(module: str, package: str) -> Any:
    """Raises InputError that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            say(
                f"This metric needs {package}: pip install 'hunmin[metrics]' (or pip install {package}).",
                f"이 지표에는 {package}이(가) 필요합니다: pip install 'hunmin[metrics]' (또는 pip install {package}).",
            )
        ) from error


def seqeval(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]], scheme: str | None = None) -> Scores:
    """Precision, recall and F1 of whole entities, ``overall_…`` and by type, and the accuracy of tags.

    Both are lists of tags a sentence (``B-PER``, ``I-PER``, ``O``). ``scheme`` ("IOB2", "IOBES", …) counts only entities well formed in it.
    """
    found = _library("seqeval.metrics", "seqeval")
    said, true = ([list(tags) for tags in rows] for rows in (predictions, references))
    if len(said) != len(true) or any(len(a) != len(b) for a, b in zip(said, true, strict=False)):
        raise InputError(say("seqeval needs a predicted tag for every tag.", "seqeval에는 태그마다 예측이 필요합니다."))
    options: dict[str, Any] = {"zero_division": 0}
    if scheme is not None:
        if scheme not in SCHEMES:
            known = ", ".join(SCHEMES)
            raise InputError(say(f"Scheme {scheme!r} is none of {known}.", f"scheme {scheme!r}은(는) {known} 가운데 없습니다."))
        options |= {"mode": "strict", "scheme": getattr(_library("seqeval.scheme", "seqeval"), scheme)}
    report = found.classification_report(true, said, output_dict=True, **options)
    out = {f"overall_{name}": float(report["micro avg"][key]) for name, key in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score"))}
    out["overall_accuracy"] = float(found.accuracy_score(true, said))
    return out | {f"{kind}_f1": float(values["f1-score"]) for kind, values in report.items() if " avg" not in kind}


def _texts(references: Any) -> list[list[str]]:
    """References as one list for each first, second, … reference of a text, as sacrebleu wants them."""
    rows = [[row] if isinstance(row, str) else list(row) for row in references]
    return [[row[i] if i < len(row) else row[0] for row in rows] for i in range(max(map(len, rows), default=0))]


def sacrebleu(predictions: Sequence[str], references: Any, **options: Any) -> Scores:
    """BLEU, 0 to 100 (Post 2018). References are a text or a list of texts each; options such as ``tokenize="ko-mecab"`` go to sacrebleu."""
    result = _library("sacrebleu", "sacrebleu").corpus_bleu(list(predictions), _texts(references), **options)
    return {"score": float(result.score), "bp": float(result.bp), "sys_len": float(result.sys_len), "ref_len": float(result.ref_len)}


def chrf(predictions: Sequence[str], references: Any, **options: Any) -> Scores:
    """chrF, 0 to 100 (Popović 2015); ``word_order=2`` makes chrF++."""
    return {"score": float(_library("sacrebleu", "sacrebleu").corpus_chrf(list(predictions), _texts(references), **options).score)}


def rouge(
    predictions: Sequence[str], references: Any, kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"), **options: Any
) -> Scores:
    """F-measures of overlapping words (Lin 2004), the mean over texts, the best over the references of each.

    Options go to ``rouge_score``: ``use_stemmer=True`` for English; a ``tokenizer`` with ``tokenize(text)`` for scripts that its own drops.
    """
    scorer = _library("rouge_score.rouge_scorer", "rouge-score").RougeScorer(list(kinds), **options)
    rows = [[row] if isinstance(row, str) else list(row) for row in references]
    if len(rows) != len(predictions) or not rows:
        raise InputError(say("rouge needs a prediction for every reference.", "rouge에는 정답마다 예측이 필요합니다."))
    scores = [scorer.score_multi(row, text) for row, text in zip(rows, predictions, strict=True)]
    return {kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}


# By name, and for the Trainer

METRICS: dict[str, Callable[..., Scores]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": mcc,
    "mcc": mcc,
    "pearson": pearson,
    "pearsonr": pearson,
    "spearman": spearman,
    "spearmanr": spearman,
    "mse": mse,
    "squad": squad,
    "squad_v2": squad,
    "seqeval": seqeval,
    "sacrebleu": sacrebleu,
    "bleu": sacrebleu,
    "chrf": chrf,
    "rouge": rouge,
}


def compute(name: str, predictions: Any, references: Any, **options: Any) -> Scores:
    """The metric ``name`` of predictions against references. Raises InputError for an unknown name."""
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise InputError(say(f"Metric {name!r} is unknown. Known: {known}.", f"지표 {name!r}을(를) 알 수 없습니다. 지원: {known}."))
    return METRICS[name](predictions, references, **options)
