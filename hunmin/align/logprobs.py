"""Log-probabilities of the tokens of sequences: what every method of alignment is a function of.

The projection to the vocabulary runs on chunks of labelled places only, so no tensor of ``(B, N, V)`` is ever made. B sequences, N tokens,
C width, V vocabulary, T labelled tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.losses import CHUNK, IGNORE, next_tokens
from hunmin.nn.where import Where
from hunmin.quantize import QuantizedLinear
from hunmin.train.items import loss_alone
from hunmin.train.rows import flatten

Entropy = Literal["learn"] | bool
WORTH = 1 / 16  # the share of tokens from which on it pays to compute equal beginnings once


class Scored(NamedTuple):
    """Values of the T labelled tokens of a batch, in the order of its sequences.

    ``logprobs`` ``(T,)`` in fp32; ``entropy`` ``(T,)`` of the distributions that they were drawn from, in nats, where it was asked for;
    ``row`` ``(T,)`` says which of the ``rows`` sequences a token is of.
    """

    logprobs: Tensor
    entropy: Tensor | None
    row: Tensor
    rows: int

    @property
    def counts(self) -> Tensor:
        """Labelled tokens of every sequence, ``(rows,)``."""
        return torch.bincount(self.row, minlength=self.rows)

    def total(self, values: Tensor) -> Tensor:
        """Sums of ``values`` ``(T,)`` over every sequence, ``(rows,)``; they pass gradients on."""
        return values.new_zeros(self.rows).index_add(0, self.row, values)

    def sums(self) -> Tensor:
        """The log-probability of every sequence's labelled tokens, ``(rows,)``."""
        return self.total(self.logprobs)

    def means(self) -> Tensor:
        """The same for each labelled token, ``(rows,)``; 0 for a sequence without any."""
        return self.sums() / self.counts.clamp(min=1)

    def split(self, values: Tensor | None = None) -> list[Tensor]:
        """``values`` ``(T,)``, or the log-probabilities, sequence by sequence."""
        return list((self.logprobs if values is None else values).split(self.counts.tolist()))


def pack(rows: Sequence[Mapping[str, Any]], model: Any = None, pad_token_id: int = 0) -> dict[str, Any]:
    """A batch of ``rows`` with ``input_ids`` and ``labels`` (-100: not scored), in their order.

    One packed row ``(1, N)`` and ``where`` for models of Hunmin, padded ``(B, N)`` with ``attention_mask`` for any other and for one with
    virtual tokens. Raises InputError for a row without tokens.
    """
    if not rows or any(not len(row["input_ids"]) for row in rows):
        raise InputError(say("A batch has no rows, or a row without tokens.", "배치에 행이 없거나 토큰이 없는 행이 있습니다."))
    if any(len(row["input_ids"]) != len(row["labels"]) for row in rows):
        raise InputError(say("Every token needs a label (-100: not scored).", "토큰마다 label이 있어야 합니다(-100은 계산에서 제외)."))
    values = [{key: list(row[key]) for key in ("input_ids", "labels")} for row in rows]
    if model is None or (isinstance(bare(model), PreTrainedModel) and not len(getattr(model, "virtual", ()))):
        return flatten(values, "token")
    longest = max(len(row["input_ids"]) for row in values)

    def padded(key: str, fill: int) -> Tensor:
        return torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in values])

    mask = torch.tensor([[1] * len(row["labels"]) + [0] * (longest - len(row["labels"])) for row in values])
    return {"input_ids": padded("input_ids", pad_token_id), "attention_mask": mask, "labels": padded("labels", IGNORE)}


def bare(model: Any) -> Any:
    """The model under adapters and under what distributes it."""
    model = getattr(model, "module", model)
    return model.base_model if hasattr(model, "peft_config") and isinstance(model.base_model, PreTrainedModel) else model


def inputs_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a batch goes into a model's forward pass besides labels."""
    return {key: batch[key] for key in ("input_ids", "attention_mask", "where") if key in batch}


