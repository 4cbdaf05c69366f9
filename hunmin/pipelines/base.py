"""The pipeline object: ``preprocess`` -> ``forward`` -> ``postprocess`` over batches.

A task is a subclass with three methods: ``preprocess`` (an input as the model's arguments, or several windows of it), ``_forward`` (a batch
through the model) and ``postprocess`` (what came out as the answer). Options are keyword-only parameters of the method that uses them, so
where an option belongs is written once, in a signature.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from itertools import islice
from typing import Any, Literal, cast

import torch

from hunmin.aliases import current
from hunmin.errors import FormatError, HunminError, InputError, logger, say, warn_once
from hunmin.model import PreTrainedModel
from hunmin.nn.where import Where
from hunmin.text import BatchEncoding, Tokenizer

LOADING = frozenset(
    "quantization quantization_config load_in_8bit load_in_4bit "
    "dtype device device_map revision subfolder token cache_dir local_files_only force_download gguf_file ignore_mismatched_sizes".split()
)
PACKED = 4096  # tokens of a batch without padding: its groups of sequences keep all cores busy nearly to the end
LOOK_AHEAD = 256  # inputs that are prepared, and sorted by length, together
PATIENCE = 2.0  # seconds before a progress bar appears

Rows = list[dict[str, Any]]
OnError = Literal["raise", "skip"]


def options_of(stage: Callable[..., Any]) -> tuple[set[str], bool]:
    """Names of a stage's options, and whether it takes any others."""
    parameters = inspect.signature(stage).parameters.values()
    return {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}, any(p.kind is p.VAR_KEYWORD for p in parameters)


