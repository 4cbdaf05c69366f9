"""Losses of GRPO and RLOO as TRL computes them: a tiny Llama, completions, advantages; the loss and the norm of its gradients.

``python -m tests.align_online_golden`` writes them again; needs TRL (made with 1.16), which runs on transformers.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.cases import CASES, weight

GOLDEN = Path(__file__).parent / "golden" / "align" / "grpo.json"
CASE = next(case for case in CASES if case.model_type == "llama" and case.name == "plain")
PROMPTS = [[5, 17, 42], [5, 17, 42], [77, 3, 59, 20], [77, 3, 59, 20]]
COMPLETIONS = [[8, 91, 33, 64, 2], [28, 11, 2], [9, 61], [12, 6, 44, 70]]
ADVANTAGES = [0.9, -0.9, 1.4, -0.3]
LONGEST = 6
ENDED = [True, True, False, True]
# name: (trainer, settings)
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("GRPO", {"loss_type": "grpo", "beta": 0.04}),
    "bnpo": ("GRPO", {"loss_type": "bnpo", "beta": 0.04}),
    "dr-grpo": ("GRPO", {"loss_type": "dr_grpo", "beta": 0.04}),
    "dapo": ("GRPO", {"loss_type": "dapo", "epsilon_high": 0.28}),
    "dapo-kl": ("GRPO", {"loss_type": "dapo", "beta": 0.1, "epsilon": 0.1}),
    "sequence": ("GRPO", {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.03}),
    "two-sided": ("GRPO", {"loss_type": "bnpo", "delta": 1.3}),
    "biased-kl": ("GRPO", {"loss_type": "bnpo", "beta": 0.04, "use_bias_correction_kl": False}),
    "truncated": ("GRPO", {"loss_type": "grpo", "mask_truncated_completions": True, "beta": 0.04}),
    "truncated-dapo": ("GRPO", {"loss_type": "dapo", "mask_truncated_completions": True}),
    "warm": ("GRPO", {"loss_type": "bnpo", "temperature": 0.7, "beta": 0.04}),
    "on-policy": ("GRPO", {"loss_type": "bnpo", "on_policy": True}),
    "rloo": ("RLOO", {"epsilon": 0.2}),
    "rloo-clip": ("RLOO", {"epsilon": 0.05, "epsilon_high": 0.1}),
}


def other(name: str) -> Tensor:
    """Log-probabilities of another policy, ``(B, L)``: about those of a tiny model, moved by a little noise that follows from the name."""
    return -4.6 + 0.3 * weight(f"{name}.noise", [len(COMPLETIONS), max(map(len, COMPLETIONS))]) / 0.4


def settings(run: str) -> dict[str, Any]:
    return {key: value for key, value in RUNS[run][1].items() if key != "on_policy"}


def main() -> None:  # pragma: no cover - needs TRL
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    vocab = {f"w{i}": i for i in range(99)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w1", eos_token="w2", unk_token="w0")
    config = AutoConfig.for_model("llama", **CASE.config)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        shapes = {name: list(t.shape) for name, t in load_file(f"{folder}/model.safetensors").items()}
        save_file({name: weight(name, shape) for name, shape in shapes.items()}, f"{folder}/model.safetensors", {"format": "pt"})
        written = json.loads((Path(folder) / "config.json").read_text())
        for run in RUNS:
            found[run] = _measured(run, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer, folder)
            print(run, found[run])
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"config": written, "shapes": shapes, "results": found}, indent=1) + "\n")


def _measured(run: str, model: Any, tokenizer: Any, folder: str) -> dict[str, float]:  # pragma: no cover - needs TRL
    import trl
    from datasets import Dataset

    kind, own = RUNS[run][0], settings(run)
    arguments = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": LONGEST, "report_to": "none"}
    arguments |= {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "beta": 0.0}
    args = getattr(trl, f"{kind}Config")(folder + "/run", **arguments | own)
    data = Dataset.from_dict({"prompt": ["w5"]})
    reward = lambda completions, **_: [0.0] * len(completions)  # noqa: E731
    trainer = getattr(trl, f"{kind}Trainer")(model, reward_funcs=reward, args=args, train_dataset=data, processing_class=tokenizer)
    trainer.current_gradient_accumulation_steps = 1
    before, after = max(map(len, PROMPTS)), max(map(len, COMPLETIONS))
    batch: dict[str, Any] = {
        "prompt_ids": torch.tensor([[1] * (before - len(p)) + p for p in PROMPTS]),
        "prompt_mask": torch.tensor([[0] * (before - len(p)) + [1] * len(p) for p in PROMPTS]),
        "completion_ids": torch.tensor([c + [1] * (after - len(c)) for c in COMPLETIONS]),
        "completion_mask": torch.tensor([[1] * len(c) + [0] * (after - len(c)) for c in COMPLETIONS]),
        "advantages": torch.tensor(ADVANTAGES),
    }
    if own.get("mask_truncated_completions"):
        batch["completion_mask"] = batch["completion_mask"] * torch.tensor(ENDED)[:, None]
    batch["num_items_in_batch"] = batch["completion_mask"].sum()
    if "on_policy" not in RUNS[run][1]:
        batch["old_per_token_logps"] = other("old")
    batch["old_logps"] = (other("old") * batch["completion_mask"]).sum(1)
    batch["ref_per_token_logps"] = other("reference")
    trainer.model.train()
    loss = trainer._compute_loss(trainer.model, batch)
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    return {"loss": float(loss), "norm": float(norm)}


if __name__ == "__main__":  # pragma: no cover
    main()
