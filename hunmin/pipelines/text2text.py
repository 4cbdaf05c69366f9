"""Text in, text out: summarization, translation and whatever else an encoder-decoder was trained for. Chat models can do these as well."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import torch

from hunmin.errors import InputError, say, short, warn_once
from hunmin.pipelines.base import Pipeline, Rows
from hunmin.text import BatchEncoding

ENOUGH = 256  # new tokens of a chat model, where neither its files nor the caller says anything
# Where a text may be cut, the better places first: after a sentence, between words, before a letter, anywhere.
CUTS = [re.compile(p) for p in (r"(?<=[.!?…])\s+|(?<=[。！？])\s*(?=\S)|\n+", r"\s+", r"(?=[^\W_])", r"(?s).")]
Languages = tuple[str | None, str | None]  # of the text and of the answer
PROMPTS = {  # for chat models
    "summarization": "Summarize this text in one or two sentences.\n\n{text}",
    "translation": "Translate this text{languages}. Answer with the translation only.\n\n{text}",
    "text2text-generation": "{text}",
}


class Text2TextGenerationPipeline(Pipeline):
    """``[{"generated_text": …}]``. Options of :class:`hunmin.GenerationConfig` may be given when it is built or when it is called.

    A prefix that the model's config has for the task (T5's "summarize: ") is put before every text. A text longer than the model is cut with
    a warning, or with ``chunk=True`` cut at sentence ends, computed in parts and joined.
    """

    key = "generated"
    budget = 4096  # decoding reads all weights for every token: more rows share that

    @property
    def most_rows(self) -> int | None:
        """As many as have first scores of at most 32 MB: beyond, the C library gives a tensor back, and the system clears a new one each
        time."""
        words = self.model.config["vocab_size"]
        return max(1, (1 << 25) // (4 * words)) if words > 0 else None

    def __call__(self, inputs: Any, **options: Any) -> Any:
        answers = super().__call__(inputs, **options)
        if isinstance(inputs, list | tuple) and all(isinstance(a, list) and len(a) == 1 for a in answers):
            return [answer[0] for answer in answers]
        return answers

    @property
    def longest(self) -> int | None:
        """Tokens that the encoder can read, or None for no limit."""
        backbone = self.model.encoder or self.model.decoder
        assert backbone is not None
        limits = [backbone.embed.spec.positions, self.tokenizer.model_max_length if self.tokenizer.model_max_length < 10**9 else None]
        return min((n for n in limits if n), default=None)

    # -------------------------------------------------------------- in

    def preprocess(self, inputs: Any, *, truncation: bool = False, chunk: bool = False, prefix: str | None = None) -> Any:
        return self._prepared(inputs, truncation, chunk, prefix, (None, None))

    def _prepared(self, inputs: Any, truncation: bool, chunk: bool, prefix: str | None, pair: Languages) -> Any:
        """A text as the model's arguments, cut if need be; with ``chunk`` as a list of them."""
        if not isinstance(inputs, str) or not inputs.strip():
            raise InputError(
                say(
                    f"{self.task} needs text, not {short(inputs)}.", f"{self.task}에는 비어 있지 않은 텍스트가 필요합니다: {short(inputs)}."
                )
            )
        before = prefix if prefix is not None else str(self.settings.get("prefix") or self.model.config.prefix or "")
        limit = self.longest
        row = self.encode(before, inputs, pair)
        if limit is None or len(row["input_ids"]) <= limit:
            return row
        if chunk:
            return [self.encode(before, part, pair) for part in self._parts(before, inputs, limit, pair)]
        if not truncation:
            warn_once(
                say(
                    f"The text has {len(row['input_ids'])} tokens, the model reads {limit}: its end is left out. Use chunk=True to read all of it.",
                    f"텍스트는 {len(row['input_ids'])}토큰이고 모델은 {limit}토큰까지 읽으므로 끝부분을 뺍니다. chunk=True이면 모두 읽습니다.",
                )
            )
        return self.encode(before, inputs, pair, limit)

    def encode(self, prefix: str, text: str, pair: Languages = (None, None), limit: int | None = None) -> BatchEncoding:
        """A text as the model's arguments, at most ``limit`` tokens."""
        if self.model.task == "CausalLM":
            kind = "translation" if self.task.startswith("translation") else self.task
            return self.chat_prompt(PROMPTS.get(kind, "{text}").format(text=text, languages=between(pair)))
        row = self.tokenizer(prefix + text, truncation=limit is not None, max_length=limit, verbose=False)
        row.pop("token_type_ids", None)
        return row

    def _parts(self, prefix: str, text: str, limit: int, pair: Languages) -> list[str]:
        """The text in parts that fit: cut after sentences, a sentence that is too long alone between words, such a word anywhere."""
        around = len(self.encode(prefix, "", pair)["input_ids"])
        if around >= limit:
            raise InputError(
                say(
                    f"The prefix has {around} tokens, the model reads {limit}.",
                    f"prefix가 {around}토큰인데 모델은 {limit}토큰까지 읽습니다.",
                )
            )

        def cut(piece: str, places: list[re.Pattern[str]]) -> list[tuple[str, int]]:
            """Pieces with their numbers of tokens, none above the room."""
            count = len(self.encode(prefix, piece, pair)["input_ids"]) - around
            if count <= limit - around or not places:
                return [(piece, count)]
            ends = [0, *(m.end() for m in places[0].finditer(piece)), len(piece)]
            return [small for a, b in pairwise(ends) if a < b for small in cut(piece[a:b], places[1:])]

        parts, room = list[str](), 0
        for piece, count in cut(text, CUTS):
            if parts and count <= room:
                parts[-1], room = parts[-1] + piece, room - count
            else:
                parts.append(piece)
                room = limit - around - count
        return [part.strip() for part in parts if part.strip()]

    # -------------------------------------------------------------- out

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        return self.collate_left(items) if self.model.task == "CausalLM" else super().collate(items)

    def _forward(self, batch: BatchEncoding, **generation: Any) -> Rows:
        """Generate; ids ``(num_return_sequences, N)`` for every text."""
        own = self.model.generation_config
        asked = {k: v for k, v in self.settings.items() if k != "prefix"} | generation
        told = set(asked) | (own.given if own is not None else set())
        if self.model.task == "CausalLM" and not told & {"max_length", "max_new_tokens"}:
            asked["max_new_tokens"] = self.new_tokens(ENOUGH, batch["input_ids"].shape[1])
        if "stop_strings" in asked:
            asked.setdefault("tokenizer", self.tokenizer)
        out = self.model.generate(batch["input_ids"], attention_mask=batch["attention_mask"], **asked)
        new = out[:, batch["input_ids"].shape[1] :] if self.model.task == "CausalLM" else out
        return [{"output_ids": rows} for rows in new.unflatten(0, (len(batch["input_ids"]), -1)).tolist()]

    def postprocess(
        self, outputs: Any, *, return_tensors: bool = False, return_text: bool = True, clean_up_tokenization_spaces: bool = False
    ) -> list[dict[str, Any]]:
        """``return_tensors`` gives token ids, ``{"…_token_ids": …}``, in place of text."""
        parts = outputs if isinstance(outputs, list) else [outputs]
        answers = list[dict[str, Any]]()
        for alternatives in zip(*(part["output_ids"] for part in parts), strict=True):
            if return_tensors:
                answers.append({f"{self.key}_token_ids": torch.tensor([i for ids in alternatives for i in ids])})
                continue
            options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": clean_up_tokenization_spaces}
            answers.append({f"{self.key}_text": " ".join(self.tokenizer.decode(ids, **options) for ids in alternatives)})
        return answers


