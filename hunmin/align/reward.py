"""Reward models: of whole answers, of their tokens, and of the steps of a solution."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import hunmin
from hunmin.align.base import PairTrainer, loaded
from hunmin.align.config import RewardConfig
from hunmin.align.logprobs import computed_once, inputs_of, pack, place_of
from hunmin.align.losses import bradley_terry, process_reward
from hunmin.align.prompts import Row, Split
from hunmin.errors import InputError, say, short
from hunmin.nn.losses import IGNORE
from hunmin.output import Output
from hunmin.train.data import sized

# How taught code calls the tokens of a pair.
TOKENS = ("input_ids_{}", "{}_input_ids", "{}_ids")


class RewardTrainer(PairTrainer):
    """Trains a model to give the chosen answer of a pair the higher reward, or to judge the steps of solutions.

    What it learns follows from the model and the rows. Pairs with a model for sequence classification of one label: a reward of the whole
    text. Pairs with a model for token classification of one label: a reward of every token of the answer, whose mean is the answer's.
    Rows of ``prompt``, ``completions`` (steps) and ``labels`` (right or wrong) with a model for token classification of one or two labels:
    process rewards, read at the end of every step. A column ``margin`` says by how much a chosen answer is better.
    """

    config = RewardConfig
    task = "SequenceClassification"

    def __init__(self, model: Any = None, args: Any = None, data_collator: Any = None, train_dataset: Any = None, **options: Any) -> None:
        if isinstance(model, str):
            first = train_dataset[0] if sized(train_dataset) and len(train_dataset) else {}
            given = options.pop("model_init_kwargs", None) or getattr(args, "model_init_kwargs", None)
            model = judge(model, "completions" in first, given or {})
            if getattr(args, "model_init_kwargs", None):
                args = copy.copy(args)
                args.model_init_kwargs = None  # they are used up
        super().__init__(model, args, data_collator, train_dataset, **options)

    # -------------------------------------------------------------- rows

    def encode(self, row: Any) -> Row | None:
        if "completions" in row:
            return self._steps(row)
        named = next((name for name in TOKENS if name.format("chosen") in row), None)
        if named is not None:
            both = {side: Split([], list(row[named.format(side)])) for side in ("chosen", "rejected")}
        else:
            both = self.prompts.pair(row, judged=True)
        if both is None:
            return None
        made: Row = {side: split.row() for side, split in both.items()}
        return made | ({"margin": float(row["margin"])} if row.get("margin") is not None else {})

    def _steps(self, row: Mapping[str, Any]) -> Row | None:
        """Tokens of a solution, with a label on the last of every step (its separator)."""
        prompts, args = self.prompts, self.args
        steps, labels = row["completions"], row.get("labels")
        if not isinstance(labels, list | tuple) or len(labels) != len(steps) or not isinstance(row.get("prompt"), str):  # pyright: ignore[reportUnknownArgumentType]
            raise InputError(
                say(
                    f"Process rewards need prompt, completions (steps) and one label a step; this row: {short(dict(row))}.",
                    f"과정 보상에는 prompt, completions(단계), 단계마다 하나인 labels가 필요합니다. 받은 행: {short(dict(row))}.",
                )
            )
        prompts.left_out.rows += 1
        judged = (
            [IGNORE] * (len(steps) - 1) + [int(labels[-1])] if args.train_on_last_step_only and steps else [int(label) for label in labels]
        )  # pyright: ignore[reportUnknownArgumentType]

        def plain(text: str) -> list[int]:
            return list(prompts.tokenizer(text, add_special_tokens=False)["input_ids"])

        separator, answer, marks = plain(args.step_separator), list[int](), list[int]()
        for step, label in zip(steps, judged, strict=True):
            ids = plain(step) + separator
            answer += ids
            marks += [IGNORE] * (len(ids) - 1) + [label] * bool(ids)
        start = getattr(prompts.tokenizer, "bos_token_id", None)
        before = [*([start] if start is not None else []), *plain(row["prompt"])]
        before = before[-args.max_prompt_length :] if args.max_prompt_length else before
        marks = marks[: args.max_completion_length] if args.max_completion_length else marks
        ids, marks = (before + answer)[: prompts.max_length], ([IGNORE] * len(before) + marks)[: prompts.max_length]
        if all(mark == IGNORE for mark in marks):
            prompts.left_out.add("too long" if answer else "no answer")
            return None
        return {"input_ids": ids[: len(marks)], "labels": marks}

    def collator(self) -> Any:
        return self._collate

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        """Pairs as chosen texts, then rejected ones; solutions as they are."""
        if "labels" in rows[0]:
            batch = pack(rows, self.shape, self.pad_id)
            return batch | {"rows": sum(label != IGNORE for row in rows for label in row["labels"]), "steps": True}
        batch = pack([row["chosen"] for row in rows] + [row["rejected"] for row in rows], self.shape, self.pad_id)
        margins = [row.get("margin", 0.0) for row in rows]
        return batch | {"rows": len(rows), "steps": False} | ({"margin": torch.tensor(margins)} if any(margins) else {})

    # -------------------------------------------------------------- loss

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        if inputs["steps"]:
            logits = model(**inputs_of(inputs)).logits
            known = inputs["labels"] != IGNORE
            found, labels = _per_token(logits, 2)[known], inputs["labels"][known]
            loss = process_reward(found, labels)
            right = found[:, 0] > 0 if found.shape[-1] == 1 else found[:, 1] > found[:, 0]
            self.note(accuracy=(right == labels.bool()).float())
            return (loss, Output(loss=loss, logits=found)) if return_outputs else loss
        rewards = rewards_of(model, inputs)
        chosen, rejected = rewards.chunk(2)
        loss = bradley_terry(chosen, rejected, inputs.get("margin"), self.args.center_rewards_coefficient or 0.0)
        self.note(accuracy=(chosen > rejected).float(), margin=chosen - rejected, mean_reward=rewards)
        self.note(min_reward=rewards.min(), max_reward=rewards.max())
        return (loss, Output(loss=loss, logits=torch.stack([chosen, rejected], -1))) if return_outputs else loss


def judge(name: str, steps: bool, options: Mapping[str, Any]) -> Any:
    """A reward model by its name: as it was stored, or a language model with a fresh head, with two outputs a token to judge steps."""
    task = "TokenClassification" if steps else "SequenceClassification"
    stored = (hunmin.AutoConfig.from_pretrained(name).get("architectures") or [""])[0].endswith(task)
    return loaded(name, task, {**({} if stored else {"num_labels": 2 if steps else 1}), **options})


def rewards_of(model: Any, batch: Mapping[str, Any]) -> Tensor:
    """The reward of every sequence, ``(B,)`` in fp32: the model's one output, or the mean of those of the labelled tokens.

    Raises InputError for a model with more than one output.
    """
    inputs, columns = computed_once(model, batch)
    logits: Tensor = model(**inputs).logits
    if logits.ndim == 2:
        return _one_output(logits)[:, 0].float()
    logits = logits if columns is None else logits[:, columns]
    values, known = _per_token(logits, 1)[..., 0].float(), batch["labels"] != IGNORE
    at = place_of(batch)
    packed = at.kind == "packed"
    row = at.segment[known] if packed else known.nonzero()[:, 0]
    rows = len(at.lengths) if packed else len(known)
    sums = values.new_zeros(rows).index_add(0, row, values[known])
    return sums / torch.bincount(row, minlength=rows).clamp(min=1)


def _one_output(logits: Tensor, most: int = 1) -> Tensor:
    if logits.shape[-1] > most:
        raise InputError(
            say(
                f"A reward model has one output (process rewards: at most two), this one {logits.shape[-1]}: load it with num_labels=1.",
                f"보상 모델의 출력은 하나(과정 보상은 둘까지)여야 하는데 {logits.shape[-1]}개입니다. num_labels=1로 불러오세요.",
            )
        )
    return logits


def _per_token(logits: Tensor, most: int) -> Tensor:
    """Outputs ``(B, N, L)`` of tokens. Raises InputError for those of sequences."""
    if logits.ndim != 3:
        raise InputError(
            say(
                "Process rewards need a model for token classification: AutoModelForTokenClassification.",
                "과정 보상에는 토큰 분류 모델(AutoModelForTokenClassification)이 필요합니다.",
            )
        )
    return _one_output(logits, most)
