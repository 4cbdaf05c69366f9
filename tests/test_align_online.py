"""Methods that learn from their own completions: against TRL's losses, and on tasks whose optimum is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hunmin import AutoModelForCausalLM, AutoModelForSequenceClassification, LoraConfig
from hunmin.align import policy_losses as losses
from hunmin.align.grpo import GRPOTrainer, RLOOTrainer
from hunmin.align.online import Gathered, measured
from hunmin.align.online_config import GRPOConfig, PPOConfig, RejectionConfig, RLOOConfig
from hunmin.align.ppo import PPOTrainer
from hunmin.align.rejection import RejectionSamplingTrainer
from hunmin.align.rollout import Rollout
from hunmin.train.trainer import Trainer
from tests import align_online_golden as golden
from tests.cases import weight
from tests.online_cases import PROMPTS, next_token, policy, reward_of, settings, share

ONE = [{"input_ids": [1, 21]}]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    place, held = tmp_path_factory.mktemp("llama"), json.loads(golden.GOLDEN.read_text())
    save_file({name: weight(name, shape) for name, shape in held["shapes"].items()}, place / "model.safetensors", {"format": "pt"})
    (place / "config.json").write_text(json.dumps(held["config"]))
    return place, held["results"]


@pytest.mark.parametrize("run", golden.RUNS)
def test_losses_are_those_of_trl(run: str, llama: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    kind, own = golden.RUNS[run]
    trainer_class, config = (GRPOTrainer, GRPOConfig) if kind == "GRPO" else (RLOOTrainer, RLOOConfig)
    options = {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": golden.LONGEST, "beta": 0.0}
    args = settings(config, tmp_path, **options | golden.settings(run))
    trainer = trainer_class(AutoModelForCausalLM.from_pretrained(llama[0]), None, args)
    values = {"advantages": torch.tensor(golden.ADVANTAGES), "reference": golden.other("reference")}
    if "on_policy" not in own:
        values["old"] = golden.other("old")
    if kind == "RLOO":
        values["old"] = (golden.other("old") * losses.mask_of([len(c) for c in golden.COMPLETIONS])).sum(1)
    if own.get("mask_truncated_completions"):
        values["counted"] = torch.tensor(golden.ENDED)
    rollout = Rollout([{}] * 4, golden.PROMPTS, golden.COMPLETIONS, golden.ENDED)
    loss = trainer.compute_loss(trainer.model, trainer.batch_of(Gathered(rollout, values), range(4)))
    loss.backward()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None]).norm()
    assert loss.item() == pytest.approx(llama[1][run]["loss"], rel=1e-5, abs=1e-6)
    assert norm.item() == pytest.approx(llama[1][run]["norm"], rel=1e-4)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_a_step_is_the_same_in_one_batch_and_in_several(loss_type: str, tmp_path: Path) -> None:
    found = []
    for size in (16, 4):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 16 // size, "num_generations": 4, "max_steps": 2}
        args = settings(GRPOConfig, tmp_path, learning_rate=1e-3, loss_type=loss_type, beta=0.1, **options)
        trainer = GRPOTrainer(policy(), share, args, PROMPTS)
        trainer.train()
        found.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def grpo(folder: Path, **more: Any) -> Any:
    args = settings(GRPOConfig, folder, per_device_train_batch_size=32, max_steps=50, learning_rate=5e-3, **more)
    return GRPOTrainer(policy(), share, args, PROMPTS)


def rloo(folder: Path) -> Any:
    options = {"num_generations": 4, "beta": 0.002}
    args = settings(RLOOConfig, folder, per_device_train_batch_size=32, max_steps=70, learning_rate=5e-3, **options)
    return RLOOTrainer(policy(), share, args, PROMPTS)


def ppo(folder: Path, **more: Any) -> Any:
    options = {"per_device_train_batch_size": 32, "temperature": 1.0, "learning_rate": 3e-3, "kl_coef": 0.005, "max_steps": 160}
    model = more.pop("model", None) or policy()
    return PPOTrainer(settings(PPOConfig, folder, **options), None, model, reward_funcs=share, train_dataset=PROMPTS * 4, **more)


def critic(folder: Path) -> Any:
    torch.manual_seed(0)
    value_model = AutoModelForSequenceClassification.from_config(policy().config, num_labels=1)
    return ppo(folder, value_model=value_model)


def rejection(folder: Path) -> Any:
    options = {"num_generations": 8, "keep": 1, "learning_rate": 1e-2}
    args = settings(RejectionConfig, folder, per_device_train_batch_size=8, max_steps=50, **options)
    return RejectionSamplingTrainer(policy(), share, args, PROMPTS)


METHODS = {
    "grpo": grpo,
    "dr-grpo": lambda folder: grpo(folder, loss_type="dr_grpo", scale_rewards=False, num_iterations=2, epsilon_high=0.28),
    "rloo": rloo,
    "ppo": ppo,
    "ppo-critic": critic,
    "rejection": rejection,
}


@pytest.mark.parametrize("method", METHODS)
def test_the_best_reward_is_reached(method: str, tmp_path: Path) -> None:
    """The optimum is 1; a fresh model has a sixth."""
    trainer = METHODS[method](tmp_path)
    before = reward_of(trainer)
    trainer.train()
    assert before < 0.3
    assert reward_of(trainer) >= 0.95


BETA = 0.2


def objective(model: Any, reference: torch.Tensor, rewards: torch.Tensor) -> float:
    """E[r] - β KL of the policy's next token, exactly."""
    logprobs = next_token(model, [1, 21])
    p = logprobs.exp()
    return float((p * rewards).sum() - BETA * (p * (logprobs - reference)).sum())


