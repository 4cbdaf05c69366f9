"""ELECTRA (Clark et al. 2020): BERT with a narrow embedding; the discriminator tells replaced tokens, the generator fills masks."""

from __future__ import annotations

from typing import Any

from hunmin.arch import bert
from hunmin.arch._arch import Arch, Head
from hunmin.arch._heads import body, classifier, dropout_of, masked_lm, span, tagger
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
        "TokenClassification": tagger(),
        "QuestionAnswering": span(),
    },
)
