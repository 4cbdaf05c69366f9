"""Trainers for objectives that need more than the model's own loss: ELECTRA, sentence embeddings, distillation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.hub.weights import put
from hunmin.nn.losses import IGNORE
from hunmin.nn.where import Where
from hunmin.output import Output
from hunmin.train import losses
from hunmin.train.items import task_of
from hunmin.train.trainer import Trainer


class Electra(nn.Module):
    """A discriminator and its generator as one module, whose forward pass gives their joint loss (Clark et al. 2020, section 3.3).

    They share token and position embeddings where these have one shape (section 3.2).
    """

    def __init__(self, discriminator: Any, generator: Any, weight: float = 50.0) -> None:
        super().__init__()
        self.discriminator, self.generator, self.weight = discriminator, generator, weight
        for name in ("encoder.embed.tokens.weight", "encoder.embed.positions.weight"):
            theirs = dict(generator.named_parameters()).get(name)
            own = dict(discriminator.named_parameters()).get(name)
            if own is not None and theirs is not None and theirs.shape == own.shape:
                put(generator, name, own)
        generator.tie_weights()

    @property
    def base_model(self) -> Any:
        return self.discriminator

    @property
    def config(self) -> Any:
        return self.discriminator.config

    def forward(self, input_ids: Tensor, labels: Tensor, **batch: Any) -> Output:
        """``labels`` ``(B, N)``: the true tokens where ``input_ids`` are masked, -100 elsewhere."""
        batch = {**batch, "input_ids": input_ids, "labels": labels}
        return Output(loss=losses.electra(self.generator, self.discriminator, batch, self.weight))


class ElectraTrainer(Trainer):
    """Trains an ELECTRA ``model`` together with ``generator``, a masked language model; the collator is that of masked language models.

    ``save_model`` writes the discriminator.
    """

    def __init__(self, model: Any, *args: Any, generator: Any, weight: float = 50.0, **options: Any) -> None:
        super().__init__(Electra(model, generator, weight), *args, **options)

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        joint = self.model
        self.model = joint.discriminator
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self.model = joint


class ContrastiveTrainer(Trainer):
    """Sentence embeddings from batches of ``DataCollatorForContrastive``: a bare model, pooled.

    Rows without a label are pairs that belong together, and the other rows of the batch are their negatives; with a label, it is the cosine
    that the two texts of a row should have.
    """

    def __init__(
        self, *args: Any, columns: int = 2, scale: float = 20.0, symmetric: bool = False, pool: str = "mean", **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self.columns, self.scale, self.symmetric, self.pool = columns, scale, symmetric, pool
        self.args.remove_unused_columns = False  # the collator reads columns of any name
        self.label_names = []  # evaluation has a loss without labels too

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
        where = inputs["where"] if "where" in inputs else Where.padded(inputs["attention_mask"])
        first, *others = losses.pool(outputs.last_hidden_state, where, self.pool).chunk(self.columns)
        if "labels" in inputs:
            loss = losses.cosine_similarity(first, others[0], inputs["labels"])
        else:
            loss = losses.multiple_negatives(first, torch.cat(others), self.scale, self.symmetric)
        return (loss, outputs) if return_outputs else loss


class DistillationTrainer(Trainer):
    """A student learns the softened logits of ``teacher``, a model for the same task with the same vocabulary (Hinton et al. 2015).

    ``alpha`` is the share of the teacher in the loss; the rest is that of the labels, where there are any.
    """

    def __init__(self, *args: Any, teacher: Any, temperature: float = 2.0, alpha: float = 0.5, **options: Any) -> None:
        super().__init__(*args, **options)
        self.teacher, self.temperature, self.alpha = teacher.to(self.args.device).eval().requires_grad_(False), temperature, alpha

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        hard, outputs = super().compute_loss(model, inputs, True)
        with torch.no_grad():
            logits = self.teacher(**inputs).logits
        if logits.shape != outputs.logits.shape:
            raise InputError(
                say(
                    f"The teacher's logits are {tuple(logits.shape)}, the student's {tuple(outputs.logits.shape)}: labels and vocabulary must agree.",
                    f"교사의 logits {tuple(logits.shape)}과(와) 학생의 {tuple(outputs.logits.shape)}이(가) 다릅니다. 라벨과 어휘가 같아야 합니다.",
                )
            )
        soft = losses.distillation(outputs.logits, logits, self.temperature, predicted(inputs, task_of(self.model)))
        loss = self.alpha * soft + (1 - self.alpha) * hard
        return (loss, outputs) if return_outputs else loss


def predicted(batch: Any, task: str) -> Tensor | None:
    """True where a model's logits are scored, ``(B, N)``; None for logits of whole sequences."""
    labels = batch["labels"]
    if task not in ("CausalLM", "MaskedLM", "TokenClassification", "Seq2SeqLM"):
        return None
    known = labels != IGNORE
    if task != "CausalLM":
        return known
    after = known[:, 1:]  # the logits of a token are those of the next
    if "where" in batch:
        after = after & (batch["where"].segment[:, 1:] == batch["where"].segment[:, :-1])
    return torch.cat([after, torch.zeros_like(known[:, :1])], 1)
