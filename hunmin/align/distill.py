"""Distillation of a language model, also on what the student itself writes (Agarwal et al. 2023)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hunmin.align.base import Sequences, loaded
from hunmin.align.config import DistillConfig
from hunmin.align.logprobs import bare, hidden_states, inputs_of, pack, place_of
from hunmin.align.losses import jsd
from hunmin.align.prompts import Row
from hunmin.align.reference import same_vocabulary
from hunmin.align.sft import SFTTrainer
from hunmin.errors import InputError, say
from hunmin.model import PreTrainedModel
from hunmin.nn.losses import CHUNK, IGNORE, chunked_mean, next_tokens
from hunmin.output import Output
from hunmin.train import parallel
from hunmin.train.items import loss_alone


class DistillTrainer(SFTTrainer):
    """Trains a student towards ``teacher_model``'s distribution of every token of the answers: TRL's GKDTrainer.

    A share ``args.lmbda`` of the batches has answers that the student samples, so that it learns where it would go; with ``seq_kd`` the
    teacher writes those of the others. ``args.beta`` goes from forward KL (0) over the Jensen-Shannon divergence to reverse KL (1).

    Raises InputError where teacher and student have different vocabularies, and for sampling without prompts.
    """

    config = DistillConfig

    def __init__(self, model: Any = None, teacher_model: Any = None, *args: Any, **options: Any) -> None:
        self.teacher = teacher_model
        super().__init__(model, *args, **options)

    def start(self) -> None:
        super().start()
        args = self.args
        given = self.teacher if self.teacher is not None else args.teacher_model_name_or_path
        if given is None:
            raise InputError(say("Distillation needs teacher_model=.", "증류에는 teacher_model=이 필요합니다."))
        self.teacher = loaded(given, "CausalLM", args.teacher_model_init_kwargs)
        same_vocabulary(self.model, self.teacher)
        self.teacher = self.teacher.to(args.device).eval().requires_grad_(False)
        if args.packing and (args.lmbda or args.seq_kd):
            raise InputError(
                say("packing is for lmbda=0 without seq_kd: sampled answers are not packed beforehand.",
                    "packing은 lmbda=0이고 seq_kd가 없을 때만 씁니다. 생성한 답은 미리 패킹할 수 없습니다.")
            )  # fmt: skip

    def collator(self) -> Any:
        return _WithPrompts(self.shape, self.pad_id)

    # -------------------------------------------------------------- answers of the models' own

    def _step(self, group: list[Any]) -> None:
        draw, args = random.Random(f"{self.args.seed} {self.state.global_step} {parallel.data_rank(self.args)}"), self.args
        for i, batch in enumerate(group):
            if draw.random() < args.lmbda:
                group[i] = self.answered(self.model, batch)
            elif args.seq_kd:
                group[i] = self.answered(self.teacher, batch)
        super()._step(group)

    @torch.no_grad()
    def answered(self, model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch's prompts with answers that ``model`` samples. Raises InputError for rows without a prompt."""
        prompts: list[list[int]] = batch.get("prompts", [])
        if not prompts or not all(prompts):
            raise InputError(
                say("To sample answers, rows need a prompt beside the completion; or set lmbda=0.",
                    "답을 생성하려면 행에 completion과 함께 prompt가 필요합니다. 아니면 lmbda=0으로 두세요.")
            )  # fmt: skip
        longest, training, args = max(map(len, prompts)), model.training, self.args
        ids = torch.tensor([[self.pad_id] * (longest - len(p)) + p for p in prompts], device=args.device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=args.device)
        end = self.prompts.end_id if self.processing_class is not None else None
        model.eval()
        with parallel.gathered(model, args):
            out = model.generate(
                ids, attention_mask=mask, do_sample=True, temperature=args.temperature, top_k=0, top_p=1.0,
                max_new_tokens=args.max_new_tokens, pad_token_id=self.pad_id, eos_token_id=end,
            )  # fmt: skip
        model.train(training)
        rows = [_answer(prompt, new, end) for prompt, new in zip(prompts, out[:, longest:].tolist(), strict=True)]
        return pack(rows, self.shape, self.pad_id) | {"prompts": prompts}

    # -------------------------------------------------------------- loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        loss = divergence(model, self.teacher, inputs, self.args.beta, self.args.temperature)
        return (loss, Output(loss=loss, each=loss[None])) if return_outputs else loss


class _WithPrompts(Sequences):
    """The batch also says what stands before the answers."""

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        batch = super().__call__(rows)
        if any("lengths" in row for row in rows):
            return batch
        return batch | {"prompts": [row["input_ids"][: _begins(row["labels"])] for row in rows]}


def _begins(labels: list[int]) -> int:
    return next((i for i, label in enumerate(labels) if label != IGNORE), len(labels))


def _answer(prompt: list[int], new: list[int], end: int | None) -> Row:
    """A row of a prompt and what was sampled, up to the token that ends it."""
    new = new[: new.index(end) + 1] if end in new else new
    return {"input_ids": prompt + new, "labels": [IGNORE] * len(prompt) + new}


def divergence(
    student: Any, teacher: Any, batch: Mapping[str, Any], beta: float = 0.5, temperature: float = 1.0, chunk: int | None = None
) -> Tensor:
    """The mean :func:`hunmin.align.losses.jsd` over the labelled tokens of a batch; the logits of ``chunk`` tokens exist at one time.

    Models that are not Hunmin's give all their logits.
    """
    at = place_of(batch)
    labels = next_tokens(batch["labels"], at.segment)
    known = labels != IGNORE

    def states(model: Any) -> tuple[Tensor, Any]:
        """What is kept of a model's pass, ``(K, C)``, and how it becomes logits."""
        base = bare(model)
        if not isinstance(base, PreTrainedModel):
            return model(**inputs_of(batch)).logits[:, :-1][known], lambda part: part  # pyright: ignore[reportUnknownLambdaType]
        return hidden_states(model, batch)[:, :-1][known], lambda part: base.head(part[None], at)[0]  # pyright: ignore[reportUnknownLambdaType, reportOptionalCall]

    with torch.no_grad():
        theirs, taught = states(teacher)
    hidden, project = states(student)

    def loss(part: Tensor, where: slice) -> Tensor:
        with torch.no_grad():
            target = taught(theirs[where])
        return jsd(project(part), target, beta, temperature).sum()

    if loss_alone(student):
        return chunked_mean(bare(student).head, loss, hidden, chunk)
    size, total = chunk or CHUNK, hidden.float().sum() * 0
    for i in range(0, len(hidden), size):
        total = total + checkpoint(loss, hidden[i : i + size], slice(i, i + size), use_reentrant=False)  # pyright: ignore[reportOperatorIssue]
    return total / max(1, len(hidden))


GKDTrainer, GKDConfig = DistillTrainer, DistillConfig
