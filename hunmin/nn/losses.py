"""Losses as pure functions of logits and labels. Labels of -100 are left out, as everywhere in this field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
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


def next_tokens(labels: Tensor, segment: Tensor | None = None) -> Tensor:
    """Labels ``(B, N)`` as targets ``(B, N - 1)`` of the tokens before them; across two segments of a packed row nothing is predicted."""
    target = labels[:, 1:]
    return target if segment is None else target.masked_fill((segment[:, 1:] != segment[:, :-1]).to(target.device), IGNORE)


def next_token_loss(logits: Tensor, labels: Tensor, segment: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of every token given those before it. Across two ``segment``s ``(B, N)`` of a packed row nothing is predicted."""
    return token_loss(logits[:, :-1], next_tokens(labels, segment))


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


CHUNK = 1024  # tokens; a quarter of them where the head has no gradients to add up, which is what larger chunks save


def chunked_loss(head: nn.Module, project: Callable[[Tensor], Tensor], hidden: Tensor, labels: Tensor, size: int | None = None) -> Tensor:
    """Mean cross-entropy of ``project(hidden)`` against labels ``(K,)``, hidden ``(K, C)``, without the logits ``(K, V)`` of all tokens.

    The logits of ``size`` tokens (``CHUNK``) at a time become their loss and its gradients (for ``hidden`` and the parameters of ``head``),
    and are gone: memory no longer grows with K times V, and nothing is computed twice.
    """
    labels = labels.to(hidden.device)
    return chunked_mean(head, lambda part, at: F.cross_entropy(project(part).float(), labels[at], reduction="sum"), hidden, size)


def chunked_mean(head: nn.Module, loss: Callable[[Tensor, slice], Tensor], hidden: Tensor, size: int | None = None) -> Tensor:
    """``loss`` of all tokens over their number K: hidden ``(K, C)`` goes through it, and so through ``head``, ``size`` tokens at a time.

    ``loss`` gets a part of ``hidden`` and where it was cut, and gives a sum. Its gradients are made at once, for ``hidden`` and for the
    parameters of ``head``.
    """
    learning = torch.is_grad_enabled()  # nobody knows inside of the function
    size = size or (CHUNK if any(p.requires_grad for p in head.parameters()) else max(1, CHUNK // 4))
    return _Chunked.apply(loss, size, learning, hidden, *head.parameters())  # pyright: ignore[reportReturnType]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss_of: Callable[[Tensor, slice], Tensor], size: int, learning: bool, hidden: Tensor, *parameters: Tensor
    ) -> Tensor:
        """Losses are summed in fp32, gradients in the dtype of what they belong to."""
        wanted = [t if needed and learning else None for t, needed in zip((hidden, *parameters), ctx.needs_input_grad[3:], strict=True)]
        grads = [torch.zeros_like(t) if t is not None else None for t in wanted]
        total = torch.zeros((), device=hidden.device)
        for i in range(0, len(hidden), size):
            part = hidden[i : i + size].detach()
            part = part.requires_grad_() if wanted[0] is not None else part
            with torch.set_grad_enabled(learning):
                loss = loss_of(part, slice(i, i + size))
            total += loss.detach()
            places = [j for j, t in enumerate(wanted) if t is not None]
            found = torch.autograd.grad(loss, [part if j == 0 else parameters[j - 1] for j in places]) if places else ()
            for j, new in zip(places, found, strict=True):
                grad = grads[j]
                assert grad is not None
                if j == 0:
                    grad[i : i + size] = new
                else:
                    grad += new
        ctx.save_for_backward(*(g for g in grads if g is not None))
        ctx.kept, ctx.count = [g is not None for g in grads], max(1, len(hidden))
        return total / ctx.count

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        held, scale = iter(ctx.saved_tensors), outer[0] / ctx.count
        return None, None, None, *(next(held) * scale if kept else None for kept in ctx.kept)