class Pipeline:
    """A model, its tokenizer and a task. Call it with one input or with many; it answers in the same form.

    ``batch_size`` "auto" puts inputs of similar length together, up to a budget of tokens.
    """

    texts = False  # whether ``preprocess_texts`` takes many plain texts together
    packs = False  # whether ``_forward`` takes the rows of an encoder one after another, without padding
    budget = 1024  # tokens computed together, padding included: enough to keep matrix units busy, little enough to stay in caches

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer | None = None,
        *,
        task: str | None = None,
        batch_size: int | Literal["auto"] | None = "auto",
        on_error: OnError = "raise",
        **options: Any,
    ) -> None:
        self.model, self.task, self.batch_size, self.on_error = model.eval(), task or "", batch_size, on_error
        self.tokenizer: Any = tokenizer
        self.defaults = self.check(options, self.task)
        rows = model.get_input_embeddings().num_embeddings
        if tokenizer is not None and tokenizer.vocab_size > rows:
            raise FormatError(
                say(
                    f"The tokenizer of {tokenizer.name_or_path} has {tokenizer.vocab_size} tokens, the embedding of {model.name_or_path}"
                    f" {rows} rows. They do not belong together.",
                    f"{tokenizer.name_or_path}의 토크나이저는 토큰이 {tokenizer.vocab_size}개인데 {model.name_or_path}의 임베딩은 {rows}행입니다."
                    " 서로 맞지 않습니다.",
                )
            )

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def settings(self) -> dict[str, Any]:
        """What the model's config says about this task."""
        return (self.model.config.task_specific_params or {}).get(self.task) or {}

    # -------------------------------------------------------------- the three stages

    def preprocess(self, inputs: Any) -> Any:
        """One input as the model's arguments, unpadded; or a list of them, for inputs that are read in several windows."""
        return self.tokenizer(inputs, truncation=True)

    def _forward(self, batch: BatchEncoding) -> Rows:
        """A padded batch through the model; returns what came out for every row."""
        return [{"logits": row} for row in self.model(**batch).logits]

    def postprocess(self, outputs: Any) -> Any:
        """What came out for an input, with what ``preprocess`` added to it, as the answer. A list of these where there were windows."""
        return outputs

    def forward(self, prepared: Any, **options: Any) -> Any:
        """What ``preprocess`` made through the model, as ``postprocess`` takes it."""
        several = isinstance(prepared, list)
        items = cast("list[BatchEncoding]", prepared if several else [prepared])
        with torch.inference_mode():
            rows = self._forward(self.collate(items), **options)
        merged = [{**self._extras(item), **row} for item, row in zip(items, rows, strict=True)]
        return merged if several else merged[0]

    # -------------------------------------------------------------- options

    @classmethod
    @cache
    def _stages(cls) -> list[tuple[set[str], bool]]:
        return [options_of(stage) for stage in (cls.preprocess, cls._forward, cls.postprocess)]

    @classmethod
    def check(cls, options: dict[str, Any], task: str) -> dict[str, Any]:
        """Options of a call under current names. Raises InputError for one that no stage has."""
        options, stages = current(options), cls._stages()
        known = set[str]().union(*(named for named, _ in stages))
        unknown = sorted(set(options) - known)
        if unknown and not any(anything for _, anything in stages):
            listed = ", ".join(sorted(known)) or "-"
            raise InputError(
                say(
                    f"{task} has no option {unknown[0]!r}. Options: {listed}.",
                    f"{task}에는 {unknown[0]!r} 옵션이 없습니다. 옵션: {listed}.",
                )
            )
        return options

    def split(self, options: dict[str, Any]) -> list[dict[str, Any]]:
        """The options of each stage; those that no signature names go to the stage that takes any."""
        stages = self._stages()
        known = set[str]().union(*(named for named, _ in stages))
        return [{k: v for k, v in options.items() if k in named or (anything and k not in known)} for named, anything in stages]

    # -------------------------------------------------------------- calling

    def is_single(self, inputs: Any) -> bool:
        """Whether ``inputs`` is one input rather than several."""
        return isinstance(inputs, str | bytes | Mapping)

    def __call__(
        self,
        inputs: Any,
        *,
        batch_size: int | Literal["auto"] | None = None,
        on_error: OnError | None = None,
        progress: bool | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> Any:
        """One input gives one answer, a list (or a column of a data set) a list, any other iterable an iterator in its order.

        While an iterator's answers are used, the next ones are computed in a thread. ``seed`` makes sampling repeatable.
        ``on_error="skip"`` puts ``{"error": …, "index": …}`` where an input can have no answer, and goes on.
        Raises InputError for input of another kind.
        """
        stages = self.split({**self.defaults, **self.check(options, self.task)})
        if seed is not None and self._stages()[1][1]:  # only what generates draws random numbers
            stages[1]["seed"] = seed
        size, mode = batch_size if batch_size is not None else self.batch_size, on_error or self.on_error
        if size not in (None, "auto") and (type(size) is not int or size < 1):
            raise InputError(
                say(f"batch_size is 'auto' or a number above 0, not {size!r}.", f"batch_size는 'auto'나 1 이상의 정수입니다: {size!r}.")
            )
        if mode not in ("raise", "skip"):
            raise InputError(say(f"on_error is 'raise' or 'skip', not {mode!r}.", f"on_error는 'raise'나 'skip'입니다: {mode!r}."))
        if self.is_single(inputs):
            return next(self._stream(iter([inputs]), size, stages, "raise"))
        if isinstance(inputs, Sequence) or hasattr(inputs, "__getitem__"):
            many = self._stream(iter(inputs), size, stages, mode)
            return list(_watched(many, len(inputs), progress))
        if not isinstance(inputs, Iterable):
            raise InputError(
                say(
                    f"{self.task} takes text or a list of texts, not {type(inputs).__name__}.",
                    f"{self.task}에는 텍스트나 텍스트 목록이 필요합니다. 받은 형식: {type(inputs).__name__}.",
                )
            )
        return self._stream(iter(cast("Iterable[Any]", inputs)), size, stages, mode, ahead=size != 1)

    def _stream(
        self, inputs: Iterator[Any], size: Any, stages: list[dict[str, Any]], mode: OnError, *, ahead: bool = False
    ) -> Iterator[Any]:
        """Answers in the order of the inputs, which are taken, prepared and computed some at a time.

        ``ahead`` computes the next ones in a thread while the caller works with these; inputs are always taken in the caller's thread.
        """
        stopped = threading.Event()
        work = partial(self._answers, size=size, stages=stages, mode=mode, stopped=stopped)
        parts = _parts(inputs, LOOK_AHEAD if not isinstance(size, int) else size if size == 1 else 8 * size)
        if not ahead:
            for first, some in parts:
                yield from work(some, first)
            return
        with ThreadPoolExecutor(1, "hunmin-pipeline") as thread:
            running: list[Future[list[Any]]] = []
            try:
                for first, some in parts:
                    running.append(thread.submit(work, some, first))
                    if len(running) > 1:
                        yield from running.pop(0).result()
                yield from running.pop().result() if running else ()
            finally:
                stopped.set()  # whoever leaves early waits for one batch, not for all

    @property
    def most_rows(self) -> int | None:
        """How many inputs a batch may have beside its budget of tokens; None: any number."""
        return None

    def _answers(
        self, inputs: list[Any], first: int, *, size: Any, stages: list[dict[str, Any]], mode: OnError, stopped: threading.Event
    ) -> list[Any]:
        """The answer of every input. Batches hold rows of similar length, so that little padding is computed."""
        prepared, answers = dict[int, Any](), dict[int, Any]()
        together = (
            self.preprocess_texts(inputs, **stages[0])
            if self.texts and len(inputs) > 1 and all(isinstance(i, str) for i in inputs)
            else None
        )
        for i, item in enumerate(inputs):
            with Guard(answers, i, first, mode):
                prepared[i] = together[i] if together is not None else self.preprocess(item, **stages[0])
                self.warn_if_foreign(item, prepared[i])
        rows = [(i, window) for i, item in prepared.items() for window in (item if isinstance(item, list) else [item])]
        out: dict[int, Any] = {}
        for batch in batches([len(row["input_ids"]) for _, row in rows], size, self.budget, self.most_rows):
            if stopped.is_set():
                return []
            try:
                out.update(zip(batch, self.forward([rows[r][1] for r in batch], **stages[1]), strict=True))
            except HunminError:  # one row spoils its batch: find out which
                for r in batch:
                    with Guard(answers, rows[r][0], first, mode):
                        out.update({r: self.forward([rows[r][1]], **stages[1])[0]})
        windows: dict[int, list[Any]] = {}
        for r in sorted(out):
            windows.setdefault(rows[r][0], []).append(out[r])
        for i, item in prepared.items():
            if i in answers:
                continue
            with Guard(answers, i, first, mode):
                answers[i] = self.postprocess(windows.get(i, []) if isinstance(item, list) else windows[i][0], **stages[2])
        return [answers[i] for i in range(len(inputs))]

    def preprocess_texts(self, texts: list[str]) -> list[BatchEncoding] | None:
        """What ``preprocess`` makes of every text, by one call of the tokenizer, which uses all cores; None: it has to take them one by one."""
        return None

    def tokenized(self, texts: list[str], **options: Any) -> list[BatchEncoding] | None:
        """Texts as rows of ids; None where one of them is at fault, or rows are not lists."""
        try:
            rows = self.tokenizer(texts, **options)
        except HunminError:
            return None
        return rows.rows() if all(isinstance(ids, list) and ids for ids in rows["input_ids"]) else None

    def warn_if_foreign(self, item: Any, prepared: Any) -> None:
        """Say once that the tokenizer hardly knows what it reads: unknown tokens, or Hangul in scraps smaller than a syllable."""
        windows = cast("list[Mapping[str, Any]]", prepared if isinstance(prepared, list) else [prepared])
        ids: list[int] = windows[0]["input_ids"] if windows else []
        values = cast("Iterable[Any]", item.values() if isinstance(item, Mapping) else [item])
        text = " ".join(v for v in values if isinstance(v, str))
        hangul = 0 if text.isascii() else sum("가" <= c <= "힣" for c in text)
        unknown = ids.count(self.tokenizer.unk_token_id)
        if unknown * 3 > len(ids) or (hangul >= 5 and hangul * 3 > len(text) and len(ids) >= 2 * hangul):
            name = self.model.name_or_path
            warn_once(
                say(
                    f"{name} was not made for this text: its tokenizer maps much of it to unknown or tiny pieces, so answers mean little."
                    " Use a model for the text's language.",
                    f"{name}은(는) 이 언어의 모델이 아닌 듯합니다. 토크나이저가 텍스트 대부분을 모르는 조각으로 나누어 결과를 믿기 어렵습니다."
                    " 그 언어의 모델을 쓰세요.",
                )
            )

    # -------------------------------------------------------------- batches

    def _is_argument(self, key: str) -> bool:
        return key in self.tokenizer.model_input_names or key == "attention_mask"

    def _extras(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """What ``preprocess`` added that is no argument of the model: it goes on to ``postprocess``."""
        return {k: v for k, v in item.items() if not self._is_argument(k)}

    def chat_prompt(self, content: str, **extras: Any) -> BatchEncoding:
        """A request to a chat model as its arguments; a model without a chat template gets the plain text."""
        if self.tokenizer.chat_template:
            content = self.tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        row = self.tokenizer(content, add_special_tokens=not self.tokenizer.chat_template)
        row.update(extras)
        return row

    def new_tokens(self, wanted: int, used: int) -> int:
        """A default of ``wanted`` new tokens, or as many as the model's positions leave beside a prompt of ``used`` tokens."""
        backbone = self.model.decoder or self.model.encoder
        limit = backbone.embed.spec.positions if backbone is not None else None
        return max(1, min(wanted, limit - used)) if limit else wanted

    def collate_left(self, items: list[BatchEncoding]) -> BatchEncoding:
        """A batch to generate from: padding stands on the left, and may be the end token where there is none."""
        if self.tokenizer.pad_token_id is None and len(items) > 1:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        return self._batch(items, "left")

    def by_row(self, values: torch.Tensor, batch: BatchEncoding) -> list[torch.Tensor]:
        """What a model gave for the tokens of a batch, ``(B, N, …)`` or packed ``(1, N, …)``, as ``(N, …)`` for every row without padding."""
        if "where" in batch:
            return list(values[0].split(batch["where"].lengths))
        return [row[mask.bool()] for row, mask in zip(values, batch["attention_mask"], strict=True)]

    def collate(self, items: list[BatchEncoding]) -> BatchEncoding:
        """Items as one batch on the model's device: padded ``(B, N)``, or where the pipeline ``packs`` one row ``(1, N)`` and ``where``."""
        return self._batch(items, None)

    def _batch(self, items: list[BatchEncoding], side: str | None) -> BatchEncoding:
        arguments = [{k: v for k, v in item.items() if self._is_argument(k)} for item in items]
        if len(items) == 1:
            return BatchEncoding({k: torch.tensor([v], device=self.device) for k, v in arguments[0].items()})
        if self.packs and side is None and self.model.decoder is None:
            row = {k: torch.tensor([[v for item in arguments for v in item[k]]], device=self.device) for k in arguments[0]}
            row.pop("attention_mask", None)
            return BatchEncoding({**row, "where": Where.packed([len(item["input_ids"]) for item in arguments], self.device)})
        return self.tokenizer.pad(arguments, padding=True, padding_side=side, return_tensors="pt").to(self.device)


class Guard:
    """Turns an error about one input into its answer, or says which input it was about."""

    def __init__(self, answers: dict[int, Any], index: int, first: int, mode: OnError) -> None:
        self.answers, self.index, self.place, self.mode = answers, index, first + index, mode

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, HunminError) or self.mode == "raise":
            return False
        logger.warning(say("input %d: %s", "입력 %d: %s"), self.place, error)
        self.answers[self.index] = {"error": str(error), "index": self.place}
        return True


def batches(lengths: list[int], size: int | Literal["auto"] | None, budget: int, most: int | None = None) -> Iterator[list[int]]:
    """Indices in batches, longest first: of ``size``, or as many as fit into the token budget, ``most`` of them."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        count = size if isinstance(size, int) else max(1, min(most or len(order), budget // max(1, lengths[order[0]])))
        yield order[:count]
        order = order[count:]


def _parts(inputs: Iterator[Any], count: int) -> Iterator[tuple[int, list[Any]]]:
    """The inputs, ``count`` at a time, each time with the place of the first."""
    first = 0
    while some := list(islice(inputs, count)):
        yield first, some
        first += len(some)


def _watched(answers: Iterator[Any], total: int, progress: bool | None) -> Iterator[Any]:
    """A progress bar for work that takes long, where somebody is watching."""
    if progress is False or (total <= LOOK_AHEAD and progress is None):
        return answers
    from tqdm.auto import tqdm

    return iter(tqdm(answers, total=total, delay=PATIENCE, disable=None if progress is None else not progress))
