"""From an adapter's folder to the base model that it names, with the adapter on it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hunmin.adapters import freeze
from hunmin.auto import SOURCE_OPTIONS, load, load_whole, read_config, round_weights
from hunmin.errors import ConfigError, say
from hunmin.hub.files import Source, resolve
from hunmin.model import PreTrainedModel
from hunmin.peft.config import PeftConfig, TaskType, find, read
from hunmin.peft.model import PeftModel
from hunmin.quantization import OPTIONS, request
from hunmin.quantize import QuantizedLinear, dequantize_linears

TASKS = {
    TaskType.SEQ_CLS: "SequenceClassification",
    TaskType.SEQ_2_SEQ_LM: "Seq2SeqLM",
    TaskType.CAUSAL_LM: "CausalLM",
    TaskType.TOKEN_CLS: "TokenClassification",
    TaskType.QUESTION_ANS: "QuestionAnswering",
    TaskType.FEATURE_EXTRACTION: "Model",
}


class AutoPeftModel:
    """The base model for the task that the adapter was trained for."""

    task: ClassVar[str | None] = None

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, adapter_name: str = "default", *, is_trainable: bool = False, **options: Any
    ) -> PeftModel:
        """Load the base model that the folder names, with ``options``, and put the adapter on it.

        Options about places (``revision``, ``token``, …) are the adapter's; of these ``token``, ``cache_dir`` and ``local_files_only`` are the
        base's, too.

        Raises ConfigError when the folder names no base model or no task, else as ``PeftModel.from_pretrained``.
        """
        place = {k: options.pop(k) for k in SOURCE_OPTIONS if k in options}
        config = PeftConfig.from_pretrained(pretrained_model_name_or_path, **place)
        task = cls.task or (TASKS[TaskType(config.task_type)] if config.task_type is not None else None)
        if not config.base_model_name_or_path or task is None:
            raise ConfigError(
                say(
                    f"{pretrained_model_name_or_path} names no base model or task. Load that model, then PeftModel.from_pretrained(model, folder).",
                    f"{pretrained_model_name_or_path}에 원본 모델이나 작업이 적혀 있지 않습니다. "
                    "모델을 먼저 불러오고 PeftModel.from_pretrained(model, folder)를 쓰세요.",
                )
            )
        base = load(base_of(find(pretrained_model_name_or_path, place)), task, **options)
        return PeftModel.from_pretrained(base, pretrained_model_name_or_path, adapter_name, is_trainable=is_trainable, **place)


class AutoPeftModelForCausalLM(AutoPeftModel):
    task = "CausalLM"


class AutoPeftModelForSeq2SeqLM(AutoPeftModel):
    task = "Seq2SeqLM"


class AutoPeftModelForSequenceClassification(AutoPeftModel):
    task = "SequenceClassification"


class AutoPeftModelForTokenClassification(AutoPeftModel):
    task = "TokenClassification"


class AutoPeftModelForQuestionAnswering(AutoPeftModel):
    task = "QuestionAnswering"


def base_of(place: Source) -> Source:
    """The model that the adapter at ``place`` names, fetched as the adapter was; a name such as "../body" is a folder beside it.

    Raises ConfigError when it names none.
    """
    config = read(place)
    name = config.base_model_name_or_path
    if not name:
        raise ConfigError(
            say(
                f"{place.name} is an adapter that names no base model. Load that model, then PeftModel.from_pretrained(model, folder).",
                f"{place.name}은(는) 원본 모델이 적혀 있지 않은 어댑터입니다. 모델을 먼저 불러오고 PeftModel.from_pretrained(model, folder)를 쓰세요.",
            )
        )
    beside = place.root / name
    return resolve(beside if name.startswith(".") and beside.is_dir() else name, revision=config.revision, **place.fetch)


def load_merged(place: Source, task: str | None, options: dict[str, Any]) -> PreTrainedModel:
    """The model that the adapter at ``place`` names, with the adapter in its weights. ``options`` are those of ``from_pretrained``.

    A base that is stored quantized is unpacked, as the sum would be rounded again; what ``quantization`` asks for is done to the sum.
    Raises ConfigError where the adapter names no base model, InputError for virtual tokens, which no weights can hold.
    """
    kind, base = read(place), base_of(place)
    config = options.pop("config", None) or read_config(place)
    if task is None and kind.task_type is not None:
        task = TASKS[TaskType(kind.task_type)]
    if base.gguf is None and options.get("dtype") in (None, "auto"):
        options["dtype"] = "float32"  # what the adapter adds would be lost in the rounding of a stored half precision
    wish = {k: options.pop(k) for k in OPTIONS if k in options}
    told = bool(options.pop("output_loading_info", False))
    # Its own head comes with the adapter; one for vectors has learned without the pooler, which a base for masked words lacks.
    headless = bool(kind.modules_to_save) or kind.task_type == TaskType.FEATURE_EXTRACTION
    model = load_whole(base, config, task, options, headless=headless)
    if dequantize_linears(model):
        model.tie_weights()
    merged = PeftModel.from_pretrained(model, place).merge_and_unload().eval()
    merged.requires_grad_(True)
    merged.name_or_path, merged.source = place.name, place
    round_weights(merged, request(wish, merged.config.model_type, merged.task, merged.device, False))
    return (merged, {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}) if told else merged  # type: ignore[return-value]


def prepare_model_for_kbit_training(
    model: PreTrainedModel, use_gradient_checkpointing: bool = False, gradient_checkpointing_kwargs: Any = None
) -> PreTrainedModel:
    """Freeze a quantized model and keep what is not quantized (norms, embeddings, head) in fp32, for stable training on top of it.

    ``use_gradient_checkpointing`` saves memory and takes more time; PEFT does it by default, here it is asked for. Results are the same.
    """
    if use_gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs)
    freeze(model)
    for p in model.parameters():
        if p.dtype in (torch.float16, torch.bfloat16):
            p.data = p.data.float()
    for layer in model.modules():
        if isinstance(layer, QuantizedLinear):
            layer.dtype = torch.float32
    return model
