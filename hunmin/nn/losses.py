"""Losses as pure functions of logits and labels. Labels of -100 are left out, as everywhere in this field."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from hunmin.errors import InputError, say
from hunmin.nn.where import Where

IGNORE = -100
Problem = Literal["regression", "single_label_classification", "multi_label_classification"]


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of logits ``(B, N, V)`` against labels ``(B, N)``."""
    if logits.shape[:-1] != labels.shape:
        raise InputError(
            say(
                f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}.",
                f"labels의 모양 {tuple(labels.shape)}이(가) logits의 모양 {tuple(logits.shape)}과(와) 맞지 않습니다.",
            )
        )
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten().to(logits.device), ignore_index=IGNORE)


def next_token_loss(logits: Tensor, labels: Tensor, segment: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of every token given those before it. Across two ``segment``s ``(B, N)`` of a packed row nothing is predicted."""
    target = labels[:, 1:].to(logits.device)
    if segment is not None:
        target = target.masked_fill(segment[:, 1:] != segment[:, :-1], IGNORE)
    return token_loss(logits[:, :-1], target)


def classification_loss(logits: Tensor, labels: Tensor, problem: Problem | None) -> Tensor:
    """Loss of logits ``(B, L)``: squared error, cross-entropy, or binary cross-entropy for several labels at once.

    Without ``problem`` the labels tell: one output is a regression, whole numbers are classes, anything else is several labels.
    """
    count = logits.shape[-1]
    if problem is None:
        whole = labels.dtype in (torch.long, torch.int)
        problem = "regression" if count == 1 else "single_label_classification" if whole else "multi_label_classification"
    if problem not in get_args(Problem):
        listed = ", ".join(get_args(Problem))
        raise InputError(say(f"problem_type {problem!r} is none of {listed}.", f"problem_type {problem!r}은(는) {listed} 가운데 없습니다."))
    labels = labels.to(logits.device)
    if problem == "regression":
        return F.mse_loss(logits.squeeze() if count == 1 else logits, labels.squeeze().to(logits.dtype))
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return F.cross_entropy(logits.view(-1, count), labels.view(-1))


def span_loss(start: Tensor, end: Tensor, starts: Tensor, ends: Tensor, at: Where | None = None) -> Tensor:
    """Mean cross-entropy of first and last token of an answer: logits ``(B, N)``, positions ``(B,)`` in each sequence.

    With ``at``, padding is no candidate, and the logits ``(1, N)`` of a packed row are those of its sequences. Positions outside of the
    sequence are left out.
    """

    def one(logits: Tensor, positions: Tensor) -> Tensor:
        if at is not None and at.kind == "packed":
            logits = pad_sequence(list(logits[0].split(at.lengths)), batch_first=True, padding_value=float("-inf"))
        elif at is not None:
            logits = logits.masked_fill(at.segment < 0, float("-inf"))
        positions, width = positions.view(-1).to(logits.device), logits.shape[-1]
        score = logits.gather(1, positions.clamp(0, width - 1)[:, None])[:, 0]
        outside = (positions < 0) | (positions >= width) | score.isneginf()
        return F.cross_entropy(logits, positions.masked_fill(outside, IGNORE), ignore_index=IGNORE)

    return (one(start, starts) + one(end, ends)) / 2


def multiple_choice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the choices of each question: scores ``(B * K,)`` or ``(B, K)``, the right choice ``(B,)``."""
    return F.cross_entropy(logits.reshape(len(labels), -1), labels.to(logits.device))


def replaced_token_loss(logits: Tensor, labels: Tensor, segment: Tensor) -> Tensor:
    """Mean binary cross-entropy of "was this token replaced" (Clark et al. 2020) over real tokens: all three ``(B, N)``."""
    real = segment >= 0
    return F.binary_cross_entropy_with_logits(logits[real], labels[real].to(logits.dtype))
