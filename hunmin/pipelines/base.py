"""The pipeline object: ``preprocess`` -> ``forward`` -> ``postprocess`` over batches.

A task is a subclass with these three methods. Options are keyword-only parameters of the stage that uses them, so which stage an option
belongs to is written once, in its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch

from hunmin.aliases import current
from hunmin.errors import FormatError, InputError, say
from hunmin.model import PreTrainedModel
from hunmin.text import BatchEncoding, Tokenizer

LOADING = frozenset(
    "dtype device device_map revision subfolder token cache_dir local_files_only force_download gguf_file ignore_mismatched_sizes".split()
)
BUDGET = 4096  # tokens computed together, padding included: enough to keep a CPU's matrix units busy, little enough to stay in its caches
LOOK_AHEAD = 256  # inputs of an endless stream that are sorted by length together


def options_of(stage: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of a stage's options, and whether it takes any others."""
    parameters = inspect.signature(stage).parameters.values()
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)


class Pipeline:
    """A model, its tokenizer and a task. Call it with one input or with many; it answers in the same form."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        task: str | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        self.model, self.task, self.batch_size = model.eval(), task or "", batch_size
        self.tokenizer: Any = tokenizer
        self.defaults = self.checked(options)
        rows = model.get_input_embeddings().num_embeddings
        if tokenizer is not None and tokenizer.vocab_size > rows:
            raise FormatError(
                say(
                    f"The tokenizer of {tokenizer.name_or_path} has {tokenizer.vocab_size} tokens, the embedding of {model.name_or_path} {rows} rows."
                    " They do not belong together.",
                    f"{tokenizer.name_or_path}의 토크나이저는 토큰이 {tokenizer.vocab_size}개인데 {model.name_or_path}의 임베딩은 {rows}행입니다."
                    " 서로 맞지 않습니다.",
                )
            )

    @property
    def device(self) -> torch.device:
        return self.model.device

    # -------------------------------------------------------------- the three stages

    def preprocess(self, inputs: Any) -> BatchEncoding:
        """One input as the model's arguments, unpadded."""
        return self.tokenizer(inputs, truncation=True)

    def forward(self, batch: BatchEncoding) -> Any:
        """A padded batch through the model; returns one item an input."""
        return self.model(**batch)

    def postprocess(self, outputs: Any) -> Any:
        """One item of the forward pass as the answer that users see."""
        return outputs

    # -------------------------------------------------------------- calling

    def checked(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options under current names. Raises InputError for one that no stage has."""
        options = current(options)
        stages = [options_of(stage) for stage in (self.preprocess, self.forward, self.postprocess)]
        if not any(anything for _, anything in stages):
            known = set().union(*(named for named, _ in stages))
            if unknown := sorted(set(options) - known):
                raise InputError(
                    say(
                        f"{self.task} has no option {unknown[0]!r}. Options: {', '.join(sorted(known)) or 'none'}.",
                        f"{self.task}에는 {unknown[0]!r} 옵션이 없습니다. 옵션: {', '.join(sorted(known)) or '없음'}.",
                    )
                )
        return options

    def split(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """The options of each stage; those that no signature names go to the stage that takes any."""
        stages = [options_of(stage) for stage in (self.preprocess, self.forward, self.postprocess)]
        known = set().union(*(named for named, _ in stages))
        return [{k: v for k, v in options.items() if k in named or (anything and k not in known)} for named, anything in stages]

    def is_single(self, inputs: Any) -> bool:
        """Whether ``inputs`` is one input rather than several."""
        return isinstance(inputs, str | dict)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, **options: Any) -> Any:
        """One input gives one answer, a list a list, any other iterable an iterator. Raises InputError for input of another kind."""
        stages = self.split({**self.defaults, **self.checked(options)})
        size = batch_size if batch_size is not None else self.batch_size
        if size not in (None, "auto") and (type(size) is not int or size < 1):
            raise InputError(
                say(f"batch_size is 'auto' or a number above 0, not {size!r}.", f"batch_size는 'auto'나 1 이상의 정수입니다: {size!r}.")
            )
        if self.is_single(inputs):
            return next(self._many([inputs], size, stages))
        if isinstance(inputs, list | tuple):
            return list(self._many(inputs, size, stages))
        if not isinstance(inputs, Iterable):
            raise InputError(
                say(
                    f"{self.task} takes text or a list of texts, not {type(inputs).__name__}.",
                    f"{self.task}에는 텍스트나 텍스트 목록이 필요합니다. 받은 형식: {type(inputs).__name__}.",
                )
            )
        return self._stream(iter(inputs), size, stages)

    def _stream(self, inputs: Iterator[Any], size: int | None, stages: list[dict[str, Any]]) -> Iterator[Any]:
        while some := list(islice(inputs, LOOK_AHEAD)):
            yield from self._many(some, size, stages)

    def _many(self, inputs: Iterable[Any], size: int | None, stages: list[dict[str, Any]]) -> Iterator[Any]:
        """Answers in the order of the inputs, computed in batches of similar length so that little padding is computed."""
        prepared = [self.preprocess(item, **stages[0]) for item in inputs]
        lengths = [len(item["input_ids"]) for item in prepared]
        answers: dict[int, Any] = {}
        for rows in batches(lengths, size):
            batch = self.collate([prepared[i] for i in rows])
            with torch.inference_mode():
                outputs = self.forward(batch, **stages[1])
            answers.update((i, self.postprocess(out, **stages[2])) for i, out in zip(rows, outputs, strict=True))
        return (answers[i] for i in range(len(prepared)))

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        """Items of similar length as one padded batch on the model's device."""
        model_inputs = [{k: v for k, v in item.items() if k in (*self.tokenizer.model_input_names, "attention_mask")} for item in items]
        if len(items) == 1:
            return BatchEncoding({k: torch.tensor([v], device=self.device) for k, v in model_inputs[0].items()})
        return self.tokenizer.pad(model_inputs, padding=True, return_tensors="pt").to(self.device)


def batches(lengths: list[int], size: int | None) -> Iterator[list[int]]:
    """Indices in batches, longest first: of ``size``, or as many as fit into the token budget."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        count = size or max(1, BUDGET // max(1, lengths[order[0]]))
        yield order[:count]
        order = order[count:]
