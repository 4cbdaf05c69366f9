"""The tokenizer of a GGUF file: vocabulary, merges and special tokens are keys of the file, what surrounds them goes by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hunmin.errors import ConfigError, HunminError, say, warn_once
from hunmin.hub.gguf_config import special_ids
from hunmin.hub.gguf_header import Header

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "▁"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _TAIL
_QWEN2 = _ENDINGS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _TAIL
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s|\p{{N}}%s" + _TAIL.replace(
    r"[\r\n]*", r"[\r\n/]*", 1
)
# How byte-level vocabularies cut text into words before merging, by tokenizer.ggml.pre. Those in _WHOLE take a word that is a token as it is.
_SPLITS = {
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen", "kormo", "megrez", "stablelm2", "hunyuan"), _QWEN2),
    **dict.fromkeys(("gpt-4o", "llama4", "kanana2"), _CASED % (_ENDINGS + "?", _ENDINGS + "?", "{1,3}")),
    "tekken": _CASED % ("", "", ""),
}
_WHOLE = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "midm-2.0", "lfm2", "tekken")
_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")  # GPT-2's words, each digit alone
_GPT2 = ("", "default", "gpt-2", "phi-2", "olmo", "mpt", "jais", "trillion", "a.x-4.0", "mellum", "exaone4", "gigachat")
# What ends a turn in a chat; not always the end of text that the file names.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")


def tokenizer(header: Header) -> Tokenizer:
    """The Rust tokenizer of a file.

    Raises:
        ConfigError: a kind of tokenizer that Hunmin does not know.
        FormatError: a vocabulary that is missing or broken.
    """
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    kind = str(header.get("tokenizer.ggml.model"))
    if kind not in builders:
        known = ", ".join(builders)
        raise ConfigError(
            say(
                f"{header.path}: Hunmin does not know the kind of tokenizer {kind[:40]!r}. Known: {known}.",
                f"{header.path}: 토크나이저 종류 {kind[:40]!r}을(를) 알 수 없습니다. 지원: {known}.",
            )
        )
    tokens = _strings(header, "tokenizer.ggml.tokens")
    kinds = _kinds(header, len(tokens))
    try:
        backend = builders[kind](header, tokens, kinds)
        special, plain = _added(tokens, kinds)
        backend.add_special_tokens(special)
        backend.add_tokens(plain)
        _frame(backend, header, tokens)
    except HunminError:
        raise
    except Exception as error:  # the Rust library raises Exception itself
        reason = " ".join(str(error).split())[:100]
        header.fail(f"its vocabulary is broken: {reason}", f"어휘가 깨졌습니다: {reason}")
    return backend


def tokenizer_config(header: Header) -> dict[str, Any]:
    """The keys and values of ``tokenizer_config.json``. Raises FormatError for a broken vocabulary."""
    tokens = _strings(header, "tokenizer.ggml.tokens")
    length = header.get(f"{header.get('general.architecture')}.context_length")
    found: dict[str, Any] = {name: tokens[i] for name, i in special_ids(header).items() if i < len(tokens)}
    found |= {"add_bos_token": _adds(header, "bos"), "add_eos_token": _adds(header, "eos")}
    found |= {"model_max_length": length} if type(length) is int and length > 0 else {}
    found |= {"clean_up_tokenization_spaces": False, "tokenizer_class": "PreTrainedTokenizerFast"}
    templates = {"default": "tokenizer.chat_template"}
    for name in _strings(header, "tokenizer.chat_templates", required=False):
        templates[name] = f"tokenizer.chat_template.{name}"
    texts = {name: header[key] for name, key in templates.items() if isinstance(header.get(key), str)}
    if texts:
        only = len(texts) == 1 and texts.get("default")
        found["chat_template"] = only or [{"name": name, "template": text} for name, text in texts.items()]
    return found | {"model_input_names": ["input_ids", "attention_mask"]}


def generation_config(header: Header) -> dict[str, Any]:
    """The keys and values of ``generation_config.json``: ``eos_token_id`` is a list where a turn may end otherwise than the text."""
    found: dict[str, Any] = {f"{name}_id": i for name, i in special_ids(header).items() if name != "unk_token"}
    ends = [found["eos_token_id"]] if "eos_token_id" in found else []
    tokens = _strings(header, "tokenizer.ggml.tokens", required=False)
    ends += [i for key in ("eot", "eom") if type(i := header.get(f"tokenizer.ggml.{key}_token_id")) is int and 0 <= i < len(tokens)]
    template = header.get("tokenizer.chat_template")
    ends += [tokens.index(end) for end in _TURN_ENDS if isinstance(template, str) and end in template and end in tokens]
    ends = list(dict.fromkeys(ends))
    return found | ({"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {})


def _strings(header: Header, key: str, required: bool = True) -> list[str]:
    if key not in header and not required:
        return []
    found = header.get(key)
    if not isinstance(found, list) or not all(type(x) is str for x in found):  # pyright: ignore[reportUnknownVariableType]
        header.fail(f"key {key} is not a list of texts", f"키 {key}이(가) 문자열 목록이 아닙니다")
    return found  # pyright: ignore[reportUnknownVariableType]


def _kinds(header: Header, count: int) -> list[int]:
    """What each token is; NORMAL where the file does not say."""
    kinds = header.get("tokenizer.ggml.token_type", [NORMAL] * count)
    if not isinstance(kinds, list) or len(kinds) != count:  # pyright: ignore[reportUnknownArgumentType]
        header.fail("there is not one token_type for each token", "토큰 수와 token_type 수가 다릅니다")
    return kinds  # pyright: ignore[reportUnknownVariableType]


def _adds(header: Header, end: str) -> bool:
    """Whether texts begin (``bos``) or end (``eos``) with the special token."""
    spm = header.get("tokenizer.ggml.model") == "llama"
    default = end == "bos" and (spm or header.get("tokenizer.ggml.pre") in _WHOLE)
    return bool(header.get(f"tokenizer.ggml.add_{end}_token", default))


def _added(tokens: list[str], kinds: list[int]) -> tuple[list[AddedToken], list[AddedToken]]:
    """Tokens that are found in texts before anything else: special ones, and others."""
    from tokenizers import AddedToken

    special = [
        AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, UNKNOWN) and t
    ]
    return special, [AddedToken(t, normalized=False) for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED and t]


def _frame(backend: Tokenizer, header: Header, tokens: list[str]) -> None:
    """Put bos and eos around texts, where the file asks for it."""
    from tokenizers import processors

    ids = special_ids(header)
    bos, eos = (
        [tokens[i]] if (i := ids.get(f"{end}_token", len(tokens))) < len(tokens) and _adds(header, end) else [] for end in ("bos", "eos")
    )
    if bos or eos:
        single, pair = [*bos, "$A", *eos], [*bos, "$A", *eos, *[f"{t}:1" for t in bos], "$B:1", *[f"{t}:1" for t in eos]]
        backend.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(t, backend.token_to_id(t)) for t in dict.fromkeys(bos + eos)]
        )


def _byte_level(header: Header, tokens: list[str], kinds: list[int]) -> Tokenizer:
    """Byte-level BPE, as GPT-2's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pre = str(header.get("tokenizer.ggml.pre", ""))
    merges = [tuple(merge.split(" ")) for merge in _strings(header, "tokenizer.ggml.merges")]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in _WHOLE))  # pyright: ignore[reportArgumentType]
    if pre in _SPLITS:
        words = pre_tokenizers.Split(Regex(_SPLITS[pre]), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])  # pyright: ignore[reportArgumentType]
    elif pre in _DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])  # pyright: ignore[reportArgumentType]
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(False)
        if pre not in _GPT2:
            warn_once(
                say(
                    f"{header.path}: words are cut as GPT-2 does, because Hunmin does not know {pre[:40]!r}. Ids may differ from the original.",
                    f"{header.path}: {pre[:40]!r} 방식을 몰라 GPT-2처럼 단어를 나눕니다. 원본과 토큰이 다를 수 있습니다.",
                )
            )
    if _SPLITS.get(pre) == _QWEN2 and pre != "deepseek-r1-qwen":
        backend.normalizer = normalizers.NFC()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(header: Header, tokens: list[str], kinds: list[int]) -> Tokenizer:
    """SentencePiece BPE: spaces are ``▁``, characters without a token are spelled in bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    gemma = str(header.get("general.architecture")).startswith("gemma")
    if gemma:  # runs of spaces stand there as such, while merging sees them as SPACE
        tokens[:] = [t if t.strip(" ") else SPACE * len(t) for t in tokens]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in _strings(header, "tokenizer.ggml.merges", required=False)] or _merges(
        header, vocab, gemma
    )
    unknown = next((t for t, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    model = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in kinds)  # pyright: ignore[reportArgumentType]
    backend = Tokenizer(model)
    spaces: list[Any] = [normalizers.Replace(" ", SPACE)]
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if header.get("tokenizer.ggml.add_space_prefix", not gemma):
        spaces.insert(0, normalizers.Prepend(SPACE))
        steps.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(steps)
    return backend


def _merges(header: Header, vocab: dict[str, int], by_place: bool) -> list[tuple[str, str]]:
    """Every way to join two tokens into a third, best third first: by score, or by place (Gemma's scores are not in order of merging)."""
    scores = None if by_place else header.get("tokenizer.ggml.scores")
    if scores is not None and (not isinstance(scores, list) or len(scores) < len(vocab)):  # pyright: ignore[reportUnknownArgumentType]
        header.fail("there is not one score for each token", "토큰 수와 점수 수가 다릅니다")
    found: list[tuple[float, int, int, str, str]] = []
    for token, i in vocab.items():
        rank = -scores[i] if scores else i  # pyright: ignore[reportUnknownVariableType]
        for cut in range(1, len(token)):
            if (left := token[:cut]) in vocab and (right := token[cut:]) in vocab:
                found.append((rank, vocab[left], vocab[right], left, right))
    found.sort(key=lambda merge: merge[:3])
    return [(left, right) for *_, left, right in found]
