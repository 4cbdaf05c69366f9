"""Alignment: from a base model to one that listens. Supervised tuning, rewards, preferences, distillation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hunmin.align.best_of_n import BestOfNSampler as BestOfNSampler
    from hunmin.align.config import CPOConfig as CPOConfig
    from hunmin.align.config import DistillConfig as DistillConfig
    from hunmin.align.config import DPOConfig as DPOConfig
    from hunmin.align.config import KTOConfig as KTOConfig
    from hunmin.align.config import ORPOConfig as ORPOConfig
    from hunmin.align.config import RewardConfig as RewardConfig
    from hunmin.align.config import SFTConfig as SFTConfig
    from hunmin.align.distill import DistillTrainer as DistillTrainer
    from hunmin.align.distill import GKDConfig as GKDConfig
    from hunmin.align.distill import GKDTrainer as GKDTrainer
    from hunmin.align.dpo import CPOTrainer as CPOTrainer
    from hunmin.align.dpo import DPOTrainer as DPOTrainer
    from hunmin.align.dpo import ORPOTrainer as ORPOTrainer
    from hunmin.align.grpo import GRPOTrainer as GRPOTrainer
    from hunmin.align.grpo import RLOOTrainer as RLOOTrainer
    from hunmin.align.judge import FunctionJudge as FunctionJudge
    from hunmin.align.judge import Judge as Judge
    from hunmin.align.judge import LLMJudge as LLMJudge
    from hunmin.align.judge import RewardJudge as RewardJudge
    from hunmin.align.kto import KTOTrainer as KTOTrainer
    from hunmin.align.logprobs import Scored as Scored
    from hunmin.align.logprobs import score as score
    from hunmin.align.monitor import Monitor as Monitor
    from hunmin.align.online_config import GRPOConfig as GRPOConfig
    from hunmin.align.online_config import PPOConfig as PPOConfig
    from hunmin.align.online_config import RejectionConfig as RejectionConfig
    from hunmin.align.online_config import RLOOConfig as RLOOConfig
    from hunmin.align.ppo import PPOTrainer as PPOTrainer
    from hunmin.align.ppo_steps import LengthSampler as LengthSampler
    from hunmin.align.reference import Reference as Reference
    from hunmin.align.rejection import RejectionSamplingTrainer as RejectionSamplingTrainer
    from hunmin.align.reward import RewardTrainer as RewardTrainer
    from hunmin.align.rewards import Rewards as Rewards
    from hunmin.align.rollout import Rollout as Rollout
    from hunmin.align.sft import DataCollatorForCompletionOnlyLM as DataCollatorForCompletionOnlyLM
    from hunmin.align.sft import SFTTrainer as SFTTrainer
    from hunmin.align.value import AutoModelForCausalLMWithValueHead as AutoModelForCausalLMWithValueHead
    from hunmin.align.value import create_reference_model as create_reference_model

_NAMES = {
    "best_of_n": "BestOfNSampler",
    "config": "CPOConfig DPOConfig DistillConfig KTOConfig ORPOConfig RewardConfig SFTConfig",
    "distill": "DistillTrainer GKDConfig GKDTrainer",
    "dpo": "CPOTrainer DPOTrainer ORPOTrainer",
    "grpo": "GRPOTrainer RLOOTrainer",
    "judge": "FunctionJudge Judge LLMJudge RewardJudge",
    "kto": "KTOTrainer",
    "logprobs": "Scored score",
    "monitor": "Monitor",
    "online_config": "GRPOConfig PPOConfig RejectionConfig RLOOConfig",
    "ppo": "PPOTrainer",
    "ppo_steps": "LengthSampler",
    "reference": "Reference",
    "rejection": "RejectionSamplingTrainer",
    "reward": "RewardTrainer",
    "rewards": "Rewards",
    "rollout": "Rollout",
    "sft": "DataCollatorForCompletionOnlyLM SFTTrainer",
    "value": "AutoModelForCausalLMWithValueHead create_reference_model",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hunmin.align' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"hunmin.align.{_HOME[name]}"), name)
