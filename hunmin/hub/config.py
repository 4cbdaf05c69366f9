"""Configurations: ``config.json`` as it is, with defaults for what it leaves out and a memory of what was read.

A key that nobody read is suspicious: the model would be computed without something that its authors wrote down. So every model construction
ends with :meth:`Config.unread`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hunmin.arch import FAMILIES, architecture
from hunmin.errors import ConfigError, FormatError, SourceError, say, warn_once
from hunmin.hub.guard import whole

# Keys that describe a checkpoint, its training or its use, but do not change what a forward pass computes.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels add_prefix_space architectures attention_type
    auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward classif_dropout classifier_dropout
    classifier_dropout_prob custom_pipelines decoder_start_token_id directionality diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id finetuning_task force_bos_token_to_be_generated forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_factor initializer_range init_std is_encoder_decoder is_llama_config label2id length_penalty
    max_length max_position_embeddings min_length model_type n_ctx no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_past output_scores pad_token_id pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
    pooler_size_per_head pooler_type prefix problem_type pruned_heads qa_dropout quantization_config remove_invalid_values repetition_penalty
    reorder_and_upcast_attn return_dict return_dict_in_generate rope_interleaved seq_classif_dropout sep_token_id suppress_tokens
    summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript transformers.js_config
    transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache vocab_size sinusoidal_pos_embds dense_act_fn
    is_gated_act net_structure_type num_memory_blocks gap_size down_scale_factor embedding_dropout tie_word_embeddings is_decoder
    sample_rate replicate_default_eos extra_pos_embeddings encoder_hidden_size _sliding_window_pattern max_window_layers
    """.split()
)
MOST_LABELS = 1 << 20