def place_of(batch: Mapping[str, Any]) -> Where:
    """Segment and position of every token of a batch."""
    ids = batch["input_ids"]
    if batch.get("where") is not None:
        return batch["where"].to(ids.device)
    mask = batch.get("attention_mask")
    return Where.padded(mask) if mask is not None else Where.plain(*ids.shape, device=ids.device)


def computed_once(model: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Any], Tensor | None]:
    """What goes into a forward pass, and where ``(N,)`` its M columns have each of the batch's N tokens; None: all in their places.

    Answers to one prompt share it: pairs, and groups of completions. Decoders compute equal beginnings once, and their gradients are summed.
    """
    inputs, base = inputs_of(batch), bare(model)
    at, ids = inputs.get("where"), inputs["input_ids"]
    if at is None or at.kind != "packed" or any(at.starts) or not isinstance(base, PreTrainedModel) or not _looks_back(base):
        return inputs, None
    found, kept = at.memo("shared", lambda: at.shared(ids))
    if len(kept) > (1 - WORTH) * ids.shape[1]:
        return inputs, None
    return {**inputs, "input_ids": ids[:, kept.to(ids.device)], "where": found}, found.whole.columns.to(ids.device)


def _looks_back(model: PreTrainedModel) -> bool:
    """Whether what a model computes of a token follows from those before it, and not from how long the sequence becomes."""
    if model.encoder is not None or model.decoder is None:
        return False
    spec = model.decoder.stack.spec
    each = [spec.vary(i, spec.attn) for i in range(spec.layers)]
    return all(attn.causal and not (attn.rope and attn.rope.by_length) for attn in each)


