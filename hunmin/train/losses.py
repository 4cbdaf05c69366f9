"""Objectives as pure functions of tensors. Labels of -100 are left out.

Those that a model computes itself when it gets ``labels`` live in ``hunmin.nn.losses`` and have their short names here. Shapes: B
sequences, N tokens, V vocabulary, L labels, C width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hunmin.errors import InputError, say
from hunmin.nn.losses import IGNORE, classification_loss
from hunmin.nn.losses import multiple_choice_loss as multiple_choice
from hunmin.nn.losses import next_token_loss as next_token
from hunmin.nn.losses import replaced_token_loss as replaced_token
from hunmin.nn.losses import span_loss as span
from hunmin.nn.losses import token_loss as masked
from hunmin.nn.where import Where

__all__ = [
    "binary_relevance",
    "cached_multiple_negatives",
    "classification",
    "cosine_embedding",
    "cosine_similarity",
    "distilbert",
    "distillation",
    "electra",
    "hidden_cosine",
    "hidden_error",
    "listwise",
    "masked",
    "multi_label",
    "multiple_choice",
    "multiple_negatives",
    "next_sentence",
    "next_token",
    "pool",
    "regression",
    "replace_tokens",
    "replaced_token",
    "smoothed",
    "span",
    "triplet",
]


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``(B, L)`` against classes ``(B,)``."""
    return classification_loss(logits, labels, "single_label_classification")


def multi_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits ``(B, L)`` against zeros and ones ``(B, L)``: several labels may hold at once."""
    return classification_loss(logits, labels, "multi_label_classification")


def regression(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of predictions ``(B, 1)`` or ``(B, L)``."""
    return classification_loss(predictions, labels, "regression")


def next_sentence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``(B, 2)``: 0, the second text follows the first; 1, it was drawn at random (Devlin et al. 2019)."""
    return classification(logits, labels)


def smoothed(logits: Tensor, labels: Tensor, epsilon: float = 0.1, segment: Tensor | None = None, shift: bool = False) -> Tensor:
    """Cross-entropy against targets that leave ``epsilon`` to all classes alike (Szegedy et al. 2016, section 7).

    ``logits`` ``(…, V)``, ``labels`` ``(…)``. ``shift`` scores the next token, as :func:`next_token`, within each ``segment`` ``(B, N)``.
    """
    if shift:
        logits, labels = logits[:, :-1], labels[:, 1:]
        if segment is not None:
            labels = labels.masked_fill(segment[:, 1:] != segment[:, :-1], IGNORE)
    flat = labels.flatten().to(logits.device)
    return F.cross_entropy(logits.flatten(0, -2).float(), flat, ignore_index=IGNORE, label_smoothing=epsilon)


# ELECTRA


def replace_tokens(ids: Tensor, labels: Tensor, logits: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Fill masked places with samples of a generator's ``logits`` ``(B, N, V)`` (Clark et al. 2020, eq. 2).

    ``labels`` ``(B, N)`` are the true tokens there, -100 elsewhere. Returns the text so filled and which of its tokens are not the true
    ones, both ``(B, N)``: a sample that happens to be right counts as original.
    """
    places = labels != IGNORE
    drawn = torch.multinomial(logits[places].float().softmax(-1), 1, generator=generator)[:, 0]
    filled = ids.masked_scatter(places, drawn.to(ids.dtype))
    return filled, places & (filled != labels)


def electra(generator: Any, discriminator: Any, batch: dict[str, Any], weight: float = 50.0) -> Tensor:
    """The joint loss of masked LM and replaced-token detection (Clark et al. 2020, section 3.3; lambda = 50).

    ``batch`` comes from ``DataCollatorForLanguageModeling``; ``generator`` is a masked language model, ``discriminator`` an ELECTRA model.
    """
    guess = generator(**batch)
    filled, replaced = replace_tokens(batch["input_ids"], batch["labels"], guess.logits.detach())
    return guess.loss + weight * discriminator(**{**batch, "input_ids": filled, "labels": replaced}).loss


# Sentence embeddings and rerankers


def pool(hidden: Tensor, where: Where, how: str = "mean") -> Tensor:
    """One vector a sequence ``(B, C)`` of hidden states ``(B, N, C)``, or ``(1, N, C)`` of a packed row; ``how``: mean, first or last."""
    if how not in ("mean", "first", "last"):
        raise InputError(say(f"pool {how!r} is none of mean, first, last.", f"pool {how!r}은(는) mean, first, last 가운데 없습니다."))
    if how != "mean":
        return hidden[where.first_and_last()[how == "last"]]
    real = (where.segment >= 0)[..., None].to(hidden.dtype)
    if where.kind != "packed":
        return (hidden * real).sum(1) / real.sum(1)
    sums = hidden.new_zeros(len(where.lengths), hidden.shape[-1]).index_add(0, where.segment[0], hidden[0])
    return sums / torch.tensor(where.lengths, device=hidden.device)[:, None]


