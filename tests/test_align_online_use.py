"""Rollouts, best of N, the loop that courses teach, and what cannot be used."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hunmin import AutoModelForCausalLM, AutoModelForSequenceClassification, LoraConfig, PromptTuningConfig, get_peft_model
from hunmin.align.best_of_n import BestOfNSampler
from hunmin.align.grpo import GRPOTrainer, RLOOTrainer
from hunmin.align.online_config import GRPOConfig, PPOConfig, RejectionConfig, RLOOConfig
from hunmin.align.ppo import PPOTrainer
from hunmin.align.ppo_steps import LengthSampler
from hunmin.align.rewards import Rewards
from hunmin.align.rollout import Rollout, complete, rescore, roll, sampling
from hunmin.align.value import AutoModelForCausalLMWithValueHead, create_reference_model
from hunmin.errors import InputError, warn_once
from hunmin.generate import GenerationConfig
from hunmin.text.scratch import train_tokenizer
from tests.online_cases import PROMPTS, policy, settings, share

TEXTS = ["the cat sat on the mat", "a dog ate the bone", "고양이가 매트에 앉았다"] * 4
CONFIG = GenerationConfig(do_sample=True, top_k=0, max_new_tokens=5, num_return_sequences=3, eos_token_id=2)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    made = train_tokenizer(TEXTS, "byte-level-bpe", 300, model_type="gpt2")
    made.chat_template = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return made


def adapted() -> Any:
    model = get_peft_model(policy(), LoraConfig(r=4, target_modules="all-linear", lora_alpha=32))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.3)
    return model


# -------------------------------------------------------------- rollouts


def test_what_a_prompt_draws_does_not_depend_on_its_neighbours() -> None:
    prompts = [[1, 30], [1, 31, 32], [1, 33]]
    together = complete(policy(), prompts, CONFIG, seed=7)
    assert [len(group) for group in together] == [3, 3, 3]
    assert complete(policy(), prompts[:1], CONFIG, seed=7)[0] == together[0]
    assert complete(policy(), prompts, CONFIG, seed=8) != together
    assert len({tuple(ids) for ids in together[0]}) > 1


def test_settings_of_the_model_do_not_bend_what_is_drawn() -> None:
    model = policy()
    model.generation_config = GenerationConfig(top_k=1, repetition_penalty=9.0, do_sample=True)
    assert complete(model, [[1, 30]], CONFIG, 7) == complete(policy(), [[1, 30]], CONFIG, 7)
    assert model.generation_config.top_k == 1


def test_adapters_are_folded_for_the_engine_and_unfolded_after(pytorch: None) -> None:
    model = adapted()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    batch = torch.tensor([[1, 30, 31]])
    with torch.no_grad():
        expected = model.eval()(batch).logits
        with sampling(model) as base:
            assert not any(m._forward_hooks for m in base.modules())
            torch.testing.assert_close(base(batch).logits, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(model(batch).logits, expected, rtol=0, atol=0)
    assert sum(len(m._forward_hooks) for m in model.modules()) == hooks
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_log_probabilities_are_those_of_the_tokens_drawn() -> None:
    model = policy()
    rollout = roll(model, [{"input_ids": [1, 30]}, {"input_ids": [1, 31, 32]}], CONFIG, seed=3)
    found, entropy = rescore(model, rollout, 2, temperature=0.7, entropy=True)
    assert entropy is not None
    for i, (prompt, completion) in enumerate(zip(rollout.prompts, rollout.completions, strict=True)):
        with torch.no_grad():
            logp = (model.eval()(torch.tensor([prompt + completion])).logits[0] / 0.7).log_softmax(-1)
        for t, token in enumerate(completion):
            place = logp[len(prompt) + t - 1]
            assert float(found[i, t]) == pytest.approx(float(place[token]), abs=1e-4)
            assert float(entropy[i, t]) == pytest.approx(-float((place.exp() * place).sum()), abs=1e-4)
    assert rollout.ended == [ids[-1] == 2 for ids in rollout.completions]


def test_text_and_conversations_reach_reward_functions_as_they_came(tokenizer: Any) -> None:
    model = policy(vocab_size=len(tokenizer))
    seen: dict[str, Any] = {}

    def reward(prompts: list[Any], completions: list[Any], answer: list[int], **_: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, answer=answer)
        return [0.0] * len(prompts)

    chat = [{"role": "user", "content": "the cat"}]
    rows = [{"prompt": "the cat", "answer": 1}, {"prompt": chat, "answer": 2}]
    rollout = roll(model, rows, CONFIG, tokenizer=tokenizer)
    Rewards(reward)(rollout)
    assert seen["prompts"] == ["the cat"] * 3 + [chat] * 3
    assert seen["answer"] == [1] * 3 + [2] * 3
    assert all(isinstance(text, str) for text in seen["completions"][:3])
    assert all(message[0]["role"] == "assistant" for message in seen["completions"][3:])
    assert tokenizer.decode(rollout.prompts[3]).endswith("assistant: ")


def test_no_pad_token_is_needed(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.pad_token = None
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, num_generations=4, max_steps=1)
    trainer = GRPOTrainer(policy(vocab_size=len(tokenizer)), share, args, [{"prompt": text} for text in TEXTS], processing_class=tokenizer)
    trainer.train()
    assert trainer.state.global_step == 1


# -------------------------------------------------------------- best of N


def test_the_best_of_more_is_better() -> None:
    means = []
    for n in (1, 8):
        sampler = BestOfNSampler(policy(), reward_funcs=share, sample_size=n, seed=0, generation_config=GenerationConfig(do_sample=True, max_new_tokens=4, top_k=0))  # fmt: skip
        found = sampler.best(PROMPTS)
        means.append(sum(best.scores[0] for best in found) / len(found))
        assert all(share([best.texts[0]]) == pytest.approx(best.scores[:1]) for best in found)
    assert means[1] > means[0] + 0.2


def test_the_sampler_of_the_tutorials(tokenizer: Any) -> None:
    scored: list[str] = []

    def scores(texts: list[str]) -> list[float]:
        scored.extend(texts)
        return [float(text.count("a")) for text in texts]

    model = AutoModelForCausalLMWithValueHead.from_pretrained(policy(vocab_size=len(tokenizer)))
    sampler = BestOfNSampler(model, tokenizer, scores, LengthSampler(3, 6), sample_size=4, seed=1, n_candidates=2)
    query = torch.tensor(tokenizer("the cat")["input_ids"])
    found = sampler.generate([query, query[:1]], device="cpu", do_sample=True, top_k=0.0)
    assert [len(each) for each in found] == [2, 2]
    assert all(text.startswith("the cat") for text in scored[:4] + found[0])
    assert found[0][0].count("a") == max(text.count("a") for text in scored[:4])
    assert [len(each) for each in sampler.generate(query.tolist())] == [2]
    with pytest.raises(InputError, match="n_candidates"):
        BestOfNSampler(model, tokenizer, scores, sample_size=2, n_candidates=3)
    with pytest.raises(InputError, match="one of"):
        BestOfNSampler(model, tokenizer)


# -------------------------------------------------------------- PPO, step by step


def loop(count: int = 320, **more: Any) -> PPOTrainer:
    """As chapters on PPO write it."""
    config = PPOConfig(
        **{"model_name": "gpt2", "learning_rate": 3e-3, "batch_size": 32, "mini_batch_size": 16, "init_kl_coef": 0.02} | more
    )
    model = AutoModelForCausalLMWithValueHead.from_pretrained(policy())
    rows = [{"input_ids": torch.tensor([1, 21 + i % 8]), "query": "q"} for i in range(count)]

    def collator(data: list[Any]) -> dict[str, list[Any]]:
        return {key: [d[key] for d in data] for key in data[0]}

    return PPOTrainer(config, model, create_reference_model(model), None, dataset=rows, data_collator=collator)


def test_the_loop_of_the_courses(tmp_path: Path) -> None:
    trainer = loop(output_dir=str(tmp_path), use_cpu=True)
    means, how = [], {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True, "pad_token_id": 0, "max_new_tokens": 4}
    for _ in range(3):
        for batch in trainer.dataloader:
            queries = batch["input_ids"]
            responses = trainer.generate(queries, return_prompt=False, **how)
            scores = [torch.tensor(r) for r in share([ids.tolist() for ids in responses])]
            stats = trainer.step(queries, responses, scores)
            trainer.log_stats(stats, batch, scores)
            means.append(float(torch.stack(scores).mean()))
    assert means[0] < 0.4
    assert sum(means[-5:]) / 5 > 0.9
    assert {
        "objective/kl",
        "objective/kl_coef",
        "ppo/mean_scores",
        "ppo/loss/total",
        "ppo/policy/clipfrac",
        "ppo/val/var_explained",
    } <= set(stats)
    assert stats["objective/kl_coef"] != 0.02
    assert stats["objective/kl_dist"].shape == (32,)
    assert trainer.monitor is not None
    assert len(trainer.monitor.kept["points"]) == 30
    whole = trainer.generate(torch.tensor([1, 21]), **how)
    assert whole.shape[0] == 1
    assert whole[0, :2].tolist() == [1, 21]
    _, references = trainer.generate([torch.tensor([1, 21])] * 8, generate_ref_response=True, **how)
    assert sum(share([ids[2:].tolist() for ids in references])) / 8 < 0.6
    trainer.save_pretrained(str(tmp_path / "saved"))
    again = AutoModelForCausalLMWithValueHead.from_pretrained(str(tmp_path / "saved"))
    assert torch.equal(again.v_head.summary.weight, trainer.model.v_head.summary.weight)
    logits, loss, values = again(torch.tensor([[1, 21, 30]]))
    assert (logits.shape, loss, values.shape) == ((1, 3, 60), None, (1, 3))


def test_a_step_refuses_what_it_cannot_learn_from(tmp_path: Path) -> None:
    trainer = loop(32, output_dir=str(tmp_path), use_cpu=True)
    query, score = [torch.tensor([1, 21])] * 32, [torch.tensor(1.0)] * 32
    for queries, responses, scores, match in (
        (query[:3], query, score, "batch_size is 32"),
        (query, [torch.tensor([], dtype=torch.long), *query[1:]], score, "response 0 is empty"),
        (query, query, [torch.tensor(math.nan), *score[1:]], "score of response 0 is nan"),
    ):
        with pytest.raises(InputError, match=match):
            trainer.step(queries, responses, scores)


def test_old_and_new_names_of_settings() -> None:
    old = PPOConfig(
        model_name="gpt2", batch_size=16, mini_batch_size=4, gradient_accumulation_steps=2, ppo_epochs=3, init_kl_coef=0.1, target=4
    )
    assert (old.batch_size, old.num_mini_batches, old.per_device_train_batch_size, old.num_ppo_epochs) == (16, 2, 4, 3)
    assert (old.kl_coef, old.adap_kl_ctrl, old.target, old.learning_rate) == (0.1, True, 4, 1.41e-5)
    new = PPOConfig("x", response_length=30, kl_coef=0.01, num_mini_batches=2, per_device_train_batch_size=4)
    assert (new.max_completion_length, new.kl_coef, new.adap_kl_ctrl, new.batch_size, new.batches_per_rollout) == (30, 0.01, False, 8, 8)
    assert (
        RLOOConfig("x", rloo_k=4, kl_coef=0.2, cliprange=0.1).to_dict() | {}
        == RLOOConfig("x", num_generations=4, beta=0.2, epsilon=0.1).to_dict()
    )
    assert GRPOConfig("x", scale_rewards=False).scale_rewards == "none"
    assert GRPOConfig("x", use_vllm=False, top_k=-1, generation_batch_size=32).steps_per_generation == 4
    assert RejectionConfig("x", keep=2, num_generations=4).prompts_per_rollout == 4


# -------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("config", "values", "match"),
    [
        (GRPOConfig, {"num_generations": 1}, "2 or more"),
        (GRPOConfig, {"num_generations": 3}, "no whole number of prompts"),
        (GRPOConfig, {"loss_type": "cispo"}, "loss_type"),
        (GRPOConfig, {"beta": -1.0}, "beta"),
        (GRPOConfig, {"generation_batch_size": 12}, "multiple of 8"),
        (GRPOConfig, {"max_completion_length": 0}, "max_completion_length"),
        (GRPOConfig, {"num_generation": 4}, "num_generations"),
        (PPOConfig, {"kl_penalty": "full"}, "kl_estimator"),
        (PPOConfig, {"batch_size": 12, "mini_batch_size": 8}, "multiple"),
        (PPOConfig, {"ppo_epochs": 2, "num_ppo_epochs": 3}, "twice"),
        (RejectionConfig, {"keep": 9}, "keep"),
    ],
)
def test_settings_that_cannot_be(config: Any, values: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        config("x", **values)


def nan(completions: list[Any]) -> list[float]:
    return [math.nan] * len(completions)


def short(completions: list[Any]) -> list[float]:
    return [1.0]


def words(completions: list[Any]) -> list[str]:
    return ["good"] * len(completions)


def unknown(completions: list[Any], solution: list[str]) -> list[float]:
    return [1.0] * len(completions)


@pytest.mark.parametrize(("reward", "match"), [(nan, "nan is nan"), (short, "1 numbers for 4"), (words, "not a number"), (unknown, "'solution'"), (3, "function")])  # fmt: skip
def test_rewards_that_are_none(reward: Any, match: str) -> None:
    rollout = Rollout([{"prompt": "a"}] * 4, [[1]] * 4, [[5]] * 4, [True] * 4, ["x"] * 4)
    with pytest.raises(InputError, match=match):
        Rewards(reward)(rollout)


def test_rewards_that_do_not_fit_each_other() -> None:
    with pytest.raises(InputError, match="reward_weights"):
        Rewards([share, share], weights=[1.0])
    with pytest.raises(InputError, match="reward_funcs"):
        Rewards([])
    with pytest.raises(InputError, match="one label"):
        Rewards(AutoModelForSequenceClassification.from_config(policy().config, num_labels=3))
    small = AutoModelForSequenceClassification.from_config(policy(vocab_size=20).config, num_labels=1)
    with pytest.raises(InputError, match="vocabulary of 20"):
        Rewards(small)(Rollout(PROMPTS[:1], [[1]], [[30]], [True], [[30]]))


def test_a_constant_reward_is_told(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    warn_once.cache_clear()
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=4)
    with caplog.at_level(logging.WARNING):
        GRPOTrainer(policy(), lambda completions: [0.25] * len(completions), args, PROMPTS).train()
    assert [r.message for r in caplog.records if "0.25" in r.message] == [
        "Every reward so far is 0.25: there is nothing to learn from. Look at the reward function and at the samples."
    ]


def test_a_reward_of_nobody_does_not_count(tmp_path: Path) -> None:
    def reward(completion_ids: list[list[int]]) -> list[float | None]:
        return [None] * len(completion_ids)

    warn_once.cache_clear()
    for kind, config in ((GRPOTrainer, GRPOConfig), (RLOOTrainer, RLOOConfig)):
        model = policy()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        args = settings(config, tmp_path, per_device_train_batch_size=8, num_generations=4, max_steps=1, beta=0.0, learning_rate=1e-2)
        kind(model, reward, args, PROMPTS).train()
        assert torch.equal(before, torch.cat([p.detach().flatten() for p in model.parameters()]))


def test_prompts_that_cannot_be_answered(tmp_path: Path, tokenizer: Any) -> None:
    def train(rows: list[Any], **more: Any) -> None:
        args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=1, **more)
        GRPOTrainer(
            policy(vocab_size=len(tokenizer)), share, args, rows, processing_class=tokenizer if "prompt" in rows[0] else None
        ).train()

    with pytest.raises(InputError, match="context of 64"):
        train([{"input_ids": [1] * 62}])
    train([{"input_ids": [1] * 62}], max_prompt_length=60)
    with pytest.raises(InputError, match="no prompt, only question"):
        train([{"question": "?"}])
    with pytest.raises(InputError, match="empty"):
        train([{"prompt": ""}])
    with pytest.raises(InputError, match="processing_class"):
        GRPOTrainer(policy(), share, settings(GRPOConfig, tmp_path, max_steps=1), [{"prompt": "a"}]).train()
    with pytest.raises(InputError, match="1 prompts, a rollout takes 2"):
        train([{"input_ids": [1]}], num_generations=4)


def test_models_that_do_not_belong_together(tmp_path: Path) -> None:
    args = settings(GRPOConfig, tmp_path)
    with pytest.raises(InputError, match="different vocabularies"):
        GRPOTrainer(policy(), share, args, PROMPTS, ref_model=policy(vocab_size=70))
    with pytest.raises(InputError, match="GRPOConfig"):
        GRPOTrainer(policy(), share, settings(RLOOConfig, tmp_path), PROMPTS)
    with pytest.raises(InputError, match="critic"):
        PPOTrainer(settings(PPOConfig, tmp_path), None, policy(), reward_funcs=share, value_model=policy())
    with pytest.raises(InputError, match="causal language model"):
        AutoModelForCausalLMWithValueHead(torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="causal language model"):
        complete(AutoModelForSequenceClassification.from_config(policy().config), [[1]], CONFIG, 0)
    virtual = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(InputError, match="virtual tokens"):
        GRPOTrainer(policy(), share, args, PROMPTS, peft_config=virtual).train()
    with pytest.raises(InputError, match="needs a reward"):
        GRPOTrainer(policy(), None, args, PROMPTS).train()


def test_messages_in_korean(korean: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="보상"):
        Rewards(short)(Rollout(PROMPTS[:2], [[1]] * 2, [[5]] * 2, [True] * 2, ["x"] * 2))
    with pytest.raises(InputError, match="프롬프트"):
        GRPOTrainer(policy(), share, settings(GRPOConfig, tmp_path, max_steps=1), [{"question": "?"}] * 8).train()


def test_a_model_and_its_tokenizer_by_name(tmp_path: Path, tokenizer: Any) -> None:
    policy(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    args = settings(GRPOConfig, tmp_path, per_device_train_batch_size=8, max_steps=1, model_init_kwargs={"dtype": "float32"})
    trainer = GRPOTrainer(str(tmp_path / "model"), share, args, [{"prompt": text} for text in TEXTS])
    trainer.train()
    trainer.save_model()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).dtype == torch.float32
    assert json.loads((tmp_path / "training_args.json").read_text())["loss_type"] == "dapo"
