"""Losses on the batches of TRL: from the same rows, through tokens, batches without padding and chunked heads, to the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import hunmin
from hunmin.align import config, dpo, kto, losses, reward, sft
from tests.align_cases import ANSWERS, CHATS, PAIRS, folder
from tests.align_golden import CPO, DPO, GOLDEN, SFT, sft_rows

FOUND: dict[str, float] = json.loads(GOLDEN.read_text(encoding="utf-8"))["losses"]
QUIET: dict[str, Any] = {"per_device_train_batch_size": 4, "use_cpu": True, "report_to": "none", "max_length": None, "html_report": False,
                         "disable_tqdm": True}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("align")
    judge = folder(place / "judge", "SequenceClassification", num_labels=1)
    return {"own": folder(place / "policy"), "ref": folder(place / "reference", salt="ref."), "judge": judge, "out": place / "out"}


def causal(place: Path) -> Any:
    return hunmin.AutoModelForCausalLM.from_pretrained(place)


def check(name: str, trainer: Any, rel: float = 1e-5) -> None:
    """The loss of all rows in their order."""
    trainer.model.eval()
    batch = next(iter(trainer.batches(trainer.train_dataset, 4, train=False).epoch(0)))
    loss = trainer.compute_loss(trainer.model, batch)
    assert loss.item() == pytest.approx(FOUND[name], rel=rel)
    loss.backward()
    found = loss.item()
    with torch.no_grad():
        assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(found, rel=1e-5)


@pytest.mark.parametrize("name", SFT)
@pytest.mark.parametrize("padded", [False, True])
def test_sft(name: str, padded: bool, models: dict[str, Path]) -> None:
    rows, how = SFT[name]
    args = config.SFTConfig(models["out"], **QUIET | how | {"padding_free": not padded})
    trainer = sft.SFTTrainer(causal(models["own"]), args, train_dataset=sft_rows(rows))
    assert trainer.processing_class is not None  # found beside the model
    check(f"sft/{name}", trainer)


@pytest.mark.parametrize("name", [*DPO, "chat"])
def test_dpo(name: str, models: dict[str, Path]) -> None:
    args = config.DPOConfig(models["out"], **QUIET | DPO.get(name, {}))
    data = CHATS if name == "chat" else PAIRS
    # a loss that is itself the exponential of a sum of log-probabilities has the digits of their absolute errors
    rel = 1e-4 if name in ("forward_kl", "alpha_divergence") else 1e-5
    check(f"dpo/{name}", dpo.DPOTrainer(causal(models["own"]), causal(models["ref"]), args, train_dataset=data), rel)


@pytest.mark.parametrize("name", [*CPO, "orpo"])
@pytest.mark.parametrize("padded", [False, True])
def test_without_reference(name: str, padded: bool, models: dict[str, Path]) -> None:
    kind, trainer = (config.ORPOConfig, dpo.ORPOTrainer) if name == "orpo" else (config.CPOConfig, dpo.CPOTrainer)
    args = kind(models["out"], **QUIET | CPO.get(name, {}) | {"padding_free": not padded})
    tokenizer, rows = hunmin.AutoTokenizer.from_pretrained(models["own"]), list[dict[str, Any]]()
    for row in PAIRS:  # these trainers of TRL put a token in front, the others do not
        prompt = tokenizer(row["prompt"])["input_ids"]
        answers = {f"{side}_ids": [*tokenizer(row["prompt"] + row[side])["input_ids"][len(prompt) :], 0] for side in ("chosen", "rejected")}
        rows.append({"prompt_ids": [0, *prompt], **answers})
    made = trainer(causal(models["own"]), args, train_dataset=rows)
    assert made.reference is None
    check(f"cpos/{name}", made)


@pytest.mark.parametrize("name", ["plain", "centered", "margin"])
def test_reward(name: str, models: dict[str, Path]) -> None:
    args = config.RewardConfig(models["out"], **QUIET | {"center_rewards_coefficient": 0.1 if name == "centered" else None})
    data = [row | ({"margin": 0.5 * i} if name == "margin" else {}) for i, row in enumerate(PAIRS)]
    check(f"rewards/{name}", reward.RewardTrainer(str(models["judge"]), args, train_dataset=data))


@pytest.mark.parametrize("name", ["kto", "apo_zero_unpaired"])
def test_kto(name: str, models: dict[str, Path]) -> None:
    how: dict[str, Any] = {"desirable_weight": 1.5} if name == "kto" else {"loss_type": name}
    args = config.KTOConfig(models["out"], **QUIET | how)
    check(f"ktos/{name}", kto.KTOTrainer(causal(models["own"]), causal(models["ref"]), args, train_dataset=ANSWERS))


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_divergences(beta: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 9), torch.randn(2, 5, 9)
    known = torch.tensor([[1, 1, -100, 1, 1], [-100, 1, 1, 1, -100]]) != -100
    assert losses.jsd(student, teacher, beta, 0.9)[known].mean().item() == pytest.approx(FOUND[f"jsd/{beta}"], rel=1e-5)
