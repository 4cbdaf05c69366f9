"""What the trainers of alignment are told. Names, defaults and meanings are those of TRL, of today and of earlier years."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, get_args

from hunmin.align.losses import Divergence, Kind, KTOKind
from hunmin.errors import InputError, say
from hunmin.train.arguments import TrainingArguments, bad

# Accepted because taught code passes them; each is always so, never so, or without meaning here.
IGNORED = frozenset(
    """
    dataset_num_proc dataset_batch_size dataset_kwargs trust_remote_code pad_to_multiple_of activation_offloading use_liger_kernel
    use_liger_loss generate_during_eval is_encoder_decoder padding_value label_pad_token_id use_logits_to_keep use_num_logits_to_keep
    tools torch_empty_cache_steps router_aux_loss_coef model_adapter_name ref_adapter_name force_use_ref_model num_of_sequences
    chars_per_token eval_packing_strategy precompute_ref_batch_size shuffle_dataset base_model_attribute_name
    rpo_normalize use_dft_loss_fn
    """.split()
)


@dataclass(init=False)
class AlignConfig(TrainingArguments):
    """What all of them share. A subclass adds fields; ``renamed`` holds its older names.

    Raises InputError for names that nobody knows and for values that cannot be.
    """

    renamed: ClassVar[dict[str, str]] = {"max_seq_length": "max_length"}
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    above: ClassVar[dict[str, float]] = {"max_length": 0}  # numbers that have to be larger than this, or None

    logging_steps: float = 10
    max_length: int | None = 1024  # tokens of a sequence; None: as the model can
    truncation_mode: str = "keep_start"
    eos_token: str | None = None  # what ends an answer; by default the tokenizer's
    pad_token: str | None = None
    chat_template_path: str | None = None  # a template (jinja) or a folder of a tokenizer with one
    model_init_kwargs: dict[str, Any] | None = None  # for a model that is given by its name
    disable_dropout: bool = True

    def __init__(self, output_dir: str | Path | None = None, **values: Any) -> None:
        known = {field.name for field in fields(self)}
        given: dict[str, Any] = {}
        for old, value in values.items():
            name = self.renamed.get(old, old)
            if name in given:
                raise InputError(say(f"{name} was given twice, also as {old}.", f"{name}을(를) {old}(으)로도 두 번 지정했습니다."))
            if name in known or name not in IGNORED:
                given[name] = value
        super().__init__(output_dir, **given)
        self._settle()

    def _settle(self) -> None:
        """Check what is not the Trainer's own. Raises InputError."""
        for name, choices in {"truncation_mode": ("keep_start", "keep_end"), **self.choices}.items():
            value = getattr(self, name)
            for one in value if isinstance(value, list | tuple) else (value,):
                if one not in choices:
                    raise bad(name, one, ", ".join(choices))
        for name, least in {**AlignConfig.above, **self.above}.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > least):
                raise bad(name, value, say(f"a number above {least:g}", f"{least:g}보다 큰 수"))

    @classmethod
    def of(cls, arguments: TrainingArguments | None, **values: Any) -> Any:
        """``arguments`` with the fields that they lack: taught code passes plain TrainingArguments. ``values`` of None say nothing."""
        given = {cls.renamed.get(name, name): value for name, value in values.items() if value is not None}
        if arguments is None:
            return cls(**given)
        if isinstance(arguments, cls) and not given:
            return arguments
        own = {field.name for field in fields(cls)}
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(arguments) if field.name in own} | given)


@dataclass(init=False)
class SFTConfig(AlignConfig):
    """Of :class:`SFTTrainer`."""

    choices: ClassVar = {"packing_strategy": ("bfd", "best_fit", "sequential", "wrapped"), "loss_type": ("nll", "dft")}

    learning_rate: float = 2e-5
    dataset_text_field: str = "text"
    packing: bool = False
    packing_strategy: str = "bfd"
    eval_packing: bool | None = None  # None: as packing
    completion_only_loss: bool | None = None  # None: where rows have a prompt and a completion
    assistant_only_loss: bool = False
    loss_type: str = "nll"  # "dft": each token weighted by its probability (Wu et al. 2025)
    disable_dropout: bool = False


@dataclass(init=False)
class RewardConfig(AlignConfig):
    """Of :class:`RewardTrainer`; the last three for process rewards."""

    learning_rate: float = 1e-4
    center_rewards_coefficient: float | None = None
    step_separator: str = "\n"
    train_on_last_step_only: bool = False
    max_prompt_length: int | None = None
    max_completion_length: int | None = None