@pytest.mark.parametrize("method", ["rloo", "grpo", "ppo"])
def test_the_regularized_optimum_is_reached(method: str, tmp_path: Path) -> None:
    """The best of E[r] - β KL is β log E_ref[exp(r / β)] (Ziebart 2010; Rafailov et al. 2023, appendix A.1); here every token has its reward."""
    rewards = torch.linspace(0, 1, 60)
    model = policy()
    reference = next_token(model, [1, 21])
    best = BETA * float((reference + rewards / BETA).logsumexp(-1))
    at_first = objective(model, reference, rewards)

    def reward(completion_ids: list[list[int]]) -> list[float]:
        return [float(rewards[ids[0]]) for ids in completion_ids]

    options = {"max_completion_length": 1, "learning_rate": 3e-3, "max_steps": 100, "monitor": False, "per_device_train_batch_size": 64}
    data = ONE * 64
    if method == "ppo":
        args = settings(PPOConfig, tmp_path, kl_coef=BETA, temperature=1.0, vf_coef=0.5, **options | {"num_ppo_epochs": 2})
        trainer: Trainer = PPOTrainer(args, None, model, reward_funcs=reward, train_dataset=data)
    elif method == "rloo":
        trainer = RLOOTrainer(model, reward, settings(RLOOConfig, tmp_path, num_generations=64, beta=BETA, **options), data)
    else:
        more = {"num_generations": 64, "beta": BETA, "scale_rewards": False, "loss_type": "grpo"}
        trainer = GRPOTrainer(model, reward, settings(GRPOConfig, tmp_path, **options | more), data)
    trainer.train()
    assert at_first < 0.8 * best
    assert objective(model, reference, rewards) >= 0.95 * best


def test_adapters_learn_and_the_model_without_them_stays_the_reference(tmp_path: Path) -> None:
    model = policy()
    model.get_output_embeddings().weight.data *= 15  # a head that never learned gives no logits that matter
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=32, max_steps=40, learning_rate=1e-2, beta=0.001)
    adapter = LoraConfig(r=8, target_modules="all-linear", lora_alpha=16)
    trainer = GRPOTrainer(model, share, args, PROMPTS, peft_config=adapter)
    assert trainer.reference is not None
    assert trainer.reference.own is None
    trainer.train()
    assert reward_of(trainer) > 0.5
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    assert [logs["kl"] for logs in trainer.state.log_history if "kl" in logs][-1] > 0


def test_ppo_trains_an_adapter_and_a_value_head(tmp_path: Path) -> None:
    model = policy()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = ppo(tmp_path, peft_config=LoraConfig(r=2, target_modules=["q_proj", "v_proj"]), model=model)
    trainer.args.max_steps = 4
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    learnt = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learnt} == {"pretrained_model", "v_head"}
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    assert (tmp_path / "saved" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "saved" / "value_head.safetensors").is_file()


