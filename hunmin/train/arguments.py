"""``TrainingArguments``: the names, defaults and meanings that courses and books use, old spellings included."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from hunmin.errors import InputError, say, short

# Names of earlier years, and what they are called now.
RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
}
# Accepted because taught code passes them; each is always on, always off, or without meaning here.
IGNORED = frozenset(
    """
    overwrite_output_dir save_safetensors past_index jit_mode_eval use_ipex fp16_opt_level fp16_backend half_precision_backend tpu_num_cores
    tpu_metrics_debug use_mps_device xpu_backend mp_parameters dispatch_batches split_batches fp16_full_eval bf16_full_eval ray_scope
    ddp_backend ddp_timeout ddp_bucket_cap_mb ddp_broadcast_buffers dataloader_persistent_workers dataloader_prefetch_factor log_on_each_node
    log_level log_level_replica skip_memory_metrics logging_nan_inf_filter include_num_input_tokens_seen torchdynamo debug local_rank
    accelerator_config parallelism_config include_inputs_for_metrics restore_callback_states_from_checkpoint eval_accumulation_steps
    eval_use_gather_object use_legacy_prediction_loop use_liger_kernel liger_kernel_config hub_always_push hub_revision
    batch_eval_metrics average_tokens_across_devices use_cache project trackio_space_id enable_jit_checkpoint
    """.split()
)
# What an argument may be.
CHOICES: dict[str, tuple[str, ...]] = {
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch", "best"),
    "logging_strategy": ("no", "steps", "epoch"),
    "lr_scheduler_type": (
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "reduce_lr_on_plateau", "cosine_with_min_lr", "warmup_stable_decay", "slanted_triangular",
    ),
    "train_sampling_strategy": ("random", "sequential", "group_by_length"),
    "hub_strategy": ("end", "every_save", "checkpoint", "all_checkpoints"),
    "sharding": ("ddp", "fsdp"),
}  # fmt: skip
_WHOLE = "per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps tensor_parallel_size".split()
_AT_LEAST_ZERO = (
    "learning_rate weight_decay adam_epsilon max_grad_norm warmup_ratio warmup_steps label_smoothing_factor dataloader_num_workers "
    "eval_delay num_train_epochs".split()
)


@dataclass(init=False)
class TrainingArguments:
    """How to train. Names and meanings are those of Transformers; the last block is Hunmin's own.

    Raises InputError for a name that nobody knows (with the closest ones) and for values that cannot be.
    """

    output_dir: str = "trainer_output"
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    # how much, in which steps
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 3.0
    max_steps: int = -1
    auto_find_batch_size: bool = False
    # optimizer and schedule
    optim: str = "adamw_torch"
    optim_args: str | dict[str, Any] | None = None
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    adafactor: bool = False
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | str | None = None
    warmup_ratio: float = 0.0
    warmup_steps: float = 0  # below 1: a share of all steps
    label_smoothing_factor: float = 0.0
    neftune_noise_alpha: float | None = None
    # when to evaluate, log and save
    eval_strategy: str = "no"
    eval_steps: float | None = None  # below 1: a share of all steps
    eval_delay: float = 0
    eval_on_start: bool = False
    prediction_loss_only: bool = False
    include_for_metrics: list[str] | None = None  # "inputs", "loss"
    logging_dir: str | None = None
    logging_strategy: str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    report_to: str | list[str] | None = None  # None or "all": what is installed
    run_name: str | None = None
    disable_tqdm: bool | None = None
    # data
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    group_by_length: bool = False  # the older name of a strategy
    train_sampling_strategy: str = "random"  # "sequential": rows in their order, for those that are sorted from easy to hard
    length_column_name: str = "length"
    dataloader_drop_last: bool = False
    dataloader_num_workers: int = 0
    dataloader_pin_memory: bool = True
    # numbers and machines
    seed: int = 42
    data_seed: int | None = None
    full_determinism: bool = False
    use_cpu: bool = False
    bf16: bool = False
    fp16: bool = False
    tf32: bool | None = None
    gradient_checkpointing: bool = False
    gradient_checkpointing_kwargs: dict[str, Any] | None = None
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    ddp_find_unused_parameters: bool | None = None
    fsdp: str | list[str] | bool | None = None
    fsdp_config: dict[str, Any] | str | None = None
    deepspeed: Any = None
    # going on, and the Hub
    resume_from_checkpoint: str | bool | None = None
    ignore_data_skip: bool = False
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: str = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    # generation while evaluating (Seq2SeqTrainer)
    predict_with_generate: bool = False
    generation_max_length: int | None = None
    generation_num_beams: int | None = None
    sortish_sampler: bool = False
    # Hunmin's own
    padding_free: bool = True  # compute no padding: same loss and gradients
    layerwise_lr_decay: float | None = None  # each layer's rate is that of the layer above, times this
    ema_decay: float | None = None  # evaluate and save a moving average of the weights
    async_save: bool = False  # write checkpoints in a thread
    sharding: str = "ddp"  # "fsdp": every process holds a part of the weights
    tensor_parallel_size: int = 1
    html_report: bool = True

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        for field in fields(self):
            setattr(self, field.name, field.default)
        known = {field.name for field in fields(self)}
        for name, value in current(values, known).items():
            setattr(self, name, value)
        self.output_dir = str(output_dir) if output_dir is not None else str(self.output_dir)
        self._plain()
        self._check()

    # -------------------------------------------------------------- values

    def _plain(self) -> None:
        """Enumerations, numbers in strings (from YAML) and JSON in strings as plain values."""
        for name in CHOICES:
            setattr(self, name, str(getattr(getattr(self, name), "value", getattr(self, name))).lower())
        self.optim = str(getattr(self.optim, "value", self.optim)).lower()
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str) and isinstance(field.default, float | int) and not isinstance(field.default, bool):
                setattr(self, field.name, _number(field.name, value))  # 1e-4 is a string in YAML
        for name in ("optim_args", "lr_scheduler_kwargs", "fsdp_config"):
            if isinstance(value := getattr(self, name), str):
                setattr(self, name, _settings(name, value))
        self.optim = "adafactor" if self.adafactor else self.optim
        self.train_sampling_strategy = "group_by_length" if self.group_by_length else self.train_sampling_strategy
        if self.fsdp and not (isinstance(self.fsdp, str | list) and "no_shard" in self.fsdp):
            self.sharding = "fsdp"
        if self.eval_strategy == "steps" and self.eval_steps is None:
            self.eval_steps = self.logging_steps
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        self.logging_dir = self.logging_dir or str(Path(self.output_dir) / "runs")

    def _check(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise bad(name, getattr(self, name), ", ".join(choices))
        for name in _WHOLE:
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise bad(name, getattr(self, name), say("a whole number above 0", "1 이상의 정수"))
        for name in _AT_LEAST_ZERO:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
                raise bad(name, value, say("a number of at least 0", "0 이상의 수"))
        for name in ("eval_steps", "logging_steps", "save_steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int | float) or not value > 0):
                raise bad(name, value, say("a number above 0", "0보다 큰 수"))
        if self.warmup_ratio > 1:
            raise bad("warmup_ratio", self.warmup_ratio, say("a share between 0 and 1", "0과 1 사이의 비율"))
        if self.bf16 and self.fp16:
            raise InputError(say("Choose one of bf16 and fp16.", "bf16과 fp16 가운데 하나만 고르세요."))
        if self.deepspeed:
            raise InputError(
                say("DeepSpeed is not supported: use sharding='fsdp'.", "DeepSpeed는 지원하지 않습니다. sharding='fsdp'를 쓰세요.")
            )
        if self.load_best_model_at_end and self.save_strategy != "best" and self.eval_strategy != self.save_strategy:
            raise InputError(
                say(
                    f"load_best_model_at_end needs eval_strategy ({self.eval_strategy}) and save_strategy ({self.save_strategy}) to be equal.",
                    f"load_best_model_at_end를 쓰려면 eval_strategy({self.eval_strategy})와 save_strategy({self.save_strategy})가 같아야 합니다.",
                )
            )

    # -------------------------------------------------------------- derived

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        from hunmin.train.parallel import device_of

        return device_of(self.use_cpu)

    @property
    def world_size(self) -> int:
        return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1

    @property
    def process_index(self) -> int:
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    @property
    def train_batch_size(self) -> int:
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        return self.per_device_eval_batch_size

    def steps_of(self, name: str, total: int) -> int:
        """``eval_steps``, ``logging_steps`` or ``save_steps`` in optimizer steps; below one they are a share of ``total``."""
        value = getattr(self, name)
        return max(1, math.ceil(value * total) if value < 1 else int(value))

    def get_warmup_steps(self, total: int) -> int:
        """Optimizer steps of warm-up out of ``total``."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(total * (self.warmup_steps or self.warmup_ratio))

    def to_dict(self) -> dict[str, Any]:
        """All values, without secrets."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | ({"hub_token": "<HUB_TOKEN>"} if self.hub_token else {})

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, default=str, ensure_ascii=False)


class Seq2SeqTrainingArguments(TrainingArguments):
    """The same; ``predict_with_generate`` and the generation settings are there for everybody."""


def current(values: dict[str, Any], known: set[str]) -> dict[str, Any]:
    """``values`` under today's names, without those that need no action. Raises InputError for unknown and doubled names."""
    out: dict[str, Any] = {}
    for old, value in values.items():
        name = RENAMED.get(old, old)
        if name in out:
            raise InputError(say(f"{name} was given twice, also as {old}.", f"{name}을(를) {old}(으)로도 두 번 지정했습니다."))
        if name in known:
            out[name] = value
        elif name not in IGNORED:
            near = get_close_matches(name, [*known, *RENAMED], 3)
            en, ko = (f" Did you mean {', '.join(near)}?", f" 혹시 {', '.join(near)}인가요?") if near else ("", "")
            raise InputError(say(f"TrainingArguments has no argument {name!r}.{en}", f"TrainingArguments에 {name!r} 인자가 없습니다.{ko}"))
    return out


def bad(name: str, value: Any, wanted: str) -> InputError:
    """The error for a value that an argument cannot have."""
    return InputError(say(f"{name} is {short(value)}; it has to be: {wanted}.", f"{name}이(가) {short(value)}입니다. 가능한 값: {wanted}."))


def _number(name: str, text: str) -> float:
    try:
        return int(text) if text.strip().lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise bad(name, text, say("a number", "수")) from None


def _settings(name: str, text: str) -> dict[str, Any]:
    """``{"a": 1}`` or ``a=1,b=2`` as a dictionary."""
    try:
        if text.lstrip().startswith("{"):
            return json.loads(text)
        pairs = [part.split("=", 1) for part in text.replace(" ", "").split(",") if part]
        return {key: json.loads(value) if value[:1] in "0123456789-+.[" else value for key, value in pairs}
    except ValueError:
        raise bad(name, text, '{"key": value} | key=value,key=value') from None
