"""Heads under the names that checkpoints use. Each function gives one line of an architecture's table of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hunmin.arch._arch import Head
from hunmin.arch._rules import Config, Rules
from hunmin.nn.heads import Classifier, LMHead
from hunmin.nn.spec import Norm

TOKENS = "embed.tokens.weight"


def width(c: Config) -> int:
    return int(c.get("hidden_size") or c.get("d_model") or c.get("n_embd") or c["dim"])


def labels(c: Config) -> int:
    """Labels of a classifier: ``id2label`` wins over ``num_labels``, and both default to two."""
    named = c.get("id2label")
    return len(named) if named else int(c.get("num_labels") or 2)


def body() -> Head:
    """The bare backbone: hidden states."""
    return Head("{}Model", lambda c: None)


def causal_lm(name: str = "{}ForCausalLM", softcap: str | None = None) -> Head:
    return Head(
        name,
        lambda c: LMHead(width(c), c["vocab_size"], softcap=c[softcap] if softcap else None),
        {"lm_head": "head.out"},
        tied="decoder." + TOKENS,
    )


def masked_lm(
    dense: str, norm: str, out: str, bias: str, *, inner: str | None = None, act: str | None = None, eps: str = "layer_norm_eps"
) -> Head:
    """dense -> activation -> norm -> vocabulary. ``inner`` and ``eps`` name config keys; ``act`` fixes the activation."""

    def build(c: Config) -> LMHead:
        size = (c[inner] if inner else None) or width(c)
        transform = (size, act or c["hidden_act"], Norm("layer", c[eps] if c.get(eps) else 1e-12))
        return LMHead(width(c), c["vocab_size"], bias=True, transform=transform)

    def rules(c: Config) -> Rules:
        """A tied projection stores its bias alone, an untied one beside its weight."""
        shared: Rules = {bias: "head.out.bias"} if c["tie_word_embeddings"] else {}
        return {dense: "head.dense", norm: "head.norm", **shared, out: "head.out", bias: "head.out.bias"}

    return Head("{}ForMaskedLM", build, rules, tied="encoder." + TOKENS)


def classifier(
    out: str,
    dense: str | None = None,
    *,
    act: str = "tanh",
    in_body: bool = False,
    dropout: Callable[[Config], tuple[float, float]] = lambda c: (0.0, dropout_of(c)),
    name: str = "{}ForSequenceClassification",
    count: Callable[[Config], int] = labels,
    **options: Any,
) -> Head:
    """Sequence classification. ``dense`` names the hidden layer; ``in_body`` where it stands in the body, as a pooler does."""

    def build(c: Config) -> nn.Module:
        return Classifier(width(c), count(c), hidden=act if dense else None, dropout=dropout(c), **options)

    hidden: Rules = {dense: "head.dense"} if dense else {}
    own: Rules = {out: "head.out"} | ({} if in_body else dict(hidden))
    return Head(name, build, own, hidden if in_body else {})


def multiple_choice(dense: str, out: str = "classifier", **options: Any) -> Head:
    """A score for each choice: a classifier with one label."""
    return classifier(out, dense, name="{}ForMultipleChoice", count=lambda c: 1, **options)


def tagger(out: str = "classifier", dropout: Callable[[Config], float] | None = None, **options: Any) -> Head:
    """Token classification."""

    def build(c: Config) -> nn.Module:
        return Classifier(width(c), labels(c), pool="all", dropout=((dropout or dropout_of)(c), 0.0))

    return Head("{}ForTokenClassification", build, {out: "head.out"}, **options)


def span(dropout: Callable[[Config], float] = lambda c: 0.0, **options: Any) -> Head:
    """Extractive question answering: start and end scores of every token."""
    return Head(
        "{}ForQuestionAnswering",
        lambda c: Classifier(width(c), 2, pool="all", dropout=(dropout(c), 0.0)),
        {"qa_outputs": "head.out"},
        **options,
    )


def decoder_dropout(c: Config) -> float:
    """The dropout before a decoder's token classifier."""
    return next((float(p) for k in ("classifier_dropout", "hidden_dropout") if (p := c.get(k)) is not None), 0.1)


def dropout_of(c: Config) -> float:
    """The classifier's dropout, or the body's where the config names none."""
    own = c.get("classifier_dropout")
    return float(own if own is not None else c.get("hidden_dropout_prob") or 0.0)
