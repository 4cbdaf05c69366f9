"""Saving a run, going on with it, and sharing its result."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hunmin.errors import FormatError, InputError, say
from hunmin.generate import set_seed
from hunmin.hub.tensors import write_tensors
from hunmin.hub.weights import export
from hunmin.model import PreTrainedModel
from hunmin.train import checkpoint as files
from hunmin.train import parallel
from hunmin.train.checkpoint import Checkpoints, Writer, copied, read, saver
from hunmin.train.state import TrainerState

if TYPE_CHECKING:
    from hunmin.train.arguments import TrainingArguments
    from hunmin.train.extras import MovingAverage

ARGUMENTS, AVERAGE, SCALER, SHARDS = "training_args.json", "average.pt", "scaler.pt", "shards"


class Resume:
    """Files of a Trainer with these attributes."""

    args: TrainingArguments
    model: Any
    processing_class: Any
    optimizer: Any
    lr_scheduler: Any
    state: TrainerState
    checkpoints: Checkpoints
    _average: MovingAverage | None
    _scaler: Any
    _steps_in_epoch: int
    _losses: float
    _since_log: tuple[float, int]

    # -------------------------------------------------------------- going on

    def checkpoint_to_resume(self, wanted: str | bool | None) -> Path | None:
        """The folder to go on from. Raises InputError when there is none although one was asked for."""
        if not wanted:
            return None
        place = Checkpoints(self.args.output_dir).last() if wanted is True else Path(str(wanted))
        if place is None or not place.is_dir():
            raise InputError(
                say(
                    f"No checkpoint to resume from: {place or self.args.output_dir}. Start without resume_from_checkpoint.",
                    f"이어서 학습할 체크포인트가 없습니다: {place or self.args.output_dir}. resume_from_checkpoint 없이 시작하세요.",
                )
            )
        return place

    def load_weights(self, place: Path) -> None:
        """Put a checkpoint's weights into the model, in place. Raises FormatError when they are of another model."""
        try:
            if (place / files.TRAINED).is_file():
                return self._fill(load_file(place / files.TRAINED))
            from hunmin.auto import load, read_config
            from hunmin.hub.files import resolve

            kind = read_config(resolve(str(place))).model_type
            if kind != self.model.config.model_type:
                raise ValueError(f"{kind}, not {self.model.config.model_type}")
            self._fill(load(str(place), self.model.task).state_dict())
        except (AttributeError, RuntimeError, ValueError, SafetensorError) as error:
            cause = " ".join(str(error).split())[:200]
            raise FormatError(
                say(f"{place} is not a checkpoint of this model: {cause}", f"{place}은(는) 이 모델의 체크포인트가 아닙니다: {cause}")
            ) from error

    def _fill(self, stored: dict[str, torch.Tensor]) -> None:
        """Put whole tensors into the model's parameters and buffers, in place. Raises ValueError when they do not fit."""
        held = dict(self.model.named_parameters(remove_duplicate=False)) | dict(self.model.named_buffers())
        if wrong := [n for n, t in stored.items() if n not in held or held[n].shape != t.shape]:
            raise ValueError(f"{wrong[0]}, …")
        with torch.no_grad():
            for name, tensor in stored.items():
                held[name].copy_(parallel.like(tensor, held[name]))

    def load_progress(self, place: Path) -> int:
        """Optimizer, schedule, random numbers and state of a checkpoint. Returns how many batches of its epoch are done."""
        saved, planned = TrainerState.load(place), self.state
        for name in ("max_steps", "num_train_epochs", "train_batch_size", "logging_steps", "eval_steps", "save_steps"):
            setattr(saved, name, getattr(planned, name))
        saved.is_world_process_zero, saved.is_local_process_zero = planned.is_world_process_zero, planned.is_local_process_zero
        self.state = saved
        if not (place / files.OPTIMIZER).is_file():
            raise FormatError(
                say(
                    f"{place} has no {files.OPTIMIZER}: it was saved with save_only_model and cannot be resumed.",
                    f"{place}에 {files.OPTIMIZER}가 없습니다. save_only_model로 저장되어 이어서 학습할 수 없습니다.",
                )
            )
        parts = {files.OPTIMIZER: self.optimizer, files.SCHEDULER: self.lr_scheduler, AVERAGE: self._average, SCALER: self._scaler}
        for name, part in parts.items():
            if part is not None and (place / name).is_file():
                part.load_state_dict(self._joined(name, part, place))
                if name == AVERAGE:  # the model in the checkpoint was the average
                    self._average.swap()  # type: ignore[union-attr]
        own = place / _ranked(files.RNG)
        held = read(own if own.is_file() else place / files.RNG)
        if own.is_file():
            files.restore_random(held["random"])
        else:  # saved by fewer processes: numbers of our own, not those of process 0 once more
            set_seed(self.args.seed + saved.global_step + parallel.data_rank(self.args))
        self._losses, self._since_log = held["losses"], tuple(held["since_log"])
        done = saved.global_step % self._steps_in_epoch * self.args.gradient_accumulation_steps
        return 0 if self.args.ignore_data_skip else done

    # -------------------------------------------------------------- saving

    def save_checkpoint(self, *, best: bool = False) -> None:
        """Everything that a run needs to go on, as ``checkpoint-STEP`` in ``output_dir``: there whole, or not at all.

        With a moving average the model in it is the average, which was evaluated, and the weights themselves lie beside it.
        """
        with self._average.applied() if self._average is not None else nullcontext():
            self._save_checkpoint(best)

    def _save_checkpoint(self, best: bool) -> None:
        if best:
            self.state.best_model_checkpoint = str(self.checkpoints.path(self.state.global_step))
        later = self.args.async_save
        writers = self._model_writers(copy=later)
        writers.append(TrainerState(**copied(vars(self.state))).save)
        if not self.args.save_only_model:
            held = {"random": files.random_state(), "losses": self._losses, "since_log": list(self._since_log)}
            states = {files.OPTIMIZER: self.optimizer, files.SCHEDULER: self.lr_scheduler, AVERAGE: self._average, SCALER: self._scaler}
            writers += self._state_writers({name: part.state_dict() for name, part in states.items() if part is not None}, copy=later)
            others = parallel.gather(held)
            writers += [saver(_ranked(files.RNG, i), state) for i, state in enumerate(others)]
        if parallel.rank() == 0:
            self.checkpoints.write(self.state.global_step, writers, self.state.best_model_checkpoint)
        parallel.barrier()
        if self.args.push_to_hub and self.args.hub_strategy in ("every_save", "all_checkpoints", "checkpoint"):
            self.push_to_hub(f"Step {self.state.global_step}")

    def _state_writers(self, states: dict[str, Any], copy: bool) -> list[Writer]:
        """Writes states. What is spread over processes they write now, each its part, into a folder that is to be moved."""
        if not parallel.sharded(self.args):
            return [saver(name, copied(state) if copy else state) for name, state in states.items()]
        from hunmin.train import sharded_state

        writers, spread = list[Writer](), dict[str, torch.Tensor]()
        for name, state in states.items():
            rest, tensors = sharded_state.apart(state, name)
            writers.append(saver(name, copied(rest) if copy else rest))
            spread |= tensors
        parts = Path(self.args.output_dir) / f".{files.PREFIX}-{self.state.global_step}-{SHARDS}"
        if parallel.rank() == 0:
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir(parents=True)
        parallel.barrier()
        sharded_state.save(spread, parts)
        return [*writers, lambda folder: parts.rename(folder / SHARDS)]

    def _joined(self, name: str, part: Any, place: Path) -> Any:
        """A state of a checkpoint as this run holds it, however the run that wrote it was spread."""
        state = read(place / name)
        if not parallel.sharded(self.args) and not (place / SHARDS).is_dir():
            return state
        from hunmin.train import sharded_state

        owner = sharded_state.owner_among(part.weights) if name == AVERAGE else sharded_state.owner_in(part)
        return sharded_state.joined(state, owner, place / SHARDS)

    def _model_writers(self, copy: bool = False) -> list[Writer]:
        """Writes the model, its tokenizer and the arguments. ``copy``: as they are now, whatever happens until they are written."""
        model, writers = parallel.unwrapped(self.model), list[Writer]()
        if isinstance(model, PreTrainedModel):
            if copy or parallel.sharded(self.args):  # every process takes part in bringing tensors together; the first keeps them
                first, every = parallel.rank() == 0, export(model, model.config, model.task)
                tensors = [(name, tensor.to("cpu", copy=True)) for name, tensor in every if first]
                writers.append(partial(_write_model, model, tensors))
            else:
                writers.append(model.save_pretrained)
        else:
            if hasattr(model, "save_pretrained") and parallel.sharded(self.args):
                together = {name: parallel.whole(tensor).cpu() for name, tensor in model.state_dict().items()}
                writers.append(partial(model.save_pretrained, state_dict=together))
            elif hasattr(model, "save_pretrained"):
                writers.append(model.save_pretrained)
            trained = learnt(model)
            writers.append(partial(_write_trained, copied(trained) if copy else trained))
        if hasattr(self.processing_class, "save_pretrained"):
            writers.append(self.processing_class.save_pretrained)
        writers.append(partial(_write_text, ARGUMENTS, self.args.to_json_string() + "\n"))
        return writers

    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """The model, its tokenizer and the arguments in a folder that ``from_pretrained`` reads."""
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        writers = self._model_writers()
        if parallel.rank() == 0:
            folder.mkdir(parents=True, exist_ok=True)
            for write in writers:
                write(folder)
        parallel.barrier()

    def save_state(self) -> None:
        """``trainer_state.json`` in ``output_dir``."""
        if parallel.rank() == 0:
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            self.state.save(Path(self.args.output_dir))

    # -------------------------------------------------------------- numbers for people

    def log_metrics(self, split: str, metrics: dict[str, float]) -> None:
        """Print metrics, one a line."""
        if parallel.rank() == 0:
            width = max(map(len, metrics), default=0)
            print(f"***** {split} metrics *****")
            for name in sorted(metrics):
                print(
                    f"  {name:{width}} = {metrics[name]:.4f}" if isinstance(metrics[name], float) else f"  {name:{width}} = {metrics[name]}"
                )

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write metrics to ``{split}_results.json`` in ``output_dir``, and with the others into ``all_results.json``."""
        import json

        if parallel.rank():
            return
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_results.json").write_text(json.dumps(metrics, indent=4, sort_keys=True) + "\n", encoding="utf-8")
        if combined:
            path = folder / "all_results.json"
            everything = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            path.write_text(json.dumps(everything | metrics, indent=4, sort_keys=True) + "\n", encoding="utf-8")

    # -------------------------------------------------------------- the Hub

    def create_model_card(self, **about: Any) -> None:
        """``README.md`` in ``output_dir``: the task, the data and settings of the run, and its results."""
        from hunmin.train.card import model_card

        if parallel.rank():
            return
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(model_card(self, about), encoding="utf-8")

    def push_to_hub(self, commit_message: str = "End of training", repo_id: str | None = None, **about: Any) -> str:
        """Upload the model, its tokenizer and a model card. Returns the address of the commit."""
        from hunmin.hub.push import push_folder

        name = repo_id or self.args.hub_model_id or Path(self.args.output_dir).resolve().name
        if "/" in commit_message and repo_id is None and self.args.hub_model_id is None:  # taught as push_to_hub(repo_id)
            name, commit_message = commit_message, "End of training"
        self.save_model()
        self.create_model_card(**about)
        if parallel.rank() != 0:
            return ""
        return push_folder(
            Path(self.args.output_dir), name, commit_message=commit_message, token=self.args.hub_token, private=self.args.hub_private_repo
        )


def _ranked(name: str, index: int | None = None) -> str:
    """A file's name for one process of several."""
    index = parallel.rank() if index is None else index
    stem, _, end = name.partition(".")
    return name if index == 0 else f"{stem}_{index}.{end}"


def learnt(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a run changes of a model that has no file format of its own: parameters that learn, and buffers."""
    trained = {name: parallel.whole(p.detach()).contiguous() for name, p in model.named_parameters() if p.requires_grad}
    return trained | {name: b.detach().contiguous() for name, b in model.named_buffers() if name in model.state_dict()}


def _write_trained(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    save_file(tensors, folder / files.TRAINED)


def _write_text(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text, encoding="utf-8")


def _write_model(model: PreTrainedModel, tensors: list[tuple[str, torch.Tensor]], folder: Path) -> None:
    """What ``save_pretrained`` writes, from tensors that were copied before."""
    write_tensors(iter(tensors), folder)
    model.config["architectures"], model.config["dtype"] = [model.architecture], model.dtype
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)
