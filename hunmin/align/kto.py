"""Learning from single answers that were found good or bad."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from hunmin.align.base import TokenRows
from hunmin.align.config import KTOConfig
from hunmin.align.dpo import PreferenceTrainer
from hunmin.align.logprobs import pack, score
from hunmin.align.losses import kto
from hunmin.align.prompts import Row, Split, implicit
from hunmin.errors import InputError, say, short
from hunmin.nn.losses import IGNORE
from hunmin.output import Output
from hunmin.train.data import sized


class KTOTrainer(PreferenceTrainer):
    """Makes desirable answers likelier than the reference does and undesirable ones less likely (Ethayarajh et al. 2024).

    Rows have ``prompt``, ``completion`` and ``label`` (True: good). Pairs of ``chosen`` and ``rejected`` count as two rows. The point of
    reference, KL(policy | reference), is measured on prompts with the answers of other rows.
    """

    config = KTOConfig

    # -------------------------------------------------------------- rows

    def prepared(self, dataset: Any, *, train: bool = True) -> Any:
        if dataset is None or isinstance(dataset, TokenRows):
            return super().prepared(dataset, train=train)
        if not sized(dataset):
            raise InputError(say("KTO needs a data set whose rows have numbers.", "KTO에는 번호로 읽을 수 있는 데이터셋이 필요합니다."))
        return super().prepared([row for i in range(len(dataset)) for row in unpaired(dataset[i])], train=train)

    def encode(self, row: Any) -> Row | None:
        label = row.get("label")
        if label is None or isinstance(label, str):
            raise InputError(
                say(f"KTO needs a label (good or not) in every row; this one: {short(row)}.",
                    f"KTO에는 행마다 label(좋은지 아닌지)이 필요합니다. 받은 행: {short(row)}.")
            )  # fmt: skip
        if "completion_ids" in row:
            split: Split | None = Split(list(row.get("prompt_ids") or ()), list(row["completion_ids"]))
        else:
            split = self.prompts.single(row)
        return {"answer": split.row(), "label": bool(label)} if split is not None else None

    def finished(self, rows: TokenRows) -> TokenRows:
        """With every prompt's text for the point of reference: the answer of the row before, in blocks of a batch."""
        if self.args.loss_type != "kto":
            return rows
        size = max(2, self.args.per_device_train_batch_size)
        for i in range(0, len(rows), size):
            block = rows[i : i + size]
            for j, row in enumerate(block):
                prompt, answer = _parts(row["answer"])[0], _parts(block[j - 1]["answer"])[1]
                if self.prompts.max_length is not None:  # the prompt leaves room for its own answer, so for one token at least
                    answer = answer[: self.prompts.max_length - len(prompt)]
                row["other"] = Split(prompt, answer).row()
        return rows

    def collator(self) -> Any:
        return self._collate

    def _collate(self, rows: list[Row]) -> dict[str, Any]:
        batch = pack([row["answer"] for row in rows], self.shape, self.pad_id)
        batch |= {"rows": len(rows), "desirable": torch.tensor([row["label"] for row in rows])}
        if "other" in rows[0]:
            batch["other"] = pack([row["other"] for row in rows], self.shape, self.pad_id)
        for name in ("ref_logps", "ref_KL_logps"):
            if all(name in row for row in rows):
                batch[name] = torch.tensor([row[name] for row in rows])
        return batch

    # -------------------------------------------------------------- loss

    def reference_values(self, batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        wanted = {"ref_logps": batch} | ({"ref_KL_logps": batch["other"]} if "other" in batch else {})
        if all(name in batch for name in wanted):
            return {name: batch[name] for name in wanted}
        assert self.reference is not None
        return {name: self.reference.score(part).sums() for name, part in wanted.items()}

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        args, refs, kl = self.args, self.reference_values(inputs), torch.zeros(())
        if "other" in inputs:
            with torch.no_grad():
                kl = (score(model, inputs["other"]).sums() - refs["ref_KL_logps"]).mean().clamp(min=0)
            self.note(kl=kl)
        policy, good = score(model, inputs).sums(), inputs["desirable"]
        each = kto(policy, refs["ref_logps"], good, kl, args.beta, args.desirable_weight, args.undesirable_weight, args.loss_type)
        loss, rewards = each.mean(), args.beta * (policy - refs["ref_logps"])
        self.note(rewards_chosen=rewards[good], rewards_rejected=rewards[~good], logps_chosen=policy[good], logps_rejected=policy[~good])
        return (loss, Output(loss=loss, logps=policy)) if return_outputs else loss

    def _means(self, training: bool) -> dict[str, float]:
        found = super()._means(training)
        if "rewards/chosen" in found and "rewards/rejected" in found:
            found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
        return found


def unpaired(row: Any) -> Iterator[Any]:
    """A row, or the two that a pair of answers is."""
    if not isinstance(row, Mapping) or "chosen" not in row or "rejected" not in row:
        yield row
        return
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if prompt is None:
        prompt, chosen, rejected = implicit(chosen, rejected)
    yield {"prompt": prompt, "completion": chosen, "label": True}
    yield {"prompt": prompt, "completion": rejected, "label": False}


def _parts(row: Row) -> tuple[list[int], list[int]]:
    """Tokens of the prompt and of the answer."""
    count = sum(label == IGNORE for label in row["labels"])
    return row["input_ids"][:count], row["input_ids"][count:]
