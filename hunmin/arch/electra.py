"""ELECTRA (Clark et al. 2020): BERT with a narrow embedding; the discriminator tells replaced tokens, the generator fills masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from hunmin.arch import bert
from hunmin.arch._arch import Arch, Head, refuse
from hunmin.arch._heads import body, classifier, dropout_of, masked_lm, multiple_choice, span, tagger
from hunmin.arch._rules import Config, Rules
from hunmin.nn.heads import Classifier
from hunmin.nn.model import Backbone

DISCRIMINATOR: Rules = {"discriminator_predictions.dense": "head.dense", "discriminator_predictions.dense_prediction": "head.out"}


def rules(c: Config) -> Rules:
    return {**bert.rules(c), "embeddings_project": "encoder.embed.project"}


def encoder(c: Config) -> Backbone:
    narrow: dict[str, Any] = {"width": c["embedding_size"]}
    if c["embedding_size"] != c["hidden_size"]:
        narrow["project"] = c["hidden_size"]
    return bert.encoder(c, **narrow)


def discriminator(c: Config) -> Classifier:
    """One score a token: was it replaced?"""
    return Classifier(c["hidden_size"], 1, pool="all", hidden=c["hidden_act"])


def chooser() -> Head:
    """Scores choices by the first token's vector through one layer: the only summary that the field uses."""
    head = multiple_choice("sequence_summary.summary", act="gelu", dropout=lambda c: (0.0, float(c.get("summary_last_dropout", 0.1))))

    def build(c: Config) -> nn.Module | None:
        refuse(c, summary_type="first", summary_use_proj=True, summary_activation="gelu", summary_first_dropout=0.0)
        return head.build(c)

    return replace(head, build=build)


ARCH = Arch(
    prefix="electra.",
    defaults={**bert.DEFAULTS, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    rules=rules,
    encoder=encoder,
    heads={
        "Model": body(),
        "MaskedLM": masked_lm(
            "generator_predictions.dense",
            "generator_predictions.LayerNorm",
            "generator_lm_head",
            "generator_lm_head.bias",
            inner="embedding_size",
            act="gelu",
        ),
        "PreTraining": Head("{}ForPreTraining", discriminator, DISCRIMINATOR),
        "SequenceClassification": classifier(
            "classifier.out_proj", "classifier.dense", act="gelu", dropout=lambda c: (dropout_of(c), dropout_of(c))
        ),
        "MultipleChoice": chooser(),
        "TokenClassification": tagger(),
        "QuestionAnswering": span(),
    },
)
