"""What the trainers of alignment share: models by name, adapters, rows to tokens, and metrics beside the loss."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

import hunmin
from hunmin.align.config import AlignConfig
from hunmin.align.logprobs import bare, pack
from hunmin.align.prompts import LeftOut, Prompts, Row, template_of
from hunmin.errors import InputError, say
from hunmin.generate import set_seed
from hunmin.model import PreTrainedModel
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.data import Batches, sized
from hunmin.train.items import Fill
from hunmin.train.packing import Packed
from hunmin.train.rows import flatten
from hunmin.train.trainer import Trainer


class TokenRows(list[Row]):
    """Rows of tokens. Their lengths are a column, by which batches may be grouped."""

    column_names: ClassVar = ["length"]

    def __getitem__(self, key: Any) -> Any:
        return [length_of(row) for row in self] if key == "length" else super().__getitem__(key)


def length_of(row: Mapping[str, Any]) -> int:
    """Tokens of all sequences of a row."""
    return sum(len(value["input_ids"]) if isinstance(value, Mapping) else len(value) for key, value in row.items()
               if key == "input_ids" or isinstance(value, Mapping))  # fmt: skip


class TokenStream(IterableDataset[Row]):
    """Rows of a stream, encoded while somebody goes through them."""

    def __init__(self, rows: Iterable[Any], encode: Any) -> None:
        self.rows, self.encode = rows, encode

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

    def __iter__(self) -> Iterator[Row]:
        for row in self.rows:
            if (made := self.encode(row)) is not None:
                yield made


@dataclass
class Sequences:
    """Collates rows with ``input_ids`` and ``labels``: packed for models of Hunmin, else padded."""

    model: Any
    pad_token_id: int

    def __call__(self, rows: list[Row]) -> dict[str, Any]:
        return flatten(rows, "token") if any("lengths" in row for row in rows) else pack(rows, self.model, self.pad_token_id)


class AlignTrainer(Trainer):
    """A Trainer that reads rows as people write them.

    Args:
        model: a model, or the name of one; ``args.model_init_kwargs`` are options of loading it.
        args: a configuration of this trainer's class; plain TrainingArguments get what they lack.
        processing_class: the tokenizer, by default the one beside the model. ``tokenizer`` is its older name.
        peft_config: an adapter to train in place of the model.
        options: arguments of the Trainer, and values of the configuration, where trainers of earlier years took them.
    """

    config: ClassVar[type[AlignConfig]]
    task: ClassVar[str] = "CausalLM"
    args: Any

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        tokenizer: Any = None,
        peft_config: Any = None,
        **options: Any,
    ) -> None:
        known = inspect.signature(Trainer.__init__).parameters
        given = {name: options.pop(name) for name in list(options) if name in known}
        settings = self.config.of(args, **options)
        if model is not None:
            set_seed(settings.seed)  # of what is drawn for an adapter and a head
            model = with_adapter(loaded(model, self.task, settings.model_init_kwargs), peft_config)
        super().__init__(model, settings, data_collator, **given)
        self.label_names = []  # the metrics are our own
        self.processing_class = processing_class or tokenizer or tokenizer_of(self.model)
        self._noted: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        self._counting = True
        self.prompts = self._prompts()
        if data_collator is None:
            self.data_collator = self.collator()
        self.start()
        self.train_dataset = self.prepared(train_dataset)
        if isinstance(eval_dataset, Mapping) and not hasattr(eval_dataset, "column_names"):
            self.eval_dataset = {name: self.prepared(part, train=False) for name, part in eval_dataset.items()}  # pyright: ignore[reportUnknownVariableType]
        else:
            self.eval_dataset = self.prepared(eval_dataset, train=False)

    # -------------------------------------------------------------- what a subclass says

    def encode(self, row: Any) -> Row | None:
        """A row of tokens; None for one that is left out."""
        return self.prompts.learnt(row)

    def collator(self) -> Any:
        """Rows of tokens to a batch."""
        return Sequences(self.shape, self.pad_id)

    def start(self) -> None:
        """Called once, when the model and the tokenizer are there and before the data are read."""

    # -------------------------------------------------------------- data

    @property
    def pad_id(self) -> int:
        """What fills rows of models that need padding; it is never seen."""
        ids = (getattr(self.processing_class, name, None) for name in ("pad_token_id", "eos_token_id"))
        return next((i for i in ids if i is not None), 0)

    @property
    def shape(self) -> Any:
        """What tells :func:`pack` whether to pad: the model, or nothing that it knows."""
        return self.model if self.args.padding_free else object()

    def _prompts(self) -> Prompts:
        args, context = self.args, getattr(getattr(bare(self.model), "config", None), "max_position_embeddings", None)
        limits = [int(limit) for limit in (args.max_length, context) if limit]
        if args.pad_token is not None and self.processing_class is not None:
            self.processing_class.pad_token = args.pad_token
        return Prompts(
            self.processing_class,
            min(limits, default=None),
            getattr(args, "max_prompt_length", None),
            getattr(args, "max_completion_length", None),
            args.truncation_mode == "keep_end",
            args.eos_token,
            template_of(args.chat_template_path),
        )

    def prepared(self, dataset: Any, *, train: bool = True) -> Any:
        """Rows of tokens of a data set. Raises InputError for rows of another form, and when none can be learnt from."""
        if dataset is None or isinstance(dataset, TokenRows | TokenStream | Packed):
            return dataset
        if not sized(dataset):
            return TokenStream(dataset, self._encoded)
        self.prompts.left_out = LeftOut()
        rows = TokenRows(row for row in map(self._encoded, (dataset[i] for i in range(len(dataset)))) if row is not None)
        self.prompts.left_out.tell()
        return self.finished(rows)

    def finished(self, rows: TokenRows) -> TokenRows:
        """What is done with all rows together."""
        return rows

    def _encoded(self, row: Any) -> Row | None:
        if self.processing_class is None and not (isinstance(row, Mapping) and "input_ids" in row):
            raise InputError(say("Give the tokenizer: processing_class=.", "토크나이저를 processing_class=로 주세요."))
        if not isinstance(row, Mapping):
            raise InputError(say(f"A row is a dictionary, not {type(row).__name__}.", f"행은 딕셔너리여야 합니다: {type(row).__name__}."))
        return self.encode(dict(row))  # pyright: ignore[reportUnknownArgumentType]

    def batches(self, dataset: Any, size: int, *, train: bool) -> Batches:
        return super().batches(self.prepared(dataset, train=train), size, train=train)

    # -------------------------------------------------------------- training

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: float | None = None, share: float = 1.0) -> Tensor:
        if self.args.disable_dropout:
            model.eval()
        self._counting = bool(share)  # a batch that is only computed because others wait for it says nothing
        try:
            return super().training_step(model, inputs, num_items_in_batch, share)
        finally:
            self._counting = True

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None) -> Any:
        self._counting = not isinstance(inputs, Fill)
        try:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        finally:
            self._counting = True

    # -------------------------------------------------------------- metrics

    def note(self, **values: Tensor) -> None:
        """Add ``values`` of any shape to means that are logged with the loss; ``rewards_chosen`` is logged as ``rewards/chosen``."""
        held = self._noted[torch.is_grad_enabled()]
        for name, value in values.items() if self._counting else ():
            value = value.detach().double()
            held[name] = (
                held.get(name, torch.zeros(2, dtype=torch.double)) + torch.stack([value.sum(), value.new_tensor(value.numel())]).cpu()
            )

    def _means(self, training: bool) -> dict[str, float]:
        """The means since the last call, over all processes."""
        total: dict[str, Tensor] = {}
        for part in parallel.gather_shares(self._noted[training], self.args):
            for name, held in part.items():
                total[name] = total.get(name, torch.zeros(2, dtype=torch.double)) + held
        self._noted[training] = {}
        return {_logged(name): float(held[0] / held[1]) for name, held in total.items() if held[1]}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._means(True)
        super().log(logs, start_time)

    def _over(self, dataset: Any, prefix: str, loss_only: bool, ignore_keys: list[str] | None) -> tuple[Any, Any, dict[str, float]]:
        self._noted[False] = {}
        predictions, labels, metrics = super()._over(dataset, prefix, loss_only, ignore_keys)
        return predictions, labels, metrics | {f"{prefix}_{name}": value for name, value in self._means(False).items()}


class PairTrainer(AlignTrainer):
    """A trainer whose loss is a mean over ``rows`` of a batch that are not its sequences: pairs, or answers."""

    def items_in(self, batch: Any) -> float:
        return 0.0 if isinstance(batch, Fill) else float(batch["rows"])


def _logged(name: str) -> str:
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if rest and group in ("rewards", "logps", "objective") else name


def loaded(model: Any, task: str, options: dict[str, Any] | None = None) -> Any:
    """``model``, or the model for ``task`` of that name. Raises InputError for options of a model that is there already."""
    if isinstance(model, str):
        return getattr(hunmin, f"AutoModelFor{task}").from_pretrained(model, **(options or {}))
    if options:
        raise InputError(
            say("model_init_kwargs are for a model that is given by its name.", "model_init_kwargs는 모델을 이름으로 줄 때만 씁니다.")
        )
    return model


def with_adapter(model: Any, peft_config: Any) -> Any:
    """``model`` under a fresh adapter; one that it has is merged into it before."""
    if peft_config is None:
        return model
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    if not isinstance(model, PreTrainedModel):
        raise InputError(say("peft_config is for models of Hunmin.", "peft_config는 훈민의 모델에만 쓸 수 있습니다."))
    return hunmin.get_peft_model(model, peft_config)


def tokenizer_of(model: Any) -> Any:
    """The tokenizer beside a model, or None."""
    base = bare(model)
    place = getattr(base, "source", None) or getattr(base, "name_or_path", "")
    if not place or not isinstance(base, PreTrainedModel):
        return None
    try:
        return hunmin.AutoTokenizer.from_pretrained(place)
    except hunmin.SourceError:
        return None