@dataclass(init=False)
class PreferenceConfig(AlignConfig):
    """What methods with a reference policy share."""

    above: ClassVar = {"beta": 0, "max_prompt_length": 0, "max_completion_length": 0, "ref_model_sync_steps": 0}

    learning_rate: float = 1e-6
    beta: float = 0.1
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    precompute_ref_log_probs: bool = False
    ref_logps_cache: str | None = None  # a folder that runs share; by default one in output_dir
    ref_model_init_kwargs: dict[str, Any] | None = None
    sync_ref_model: bool = False  # TR-DPO (Gorbatovski et al. 2024): the reference follows the policy
    ref_model_mixup_alpha: float = 0.6
    ref_model_sync_steps: int = 512

    renamed: ClassVar = {**AlignConfig.renamed, "max_target_length": "max_completion_length"}


@dataclass(init=False)
class DPOConfig(PreferenceConfig):
    """Of :class:`DPOTrainer`. ``loss_type`` may be a list, with ``loss_weights``."""

    choices: ClassVar = {"loss_type": get_args(Kind), "f_divergence_type": get_args(Divergence)}

    loss_type: str | list[str] = "sigmoid"
    loss_weights: list[float] | None = None
    label_smoothing: float = 0.0
    reference_free: bool = False
    rpo_alpha: float | None = None  # weight of the chosen answers' own loss beside (Pang et al. 2024)
    f_divergence_type: str = "reverse_kl"
    f_alpha_divergence_coef: float = 0.5
    simpo_gamma: float = 0.5
    cpo_alpha: float = 1.0
    discopop_tau: float = 0.05

    def _settle(self) -> None:
        super()._settle()
        kinds = self.kinds
        if not 0.0 <= self.label_smoothing < 0.5 and "robust" in kinds:
            raise bad("label_smoothing", self.label_smoothing, say("below 0.5, for loss_type='robust'", "robust에서는 0.5 미만"))
        if not 0.0 <= self.label_smoothing <= 1.0 or ("exo_pair" in kinds and not 0.0 < self.label_smoothing < 1.0):
            raise bad(
                "label_smoothing", self.label_smoothing, say("a share between 0 and 1 (exo_pair: not 0)", "0과 1 사이(exo_pair는 0 제외)")
            )
        named = 1 if isinstance(self.loss_type, str) else len(self.loss_type)
        if self.loss_weights is not None and len(self.loss_weights) != named:
            raise bad("loss_weights", self.loss_weights, say("one weight for every loss_type", "loss_type마다 하나"))

    @property
    def kinds(self) -> dict[str, float]:
        """Losses and their weights."""
        named = [self.loss_type] if isinstance(self.loss_type, str) else list(self.loss_type)
        found = dict(zip(named, self.loss_weights or [1.0] * len(named), strict=False))
        return found | ({"sft": self.rpo_alpha} if self.rpo_alpha else {})


@dataclass(init=False)
class CPOConfig(DPOConfig):
    """DPO's configuration with CPO's names: ``loss_type="sigmoid"`` is CPO, ``"simpo"`` SimPO with ``cpo_alpha`` of the answers' loss."""

    def _settle(self) -> None:
        named = [self.loss_type] if isinstance(self.loss_type, str) else self.loss_type
        self.loss_type = ["cpo" if name == "sigmoid" else name for name in named]
        if "simpo" in self.loss_type and self.cpo_alpha:
            self.rpo_alpha = self.cpo_alpha
        super()._settle()


@dataclass(init=False)
class ORPOConfig(DPOConfig):
    """DPO's configuration with ORPO's loss."""

    loss_type: str | list[str] = "orpo"


@dataclass(init=False)
class KTOConfig(PreferenceConfig):
    """Of :class:`KTOTrainer`."""

    choices: ClassVar = {"loss_type": get_args(KTOKind)}
    above: ClassVar = {**PreferenceConfig.above, "desirable_weight": 0, "undesirable_weight": 0}

    loss_type: str = "kto"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0


@dataclass(init=False)
class DistillConfig(SFTConfig):
    """Of :class:`DistillTrainer`: TRL's GKDConfig. ``beta`` 0 is forward, 1 reverse KL; ``lmbda`` the share of batches the student writes."""

    above: ClassVar = {"temperature": 0, "max_new_tokens": 0, "beta": -1e-9, "lmbda": -1e-9}
    renamed: ClassVar = {**AlignConfig.renamed, "max_completion_length": "max_new_tokens"}

    learning_rate: float = 1e-6
    temperature: float = 0.9
    lmbda: float = 0.5
    beta: float = 0.5
    max_new_tokens: int = 128
    seq_kd: bool = False  # the other batches are written by the teacher
    teacher_model_name_or_path: str | None = None
    teacher_model_init_kwargs: dict[str, Any] | None = None
    disable_dropout: bool = True

    def _settle(self) -> None:
        super()._settle()
        for name in ("beta", "lmbda"):
            if getattr(self, name) > 1:
                raise bad(name, getattr(self, name), say("a number from 0 to 1", "0과 1 사이의 수"))