def hidden_states(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """The last hidden states ``(B, N, C)`` of a batch's tokens, before the head; for models of Hunmin, with adapters or without."""
    # Quantized layers round their inputs where no gradients are wanted. Policy and reference, in training and evaluation, have to be compared
    # in one arithmetic, which is that of training.
    plain = torch.is_grad_enabled() or not any(isinstance(m, QuantizedLinear) for m in bare(model).modules())
    inputs, columns = computed_once(model, batch)
    with nullcontext() if plain else torch.enable_grad():
        hidden: Tensor = model(**inputs, logits_to_keep=None).last_hidden_state
    hidden = hidden if plain else hidden.detach()
    return hidden[:, -batch["input_ids"].shape[1] :] if columns is None else hidden[:, columns]  # virtual tokens stand in front


def score(
    model: Any,
    batch: Mapping[str, Any],
    *,
    temperature: float = 1.0,
    entropy: Entropy = False,
    chunk: int | None = None,
    hidden: Tensor | None = None,
) -> Scored:
    """``log p`` of every token of a batch whose label is not -100, given those before it in its sequence.

    Args:
        model: a causal language model, of Hunmin (with adapters or without) or any that returns ``logits`` ``(B, N, V)``.
        batch: ``input_ids`` and ``labels`` ``(B, N)`` with ``where`` or ``attention_mask``, as :func:`pack` makes it.
        temperature: logits are divided by it, as they were when the tokens were drawn.
        entropy: whether to measure entropies; "learn" lets gradients pass through them too.
        chunk: labelled tokens whose logits exist at one time.
        hidden: ``(B, N, C)`` of :func:`hidden_states`, where they are known.

    The first token of a sequence is predicted from nothing and never scored. Where the head is trained, the logits of a chunk are computed
    again for the gradients; where it is frozen, their gradient is taken at once.
    """
    ids, at = batch["input_ids"], place_of(batch)
    labels = next_tokens(batch["labels"], at.segment).to(ids.device)
    known = labels != IGNORE
    targets = labels[known]
    packed = at.kind == "packed"
    row = at.segment[:, 1:][known] if packed else known.nonzero()[:, 0]
    rows = len(at.lengths) if packed else len(ids)
    if not loss_alone(getattr(model, "module", model)) and not _headed(model):
        logits: Tensor = model(**inputs_of(batch)).logits
        logits = logits[:, -ids.shape[1] : -1][known]
        return Scored(*_in_parts(lambda part: part, logits, targets, temperature, entropy, chunk), row, rows)
    hidden = hidden if hidden is not None else hidden_states(model, batch)
    base = bare(model)

    def project(part: Tensor) -> Tensor:
        return base.head(part[None], at)[0]

    kept = hidden[:, :-1][known]
    if loss_alone(getattr(model, "module", model)):
        return Scored(*_chunked(base.head, project, kept, targets, temperature, entropy, chunk), row, rows)
    return Scored(*_in_parts(project, kept, targets, temperature, entropy, chunk), row, rows)


def _headed(model: Any) -> bool:
    """Whether the head is one of ours and whole in this process, adapters beside it or not."""
    base = bare(model)
    return isinstance(base, PreTrainedModel) and base.head is not None and all(type(p) is nn.Parameter for p in base.head.parameters())


def _values(logits: Tensor, targets: Tensor, temperature: float, entropy: Entropy) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities ``(K,)`` and entropies of logits ``(K, V)``, in fp32."""
    logits = logits.float() / temperature if temperature != 1.0 else logits.float()
    total = logits.logsumexp(-1)
    found = logits.gather(-1, targets[:, None])[:, 0] - total
    if not entropy:
        return found, None
    with nullcontext() if entropy == "learn" else torch.no_grad():
        return found, total - ((logits - total[:, None]).exp() * logits).sum(-1)


def _in_parts(
    project: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, temperature: float, entropy: Entropy, chunk: int | None
) -> tuple[Tensor, Tensor | None]:
    """Any projection: part by part, and once more for the gradients."""
    found = list[tuple[Tensor, Tensor | None]]()
    for part, labels in zip(hidden.split(chunk or CHUNK), targets.split(chunk or CHUNK), strict=True):

        def run(part: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
            return _values(project(part), labels, temperature, entropy)

        learning = torch.is_grad_enabled()
        found.append(checkpoint(run, part, labels, use_reentrant=False) if learning else run(part, labels))  # pyright: ignore[reportArgumentType]
    return _joined(found, hidden)


def _joined(found: Sequence[tuple[Tensor, Tensor | None]], hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    entropies = [e for _, e in found if e is not None]
    logprobs = torch.cat([lp for lp, _ in found]) if found else hidden.float().sum(-1)
    return logprobs, torch.cat(entropies) if entropies else None


def _chunked(
    head: nn.Module,
    project: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    entropy: Entropy,
    chunk: int | None,
) -> tuple[Tensor, Tensor | None]:
    """A projection that nobody hooks into, with gradients by formula: one buffer of ``(chunk, V)`` instead of four."""
    parameters = list(head.parameters())
    learnt = any(p.requires_grad for p in parameters)
    # larger chunks save passes over the gradient of the head; without one, smaller chunks stay in the cache
    how = _How(project, targets, temperature, entropy, chunk or (CHUNK if learnt else max(1, CHUNK // 4)), torch.is_grad_enabled())
    logprobs, entropies = _Score.apply(how, hidden, *parameters)  # pyright: ignore[reportGeneralTypeIssues]
    return logprobs, entropies if entropy else None


class _How(NamedTuple):
    project: Callable[[Tensor], Tensor]
    targets: Tensor
    temperature: float
    entropy: Entropy
    chunk: int
    learning: bool

    def exponentials(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``exp(z - max z)`` of scaled logits ``(K, V)`` in a new tensor, their sum and ``max z``, both ``(K, 1)``: one pass a step, no more."""
        z = logits.float() / self.temperature if self.temperature != 1.0 else logits.to(torch.float32, copy=True)
        top = z.amax(-1, keepdim=True)
        z.sub_(top).exp_()
        return z, z.sum(-1, keepdim=True), top

    def values(self, logits: Tensor, targets: Tensor, keep: bool) -> tuple[Tensor, Tensor | None, Tensor]:
        """Log-probabilities and entropies ``(K,)`` of logits ``(K, V)``, and their probabilities where these are to be kept."""
        powers, total, top = self.exponentials(logits)
        chosen = logits.gather(-1, targets[:, None]).float() / self.temperature
        found = (chosen - top - total.log())[:, 0]
        p = powers.div_(total) if keep or self.entropy else powers
        return found, torch.special.entr(p).sum(-1) if self.entropy else None, p

    def gradient(self, logits: Tensor, p: Tensor, targets: Tensor, outer: Tensor | None, outer_entropy: Tensor | None) -> Tensor:
        """Gradient for logits ``(K, V)`` with probabilities ``p``, which it overwrites, of both values weighted ``(K,)``; no weight counts 1.

        With p = softmax(z / t): d log p_y / dz = (1_y - p) / t, and dH / dz = -p (log p + H) / t.
        """
        slope = None
        if outer_entropy is not None:
            inward = torch.special.entr(p)  # -p log p
            slope = (inward - p * inward.sum(-1, keepdim=True)) * outer_entropy[:, None]
        weight = outer[:, None] if outer is not None else torch.ones_like(p[:, :1])
        grad = p.mul_(-weight).scatter_add_(1, targets[:, None], weight)
        grad = grad if slope is None else grad.add_(slope)
        return (grad.div_(self.temperature) if self.temperature != 1.0 else grad).to(logits.dtype)


class _Score(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: _How, hidden: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        wanted = [how.learning and needed for needed in ctx.needs_input_grad[1:]]
        direct = wanted[0] and not any(wanted[1:]) and how.entropy != "learn"
        found, slopes = list[tuple[Tensor, Tensor | None]](), list[Tensor]()
        for part, labels in zip(hidden.split(how.chunk), how.targets.split(how.chunk), strict=True):
            part = part.detach().requires_grad_(direct)
            with torch.enable_grad():  # as in training, also where nothing is learnt
                logits = how.project(part)
            logprobs, entropies, p = how.values(logits.detach(), labels, direct)
            found.append((logprobs, entropies))
            if direct:
                slopes += torch.autograd.grad(logits, part, how.gradient(logits, p, labels, None, None))
        ctx.how, ctx.wanted, ctx.direct, ctx.parameters = how, wanted, direct, parameters
        device = hidden.device.type
        ctx.cast = (device, torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
        ctx.save_for_backward(torch.cat(slopes) if slopes else hidden)
        logprobs, entropies = _joined(found, hidden)
        entropies = entropies if entropies is not None else logprobs.new_zeros(0)
        if how.entropy != "learn":
            ctx.mark_non_differentiable(entropies)
        return logprobs.detach(), entropies

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        how, (held,) = ctx.how, ctx.saved_tensors
        if ctx.direct:
            return None, held * outer[0][:, None].to(held.dtype), *(None for _ in ctx.parameters)
        learnt = [p for p, needed in zip(ctx.parameters, ctx.wanted[1:], strict=True) if needed]
        sums, slopes = [torch.zeros_like(p) for p in learnt], list[Tensor]()
        for i in range(0, len(held), how.chunk):
            at = slice(i, i + how.chunk)
            part = held[at].detach().requires_grad_(ctx.wanted[0])
            with torch.enable_grad(), torch.autocast(*ctx.cast) if ctx.cast else nullcontext():
                logits = how.project(part)
            p, total, _ = how.exponentials(logits.detach())
            grad = how.gradient(logits, p.div_(total), how.targets[at], outer[0][at], outer[1][at] if how.entropy == "learn" else None)
            found = list(torch.autograd.grad(logits, [part, *learnt] if ctx.wanted[0] else learnt, grad))
            slopes += [found.pop(0)] if ctx.wanted[0] else []
            for total, new in zip(sums, found, strict=True):
                total += new
        totals = iter(sums)
        slope = (torch.cat(slopes) if slopes else torch.zeros_like(held)) if ctx.wanted[0] else None
        return None, slope, *(next(totals) if needed else None for needed in ctx.wanted[1:])
