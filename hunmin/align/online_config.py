"""Settings of the methods that draw completions and are told what these are worth, under TRL's names, old and new."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

from hunmin.errors import InputError, say
from hunmin.generate import GenerationConfig
from hunmin.train.arguments import TrainingArguments, bad

# Settings of TRL about how other programs compute, or with one possible value here.
IGNORED = frozenset(
    """
    use_vllm vllm_mode vllm_model_impl vllm_enable_sleep_mode vllm_structured_outputs_regex vllm_guided_decoding_regex vllm_server_base_url
    vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_gpu_memory_utilization vllm_max_model_length
    vllm_tensor_parallel_size vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_cap
    use_transformers_paged use_transformers_continuous_batching transformers_continuous_batching_config cache_implementation
    ds3_gather_for_generation log_unique_prompts log_multimodal pad_to_multiple_of shuffle_dataset trust_remote_code router_aux_loss_coef
    cast_lm_head_to_fp32 dataset_num_proc exp_name world_size num_total_batches local_batch_size local_mini_batch_size micro_batch_size
    num_sample_generations sft_model_path reward_model_path optimize_device_cache
    """.split()
)


@dataclass(init=False)
class OnlineConfig(TrainingArguments):
    """What all these methods share, beside :class:`~hunmin.TrainingArguments`.

    ``per_device_train_batch_size`` counts completions of one forward and backward pass; a step of the optimizer takes
    ``gradient_accumulation_steps`` of them. Raises InputError for values that cannot be.
    """

    learning_rate: float = 1e-6
    logging_steps: float = 10
    remove_unused_columns: bool = False  # reward functions read columns of any name
    disable_dropout: bool = False
    model_init_kwargs: dict[str, Any] | None = None  # for a model given by its name
    # completions
    max_completion_length: int = 256  # tokens
    max_prompt_length: int | None = None  # longer prompts lose their beginning; None: they are an error where they do not fit
    num_generations: int = 1  # completions of each prompt
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = 0  # 0: all tokens
    min_p: float | None = None
    repetition_penalty: float = 1.0
    generation_kwargs: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    # reward
    beta: float = 0.0  # weight of the KL to the reference
    reward_weights: list[float] | None = None
    sync_ref_model: bool = False  # every ref_model_sync_steps the reference goes ref_model_mixup_alpha of the way to the policy
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512
    # how often a rollout is used
    num_iterations: int = 1
    steps_per_generation: int | None = None  # batches of one rollout; None: those of one optimizer step
    generation_batch_size: int | None = None  # the same in completions
    local_rollout_forward_batch_size: int | None = None  # completions scored at a time; None: per_device_train_batch_size
    # what is watched (docs/alignment/online.md)
    monitor: bool = True
    monitor_samples: int = 4  # prompts whose answers are kept over time
    monitor_every: int | None = None  # steps between such samples; None: eight times in a run
    stop_on: list[str] | str | None = None  # e.g. ["kl > 20", "repetition > 0.5", "parted"]
    refusals: list[str] | None = None  # regular expressions beside the built-in ones
    log_completions: bool = False
    num_completions_to_print: int | None = None

    renamed: ClassVar[dict[str, str]] = {"response_length": "max_completion_length", "max_new_tokens": "max_completion_length"}
    whole: ClassVar[tuple[str, ...]] = ("max_completion_length", "num_generations", "num_iterations")

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        super().__init__(output_dir, **self.today(values))
        self.stop_on = [self.stop_on] if isinstance(self.stop_on, str) else self.stop_on
        self.top_k = max(0, self.top_k or 0)
        self.remove_unused_columns = False
        for name in self.whole:
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise bad(name, getattr(self, name), say("a whole number above 0", "1 이상의 정수"))
        if self.beta < 0:
            raise bad("beta", self.beta, say("a number of at least 0", "0 이상의 수"))
        self._sizes()

    @classmethod
    def today(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under today's names, without those that mean nothing here. Raises InputError for a name that was given twice."""
        out = dict[str, Any]()
        for old, value in values.items():
            name = cls.renamed.get(old, old)
            if name in out and out[name] != value:
                raise InputError(say(f"{name} was given twice, also as {old}.", f"{name}을(를) {old}(으)로도 두 번 지정했습니다."))
            if name not in IGNORED:
                out[name] = value
        return out

    def _sizes(self) -> None:
        """``generation_batch_size`` and ``steps_per_generation`` follow from each other."""
        size = self.per_device_train_batch_size
        if self.generation_batch_size is not None:
            if self.generation_batch_size % size:
                raise bad("generation_batch_size", self.generation_batch_size, say(f"a multiple of {size}", f"{size}의 배수"))
            steps = self.generation_batch_size // size
            if self.steps_per_generation not in (None, steps):
                raise bad("steps_per_generation", self.steps_per_generation, f"generation_batch_size / {size} = {steps}")
            self.steps_per_generation = steps
        self.steps_per_generation = self.steps_per_generation or self.gradient_accumulation_steps
        self.generation_batch_size = self.steps_per_generation * size
        if self.generation_batch_size % self.rows_per_prompt:
            raise InputError(
                say(
                    f"A rollout of {self.generation_batch_size} completions (per_device_train_batch_size {size} x {self.steps_per_generation})"
                    f" is no whole number of prompts with {self.rows_per_prompt} each. Change one of them.",
                    f"한 번에 뽑는 완성 {self.generation_batch_size}개(per_device_train_batch_size {size} x {self.steps_per_generation})가"
                    f" 프롬프트당 {self.rows_per_prompt}개로 나누어떨어지지 않습니다. 하나를 바꾸세요.",
                )
            )

    @property
    def rows_per_prompt(self) -> int:
        """Completions of a prompt that are learned from."""
        return self.num_generations

    @property
    def prompts_per_rollout(self) -> int:
        return cast("int", self.generation_batch_size) // self.rows_per_prompt

    @property
    def batches_per_rollout(self) -> int:
        return cast("int", self.steps_per_generation) * self.num_iterations

    @property
    def on_policy(self) -> bool:
        """Whether every rollout is used for one step of the optimizer, so that its policy is the one that learns."""
        return self.num_iterations == 1 and self.gradient_accumulation_steps % cast("int", self.steps_per_generation) == 0

    def generation(self, ends: list[int], *, sample: bool = True, copies: int | None = None) -> GenerationConfig:
        """How completions are drawn; greedy ones without ``sample``."""
        own: dict[str, Any] = {"max_new_tokens": self.max_completion_length, "eos_token_id": ends or None, "do_sample": sample}
        if sample:
            own |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "min_p": self.min_p}
            own["num_return_sequences"] = copies if copies is not None else self.num_generations
        return GenerationConfig(**own | {"repetition_penalty": self.repetition_penalty} | (self.generation_kwargs or {}))