@pytest.mark.parametrize(("count", "some"), [(1, 1), (4, 4), (8, 4), (64, 16), (1000, 16)])
def test_how_many_completions_are_measured(count: int, some: int) -> None:
    assert len(measured(count)) == some


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_a_run_that_goes_on_ends_as_if_it_had_not_stopped(method: str, tmp_path: Path) -> None:
    def made(folder: Path, **more: Any) -> Any:
        options = {
            "max_steps": 8,
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 8,
            "save_strategy": "steps",
            "save_steps": 4,
        } | more
        if method == "grpo":
            return GRPOTrainer(policy(), share, settings(GRPOConfig, folder, num_generations=4, **options), PROMPTS)
        args = settings(PPOConfig, folder, adap_kl_ctrl=True, horizon=50, **options)
        return PPOTrainer(args, None, policy(), reward_funcs=share, train_dataset=PROMPTS)

    whole = made(tmp_path / "whole")
    whole.train()
    later = made(tmp_path / "later")
    later.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    for (name, a), b in zip(whole.model.named_parameters(), later.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    points = [each.monitor.kept["points"] for each in (whole, later)]
    assert [p["step"] for p in points[0]] == [p["step"] for p in points[1]]
    if method == "ppo":
        assert whole.kl_control.value == later.kl_control.value != 0.05


def test_several_rewards_are_weighted_and_logged(tmp_path: Path) -> None:
    def long(completions: list[Any]) -> list[float | None]:
        return [None if i % 2 else float(len(c)) for i, c in enumerate(completions)]

    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=1, logging_steps=1, reward_weights=[1.0, 0.1])
    trainer = GRPOTrainer(policy(), [share, long], args, PROMPTS)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert {"rewards/share/mean", "rewards/share/std", "rewards/long/mean", "reward", "reward_std", "frac_reward_zero_std"} <= set(logs)
    assert {"completions/mean_length", "completions/clipped_ratio", "entropy", "clip_ratio/region_mean"} <= set(logs)
    assert logs["rewards/long/mean"] == pytest.approx(4, abs=1)
    assert logs["reward"] == pytest.approx(logs["rewards/share/mean"] + 0.05 * logs["rewards/long/mean"], abs=1e-5)


def test_a_reward_model_reads_prompt_and_completion(tmp_path: Path) -> None:
    torch.manual_seed(1)
    scorer = AutoModelForSequenceClassification.from_config(policy().config, num_labels=1)
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, num_generations=4, max_steps=1, logging_steps=1)
    trainer = GRPOTrainer(policy(), scorer, args, PROMPTS)
    assert trainer.rewards is not None
    rollout = trainer.roll(PROMPTS[:2], 0)
    for total, row in zip(trainer.rewards(rollout).total.tolist(), rollout.labelled(), strict=True):
        assert total == pytest.approx(float(scorer(torch.tensor([row["input_ids"]])).logits), abs=1e-5)


def test_evaluation_measures_reward_distance_and_side_metrics(tmp_path: Path) -> None:
    def even(completion_ids: list[list[int]]) -> list[float]:
        return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]

    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer = GRPOTrainer(policy(), share, args, PROMPTS, PROMPTS[:3], side_metrics={"even": even})
    trainer.train()
    held = [logs for logs in trainer.state.log_history if "eval_reward" in logs]
    assert len(held) == 2
    assert {"eval_kl", "eval_even", "eval_length", "eval_entropy", "eval_rewards/share"} <= set(held[0])
    assert held[1]["eval_kl"] == pytest.approx(0, abs=0.1)
    assert trainer.evaluate(PROMPTS)["eval_reward"] == trainer.evaluate(PROMPTS)["eval_reward"]


