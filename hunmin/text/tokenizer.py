"""The tokenizer object: Hugging Face's surface over the Rust library ``tokenizers``."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hunmin.errors import InputError, logger, say
from hunmin.text.batch import BatchEncoding, plain
from hunmin.text.chat import ChatTemplates
from hunmin.text.languages import Languages
from hunmin.text.options import SIDES, Options, batch, choose, options
from hunmin.text.special import EXTRA, NAMES, content

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers import Tokenizer as Backend

# Padding, truncation and the language's token are settings of the Rust object, so setting them and encoding are one step for every thread.
_LOCK = threading.Lock()


class Tokenizer(ChatTemplates, Languages):
    """Text to token ids and back.

    Made by ``AutoTokenizer.from_pretrained(...)`` or around a ``tokenizers.Tokenizer`` of your own:
    ``Tokenizer(tokenizer_object=backend, pad_token="<pad>", model_max_length=512)``.

    Args:
        tokenizer_object: the Rust tokenizer: vocabulary, encoding and decoding.
        tokenizer_file: a ``tokenizer.json`` to read instead.
        name_or_path: where it came from.
        encoders: Rust tokenizers that encode in place of ``tokenizer_object``: ``source`` for texts and ``target`` for ``text_target``
            (Marian has one SentencePiece model for each language).
        files: vocabulary files that ``save_pretrained`` copies in place of writing ``tokenizer.json``.
        config: the keys of ``tokenizer_config.json``.
    """

    is_fast = True
    pad_token_type_id = 0

    def __init__(
        self,
        tokenizer_object: Backend | None = None,
        *,
        tokenizer_file: str | Path | None = None,
        name_or_path: str = "",
        encoders: Mapping[str, Backend] | None = None,
        files: Sequence[Path] = (),
        **config: Any,
    ) -> None:
        if tokenizer_object is None:
            from hunmin.text.load import read_backend

            if tokenizer_file is None:
                raise InputError(
                    say(
                        "Give tokenizer_object=... or tokenizer_file=..., or use AutoTokenizer.from_pretrained(...).",
                        "tokenizer_object=...나 tokenizer_file=...을 주거나 AutoTokenizer.from_pretrained(...)를 쓰세요.",
                    )
                )
            tokenizer_object = read_backend(Path(tokenizer_file))
        self.backend_tokenizer = tokenizer_object
        self.encoders = dict(encoders or {})
        self.files = list(files)
        self.name_or_path = name_or_path
        self.special = {name: content(config[name]) for name in NAMES if config.get(name) is not None}
        self.extra = []
        for key in EXTRA:
            extra = config.get(key) or []
            if isinstance(extra, Mapping):  # names of the model's own, such as {"image_token": "<image>"}
                self.special |= {name: content(token) for name, token in extra.items()}
            else:
                self.extra = list(dict.fromkeys([*self.extra, *(content(token) for token in extra)]))
        self.init_kwargs = {key: value for key, value in config.items() if key not in (*NAMES, *EXTRA)}
        limit = config.get("model_max_length")
        self.model_max_length = int(1e30) if limit is None else int(limit)
        self.padding_side: str = choose("padding_side", config.get("padding_side") or "right", SIDES, "right", "right")
        self.truncation_side: str = choose("truncation_side", config.get("truncation_side") or "right", SIDES, "right", "right")
        self.model_input_names: list[str] = list(config.get("model_input_names") or ("input_ids", "attention_mask"))
        self.clean_up_tokenization_spaces = bool(config.get("clean_up_tokenization_spaces"))
        template = config.get("chat_template")
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}
        self.chat_template: str | dict[str, str] | None = template
        self._warned = False

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name_or_path='{self.name_or_path}', vocab_size={self.vocab_size}, model_max_length="
            f"{self.model_max_length}, padding_side='{self.padding_side}', special_tokens={self.special_tokens_map})"
        )

    # Encoding

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        text_pair_target: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: Any = False,
        truncation: Any = None,
        max_length: int | None = None,
        stride: int = 0,
        is_split_into_words: bool = False,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Encode a text, a pair, or a batch of either.

        Args:
            text: a str, a list of str, a list of pairs, or with ``is_split_into_words`` a list of words (or a list of those).
            text_pair: the second text, or a list of as many.
            text_target: the wanted output; its ids become ``labels`` (Marian encodes it with the model of the target
                language; mBART, NLLB and M2M-100 mark it with ``tgt_lang``).
            padding: False, True or ``"longest"``, ``"max_length"``; letter case does not matter.
            truncation: False, True or ``"longest_first"``, ``"only_first"``, ``"only_second"``.
            max_length: length in tokens, special tokens included; the model's own when absent.
            stride: how many tokens overflowing parts share with the part before them.
            return_tensors: None for lists, ``"pt"`` or ``"np"`` for tensors of shape ``(B, N)``.

        Raises:
            InputError: something that is not text, an unknown option, or padding without a padding token.
        """
        how = self._options(padding, truncation, max_length, stride, pad_to_multiple_of, padding_side)
        names = ("token_type_ids", return_token_type_ids), ("attention_mask", return_attention_mask)
        keys = {"input_ids", *(name for name, wanted in names if (name in self.model_input_names if wanted is None else wanted))}
        more = ("special_tokens_mask", return_special_tokens_mask), ("offset_mapping", return_offsets_mapping), ("length", return_length)
        keys |= {name for name, wanted in more if wanted}

        def encode(first: Any, second: Any, side: str) -> BatchEncoding:
            rows, many = batch(first, second, is_split_into_words)
            encodings = self._encode(side, rows, how, add_special_tokens, is_split_into_words)
            if verbose and max_length is None:
                self._warn_if_long(encodings)
            return self._collect(encodings, keys, return_overflowing_tokens, many, return_tensors)

        if text is None and text_target is None:
            raise InputError(say("Give a text, or text_target=...", "텍스트나 text_target=...을 주세요."))
        if text_target is None:
            return encode(text, text_pair, "source")
        target = encode(text_target, text_pair_target, "target")
        return target if text is None else BatchEncoding({**encode(text, text_pair, "source"), "labels": target["input_ids"]})

    def encode(self, text: Any, text_pair: Any = None, **options: Any) -> Any:
        """The ``input_ids`` of one text (or pair): a list, or a tensor ``(1, N)`` with ``return_tensors``. Options are those of a call."""
        return self(text, text_pair, **options)["input_ids"]

    def encode_plus(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        """The same as a call with one text or pair."""
        return self(text, text_pair, **options)

    def batch_encode_plus(self, batch_text_or_text_pairs: Any, **options: Any) -> BatchEncoding:
        """The same as a call with a batch."""
        return self(batch_text_or_text_pairs, **options)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False, **options: Any) -> list[str]:
        """The tokens of a text as strings."""
        return self(text, pair, add_special_tokens=add_special_tokens, **options).tokens()

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a text (or a pair) gets."""
        return self.encoders.get("source", self.backend_tokenizer).num_special_tokens_to_add(pair)

    @property
    def max_len_single_sentence(self) -> int:
        """How many tokens of one text fit beside the special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add()

    def build_inputs_with_special_tokens(self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None) -> list[int]:
        """Put the model's special tokens around ids that have none."""
        encoded = self("a", None if token_ids_1 is None else "a", return_attention_mask=False)
        parts = {0: list(token_ids_0), 1: list(token_ids_1 or ())}
        out: list[int] = []
        for index, part in zip(encoded["input_ids"], encoded.sequence_ids(), strict=True):
            out += [index] if part is None else parts.pop(part, [])
        return out

    def get_special_tokens_mask(self, token_ids_0: Any, token_ids_1: Any = None, already_has_special_tokens: bool = False) -> list[int]:
        """1 for special tokens, 0 for the others, of shape ``(N,)``."""
        ids = plain(token_ids_0) if already_has_special_tokens else self.build_inputs_with_special_tokens(plain(token_ids_0), token_ids_1)
        special = set(self.all_special_ids)
        return [int(index in special) for index in ids]

    def _options(self, padding: Any, truncation: Any, max_length: Any, stride: int, multiple: int | None, side: str | None) -> Options:
        how = options(
            self.model_max_length,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            stride=stride,
            multiple=multiple,
            side=side,
            own_side=self.padding_side,
            cut_side=self.truncation_side,
        )
        if how.padding != "do_not_pad" and self.pad_token_id is None:
            raise InputError(
                say(
                    "This tokenizer has no padding token: set tokenizer.pad_token = tokenizer.eos_token, or add one with "
                    "tokenizer.add_special_tokens({'pad_token': '[PAD]'}).",
                    "이 토크나이저에는 패딩 토큰이 없습니다: tokenizer.pad_token = tokenizer.eos_token으로 정하거나 "
                    "tokenizer.add_special_tokens({'pad_token': '[PAD]'})로 추가하세요.",
                )
            )
        return how

    def _encode(self, side: str, rows: list[Any], how: Options, special: bool, split: bool) -> list[Encoding]:
        backend = self.encoders.get(side, self.backend_tokenizer)
        with _LOCK:
            self.mark_language(backend, side)
            try:
                if how.truncation == "do_not_truncate" or how.max_length is None:
                    backend.no_truncation()
                else:
                    backend.enable_truncation(how.max_length, stride=how.stride, strategy=how.truncation, direction=how.cut_side)
                if how.padding == "do_not_pad":
                    backend.no_padding()
                else:
                    backend.enable_padding(
                        length=how.max_length if how.padding == "max_length" else None,
                        direction=how.side,
                        pad_id=self.pad_token_id,
                        pad_token=self.pad_token,
                        pad_type_id=self.pad_token_type_id,
                        pad_to_multiple_of=how.multiple,
                    )
                return backend.encode_batch(rows, add_special_tokens=special, is_pretokenized=split)
            except TypeError as error:  # the rows are text: only a lone surrogate is refused
                raise InputError(
                    say(
                        "The text holds half of a UTF-16 pair (a lone surrogate): read it with errors='replace'.",
                        "텍스트에 짝이 없는 서로게이트가 있습니다: errors='replace'로 읽으세요.",
                    )
                ) from error
            except BaseException as error:
                if type(error).__name__ == "PanicException" and how.stride:  # of the Rust library, and no Exception
                    raise InputError(
                        say(
                            f"stride={how.stride} is not below the tokens that max_length={how.max_length} leaves to the text that is cut.",
                            f"stride={how.stride}은(는) max_length={how.max_length}에서 잘리는 텍스트에 남는 토큰 수보다 작아야 합니다.",
                        )
                    ) from None
                if not isinstance(error, Exception):
                    raise
                raise InputError(say(f"The text cannot be encoded: {error}", f"텍스트를 인코딩할 수 없습니다: {error}")) from error

    def _collect(self, encodings: list[Encoding], keys: set[str], overflow: bool, many: bool, tensors: Any) -> BatchEncoding:
        samples = [i for i, e in enumerate(encodings) for _ in range(1 + len(e.overflowing) if overflow else 1)]
        rows = [part for e in encodings for part in ([e, *e.overflowing] if overflow else [e])]
        data: dict[str, Any] = {"input_ids": [self._known(e) for e in rows] if self.encoders else [e.ids for e in rows]}
        for name, field in (
            ("token_type_ids", "type_ids"),
            ("attention_mask", "attention_mask"),
            ("special_tokens_mask", "special_tokens_mask"),
            ("offset_mapping", "offsets"),
        ):
            if name in keys:
                data[name] = [getattr(e, field) for e in rows]
        if "length" in keys:
            data["length"] = [len(e.ids) for e in rows]
        if overflow:
            data["overflow_to_sample_mapping"] = samples
        if not many and tensors is None and not overflow:
            data = {name: value[0] if isinstance(value[0], list) else value for name, value in data.items()}
        return BatchEncoding(data, rows, tensors)

    def _known(self, encoding: Encoding) -> list[int]:
        """The ids of the shared vocabulary for what one language's model could not name, or knows alone (ids past the end)."""
        size, unk = len(self), self.unk_token_id
        ids = encoding.ids
        if unk is None or not any(index == unk or index >= size for index in ids):
            return ids
        return [(self.id_of(token) or 0) if i == unk or i >= size else i for i, token in zip(ids, encoding.tokens, strict=True)]

    def _warn_if_long(self, encodings: list[Encoding]) -> None:
        longest = 0 if self._warned else max((len(e.ids) for e in encodings), default=0)
        if longest > self.model_max_length:
            self._warned = True
            logger.warning(
                say(
                    f"A text has {longest} tokens, the model takes {self.model_max_length}: give truncation=True.",
                    f"토큰이 {longest}개인 텍스트가 있습니다(모델은 {self.model_max_length}개까지): truncation=True를 주세요.",
                )
            )

    # Padding what was encoded before

    def pad(
        self,
        encoded_inputs: Any,
        padding: Any = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Bring encoded rows to one length: a dictionary of lists, or a list of dictionaries (as a data loader collects them).

        Pads ``input_ids``, ``attention_mask``, ``token_type_ids`` and ``special_tokens_mask``; other keys pass through.

        Raises:
            InputError: no ``input_ids``, no padding token, or an unknown option.
        """
        from hunmin.text.padding import pad_rows

        how = self._options(padding, False, max_length, 0, pad_to_multiple_of, padding_side)
        mask = "attention_mask" in self.model_input_names if return_attention_mask is None else return_attention_mask
        return pad_rows(
            encoded_inputs, how, pad_id=self.pad_token_id or 0, pad_type_id=self.pad_token_type_id, mask=mask, tensors=return_tensors
        )

    # Making and keeping

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens (str, ``AddedToken`` or a list of them) to the end of the vocabulary; returns how many were new.

        Raises:
            InputError: not text, or new to a tokenizer whose vocabulary is fixed (Marian, M2M-100: pieces and ids are in separate files).
        """
        tokens: list[Any] = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        if self.encoders and any(self.backend_tokenizer.token_to_id(content(token)) is None for token in tokens):
            raise InputError(
                say(
                    "This tokenizer takes no new tokens: its pieces and its ids are in separate files.",
                    "이 토크나이저에는 토큰을 추가할 수 없습니다: 조각과 번호가 서로 다른 파일에 있습니다.",
                )
            )
        return super().add_tokens(tokens, special_tokens)

    def train_new_from_iterator(
        self,
        text_iterator: Iterable[str] | Iterable[Iterable[str]],
        vocab_size: int,
        length: int | None = None,
        new_special_tokens: Sequence[Any] | None = None,
        special_tokens_map: Mapping[str, str] | None = None,
        **trainer_options: Any,
    ) -> Tokenizer:
        """A tokenizer of the same kind with a vocabulary learned from texts (or batches of texts).

        Args:
            special_tokens_map: old special token to its new spelling.
            trainer_options: passed to the trainer of the Rust library, such as ``min_frequency=2``.

        Raises:
            InputError: a tokenizer that cannot be trained, or texts that are not str.
        """
        from hunmin.text.train import retrain

        return retrain(
            self, text_iterator, vocab_size, length, list(new_special_tokens or ()), dict(special_tokens_map or {}), trainer_options
        )

    def save_pretrained(self, save_directory: str | Path, legacy_format: bool | None = None, **options: Any) -> tuple[str, ...]:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and a chat template, which Transformers reads as well.

        ``push_to_hub=True, repo_id=...`` uploads them afterwards. ``legacy_format`` is accepted and ignored.

        Returns:
            The paths of the files.
        """
        from hunmin.text.save import save

        paths = save(self, Path(save_directory))
        if options.pop("push_to_hub", False):
            from hunmin.hub.push import push_folder

            push_folder(Path(save_directory), options.pop("repo_id", Path(save_directory).name), **options)
        return paths

    def push_to_hub(self, repo_id: str, **options: Any) -> Any:
        """Save to a temporary folder and upload it to ``repo_id``."""
        import tempfile

        from hunmin.hub.push import push_folder

        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push_folder(Path(folder), repo_id, **options)
