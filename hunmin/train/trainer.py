"""The Trainer: what is taught under this name, on packed batches.

``train`` goes through epochs (``_epoch``), optimizer steps (``_step``) and batches (``training_step``). Everything that a subclass is taught
to override - ``compute_loss``, ``training_step``, ``prediction_step``, ``create_optimizer``, ``get_train_dataloader``, ``log`` - is a method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hunmin.errors import InputError, say
from hunmin.generate import set_seed
from hunmin.train import parallel
from hunmin.train.arguments import TrainingArguments
from hunmin.train.callbacks import CallbackList, DefaultFlowCallback, PrinterCallback, ProgressCallback, TrainerCallback
from hunmin.train.checkpoint import Checkpoints
from hunmin.train.collators import DataCollatorWithPadding, default_data_collator
from hunmin.train.data import Batch, Batches, Collate, sized, to_device, without_unused
from hunmin.train.evaluate import Evaluation
from hunmin.train.extras import MovingAverage, compiled, memory_kept, noisy_embeddings, out_of_memory, uncompiled
from hunmin.train.flow import Flow
from hunmin.train.items import check_labels, loss_alone, mean_loss, no_loss, rows_of, tokens_of
from hunmin.train.optim import create_optimizer, groups_of
from hunmin.train.report import ReportCallback
from hunmin.train.resume import Resume
from hunmin.train.schedules import PLATEAU, get_scheduler
from hunmin.train.search import Search
from hunmin.train.state import TrainerControl, TrainerState, TrainOutput
from hunmin.train.trackers import trackers


class Trainer(Flow, Evaluation, Resume, Search):
    """Trains and evaluates a model.

    Args:
        model: of Hunmin, or any module whose ``forward`` returns a loss; or give ``model_init``, a function that makes one.
        args: see :class:`TrainingArguments`.
        data_collator: rows to a batch; without it rows are put together as the processing class pads them.
        train_dataset, eval_dataset: rows by number, or streams; ``eval_dataset`` may be a dictionary of several.
        processing_class: the tokenizer, saved beside the model. ``tokenizer`` is its older name.
        compute_loss_func: ``(outputs, labels, num_items_in_batch) -> loss`` in place of the model's own.
        compute_metrics: gets an :class:`EvalPrediction` and returns a dictionary.
        optimizers: an optimizer and a scheduler of your own.

    No padding is computed where the model is one of Hunmin's (``args.padding_free``). The loss of an optimizer step is the mean over all
    its items (tokens or rows), however they are spread over batches and processes.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[[Any], dict[str, float]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        tokenizer: Any = None,
    ) -> None:
        self.args = args if args is not None else TrainingArguments()
        parallel.start(self.args)
        set_seed(self.args.seed)
        if model is None and model_init is None:
            raise InputError(say("Trainer needs model= or model_init=.", "Trainer에 model=이나 model_init=이 필요합니다."))
        self.model_init = model_init
        self.model: Any = model if model is not None else self.call_model_init()
        self.processing_class = processing_class if processing_class is not None else tokenizer
        if self.args.tf32 is not None:
            torch.backends.cuda.matmul.allow_tf32 = self.args.tf32
        padded = self.processing_class is not None and hasattr(self.processing_class, "pad_token_id")
        self.data_collator = data_collator or (DataCollatorWithPadding(self.processing_class) if padded else default_data_collator)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self._optimizer_class = optimizer_cls_and_kwargs
        spans = getattr(self.model, "task", None) == "QuestionAnswering"
        self.label_names = self.args.label_names or (["start_positions", "end_positions"] if spans else ["labels"])
        self.state, self.control = TrainerState(), TrainerControl()
        first = parallel.rank() == 0
        self.state.is_world_process_zero = self.state.is_local_process_zero = first
        quiet = self.args.disable_tqdm
        own = [DefaultFlowCallback, PrinterCallback if quiet else ProgressCallback, *(trackers(self.args) if first else [])]
        own += [ReportCallback] if first and self.args.html_report else []
        self.callback_handler = CallbackList([*own, *(callbacks or [])])
        self.model_wrapped: Any = self.model
        self._average: MovingAverage | None = None
        self._call("on_init_end")

    # -------------------------------------------------------------- facts

    @property
    def tokenizer(self) -> Any:
        """The older name of ``processing_class``."""
        return self.processing_class

    def is_world_process_zero(self) -> bool:
        return parallel.rank() == 0

    def add_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        self.callback_handler.add(callback)

    def pop_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> TrainerCallback | None:
        return self.callback_handler.pop(callback)

    def remove_callback(self, callback: type[TrainerCallback] | TrainerCallback) -> None:
        self.callback_handler.pop(callback)

    def _call(self, event: str, **more: Any) -> None:
        about = {"model": self.model, "processing_class": self.processing_class, "tokenizer": self.processing_class, "trainer": self}
        about |= {"optimizer": self.optimizer, "lr_scheduler": self.lr_scheduler}
        self.callback_handler.call(event, self.args, self.state, self.control, **about, **more)

    # -------------------------------------------------------------- data

    def batches(self, dataset: Any, size: int, *, train: bool) -> Batches:
        """The batches of this process."""
        dataset = without_unused(dataset, self.model, self.label_names) if self.args.remove_unused_columns else dataset
        if sized(dataset) and not len(dataset):
            raise InputError(say("The data set is empty.", "데이터셋이 비어 있습니다."))
        lengths = None
        strategy = self.args.train_sampling_strategy
        if train and strategy == "group_by_length" and sized(dataset):
            names = getattr(dataset, "column_names", None) or []
            kept = self.args.length_column_name in names
            lengths = list(dataset[self.args.length_column_name]) if kept else [len(row["input_ids"]) for row in dataset]
        return Batches(
            dataset,
            Collate(self.data_collator, self.model, self.args.padding_free),
            size,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            shuffle=train and strategy != "sequential",
            drop_last=self.args.dataloader_drop_last and train,
            workers=self.args.dataloader_num_workers,
            pin=self.args.dataloader_pin_memory,
            rank=parallel.data_rank(self.args),
            world=parallel.data_world(self.args),
            lengths=lengths,
        )

    def get_train_dataloader(self) -> Batches:
        if self.train_dataset is None:
            raise InputError(say("Trainer.train needs train_dataset=.", "Trainer.train에는 train_dataset=이 필요합니다."))
        return self.batches(self.train_dataset, self.args.per_device_train_batch_size, train=True)

    # -------------------------------------------------------------- optimizer

    def create_optimizer(self) -> Any:
        if self.optimizer is None and self._optimizer_class is not None:
            kind, options = self._optimizer_class
            self.optimizer = kind(groups_of(self.model, self.args), **options)
        if self.optimizer is None:
            self.optimizer = create_optimizer(groups_of(self.model, self.args), self.args)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.lr_scheduler is None:
            own: Any = self.args.lr_scheduler_kwargs
            if self.args.lr_scheduler_type == PLATEAU:
                own = {"mode": "max" if self.args.greater_is_better else "min"} | (own or {})
            warmup = self.args.get_warmup_steps(num_training_steps)
            self.lr_scheduler = get_scheduler(self.args.lr_scheduler_type, optimizer or self.optimizer, warmup, num_training_steps, own)
        return self.lr_scheduler

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.create_optimizer()
        self.create_scheduler(num_training_steps)

    # -------------------------------------------------------------- training

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None) -> TrainOutput:
        """Train, and return steps, mean loss and speed.

        ``resume_from_checkpoint``: a folder, or True for the last one in ``output_dir``; the run then ends as if it had not stopped.

        Raises:
            InputError: no data, labels that do not fit, memory that does not suffice (it says what to lower).
            FormatError: the loss became NaN or infinite; nothing was changed or saved by that step.
            SourceError: a checkpoint could not be written.
        """
        self._ignored = ignore_keys_for_eval
        wanted = resume_from_checkpoint if resume_from_checkpoint is not None else self.args.resume_from_checkpoint
        if not self.args.auto_find_batch_size:
            return self._train(wanted, trial)
        from accelerate.utils import find_executable_batch_size

        def attempt(batch_size: int) -> TrainOutput:
            self.args.per_device_train_batch_size = batch_size
            return self._train(wanted, trial, explain=False)

        return find_executable_batch_size(attempt, starting_batch_size=self.args.per_device_train_batch_size)()

    def _train(self, wanted: str | bool | None, trial: Any, explain: bool = True) -> TrainOutput:
        args = self.args
        if args.full_determinism:
            torch.use_deterministic_algorithms(True)
        set_seed(args.seed)
        if self.model_init is not None:
            self.model = self.call_model_init(trial)
            self.optimizer = self.lr_scheduler = None
        place = self.checkpoint_to_resume(wanted)
        if place is not None:
            self.load_weights(place)
        data = self.get_train_dataloader()
        self._plan(data)
        given = self.optimizer is not None, self.lr_scheduler is not None
        parallel.place(self.model, args, fixed=given[0])
        self.model_wrapped = parallel.wrap(self.model, args)
        if parallel.data_rank(args):  # each share draws its own dropout; the first as a run of one process
            set_seed(args.seed + parallel.data_rank(args))
        self.create_optimizer_and_scheduler(self.state.max_steps)
        self._scaler = torch.amp.GradScaler(args.device.type) if args.fp16 else None  # pyright: ignore[reportPrivateImportUsage]
        self._average = MovingAverage(self.model, args.ema_decay) if args.ema_decay else None
        self.checkpoints = Checkpoints(args.output_dir, args.save_total_limit, threaded=args.async_save)
        if self.is_world_process_zero():
            self.checkpoints.clean()
        self._losses, self._since_log = 0.0, (0.0, 0)
        skip = self.load_progress(place) if place is not None else 0
        if args.gradient_checkpointing and hasattr(self.model, "gradient_checkpointing_enable"):
            self.model.gradient_checkpointing_enable()
        if args.torch_compile:
            self.model_wrapped = compiled(self.model_wrapped, args)
        try:
            with noisy_embeddings(self.model, args.neftune_noise_alpha), memory_kept():
                return self._run(data, skip)
        except (RuntimeError, MemoryError) as error:
            if not explain or not out_of_memory(error):
                raise
            raise self._memory_advice() from error
        finally:
            self.checkpoints.wait()
            if args.gradient_checkpointing and hasattr(self.model, "gradient_checkpointing_disable"):
                self.model.gradient_checkpointing_disable()
            uncompiled(self.model)
            self.model_wrapped = self.model
            self.optimizer, self.lr_scheduler = (
                kept if own else None for kept, own in zip((self.optimizer, self.lr_scheduler), given, strict=True)
            )

    def _plan(self, data: Any) -> None:
        """How many steps and epochs there will be."""
        args, state = self.args, TrainerState()
        streamed = getattr(data, "stream", not hasattr(data, "__len__"))
        if streamed and args.max_steps <= 0:
            raise InputError(say("A stream has no length: give max_steps.", "스트림에는 길이가 없으므로 max_steps를 지정하세요."))
        each = max(1, -(-len(data) // args.gradient_accumulation_steps)) if not streamed else args.max_steps
        state.max_steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * each)
        state.num_train_epochs = math.ceil(state.max_steps / each)
        state.train_batch_size = args.per_device_train_batch_size
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if getattr(args, name) is not None:
                setattr(state, name, args.steps_of(name, state.max_steps))
        state.is_world_process_zero = state.is_local_process_zero = self.is_world_process_zero()
        if self._trial is not None:
            state.is_hyper_param_search, state.trial_name = True, args.run_name
        self._steps_in_epoch = each
        self.state, self.control = state, TrainerControl()

    def _run(self, data: Any, skip: int) -> TrainOutput:
        """All epochs. ``skip`` batches of the first were computed before."""
        state = self.state
        self._started, self._first_step, self._first_row = time.perf_counter(), state.global_step, state.num_input_rows_seen
        self._call("on_train_begin", train_dataloader=data)
        if self.args.eval_on_start:
            self.evaluate()
        epoch = state.global_step // self._steps_in_epoch
        while state.global_step < state.max_steps and not self.control.should_training_stop:
            self._epoch(data, epoch, skip)
            epoch, skip = epoch + 1, 0
        self.checkpoints.wait()
        if self.args.load_best_model_at_end and state.best_model_checkpoint:
            parallel.barrier()
            self.load_weights(Path(state.best_model_checkpoint))
        elif self._average is not None:
            self._average.swap()
        self._average = None  # now it is the model
        seconds, steps = time.perf_counter() - self._started, state.global_step - self._first_step
        rows = parallel.total(state.num_input_rows_seen - self._first_row, self.args)
        metrics = {"train_runtime": seconds, "train_samples_per_second": rows / seconds, "train_steps_per_second": steps / seconds}
        metrics["train_loss"] = self._losses / max(1, state.global_step)
        self.log(dict(metrics))
        self._call("on_train_end")
        return TrainOutput(state.global_step, metrics["train_loss"], {**metrics, "epoch": state.epoch})

    def _epoch(self, data: Any, number: int, skip: int) -> None:
        state, accumulated = self.state, self.args.gradient_accumulation_steps
        self.control.should_epoch_stop = False
        self._call("on_epoch_begin")
        batches = data.epoch(number, skip) if hasattr(data, "epoch") else islice(iter(data), skip, None)
        found = False
        while group := list(islice(batches, accumulated)):
            found = True
            self._call("on_step_begin")
            self._step(group)
            state.global_step += 1
            within = state.global_step - number * self._steps_in_epoch
            state.epoch = number + within / self._steps_in_epoch
            self._call("on_step_end")
            self._answer_control()
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        if not found and not skip:
            raise InputError(say("The training data gave no batch.", "학습 데이터에서 배치를 하나도 만들지 못했습니다."))
        self._call("on_epoch_end")
        self._answer_control()

    def _step(self, group: list[Batch]) -> None:
        """One update from the batches in ``group``. Raises FormatError, before anything changes, when the loss is no number."""
        args, model = self.args, self.model_wrapped
        model.train()
        if hasattr(self.optimizer, "train"):
            self.optimizer.train()  # schedule-free optimizers keep two sets of weights
        counts = [self.items_in(batch) for batch in group]
        items, loss = parallel.total(sum(counts), args), torch.zeros((), device=args.device)
        for i, (batch, count) in enumerate(zip(group, counts, strict=True)):
            self.state.num_input_rows_seen += rows_of(batch)
            self.state.num_input_tokens_seen += tokens_of(batch)
            with parallel.no_sync(model, i + 1 < len(group)):
                share = count / items if items else 1 / len(group)
                loss += self.training_step(model, batch, items if self.compute_loss_func is not None else None, share)
            self._call("on_substep_end" if i + 1 < len(group) else "on_pre_optimizer_step")
        value = parallel.total(loss.item(), args)
        norm = self._clip()
        if not math.isfinite(value) or (norm is not None and not math.isfinite(norm) and self._scaler is None):
            self.optimizer.zero_grad()
            raise self._not_a_number(value)
        if self._scaler is not None:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        else:
            self.optimizer.step()
        self._rate = float(self.optimizer.param_groups[0]["lr"])
        if args.lr_scheduler_type != PLATEAU:
            self.lr_scheduler.step()
        self._call("on_optimizer_step")
        self.optimizer.zero_grad()
        if self._average is not None:
            self._average.update()
        self._losses += value
        self._since_log = (self._since_log[0] + value, self._since_log[1] + 1)
        self._norm = norm

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: float | None = None, share: float = 1.0) -> Tensor:
        """Gradients of one batch. Its loss counts with ``share``, the part of the step's items that it holds. Returns that product."""
        inputs = self._prepare_inputs(inputs)
        more: dict[str, Any] = {"num_items_in_batch": num_items_in_batch} if num_items_in_batch is not None else {}
        with self.autocast():
            if not share:
                loss = no_loss(self.compute_loss(model, inputs, return_outputs=True, **more)[1], self.args.device)
            else:
                loss = self.compute_loss(model, inputs, **more) * (1.0 if more else share)
        scaled = loss * parallel.data_world(self.args)  # averaged over processes again, by whoever joins their gradients
        (self._scaler.scale(scaled) if self._scaler is not None else scaled).backward()
        return loss.detach()

    def compute_loss(self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: float | None = None) -> Any:
        """The mean loss of a batch (with ``compute_loss_func``: what that returns), and the model's outputs if they are wanted."""
        labels = inputs.get("labels")
        if self.compute_loss_func is not None:
            outputs = model(**{key: value for key, value in inputs.items() if key != "labels"})
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        else:
            check_labels(inputs, self.model)
            lean = not return_outputs and not self.args.label_smoothing_factor and "labels" in inputs and loss_alone(self.model)
            outputs = model(**inputs, **({"loss_only": True} if lean else {}))
            loss = mean_loss(outputs, inputs, self.model, self.args.label_smoothing_factor if model.training else 0.0)
        return (loss, outputs) if return_outputs else loss

    def _prepare_inputs(self, inputs: Any) -> Any:
        return to_device(inputs, self.args.device)

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic of the forward pass: ``bf16`` and ``fp16`` of the arguments."""
        if not (self.args.bf16 or self.args.fp16):
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16 if self.args.bf16 else torch.float16)

    def _clip(self) -> float | None:
        """The norm of all gradients, which are then at most ``max_grad_norm``; None where they have no limit."""
        if self._scaler is not None:
            self._scaler.unscale_(self.optimizer)
        return parallel.clip(self.model, self.args)