class Config(Mapping[str, Any]):
    """A model's configuration: mapping for the architecture files, attributes for users (``config.hidden_size``, ``config.id2label``).

    Raises ConfigError on reading a key that has neither a value nor a default.
    """

    _values: dict[str, Any]

    def __init__(self, model_type: str, /, **values: Any) -> None:
        arch = architecture(model_type)
        own: dict[str, Any] = {
            "_values": {},
            "_defaults": {**arch.defaults, "model_type": model_type},
            "_aliases": dict(arch.aliases),
            "_read": set[str](),
        }
        self.__dict__.update(own)
        for key, value in values.items():
            self[key] = value

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        model_type = values.get("model_type")
        if not isinstance(model_type, str):
            known = ", ".join(FAMILIES)
            raise ConfigError(
                say(
                    f"config.json has no model_type; Hunmin chooses the architecture by it. Known: {known}.",
                    f"config.json에 model_type이 없어 아키텍처를 고를 수 없습니다. 지원: {known}.",
                )
            )
        return cls(model_type, **{k: v for k, v in values.items() if k != "model_type"})

    @classmethod
    def from_json_file(cls, path: str | Path) -> Config:
        return cls.from_dict(read_json(Path(path)))

    def __getitem__(self, key: str) -> Any:
        key = self._aliases.get(key, key)
        self._read.add(key)
        for values in (self._values, self._defaults):
            if key in values:
                return values[key]
        raise ConfigError(
            say(
                f"The configuration of this {self._defaults['model_type']} model lacks {key!r}.",
                f"이 {self._defaults['model_type']} 모델의 설정에 {key!r} 항목이 없습니다.",
            )
        )

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(self._aliases.get(key, key))
        return self[key] if key in self else default  # noqa: SIM401 - this is get

    def __contains__(self, key: object) -> bool:
        key = self._aliases.get(str(key), str(key))
        return key in self._values or key in self._defaults

    def __iter__(self) -> Iterator[str]:
        return iter({**self._defaults, **self._values})

    def __len__(self) -> int:
        return len({**self._defaults, **self._values})

    def __setitem__(self, key: str, value: Any) -> None:
        key = self._aliases.get(key, key)
        if key == "num_labels":
            if type(value) is not int or not 0 < value <= MOST_LABELS:
                raise _wrong(key, value)
            if len(self._values.get("id2label") or ()) == value:
                return  # the labels that have names already
            key, value = "id2label", {str(i): f"LABEL_{i}" for i in range(value)}
        if key in ("torch_dtype", "dtype"):
            key, value = "dtype", str(value).removeprefix("torch.") if value is not None else None
        self._values[key] = value
        if key == "id2label" and value:
            try:
                self._values["id2label"] = {str(int(k)): v for k, v in value.items()}
                self._values["label2id"] = {v: int(k) for k, v in value.items()}
            except (AttributeError, TypeError, ValueError):
                raise _wrong(key, value) from None

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        if key in ("id2label", "num_labels", "label2id"):
            names = {int(k): v for k, v in self._labels().items()}
            return names if key == "id2label" else len(names) if key == "num_labels" else {v: k for k, v in names.items()}
        if key in self:
            return {**self._defaults, **self._values}[self._aliases.get(key, key)]
        if key in HARMLESS:
            return None
        raise AttributeError(f"This {self._defaults['model_type']} configuration has no {key!r}")

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and dict(self) == dict(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config {self.to_json_string()}"

    def __deepcopy__(self, memo: Any) -> Config:
        return Config(self.model_type, **copy.deepcopy(self._values, memo))

    def __reduce__(self) -> Any:
        return Config.from_dict, ({**self._values, "model_type": self.model_type},)

    def _labels(self) -> dict[str, str]:
        return self._values.get("id2label") or {str(i): f"LABEL_{i}" for i in range(self._defaults.get("num_labels", 2))}

    def drop(self, key: str) -> None:
        """Forget the value of ``key``; the default of the architecture is what remains."""
        self._values.pop(self._aliases.get(key, key), None)

    def update(self, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            self[key] = value

    def to_dict(self) -> dict[str, Any]:
        """Everything that decides the model, with defaults spelled out, under the checkpoint's own key names."""
        skip = {"num_labels", *(("rope_theta", "rope_local_base_freq") if self._values.get("rope_parameters") else ())}
        return {k: v for k, v in self._defaults.items() if v is not None and k not in skip} | copy.deepcopy(self._values)

    def to_json_string(self) -> str:
        return json.dumps(self.to_dict(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    def save_pretrained(self, folder: str | Path) -> None:
        with whole(Path(folder) / "config.json") as path:
            path.write_text(self.to_json_string(), encoding="utf-8")

    def unread(self) -> list[str]:
        """Keys with a value that nothing has read and that are not known to be harmless."""
        return sorted(k for k, v in self._values.items() if v is not None and k not in self._read and k not in HARMLESS)

    def warn_unread(self, name: str) -> None:
        if keys := self.unread():
            listed = ", ".join(keys)
            warn_once(
                say(
                    f"{name}: Hunmin does not know these keys of config.json and computed the model without them: {listed}.",
                    f"{name}: config.json의 다음 항목은 알 수 없어 반영하지 않고 계산합니다: {listed}.",
                )
            )


def _wrong(key: str, value: Any) -> ConfigError:
    shown = f"{value!r}"[:100]
    return ConfigError(say(f"config.json: {key} cannot be {shown}.", f"config.json의 {key} 값 {shown}은(는) 쓸 수 없습니다."))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object. Raises FormatError naming the file and the place of the mistake."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceError(say(f"{path} cannot be read: {error.strerror}.", f"{path}을(를) 읽을 수 없습니다: {error.strerror}.")) from None
    except (ValueError, RecursionError) as error:
        raise FormatError(
            say(
                f"{path} is not valid JSON: {error}. Fetch or write it again.",
                f"{path}은(는) 올바른 JSON이 아닙니다: {error}. 파일을 다시 받으세요.",
            )
        ) from None
    if not isinstance(value, dict):
        raise FormatError(
            say(
                f"{path} holds a {type(value).__name__}, not an object.",
                f"{path}에 객체가 아니라 {type(value).__name__}이(가) 들어 있습니다.",
            )
        )
    return value
