"""Generation settings under Hugging Face names: what is set, what is only the default, and what Hunmin does not do."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hunmin.errors import FormatError, InputError, say
from hunmin.hub.guard import whole

if TYPE_CHECKING:
    from hunmin.hub.config import Config
    from hunmin.hub.files import Source

# Options of other libraries that would change the text and that Hunmin does not have, with the values that mean "off".
REFUSED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys("penalty_alpha diversity_penalty guidance_scale".split(), (None, 0, 0.0)),
    **dict.fromkeys("num_beam_groups".split(), (None, 1)),
    **dict.fromkeys("token_healing use_mtp synced_gpus low_memory output_attentions output_hidden_states".split(), (None, False)),
    **dict.fromkeys(
        "assistant_model assistant_tokenizer assistant_early_exit prompt_lookup_num_tokens dola_layers constraints force_words_ids top_h "
        "watermarking_config negative_prompt_ids negative_prompt_attention_mask custom_generate speculation_type inputs_embeds "
        "decoder_attention_mask decoder_inputs_embeds position_ids".split(),
        (None,),
    ),
}
REFUSED["guidance_scale"] += (1, 1.0)
# Options about how other libraries compute, not about what: accepted and ignored.
IGNORED = frozenset(
    """
    assistant_confidence_threshold assistant_ensemble_weight assistant_lookbehind cache_config cache_implementation compile_config
    continuous_batching_config disable_compile is_assistant logits_to_keep max_cache_len max_matching_ngram_size num_assistant_tokens
    num_assistant_tokens_schedule prefill_chunk_size return_dict target_lookbehind token_type_ids transformers_version trust_remote_code
    """.split()
)
# Lowest and highest value, and whether it has to be above the lowest.
_RANGES: dict[str, tuple[float, float, bool]] = {
    **dict.fromkeys("max_length max_new_tokens max_time num_beams num_return_sequences temperature".split(), (0, inf, True)),
    **dict.fromkeys("repetition_penalty encoder_repetition_penalty".split(), (0, inf, True)),
    **dict.fromkeys("min_length min_new_tokens top_k no_repeat_ngram_size encoder_no_repeat_ngram_size".split(), (0, inf, False)),
    **dict.fromkeys("top_p min_p typical_p epsilon_cutoff eta_cutoff".split(), (0, 1, False)),
    "length_penalty": (-inf, inf, False),
}
_WHOLE = frozenset(
    "max_length max_new_tokens min_length min_new_tokens num_beams num_return_sequences top_k no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size".split()
)


COMMON = "max_new_tokens min_new_tokens do_sample temperature top_k top_p num_beams num_return_sequences repetition_penalty".split()


class GenerationConfig:
    """How to generate. A value that was never set is the default, and gives way to the model's own; None resets a value to its default.

    Lengths are in tokens. ``max_length`` and ``min_length`` count the prompt (of the decoder), ``…_new_tokens`` do not.
    Unless a length is set, 20 tokens are generated. Raises InputError for unknown names, with the closest known ones, and for bad values.
    """

    max_length: int = 20
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    max_time: float | None = None  # seconds
    stop_strings: str | list[str] | None = None
    early_stopping: bool | str = False  # True, False or "never"
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    use_cache: bool = True
    cache_dtype: str | None = None  # "int8": keys and values in 8 bits, with a scale for each token and head; None: as the model computes
    deterministic: bool = False  # the same tokens whatever else is in the batch: slower where PyTorch computes the step
    temperature: float = 1.0
    top_k: int = 50  # 0: off
    top_p: float = 1.0
    min_p: float | None = None
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: list[list[int]] | None = None
    sequence_bias: Any = None  # {(id, ...): bias} or [[[id, ...], bias], ...]
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | list[int] | None = None
    suppress_tokens: list[int] | None = None
    begin_suppress_tokens: list[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    renormalize_logits: bool = False
    remove_invalid_values: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    return_dict_in_generate: bool = False
    output_scores: bool = False
    output_logits: bool = False

    given: set[str]  # the names that were set
    extras: dict[str, Any]  # what a file says that is no setting of Hunmin; written back as it was

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(given=set[str](), extras=dict[str, Any]())
        self.update(**values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in DEFAULTS:
            raise unknown(name)
        if value is None and DEFAULTS[name] is not None:
            self.given.discard(name)
            self.__dict__[name] = DEFAULTS[name]
            if name == "top_k":  # here None has always meant "off", while the default is 50
                self.__dict__[name] = 0
                self.given.add(name)
        else:
            self.__dict__[name] = _checked(name, value)
            self.given.add(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GenerationConfig) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"GenerationConfig {json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str)}"

    def update(self, **values: Any) -> None:
        """Set the given values. Raises InputError for names that are no settings and for options that Hunmin does not have."""
        for name, value in values.items():
            if name in DEFAULTS:
                setattr(self, name, value)
            elif name in REFUSED:
                refuse(name, value)
            elif name not in IGNORED:
                raise unknown(name)

    def over(self, base: GenerationConfig | None) -> GenerationConfig:
        """A copy of ``base`` with everything that is set here."""
        merged = copy.deepcopy(base) if base is not None else GenerationConfig()
        for name in self.given:
            setattr(merged, name, copy.deepcopy(getattr(self, name)))
        merged.extras.update(self.extras)
        return merged

    def to_dict(self) -> dict[str, Any]:
        """What is set, and what a file said besides."""
        return {**self.extras, **{name: getattr(self, name) for name in DEFAULTS if name in self.given}}

    # -------------------------------------------------------------- files

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """From the contents of a file: keys that Hunmin does not know are kept for saving."""
        config = cls(**{k: v for k, v in values.items() if k in DEFAULTS and v is not None})
        config.extras.update({k: v for k, v in values.items() if k not in DEFAULTS})
        return config

    @classmethod
    def from_model_config(cls, config: Config) -> GenerationConfig:
        """From the settings that an old ``config.json`` holds among the model's."""
        values = {k: config.get(k) for k in DEFAULTS}
        if config.get("force_bos_token_to_be_generated") and values["forced_bos_token_id"] is None:
            values["forced_bos_token_id"] = values["bos_token_id"]
        return cls.from_dict(values)

    @classmethod
    def from_source(cls, source: Source, config: Config) -> GenerationConfig:
        """The settings of a model: its ``generation_config.json``, else those in its ``config.json``."""
        if source.gguf is not None:
            from hunmin.hub.gguf import GGUF

            return cls.from_dict(GGUF(source.gguf).generation_config())
        path = source.file("generation_config.json")
        return cls._read(path) if path is not None else cls.from_model_config(config)

    @classmethod
    def from_pretrained(cls, pretrained_model_name: str | os.PathLike[str], **options: Any) -> GenerationConfig:
        """From the ``generation_config.json`` of a source; ``options`` are settings, or say where to look (``revision``, ``subfolder``, …).

        Raises SourceError when there is no such file, FormatError when it is broken.
        """
        from hunmin.hub.files import resolve

        where = {k: options.pop(k) for k in [*options] if k not in DEFAULTS and k not in REFUSED and k not in IGNORED}
        config = cls._read(resolve(pretrained_model_name, **where).require("generation_config.json"))
        config.update(**options)
        return config

    @classmethod
    def _read(cls, path: Path) -> GenerationConfig:
        from hunmin.hub.config import read_json

        try:
            return cls.from_dict(read_json(path))
        except InputError as error:
            raise FormatError(f"{path}: {error}") from None

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write ``generation_config.json``."""
        values = self.to_dict()
        if isinstance(bias := values.get("sequence_bias"), Mapping):  # JSON has no tuples as keys
            values["sequence_bias"] = [[list(ids), value] for ids, value in bias.items()]
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
        with whole(Path(save_directory) / "generation_config.json") as path:
            path.write_text(text + "\n", encoding="utf-8")


DEFAULTS: dict[str, Any] = {
    name: vars(GenerationConfig)[name] for name in GenerationConfig.__annotations__ if name in vars(GenerationConfig)
}


def refuse(name: str, value: Any) -> None:
    """Raise InputError unless ``value`` switches the option off."""
    if not any(value is off or (type(value) is type(off) and value == off) for off in REFUSED[name]):
        raise InputError(
            say(
                f"generate: {name} is not supported by Hunmin. Leave it out.",
                f"generate: Hunmin은 {name}을(를) 지원하지 않습니다. 빼고 다시 실행하세요.",
            )
        )


def unknown(name: str) -> InputError:
    """The error for an option that nobody knows."""
    near = get_close_matches(name, [*DEFAULTS, "input_ids", "attention_mask", "streamer", "seed", "tokenizer", "decoder_input_ids"], 3)
    listed = f"{', '.join(COMMON)}, … (GenerationConfig)"
    en, ko = (
        (f" Did you mean {', '.join(near)}?", f" 혹시 {', '.join(near)}인가요?") if near else (f" It has {listed}.", f" 옵션: {listed}.")
    )
    return InputError(say(f"generate has no option {name!r}.{en}", f"generate에 {name!r} 옵션이 없습니다.{ko}"))


def _checked(name: str, value: Any) -> Any:
    """``value`` as the setting ``name``; arrays and tensors become plain numbers. Raises InputError when it cannot be one."""
    value = value.tolist() if hasattr(value, "tolist") else value
    value = None if value == -1 and name.endswith("token_id") else value  # how some old files write "none"
    if (wanted := _wanted(name, value)) is not None:
        hint = (" (for greedy decoding set do_sample=False)", " (그리디 디코딩은 do_sample=False)") if name == "temperature" else ("", "")
        raise InputError(
            say(
                f"{name} has to be {wanted[0]}, not {value!r}{hint[0]}.",
                f"{name}의 값 {value!r}은(는) 쓸 수 없습니다. 필요한 값: {wanted[1]}{hint[1]}.",
            )
        )
    return int(value) if name in _WHOLE and value is not None else value


def _wanted(name: str, value: Any) -> tuple[str, str] | None:
    """What the setting has to be, in both languages, or None when ``value`` is that."""
    if value is None:
        return None
    if name in _RANGES:
        low, high, above = _RANGES[name]
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high or (above and value == low):
            if high < inf:
                return f"a number from {low:g} to {high:g}", f"{low:g}에서 {high:g} 사이의 수"
            more = ("above", "보다 큰 수") if above else ("not below", " 이상의 수")
            return ("a number", "수") if low == -inf else (f"a number {more[0]} {low:g}", f"{low:g}{more[1]}")
        return ("a whole number", "정수") if name in _WHOLE and not float(value).is_integer() else None
    if name == "cache_dtype":
        return None if value == "int8" else ('"int8" or None', '"int8"이나 None')
    if name == "early_stopping":
        return None if isinstance(value, bool) or value == "never" else ('True, False or "never"', 'True, False, "never"')
    if isinstance(DEFAULTS[name], bool):
        return None if isinstance(value, bool) else ("True or False", "True나 False")
    if name.endswith("token_id"):
        several = isinstance(value, list) and name in ("eos_token_id", "forced_eos_token_id")
        return None if _ids(value if several else [value]) else ("a token id", "토큰 id")
    if name in ("suppress_tokens", "begin_suppress_tokens"):
        return None if _ids(value) else ("a list of token ids", "토큰 id의 목록")
    if name == "bad_words_ids":
        fine = isinstance(value, list) and all(word and _ids(word) for word in cast("list[Any]", value))
        return None if fine else ("a list of lists of token ids", "토큰 id 목록의 목록")
    return None


def _ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(i) is int and i >= 0 for i in cast("list[Any]", value))