def test_every_setting_of_the_rejection_sampler_counts(tmp_path: Path) -> None:
    args = settings(RejectionConfig, tmp_path, per_device_train_batch_size=4, num_generations=4, keep=2, min_reward=0.5)
    trainer = RejectionSamplingTrainer(policy(), share, args, PROMPTS)
    rollout = trainer.roll(PROMPTS[:2], 0)
    assert trainer.rewards is not None
    worth = trainer.rewards(rollout)
    data = trainer.learn_from(rollout, worth)
    by_hand = [sorted(worth.total[i : i + 4].tolist(), reverse=True)[:2] for i in (0, 4)]
    assert share(data.rollout.completions) == pytest.approx([r for pair in by_hand for r in pair])
    assert data.values["counted"].tolist() == [r >= 0.5 for pair in by_hand for r in pair]


def test_the_policy_is_saved_with_its_critic(tmp_path: Path) -> None:
    trainer = ppo(tmp_path)
    trainer.save_model(str(tmp_path / "saved"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(next_token(again, [1, 21]), next_token(trainer.policy, [1, 21]))
    head = load_file(tmp_path / "saved" / "value_head.safetensors")
    assert torch.equal(head["summary.weight"], trainer.model.v_head.summary.weight)
    separate = critic(tmp_path)
    separate.save_model(str(tmp_path / "two"))
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "two" / "value_model")
    assert torch.equal(again.head.out.weight, separate.model.value_model.head.out.weight)


def test_episodes_and_scores_of_ppo(tmp_path: Path) -> None:
    options = {"per_device_train_batch_size": 8, "total_episodes": 24, "num_ppo_epochs": 2, "num_mini_batches": 2, "score_clip": 0.5}
    args = settings(PPOConfig, tmp_path, missing_eos_penalty=1.0, whiten_rewards=True, use_score_scaling=True, **options)
    trainer = PPOTrainer(args, None, policy(), reward_funcs=share, train_dataset=PROMPTS * 2)
    trainer.train()
    assert trainer.state.global_step == math.ceil(24 / 16) * 4
    rollout = Rollout(PROMPTS[:2], [[1, 21]] * 2, [[30], [2]], [False, True])
    held: dict[str, Any] = {}
    assert trainer._scores(rollout, torch.tensor([3.0, 1.0]), held).tolist() == [0.5, 0.5]
    assert held["scores"][:2] == [2, 1.5]


def test_the_reference_follows_the_policy(tmp_path: Path) -> None:
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=4, learning_rate=1e-2, sync_ref_model=True)
    args.ref_model_sync_steps, args.ref_model_mixup_alpha = 4, 0.25
    trainer = GRPOTrainer(policy(), share, args, PROMPTS)
    trainer.train()
    assert trainer.reference is not None
    pairs = zip(policy().parameters(), trainer.model.parameters(), trainer.reference.own.parameters(), strict=True)
    for first, now, reference in pairs:
        torch.testing.assert_close(reference, 0.75 * first.detach() + 0.25 * now.detach(), rtol=1e-4, atol=1e-6)


def test_ppo_stops_early_where_the_policy_has_gone_far(tmp_path: Path) -> None:
    def steps(**more: Any) -> int:
        options = {"per_device_train_batch_size": 8, "num_ppo_epochs": 4, "max_steps": 12, "learning_rate": 5e-2, "temperature": 1.0}
        trainer = PPOTrainer(settings(PPOConfig, tmp_path, **options | more), None, policy(), reward_funcs=share, train_dataset=PROMPTS)
        trainer.train()
        assert trainer.monitor is not None
        assert trainer.state.global_step == 12
        return len(trainer.monitor.kept["points"])

    assert steps() == 3  # rollouts, of four steps each
    assert steps(early_stopping=True, target_kl=1e-4) > 3


def test_a_batch_whose_ratios_explode_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = PPOTrainer(settings(PPOConfig, tmp_path, per_device_train_batch_size=4), None, policy(), reward_funcs=share)
    rollout = Rollout(PROMPTS[:2], [[1, 21], [1, 22]], [[30, 31], [32]], [True, True])
    values = {name: torch.zeros(2, 2) for name in ("values", "returns")} | {"old": torch.full((2, 2), -9.0), "advantages": torch.ones(2, 2)}
    batch = trainer.batch_of(Gathered(rollout, values), [0, 1])
    assert trainer.compute_loss(trainer.model, batch).item() == 0
    assert "ratio_threshold" in caplog.text
    trainer.settings.ratio_threshold = 1e9
    assert trainer.compute_loss(trainer.model, batch).item() < 0
