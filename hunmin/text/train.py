"""A new vocabulary for an old tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, say
from hunmin.text.special import added

if TYPE_CHECKING:
    from hunmin.text.tokenizer import Tokenizer

_TRAINERS = {"BPE": "BpeTrainer", "Unigram": "UnigramTrainer", "WordLevel": "WordLevelTrainer", "WordPiece": "WordPieceTrainer"}


def retrain(
    old: Tokenizer,
    texts: Iterable[Any],
    vocab_size: int,
    length: int | None,
    new_special: list[Any],
    rename: dict[str, str],
    options: dict[str, Any],
) -> Tokenizer:
    """See :meth:`hunmin.text.tokenizer.Tokenizer.train_new_from_iterator`."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import pre_tokenizers, trainers

    if old.encoders:
        raise InputError(say("A pair of SentencePiece models cannot be retrained.", "SentencePiece 쌍은 다시 학습할 수 없습니다."))
    state: dict[str, Any] = json.loads(old.backend_tokenizer.to_str())
    added_tokens, processor, model = state.pop("added_tokens"), state.pop("post_processor"), state["model"]
    kind = model["type"]
    special = [added(token | {"content": rename.get(token["content"], token["content"])}) for token in added_tokens if token["special"]]
    unk = model.get("unk_token") or (model["vocab"][model["unk_id"]][0] if kind == "Unigram" and model.get("unk_id") is not None else None)
    unk = rename.get(str(unk), unk)
    if kind == "Unigram":
        model.update(vocab=[[unk or "<unk>", 0.0]], unk_id=0)
        options.setdefault("unk_token", unk)
    else:
        model.update({"vocab": {}} | ({"merges": []} if kind == "BPE" else {}) | ({"unk_token": unk} if unk else {}))
    if kind == "BPE":
        options |= {key: model[key] for key in ("continuing_subword_prefix", "end_of_word_suffix") if model.get(key) and key not in options}
    if '"ByteLevel"' in json.dumps(state["pre_tokenizer"]):
        options.setdefault("initial_alphabet", pre_tokenizers.ByteLevel.alphabet())
    backend = Backend.from_str(json.dumps(state | {"added_tokens": [], "post_processor": None}))
    trainer = getattr(trainers, _TRAINERS[kind])(vocab_size=vocab_size, special_tokens=special + [added(t) for t in new_special], **options)
    try:
        backend.train_from_iterator(texts, trainer=trainer, length=length)
    except Exception as error:
        raise InputError(say(f"Training needs an iterator of texts: {error}", f"학습에는 텍스트 반복자가 필요합니다: {error}")) from error
    if processor is not None:
        state = json.loads(backend.to_str())
        state["post_processor"] = _renumber(processor, backend, rename)
        backend = Backend.from_str(json.dumps(state))
    config: dict[str, Any] = old.init_kwargs | {name: rename.get(token, token) for name, token in old.special.items()}
    extra = [rename.get(token, token) for token in old.extra] + [added(token).content for token in new_special]
    fields = ("model_max_length", "padding_side", "truncation_side", "model_input_names", "clean_up_tokenization_spaces", "chat_template")
    config |= {"additional_special_tokens": extra} | {name: getattr(old, name) for name in fields}
    return type(old)(backend, name_or_path=old.name_or_path, **config)


def _renumber(part: Any, backend: Any, rename: dict[str, str]) -> Any:
    """The post-processor with the new ids of its special tokens, whatever its kind."""
    if isinstance(part, list):
        return [_renumber(item, backend, rename) for item in part]  # pyright: ignore[reportUnknownVariableType]
    if not isinstance(part, dict):
        return part
    out: dict[str, Any] = {str(key): _renumber(value, backend, rename) for key, value in part.items()}  # pyright: ignore[reportUnknownVariableType]
    if "ids" in out and "tokens" in out:
        tokens: list[str] = [rename.get(token, token) for token in map(str, out["tokens"])]
        out |= {"tokens": tokens, "ids": [_new_id(backend, token) for token in tokens]}
    for key in ("cls", "sep"):
        if isinstance(out.get(key), list):
            token = rename.get(str(out[key][0]), str(out[key][0]))
            out[key] = [token, _new_id(backend, token)]
    return out


def _new_id(backend: Any, token: str) -> int:
    found = backend.token_to_id(token)
    if found is None:
        raise InputError(
            say(
                f"The special token '{token}' is not in the new vocabulary: name it in new_special_tokens.",
                f"특수 토큰 '{token}'이 새 어휘 집합에 없습니다: new_special_tokens에 넣으세요.",
            )
        )
    return found
