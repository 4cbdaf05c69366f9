"""The reference policy: adapters off, adapters put back, frozen copies and files give one and the same answer."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import hunmin
from hunmin import DPOConfig, DPOTrainer, IA3Config, InputError, LoraConfig, PromptTuningConfig, get_peft_model
from hunmin.align.logprobs import pack, score
from hunmin.align.reference import Reference, fingerprint, rows_fingerprint
from tests.align_cases import PAIRS, folder
from tests.test_align_trainers import QUIET
from tests.train_cases import make, rows

ADAPTERS: dict[str, tuple[Any, bool]] = {  # a configuration, and whether turning it off is enough
    "lora": (LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), True),
    "lora on the head": (LoraConfig(r=2, target_modules=["q_proj", "lm_head"]), True),
    "pissa": (LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="pissa"), True),
    "lora not at its start": (LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), False),
    "dora": (LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), False),
    "biases": (LoraConfig(r=2, target_modules=["q_proj"], bias="all"), False),
    "ia3": (IA3Config(), False),
    "prompt": (PromptTuningConfig(num_virtual_tokens=2), False),
}


def disturb(model: Any) -> None:
    """As training would."""
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))


@pytest.mark.parametrize("name", [*ADAPTERS, "whole"])
def test_the_reference_is_the_model_before_training(name: str) -> None:
    model = make("causal", attention_bias=True)
    data = rows("causal", 4)
    config, off = ADAPTERS.get(name, (None, True))
    model = get_peft_model(model, config) if config is not None else model
    before = copy.deepcopy(model).eval()
    reference = Reference(model)
    assert (reference.own is None, reference.start is None) == (config is not None, off)
    wanted = score(before, pack(data, before)).logprobs
    disturb(model)
    model.train()
    batch = pack(data, model)
    found = reference.score(batch)
    assert not found.logprobs.requires_grad and model.training
    torch.testing.assert_close(found.logprobs, wanted)
    now = score(model, batch).logprobs
    assert not torch.allclose(now, wanted)
    reference.score(batch)
    torch.testing.assert_close(score(model, batch).logprobs, now)  # the policy is as it was


def test_a_run_with_the_adapter_off_equals_one_with_a_separate_model(tmp_path: Path) -> None:
    place, found = folder(tmp_path / "model"), list[list[float]]()
    for separate in (False, True):
        model = hunmin.AutoModelForCausalLM.from_pretrained(place)
        ref = copy.deepcopy(model) if separate else None
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        trainer = DPOTrainer(
            model, ref, DPOConfig(tmp_path / "out", **QUIET | {"num_train_epochs": 2}), train_dataset=PAIRS, peft_config=lora
        )
        assert trainer.reference is not None and (trainer.reference.own is None) is not separate
        trainer.train()
        found.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def trainer(place: Path, out: Path, **settings: Any) -> Any:
    model = hunmin.AutoModelForCausalLM.from_pretrained(place)
    args = DPOConfig(out, **QUIET | {"num_train_epochs": 2, "precompute_ref_log_probs": True} | settings)
    return DPOTrainer(model, args=args, train_dataset=PAIRS, eval_dataset=PAIRS[:2])


def test_probabilities_are_computed_once_and_read_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path / "model")
    straight = trainer(place, tmp_path / "straight", precompute_ref_log_probs=False)
    straight.train()
    made = trainer(place, tmp_path / "one", ref_logps_cache=str(tmp_path / "shared"))
    assert made.reference.own is None  # nothing was copied
    files = sorted((tmp_path / "shared").iterdir())
    assert len(files) == 2
    made.train()
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (straight, made)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the reference was asked again")

    with monkeypatch.context() as patch:
        patch.setattr(Reference, "score", never)
        again = trainer(place, tmp_path / "two", ref_logps_cache=str(tmp_path / "shared"))
        again.train()
    assert [e["loss"] for e in again.state.log_history if "loss" in e] == pytest.approx(losses[1], rel=1e-6)
    files[0].write_bytes(b"half")
    trainer(place, tmp_path / "three", ref_logps_cache=str(tmp_path / "shared"))  # made again
    assert len(files[0].read_bytes()) > 10
    with pytest.raises(InputError, match="no reference probabilities"):
        made.evaluate([row | {"prompt": "Hello Hello"} for row in PAIRS])


def test_other_models_and_other_rows_have_other_files() -> None:
    model = make("causal")
    first = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == first
    lora = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["q_proj"]))
    assert fingerprint(lora, base=True) == first != fingerprint(lora)
    disturb(model)
    assert fingerprint(model) != first
    assert rows_fingerprint([{"a": [1, 2]}]) != rows_fingerprint([{"a": [1, 3]}])


def test_a_reference_that_follows(tmp_path: Path) -> None:
    model = hunmin.AutoModelForCausalLM.from_pretrained(folder(tmp_path / "model"))
    settings = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 1.0, "max_steps": 4}
    made = DPOTrainer(model, args=DPOConfig(tmp_path / "out", **QUIET | settings), train_dataset=PAIRS)
    made.train()
    assert made.reference is not None
    for ours, theirs in zip(made.reference.own.parameters(), made.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    model = hunmin.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="without peft_config"):
        DPOTrainer(model, args=DPOConfig(tmp_path / "out", **QUIET | settings), train_dataset=PAIRS,
                   peft_config=LoraConfig(r=2, target_modules=["q_proj"]))  # fmt: skip


def test_references_that_cannot_be() -> None:
    model = make("causal")
    with pytest.raises(InputError, match="is the model itself"):
        Reference(model, model)
    with pytest.raises(InputError, match=r"different vocabularies \(60 and 70 tokens\)"):
        Reference(model, make("causal", vocab_size=70))


def test_a_quantized_policy_starts_at_its_reference(tmp_path: Path) -> None:
    """Quantized layers compute differently without gradients; policy and reference do not differ by that."""
    place = folder(tmp_path / "model", hidden_size=64, intermediate_size=64)
    quantized = hunmin.BitsAndBytesConfig(load_in_4bit=True)
    for settings in ({}, {"precompute_ref_log_probs": True}):
        model = hunmin.AutoModelForCausalLM.from_pretrained(place, quantization_config=quantized)
        args = DPOConfig(tmp_path / "out", **QUIET | {"max_steps": 2, "lr_scheduler_type": "constant"} | settings)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])
        made = DPOTrainer(model, args=args, train_dataset=PAIRS, eval_dataset=PAIRS, peft_config=lora)
        assert made.evaluate()["eval_rewards/margins"] == pytest.approx(0, abs=1e-6)
        made.train()
        first, second = (entry["rewards/margins"] for entry in made.state.log_history[:2])
        assert first == pytest.approx(0, abs=1e-6) and abs(second) > 1e-3