def multiple_negatives(queries: Tensor, documents: Tensor, scale: float = 20.0, symmetric: bool = False) -> Tensor:
    """Every other document of the batch is a negative (Henderson et al. 2017, section 4.2, with cosines as the scores).

    Args:
        queries: ``(B, C)``.
        documents: ``(B + H, C)``; row i answers query i, the H rows after the first B are hard negatives of all.
        scale: what cosines are multiplied with, the inverse of a temperature.
        symmetric: the mean with the loss of finding the query of each document.
    """
    scores = scale * F.normalize(queries, dim=-1) @ F.normalize(documents, dim=-1).T
    target = torch.arange(len(queries), device=queries.device)
    loss = F.cross_entropy(scores, target)
    return (loss + F.cross_entropy(scores[:, : len(queries)].T, target)) / 2 if symmetric else loss


def cached_multiple_negatives(
    encode: Callable[[Any], Tensor], queries: Sequence[Any], documents: Sequence[Any], scale: float = 20.0, symmetric: bool = False
) -> Tensor:
    """:func:`multiple_negatives` of a batch that does not fit into memory (GradCache, Gao et al. 2021): equal loss, equal gradients.

    ``queries`` and ``documents`` are lists of small batches, ``encode`` makes embeddings ``(b, C)`` of one. Only embeddings are kept; in
    the backward pass each small batch is encoded again, with the random numbers of the first time, and alone.
    """

    def all_of(batches: Sequence[Any]) -> Tensor:
        return torch.cat([checkpoint(encode, batch, use_reentrant=False) for batch in batches])  # pyright: ignore[reportArgumentType]

    return multiple_negatives(all_of(queries), all_of(documents), scale, symmetric)


def cosine_similarity(a: Tensor, b: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of the cosine of ``a`` and ``b`` ``(B, C)`` against similarities ``(B,)`` (Reimers & Gurevych 2019)."""
    return F.mse_loss(F.cosine_similarity(a, b), labels.to(a.dtype))


def cosine_embedding(a: Tensor, b: Tensor, labels: Tensor, margin: float = 0.0) -> Tensor:
    """1 - cos for pairs labelled 1, max(0, cos - margin) for those labelled -1; ``a`` and ``b`` ``(B, C)``, labels ``(B,)``."""
    return F.cosine_embedding_loss(a, b, labels, margin)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
    """max(0, |a - p| - |a - n| + margin), all ``(B, C)`` (Reimers & Gurevych 2019, section 3)."""
    return F.triplet_margin_loss(anchor, positive, negative, margin)


def binary_relevance(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross-encoder: mean binary cross-entropy of scores ``(B,)`` or ``(B, 1)`` against relevance 0 to 1 ``(B,)`` (Nogueira & Cho 2019)."""
    return F.binary_cross_entropy_with_logits(scores.flatten(), labels.flatten().to(scores.dtype))


def listwise(scores: Tensor, relevance: Tensor, mask: Tensor | None = None) -> Tensor:
    """ListNet (Cao et al. 2007, eq. 4): cross-entropy of the softmax of scores against that of relevance, both ``(B, K)`` a query's list.

    ``mask`` ``(B, K)`` is False where a list is shorter.
    """
    if mask is not None:
        scores, relevance = (t.masked_fill(~mask, torch.finfo(scores.dtype).min) for t in (scores, relevance.to(scores.dtype)))
    return F.cross_entropy(scores, relevance.to(scores.dtype).softmax(-1))


# Distillation


def distillation(student: Tensor, teacher: Tensor, temperature: float = 2.0, mask: Tensor | None = None) -> Tensor:
    """T² KL(teacher || student) of logits ``(…, V)`` softened by the temperature (Hinton et al. 2015, section 2); mean over ``mask`` ``(…)``."""
    s, t = (logits.flatten(0, -2) if mask is None else logits[mask] for logits in (student, teacher))
    s, t = ((logits.float() / temperature).log_softmax(-1) for logits in (s, t))
    return F.kl_div(s, t, reduction="batchmean", log_target=True) * temperature**2


def hidden_cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of 1 - cos of hidden states ``(B, N, C)`` over the tokens in ``mask`` ``(B, N)`` (Sanh et al. 2019, section 3)."""
    cosine = F.cosine_similarity(student, teacher, dim=-1)
    return (1 - (cosine if mask is None else cosine[mask])).mean()


def hidden_error(student: Tensor, teacher: Tensor, project: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """Mean squared error of hidden states (Jiao et al. 2020, eq. 8): student ``(B, N, c)`` times ``project`` ``(c, C)``, teacher ``(B, N, C)``."""
    student = student if project is None else student @ project
    return F.mse_loss(student, teacher) if mask is None else F.mse_loss(student[mask], teacher[mask])


def distilbert(
    student: Any,
    teacher: Any,
    labels: Tensor,
    where: Where,
    temperature: float = 2.0,
    weights: tuple[float, float, float] = (5.0, 2.0, 1.0),
) -> Tensor:
    """The triple loss of Sanh et al. (2019): soft targets and labels at masked tokens, cosine of the last hidden states at all tokens.

    ``student`` and ``teacher`` are outputs of masked language models with hidden states; ``weights`` those of the authors' code.
    """
    places, real = labels != IGNORE, where.segment >= 0
    soft, hard, cosine = weights
    loss = soft * distillation(student.logits, teacher.logits, temperature, places) + hard * masked(student.logits, labels)
    return loss + cosine * hidden_cosine(student.hidden_states[-1], teacher.hidden_states[-1], real)
