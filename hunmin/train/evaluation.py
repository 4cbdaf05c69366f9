"""Ready ``compute_metrics`` for the Trainer: from logits and label ids to scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hunmin.train import metrics
from hunmin.train.metrics import IGNORE, Array, Scores


def _both(eval_pred: Any) -> tuple[Array, Array]:
    """Logits and labels of an evaluation; a model that gives more than logits gives them first."""
    logits, labels = eval_pred
    return np.asarray(logits[0] if isinstance(logits, tuple) else logits), np.asarray(labels)


def classification_metrics(eval_pred: Any) -> Scores:
    """Accuracy and macro F1 of the likeliest class: logits ``(B, L)``, labels ``(B,)``."""
    logits, labels = _both(eval_pred)
    classes = logits.argmax(-1)
    return metrics.accuracy(classes, labels) | {"f1_macro": metrics.f1(classes, labels, "macro")["f1"]}


def multi_label_metrics(eval_pred: Any) -> Scores:
    """Micro and macro F1 and the share of rows with every label right: logits ``(B, L)``, a label holds above 0; labels ``(B, L)``."""
    logits, labels = _both(eval_pred)
    said, true = logits > 0, labels > 0.5
    f1 = {f"f1_{average}": metrics.f1(said, true, average)["f1"] for average in ("micro", "macro")}
    return f1 | {"accuracy": float((said == true).all(-1).mean())}


def regression_metrics(eval_pred: Any) -> Scores:
    """Mean squared error, Pearson and Spearman: predictions ``(B,)`` or ``(B, 1)``, labels ``(B,)``."""
    said, true = (values.reshape(-1) for values in _both(eval_pred))
    return metrics.mse(said, true) | metrics.pearson(said, true) | metrics.spearman(said, true)


def language_model_metrics(eval_pred: Any) -> Scores:
    """Accuracy of predicted tokens: logits ``(B, N, V)`` of a masked model, or ids ``(B, N)`` that were chosen before."""
    logits, labels = _both(eval_pred)
    kept = labels != IGNORE
    return metrics.accuracy((logits if logits.shape == labels.shape else logits.argmax(-1))[kept], labels[kept])


def token_classification_metrics(names: Mapping[int, str] | Sequence[str]) -> Callable[[Any], Scores]:
    """Entities found (seqeval): logits ``(B, N, L)``, labels ``(B, N)``; ``names`` of the labels, such as ``model.config.id2label``."""

    def scores(eval_pred: Any) -> Scores:
        logits, labels = _both(eval_pred)
        rows = [(said[true != IGNORE], true[true != IGNORE]) for said, true in zip(logits.argmax(-1), labels, strict=True)]
        said, true = ([[names[int(i)] for i in row[side]] for row in rows] for side in (0, 1))
        found = metrics.seqeval(said, true)
        return {name.removeprefix("overall_"): found[name] for name in found if name.startswith("overall_")}

    return scores


def generation_metrics(tokenizer: Any, names: Sequence[str] = ("sacrebleu",)) -> Callable[[Any], Scores]:
    """Texts that a model wrote against the labels, both ids ``(B, N)``, by metrics such as sacrebleu, chrf and rouge."""

    def scores(eval_pred: Any) -> Scores:
        said, true = (np.where(ids == IGNORE, tokenizer.pad_token_id, ids) for ids in _both(eval_pred))
        texts = [[text.strip() for text in tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)] for ids in (said, true)]
        out: Scores = {}
        for name in names:
            found = metrics.compute(name, *texts)
            out |= {name: found["score"]} if "score" in found else found
        return out

    return scores
