"""Text generation: continue a text, or answer a chat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any, cast

from hunmin.errors import HunminError, InputError, say
from hunmin.generate import Engine, GenerationConfig, Request
from hunmin.generate.paged import served
from hunmin.pipelines.base import LOOK_AHEAD, Guard, OnError, Pipeline, Rows
from hunmin.pipelines.feed import in_thread
from hunmin.text import BatchEncoding

# For pipelines whose model and caller say nothing: open-ended text wants some chance, and an end.
DEFAULTS: dict[str, Any] = {"max_new_tokens": 256, "do_sample": True, "temperature": 0.7}
LENGTHS = ("max_length", "max_new_tokens")
# Options with which one call of ``generate`` answers one batch
ALONE = frozenset("streamer past_key_values return_dict_in_generate output_scores output_logits".split())


def is_chat(value: Any) -> bool:
    """Whether ``value`` is a conversation: a list of messages with a role."""
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


class TextGenerationPipeline(Pipeline):
    """``generate`` on strings or chats. Every answer is a list of ``{"generated_text": …}``, one for each returned sequence.

    Any option of :class:`hunmin.GenerationConfig` may be given, when the pipeline is built (a default) or when it is called.
    """

    budget = 4096  # decoding reads all weights for every token: more rows share that

    def is_single(self, inputs: Any) -> bool:
        return super().is_single(inputs) or is_chat(inputs)

    def preprocess(
        self,
        inputs: Any,
        *,
        prefix: str = "",
        add_special_tokens: bool | None = None,
        truncation: bool = False,
        continue_final_message: bool | None = None,
        tools: list[Any] | None = None,
        template_kwargs: dict[str, Any] | None = None,
    ) -> BatchEncoding:
        """Tokens of the prompt; a chat goes through the tokenizer's template. Raises InputError for an empty prompt."""
        chat = is_chat(inputs)
        if not chat and not isinstance(inputs, str):
            raise InputError(
                say(
                    f"text-generation takes a string or a list of messages with role and content, not {type(inputs).__name__}.",
                    f"text-generation에는 문자열이나 role과 content가 있는 메시지 목록이 필요합니다. 받은 형식: {type(inputs).__name__}.",
                )
            )
        text, special = prefix + inputs if not chat else "", add_special_tokens
        if chat:
            messages = cast("list[dict[str, Any]]", inputs)
            last = messages[-1]["role"] == "assistant" if continue_final_message is None else continue_final_message
            text = self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                tokenize=False,
                add_generation_prompt=not last,
                continue_final_message=last,
                **(template_kwargs or {}),
            )
            special = False  # the template has written them
        item = self.tokenizer(text, truncation=truncation, **({} if special is None else {"add_special_tokens": special}))
        if not item["input_ids"]:
            raise InputError(say("The prompt is empty. Write at least one word.", "프롬프트가 비어 있습니다. 한 단어 이상 입력하세요."))
        item["prompt"], item["ids"] = list(inputs) if chat else inputs, item["input_ids"]
        return item

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        return self.collate_left(items)

    def forward(self, prepared: Any, **options: Any) -> Any:
        """``max_length`` and ``min_length`` count the prompt: prompts of different lengths are then not padded to one."""
        own = self.model.generation_config
        told = set(options) | (own.given if own is not None else set())
        if not isinstance(prepared, list) or "max_new_tokens" in told or not told & {"max_length", "min_length"}:
            return super().forward(prepared, **options)
        items, out = cast("list[BatchEncoding]", prepared), dict[int, Any]()
        for length in {len(item["input_ids"]) for item in items}:
            rows = [i for i, item in enumerate(items) if len(item["input_ids"]) == length]
            out.update(zip(rows, super().forward([items[i] for i in rows], **options), strict=True))
        return [out[i] for i in range(len(items))]

    def _settled(self, generation: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        """The options of ``generate`` with our defaults where caller and model say nothing, and whether the length is one of these."""
        own = self.model.generation_config
        given, settled = generation.get("generation_config"), set(generation) | (own.given if own is not None else set())
        settled |= given.given if given is not None else set()
        generation = dict(generation)
        for key, value in DEFAULTS.items():
            if not settled & (set(LENGTHS) if key in LENGTHS else {key}):
                generation[key] = value
        if not generation.get("do_sample", own is not None and own.do_sample):
            generation.pop("temperature", None)
        if "stop_strings" in generation:
            generation.setdefault("tokenizer", self.tokenizer)
        return generation, "max_new_tokens" in generation and "max_new_tokens" not in settled

    def _forward(self, batch: BatchEncoding, **generation: Any) -> Rows:
        """Generate; new token ids ``(num_return_sequences, new)`` for every prompt."""
        ids = batch["input_ids"]
        generation, ours = self._settled(generation)
        if ours:  # not the caller's wish
            generation["max_new_tokens"] = self.new_tokens(generation["max_new_tokens"], ids.shape[1])
        out = self.model.generate(ids, attention_mask=batch["attention_mask"], **generation)
        each = len(out) // len(ids)
        return [{"new": rows} for rows in out[:, ids.shape[1] :].unflatten(0, (-1, each)).tolist()]

    # -------------------------------------------------------------- many

    def _engine(self, size: Any, generation: dict[str, Any]) -> Engine | None:
        """What runs many prompts; None where ``generate`` has to: beams, a streamer, a stage that a subclass has replaced."""
        if type(self)._forward is not TextGenerationPipeline._forward or type(self).forward is not TextGenerationPipeline.forward:
            return None
        options, ours = self._settled(generation)
        beams = (options.get("generation_config") or GenerationConfig()).over(self.model.generation_config).num_beams
        if not served(self.model) or options.get("num_beams", beams) != 1 or options.get("use_cache") is False or set(options) & ALONE:
            return None
        engine = Engine(self.model, rows=size if isinstance(size, int) else None, **options)
        engine.told = engine.told and not ours
        return engine

    def _stream(
        self, inputs: Iterator[Any], size: Any, stages: list[dict[str, Any]], mode: OnError, *, ahead: bool = False
    ) -> Iterator[Any]:
        """Prompts run as soon as there is room for them; answers come in the order of the inputs.

        ``ahead`` computes the next ones in a thread while the caller works with these; inputs are always taken in the caller's thread.
        """
        generation = dict(stages[1])
        chance = {key: generation.pop(key) for key in ("seed", "generator") if key in generation}
        engine = self._engine(size, generation)
        if engine is None:
            yield from super()._stream(inputs, size, stages, mode, ahead=ahead)
            return

        def answer(source: Iterator[Any], cancelled: Event | None) -> Iterator[Any]:
            prompts, answers = Prompts(self, source, stages[0]), dict[int, Any]()
            for result in engine.run(prompts, on_error="skip", cancelled=cancelled, **chance):
                item = prompts.items.pop(result.index, BatchEncoding())
                with Guard(answers, result.index, 0, mode):
                    if result.error is not None:
                        raise result.error
                    answers[result.index] = self.postprocess({**self._extras(item), "new": result.new}, **stages[2])
                yield answers.pop(result.index)

        yield from in_thread(inputs, answer, LOOK_AHEAD) if ahead else answer(inputs, None)

    def postprocess(
        self,
        outputs: dict[str, Any],
        *,
        return_full_text: bool | None = None,
        return_text: bool | None = None,
        return_tensors: bool | None = None,
        clean_up_tokenization_spaces: bool = True,
        skip_special_tokens: bool = True,
    ) -> list[dict[str, Any]]:
        """New tokens as text, after the prompt unless ``return_full_text=False``; ``return_tensors`` gives token ids instead."""
        prompt, answers = outputs["prompt"], list[dict[str, Any]]()
        full = return_full_text if return_full_text is not None else True
        for new in outputs["new"]:
            if return_tensors:
                answers.append({"generated_token_ids": [*outputs["ids"], *new] if full else new})
                continue
            text = self.tokenizer.decode(
                new, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=clean_up_tokenization_spaces
            )
            if full and isinstance(prompt, list):
                last = prompt[-1]
                continued = last["role"] == "assistant"
                message = {**last, "content": last["content"] + text} if continued else {"role": "assistant", "content": text}
                answers.append({"generated_text": [*(prompt[:-1] if continued else prompt), message]})
            else:
                answers.append({"generated_text": prompt + text if full else text})
        return answers


class Prompts(Iterator[Request]):
    """Inputs as requests, prepared when the engine has room for them. ``items`` has what ``preprocess`` made of those that run."""

    def __init__(self, pipe: TextGenerationPipeline, inputs: Iterator[Any], options: dict[str, Any]) -> None:
        self.pipe, self.inputs, self.options, self.items, self.count = pipe, inputs, options, dict[int, BatchEncoding](), 0

    def ready(self) -> bool:
        """Whether the next input need not be waited for."""
        ready = getattr(self.inputs, "ready", None)
        return ready is None or ready()

    def __next__(self) -> Request:
        given, index = next(self.inputs), self.count
        self.count += 1
        try:
            item = self.pipe.preprocess(given, **self.options)
            self.pipe.warn_if_foreign(given, item)
        except HunminError as error:
            return Request([], error=error)
        self.items[index] = item
        return Request(item["input_ids"])
