"""Writes the golden losses of the alignment tests. Run it beside TRL, in an environment of its own:

pip install "trl==1.16.0" transformers && python -m tests.align_golden
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.align_cases import ANSWERS, CHATS, PAIRS, TEXTS, folder

GOLDEN = Path(__file__).parent / "golden" / "align" / "trl.json"
# Settings of DPOConfig, and what they are called here.
DPO: dict[str, dict[str, Any]] = {
    **{kind: {"loss_type": kind} for kind in ("sigmoid", "hinge", "ipo", "sigmoid_norm", "nca_pair", "bco_pair", "sppo_hard", "aot",
                                              "aot_unpaired", "apo_zero", "apo_down", "discopop")},
    "robust": {"loss_type": "robust", "label_smoothing": 0.2},
    "exo_pair": {"loss_type": "exo_pair", "label_smoothing": 0.1},
    "mixed": {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.3], "beta": 0.3},
    "forward_kl": {"f_divergence_type": "forward_kl"},
    "js_divergence": {"f_divergence_type": "js_divergence"},
    "alpha_divergence": {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.3},
    "short": {"max_length": 18},
}  # fmt: skip
CPO: dict[str, dict[str, Any]] = {
    "cpo": {"label_smoothing": 0.1},
    "simpo": {"loss_type": "simpo", "cpo_alpha": 0.0, "beta": 2.0, "simpo_gamma": 1.0},
    "simpo_nll": {"loss_type": "simpo", "cpo_alpha": 0.5, "beta": 2.0},
}
SFT: dict[str, tuple[str, dict[str, Any]]] = {
    "text": ("TEXTS", {}),
    "prompt": ("PROMPTS", {}),
    "whole": ("PROMPTS", {"completion_only_loss": False}),
    "chat": ("CHATS", {}),
    "chat_prompt": ("CHAT_PROMPTS", {}),
    "short": ("TEXTS", {"max_length": 6}),
    "dft": ("TEXTS", {"loss_type": "dft"}),
}
SETTINGS: dict[str, Any] = {"per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none", "max_length": None, "bf16": False,
                            "gradient_checkpointing": False, "remove_unused_columns": False, "dataloader_pin_memory": False}  # fmt: skip


def sft_rows(kind: str) -> list[dict[str, Any]]:
    return {
        "TEXTS": TEXTS,
        "PROMPTS": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS],
        "CHATS": [{"messages": row["prompt"] + row["chosen"]} for row in CHATS],
        "CHAT_PROMPTS": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in CHATS],
    }[kind]


def loss_of(trainer: Any) -> float:
    """The loss of the only batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.eval()
    return float(trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)))


def main() -> None:
    import trl  # pyright: ignore[reportMissingImports]
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental import cpo, gkd, orpo  # pyright: ignore[reportMissingImports]

    place, found = Path(tempfile.mkdtemp()), dict[str, float]()
    own, other = folder(place / "policy"), folder(place / "reference", salt="ref.")
    judge = folder(place / "judge", "SequenceClassification", num_labels=1)
    tokenizer, judging = AutoTokenizer.from_pretrained(own), AutoTokenizer.from_pretrained(own)
    judging.pad_token = judging.convert_ids_to_tokens(1)  # else the end of a text counts as padding, and is not read
    causal: Callable[[Path], Any] = AutoModelForCausalLM.from_pretrained
    pairs = Dataset.from_list(PAIRS)

    def sft() -> Iterator[tuple[str, Any]]:
        for name, (rows, how) in SFT.items():
            args = trl.SFTConfig(str(place / "out"), **SETTINGS | how)
            yield name, trl.SFTTrainer(causal(own), args, train_dataset=Dataset.from_list(sft_rows(rows)), processing_class=tokenizer)

    def dpo() -> Iterator[tuple[str, Any]]:
        for name, how in DPO.items():
            args = trl.DPOConfig(str(place / "out"), **SETTINGS | how)
            yield name, trl.DPOTrainer(causal(own), causal(other), args, train_dataset=pairs, processing_class=tokenizer)
        args = trl.DPOConfig(str(place / "out"), **SETTINGS)
        yield "chat", trl.DPOTrainer(causal(own), causal(other), args, train_dataset=Dataset.from_list(CHATS), processing_class=tokenizer)

    def cpos() -> Iterator[tuple[str, Any]]:
        more = {"max_length": 200, "max_completion_length": 100}
        for name, how in CPO.items():
            yield (
                name,
                cpo.CPOTrainer(
                    causal(own), cpo.CPOConfig(str(place / "out"), **SETTINGS | more | how), train_dataset=pairs, processing_class=tokenizer
                ),
            )
        args = orpo.ORPOConfig(str(place / "out"), **SETTINGS | more)
        yield "orpo", orpo.ORPOTrainer(causal(own), args, train_dataset=pairs, processing_class=tokenizer)

    def rewards() -> Iterator[tuple[str, Any]]:
        for name, center, margin in (("plain", None, False), ("centered", 0.1, False), ("margin", None, True)):
            data = Dataset.from_list([row | ({"margin": 0.5 * i} if margin else {}) for i, row in enumerate(PAIRS)])
            args = trl.RewardConfig(str(place / "out"), **SETTINGS | {"center_rewards_coefficient": center})
            yield (
                name,
                trl.RewardTrainer(
                    AutoModelForSequenceClassification.from_pretrained(judge, num_labels=1),
                    args,
                    train_dataset=data,
                    processing_class=judging,
                ),
            )

    def ktos() -> Iterator[tuple[str, Any]]:
        for name, how in (("kto", {"desirable_weight": 1.5}), ("apo_zero_unpaired", {"loss_type": "apo_zero_unpaired"})):
            args = trl.KTOConfig(str(place / "out"), **SETTINGS | {"train_sampling_strategy": "sequential"} | how)
            yield (
                name,
                trl.KTOTrainer(causal(own), causal(other), args, train_dataset=Dataset.from_list(ANSWERS), processing_class=tokenizer),
            )

    for group in (sft, dpo, cpos, rewards, ktos):
        for name, trainer in group():
            found[f"{group.__name__}/{name}"] = loss_of(trainer)
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 9), torch.randn(2, 5, 9)
    labels = torch.tensor([[1, 1, -100, 1, 1], [-100, 1, 1, 1, -100]])
    for beta in (0.0, 0.3, 1.0):
        how = {"labels": labels, "beta": beta, "temperature": 0.9, "num_items_in_batch": 7}
        found[f"jsd/{beta}"] = float(gkd.GKDTrainer.generalized_jsd_loss(student, teacher, **how))
    GOLDEN.write_text(json.dumps({"trl": trl.__version__, "losses": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