@dataclass(init=False)
class GRPOConfig(OnlineConfig):
    """Settings of :class:`~hunmin.align.GRPOTrainer`.

    ``loss_type``: "grpo" (Shao et al. 2024), "dr_grpo" (Liu et al. 2025), "dapo" (Yu et al. 2025: the mean over all tokens of a step) or "bnpo"
    (over those of each batch). ``epsilon_high`` above ``epsilon`` is DAPO's clip-higher.
    """

    num_generations: int = 8
    epsilon: float = 0.2
    epsilon_high: float | None = None
    delta: float | None = None  # largest ratio of a token with negative advantage
    loss_type: str = "dapo"
    scale_rewards: str | bool = "group"
    importance_sampling_level: str = "token"
    mask_truncated_completions: bool = False
    use_bias_correction_kl: bool = True  # the KL counts times the ratio: its gradient is then that of the KL (DeepSeek-AI 2025, "V3.2")

    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo"),
        "scale_rewards": ("group", "batch", "none"),
        "importance_sampling_level": ("token", "sequence"),
    }

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        super().__init__(output_dir, **values)
        if isinstance(self.scale_rewards, bool):
            self.scale_rewards = "group" if self.scale_rewards else "none"
        for name, choices in self.choices.items():
            if getattr(self, name) not in choices:
                raise bad(name, getattr(self, name), ", ".join(choices))
        _several(self)


@dataclass(init=False)
class RLOOConfig(OnlineConfig):
    """Settings of :class:`~hunmin.align.RLOOTrainer` (Ahmadian et al. 2024): the KL is part of the reward, an action is a whole completion."""

    num_generations: int = 2
    beta: float = 0.05
    epsilon: float = 0.2
    epsilon_high: float | None = None
    normalize_advantages: bool = False
    reward_clip_range: tuple[float, float] | None = None
    mask_truncated_completions: bool = False

    renamed: ClassVar[dict[str, str]] = OnlineConfig.renamed | {
        "rloo_k": "num_generations", "kl_coef": "beta", "num_ppo_epochs": "num_iterations", "cliprange": "epsilon",
    }  # fmt: skip

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        super().__init__(output_dir, **values)
        _several(self)


def _several(config: OnlineConfig) -> None:
    """Raises InputError when there is nothing that a completion could be compared with."""
    if config.num_generations < 2:
        raise bad("num_generations", config.num_generations, say("2 or more: completions of a prompt are compared", "2 이상"))


# What old settings of PPO were without being set: they count where a setting has an old name.
TAUGHT_DEFAULTS: dict[str, Any] = {"learning_rate": 1.41e-5, "kl_coef": 0.2, "adap_kl_ctrl": True, "batch_size": 128, "temperature": 1.0}
TAUGHT = {
    "model_name", "steps", "init_kl_coef", "ppo_epochs", "mini_batch_size", "log_with", "forward_batch_size", "task_name", "query_dataset",
    "tracker_project_name", "tracker_kwargs", "accelerator_kwargs", "project_kwargs", "compare_steps", "is_peft_model", "is_encoder_decoder",
    "backward_batch_size", "push_to_hub_if_best_kwargs",
}  # fmt: skip
TAUGHT_IGNORED = {
    "steps", "task_name", "query_dataset", "tracker_project_name", "tracker_kwargs", "accelerator_kwargs", "project_kwargs", "compare_steps",
    "is_peft_model", "is_encoder_decoder", "backward_batch_size", "push_to_hub_if_best_kwargs", "reward_model",
}  # fmt: skip