def between(pair: Languages) -> str:
    """The part of a prompt that names languages."""
    source, target = pair
    return (f" from {source}" if source else "") + (f" to {target}" if target else "")


class SummarizationPipeline(Text2TextGenerationPipeline):
    """``[{"summary_text": …}]``."""

    key = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """``[{"translation_text": …}]``. Languages come from the task's name (``translation_en_to_fr``) or from ``src_lang`` and ``tgt_lang``."""

    key = "translation"

    def __init__(self, model: Any, tokenizer: Any = None, *, task: str | None = None, **options: Any) -> None:
        named = re.fullmatch(r"translation_(.+)_to_(.+)", task or "")
        self.pair: Languages = (named[1], named[2]) if named else (None, None)
        super().__init__(model, tokenizer, task=task, **options)

    def preprocess(
        self,
        inputs: Any,
        *,
        truncation: bool = False,
        chunk: bool = False,
        prefix: str | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
    ) -> Any:
        """``src_lang`` and ``tgt_lang`` are the model's codes: "en_XX" (mBART), "eng_Latn" (NLLB), "en" (M2M100), "fra" (Marian)."""
        return self._prepared(inputs, truncation, chunk, prefix, (src_lang or self.pair[0], tgt_lang or self.pair[1]))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Tokens and their ids, asked for once: making the dictionary takes 28 ms for 60,000 tokens."""
        size = len(self.tokenizer)
        if self.__dict__.get("_vocabulary", (0, {}))[0] != size:
            self._vocabulary = size, self.tokenizer.get_vocab()
        return self._vocabulary[1]

    def code(self, language: str) -> int:
        """The token id of a language's code. Raises InputError for an unknown one."""
        vocabulary = self.vocabulary
        for spelling in (f"__{language}__", language):  # in M2M-100 "en" alone is a piece of a word
            if spelling in vocabulary:
                return vocabulary[spelling]
        raise InputError(say(f"This model has no language {short(language)}.", f"이 모델에 {short(language)} 언어가 없습니다."))

    @property
    def multilingual(self) -> bool:
        return self.model.config.model_type in ("mbart", "m2m_100")

    def encode(self, prefix: str, text: str, pair: Languages = (None, None), limit: int | None = None) -> BatchEncoding:
        source, target = pair
        if target is not None and f">>{target}<<" in self.vocabulary:  # Marian models with several targets
            prefix = f">>{target}<< " + re.sub(r"^>>\S+<<\s*", "", prefix)  # the config may have one for another task
        if not self.multilingual or source is None:
            return super().encode(prefix, text, pair, limit)
        code = self.code(source)
        ids = self.tokenizer(prefix + text, add_special_tokens=False, verbose=False)["input_ids"][: limit - 2 if limit else None]
        end = self.tokenizer.eos_token_id
        last = str(self.tokenizer.init_kwargs.get("tokenizer_class", "")).removesuffix("Fast") == "MBartTokenizer"  # mBART, not mBART-50
        ids = [*ids, end, code] if last else [code, *ids, end]
        return BatchEncoding({"input_ids": ids, "attention_mask": [1] * len(ids)})

    def _forward(self, batch: BatchEncoding, *, tgt_lang: str | None = None, **generation: Any) -> Rows:
        target = tgt_lang or self.pair[1]
        if self.multilingual and target is not None:
            generation = {"forced_bos_token_id": self.code(target), **generation}
        return super()._forward(batch, **generation)
