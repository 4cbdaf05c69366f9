"""Writing a tokenizer to a folder that Transformers reads as well."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, say

if TYPE_CHECKING:
    from hunmin.text.tokenizer import Tokenizer

# True only of the files that were read: tokenizer.json holds what these say.
_DROP = (
    "add_bos_token",
    "add_eos_token",
    "added_tokens_decoder",
    "name_or_path",
    "chat_template",
    "tokenizer_file",
    "vocab_file",
    "auto_map",
)


def save(tokenizer: Tokenizer, folder: Path) -> tuple[str, ...]:
    """Write the files of ``tokenizer`` into ``folder`` (made when absent) and return their paths."""
    if folder.is_file():
        raise InputError(say(f"{folder} is a file: give a folder to save to.", f"{folder}은(는) 파일입니다: 저장할 폴더를 주세요."))
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []

    def write(name: str, text: str) -> None:
        (folder / name).write_text(text, encoding="utf-8")
        written.append(folder / name)

    keys = {key: value for key, value in tokenizer.init_kwargs.items() if key not in _DROP}
    fields = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces")
    config: dict[str, Any] = keys | {name: getattr(tokenizer, name) for name in fields} | tokenizer.special_tokens_map
    if tokenizer.extra:
        config["additional_special_tokens"] = tokenizer.extra
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    if isinstance(tokenizer.chat_template, dict):
        config["chat_template"] = [{"name": name, "template": text} for name, text in tokenizer.chat_template.items()]
    write("tokenizer_config.json", _json(config))
    special: dict[str, Any] = dict(tokenizer.special_tokens_map)
    write("special_tokens_map.json", _json(special | ({"additional_special_tokens": tokenizer.extra} if tokenizer.extra else {})))
    if isinstance(tokenizer.chat_template, str):
        write("chat_template.jinja", tokenizer.chat_template)
    for file in tokenizer.files:
        if not (folder / file.name).exists() or not file.samefile(folder / file.name):
            shutil.copyfile(file, folder / file.name)
        written.append(folder / file.name)
    if not tokenizer.files:
        tokenizer.mark_language(tokenizer.backend_tokenizer, "source")
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        write("tokenizer.json", _json(state | {"padding": None, "truncation": None}))  # settings of a call, not of the tokenizer
    return tuple(str(path) for path in written)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=lambda token: getattr(token, "content", str(token))) + "\n"