@dataclass(init=False)
class PPOConfig(OnlineConfig):
    """Settings of :class:`~hunmin.align.PPOTrainer`, as TRL has named them since 0.12 and before.

    A rollout has ``batch_size`` completions (``mini_batch_size`` is ``per_device_train_batch_size``), which are gone through
    ``num_ppo_epochs`` times in ``num_mini_batches`` steps of the optimizer. Where a setting has a name that only older versions had
    (``ppo_epochs``, ``init_kl_coef``, ``mini_batch_size``, …) their defaults count: learning rate 1.41e-5, an adaptive coefficient from 0.2,
    128 completions.
    """

    learning_rate: float = 3e-6
    disable_dropout: bool = True  # ratios to the policy of the rollout would be noise
    max_completion_length: int = 53
    temperature: float = 0.7
    batch_size: int | None = None  # None: per_device_train_batch_size x gradient_accumulation_steps x num_mini_batches
    num_mini_batches: int = 1
    num_ppo_epochs: int = 4
    total_episodes: int | None = None  # completions of the whole run; None: num_train_epochs or max_steps
    kl_coef: float = 0.05
    kl_estimator: str = "k1"
    adap_kl_ctrl: bool = False
    target: float = 6.0  # nats a completion
    horizon: float = 10000.0  # completions
    whiten_rewards: bool = False
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    gamma: float = 1.0
    lam: float = 0.95
    missing_eos_penalty: float | None = None
    stop_token: str | None = None  # "eos" or None: both end at the end token, which is all that can be
    stop_token_id: int | None = None
    use_score_scaling: bool = False
    use_score_norm: bool = False
    score_clip: float | None = None
    early_stopping: bool = False
    target_kl: float = 1.0
    ratio_threshold: float = 10.0
    model_name: str | None = None
    log_with: str | None = None

    renamed: ClassVar[dict[str, str]] = OnlineConfig.renamed | {
        "init_kl_coef": "kl_coef", "ppo_epochs": "num_ppo_epochs", "mini_batch_size": "per_device_train_batch_size",
        "forward_batch_size": "per_device_train_batch_size", "kl_penalty": "kl_estimator",
    }  # fmt: skip
    whole: ClassVar[tuple[str, ...]] = (*OnlineConfig.whole, "num_mini_batches", "num_ppo_epochs")

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        self.taught = bool(TAUGHT & set(values))
        super().__init__(output_dir, **values)

    @classmethod
    def today(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        old = bool(TAUGHT & set(values))
        out = super().today({key: value for key, value in values.items() if key not in TAUGHT_IGNORED})
        if old:
            out = TAUGHT_DEFAULTS | out
            out.setdefault("report_to", out.get("log_with") or "none")
            out.setdefault("per_device_train_batch_size", min(128, out["batch_size"]))
        names = {"kl": "k1", "mse": "k2"}
        if "kl_estimator" in out:
            out["kl_estimator"] = names.get(out["kl_estimator"], out["kl_estimator"])
        return out

    def _sizes(self) -> None:
        """A rollout is ``batch_size`` completions, in steps of so many batches as the gradients of one are added up from."""
        if self.kl_estimator not in ("k1", "k2", "k3", "abs"):
            raise bad("kl_estimator", self.kl_estimator, "k1 (kl), k2 (mse), k3, abs")
        size = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if self.batch_size is None:
            self.batch_size = size * self.num_mini_batches
        elif self.batch_size % size:
            raise bad(
                "batch_size",
                self.batch_size,
                say(f"a multiple of mini_batch_size x gradient_accumulation_steps = {size}", f"{size}의 배수"),
            )
        self.num_mini_batches = self.batch_size // size
        self.num_iterations, self.beta = self.num_ppo_epochs, self.kl_coef
        self.generation_batch_size, self.steps_per_generation = self.batch_size, None
        super()._sizes()


@dataclass(init=False)
class RejectionConfig(OnlineConfig):
    """Settings of :class:`~hunmin.align.RejectionSamplingTrainer` (Touvron et al. 2023, "Llama 2", section 3.2.3).

    Of ``num_generations`` completions of a prompt the best ``keep`` are learned from; those below ``min_reward`` never are.
    """

    learning_rate: float = 2e-5
    num_generations: int = 8
    keep: int = 1
    min_reward: float | None = None

    whole: ClassVar[tuple[str, ...]] = (*OnlineConfig.whole, "keep")

    def _sizes(self) -> None:
        if self.keep > self.num_generations:
            raise bad("keep", self.keep, f"<= num_generations = {self.num_generations}")
        super()._sizes()

    @property
    def rows_per_prompt(self) -> int:
        return self.keep
