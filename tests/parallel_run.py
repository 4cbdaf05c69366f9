"""What the processes of test_train_parallel.py run: ``python -m torch.distributed.run … tests/parallel_run.py PLANS.json FOLDER``.

A plan is one training run of a tiny model. The test runs the same plans in one process and compares what both leave in a folder.
"""

# ruff: noqa: C408  keyword form reads like the configuration classes
from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from hunmin.errors import FormatError, InputError
from hunmin.generate import GenerationConfig
from hunmin.hub.config import Config
from hunmin.hub.weights import export
from hunmin.model import PreTrainedModel
from hunmin.train import Seq2SeqTrainer, Trainer, TrainingArguments, parallel

VOCAB, PAD = 61, 1
SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, vocab_size=VOCAB, max_position_embeddings=32)
QUIET = dict(attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0)  # random numbers differ between processes
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("bert", "SequenceClassification", SMALL | QUIET | dict(num_labels=3)),
    "llama": ("llama", "CausalLM", SMALL | dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "qwen3": ("qwen3", "CausalLM", SMALL | dict(num_key_value_heads=2, head_dim=8)),
    "gpt2": ("gpt2", "CausalLM", dict(n_embd=32, n_layer=2, n_head=4, n_positions=32, vocab_size=VOCAB, resid_pdrop=0.0, embd_pdrop=0.0,
             attn_pdrop=0.0)),
    "t5": ("t5", "Seq2SeqLM", dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, vocab_size=VOCAB, dropout_rate=0.0,
           relative_attention_num_buckets=8, relative_attention_max_distance=12, decoder_start_token_id=0)),
    "bart": ("bart", "Seq2SeqLM", dict(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
             encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=VOCAB, max_position_embeddings=32, dropout=0.0)),
    "albert": ("albert", "SequenceClassification", SMALL | QUIET | dict(embedding_size=16, num_labels=3, classifier_dropout_prob=0.0)),
    "deberta": ("deberta-v2", "SequenceClassification", SMALL | QUIET | dict(num_labels=3, relative_attention=True, pos_att_type="p2c|c2p",
                share_att_key=False, position_buckets=8, max_relative_positions=12, pooler_dropout=0.0)),
    "mqa": ("llama", "CausalLM", SMALL | dict(num_key_value_heads=1)),
    "odd": ("llama", "CausalLM", SMALL | dict(intermediate_size=47)),
    "dropped": ("bart", "Seq2SeqLM", dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
                encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=VOCAB, max_position_embeddings=32, encoder_layerdrop=0.5)),
}  # fmt: skip


def model_of(name: str, seed: int) -> PreTrainedModel:
    kind, task, config = MODELS[name]
    torch.manual_seed(seed)
    model = PreTrainedModel(Config(kind, **config, pad_token_id=PAD, bos_token_id=0, eos_token_id=2), task)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model


def export_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    return export(model, model.config, model.task)


def rows(name: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of 3 to 9 tokens, with the labels of the model's task."""
    drawn, task, out = torch.Generator().manual_seed(seed), MODELS[name][1], list[dict[str, Any]]()
    for _ in range(count):
        sizes = torch.randint(3, 10, (2,), generator=drawn).tolist()
        ids, other = (torch.randint(3, VOCAB, (size,), generator=drawn).tolist() for size in sizes)
        labels = sum(ids) % 3 if task == "SequenceClassification" else ids if task == "CausalLM" else other
        out.append({"input_ids": ids, "labels": labels})
    return out


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    def padded(key: str, fill: int) -> torch.Tensor:
        held = [torch.tensor(row[key]) for row in batch]
        return torch.nn.utils.rnn.pad_sequence(held, True, fill) if held[0].ndim else torch.stack(held)

    ids = padded("input_ids", PAD)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "labels": padded("labels", -100)}


def trainer_of(plan: dict[str, Any], folder: Path) -> Trainer:
    shares = max(1, parallel.processes() // plan["args"].get("tensor_parallel_size", 1))
    given = dict(learning_rate=1e-2, adam_epsilon=1e-3, num_train_epochs=2, logging_steps=1, save_strategy="no", disable_tqdm=True,
                 report_to="none", use_cpu=True, weight_decay=0.1, max_grad_norm=0.5)  # fmt: skip
    batch = plan.get("batch", 4) // shares
    args = TrainingArguments(
        str(folder), **{**given, "per_device_train_batch_size": batch, "per_device_eval_batch_size": batch, **plan["args"]}
    )
    model = model_of(plan["model"], parallel.rank())  # every process starts elsewhere: the first one counts
    return Trainer(
        model,
        args,
        collate,
        rows(plan["model"], plan.get("rows", 13)),
        rows(plan["model"], 7, seed=1),
        compute_metrics=lambda pair: {"mean": float(pair.label_ids.mean())},
    )


def run(plan: dict[str, Any], folder: Path) -> None:
    """Train, evaluate, predict; leave losses, metrics, predictions and weights in ``folder``, named after the plan."""
    trainer = trainer_of(plan, folder / plan.get("output", plan["name"]))
    trainer.train(resume_from_checkpoint=str(folder / plan["resume"]) if "resume" in plan else None)
    metrics = trainer.evaluate()
    found = trainer.predict(trainer.eval_dataset).predictions
    found = found if isinstance(found, tuple) else (found,)
    tensors = {name: tensor.clone().contiguous() for name, tensor in export_of(trainer.model)}
    if parallel.rank() == 0:
        folder.mkdir(exist_ok=True)
        shown = [
            {key: row[key] for key in ("loss", "grad_norm", "eval_loss", "eval_mean") if key in row} for row in trainer.state.log_history
        ]
        (folder / f"{plan['name']}.json").write_text(
            json.dumps({"logs": shown, "eval": metrics["eval_loss"], "mean": metrics["eval_mean"]})
        )
        save_file(
            tensors | {f"prediction.{i}": torch.from_numpy(array) for i, array in enumerate(found)}, folder / f"{plan['name']}.safetensors"
        )


def check_refusals(folder: Path) -> None:
    """What cannot work is refused by name, in every process, before it costs time."""
    two = {"tensor_parallel_size": 2}

    def refused(words: str, model: str = "llama", change: Any = None, **args: Any) -> None:
        def started() -> None:
            trainer = trainer_of({"model": model, "args": args}, folder)
            if change is not None:
                change(trainer)
            trainer.train()

        with pytest.raises(InputError, match=words):
            started()

    refused("multiple of 3 processes", tensor_parallel_size=3)
    refused("auto_find_batch_size", auto_find_batch_size=True)
    refused("bf16=True", fp16=True, sharding="fsdp")
    refused("adafactor", sharding="fsdp", optim="adafactor")
    refused("1 key/value heads", "mqa", **two)
    refused("47 feed-forward width", "odd", **two)
    refused("encoder_layerdrop", "dropped", sharding="fsdp")

    def own(trainer: Trainer) -> None:
        trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), 0.1)

    refused("optimizer_cls_and_kwargs", "bert", own, sharding="fsdp")

    def adapted(trainer: Trainer) -> None:
        trainer.model.encoder.stack.layers[1].attn.v = torch.nn.Identity()

    refused("encoder.stack.layers.1.attn.v is a Identity", "bert", adapted, **two)


def check_not_a_number(folder: Path) -> None:
    """One process meets a NaN; all stop, and no weight has changed."""
    for args in ({}, {"sharding": "fsdp"}):
        trainer = trainer_of({"model": "bert", "args": args}, folder)
        trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: (
            outputs.logits.sum() * (float("nan") if parallel.rank() else 1.0)
        )
        trainer.args.max_grad_norm = 0
        parallel.place(trainer.model, trainer.args)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        with pytest.raises(FormatError, match="nan"):
            trainer.train()
        if args:
            assert all(torch.equal(parallel.whole(a), parallel.whole(b)) for a, b in zip(before, trainer.model.parameters(), strict=True))


def check_generation(folder: Path) -> None:
    """Texts of different lengths, generated by processes that hold shards, are those of the whole model."""
    texts = []
    for args in ({}, {"sharding": "fsdp"}, {"tensor_parallel_size": 2}):
        made = trainer_of({"model": "t5", "args": {"predict_with_generate": True, **args}}, folder)
        trainer = Seq2SeqTrainer(made.model, made.args, made.data_collator, None, made.eval_dataset)
        if parallel.rank():  # the last process holds other weights unless those of the first are sent to it
            made.model.load_state_dict(model_of("t5", 0).state_dict())
        texts.append(trainer.predict(made.eval_dataset, max_new_tokens=6).predictions)
        assert not args or isinstance(next(made.model.decoder.stack.layers[0].parameters()), DTensor)
    assert len(texts[0]) == 7 and all((a.shape == b.shape) and (a == b).all() for a, b in pairwise(texts))


def check_uses(folder: Path) -> None:
    """A stream, half precision, a second call of train, random dropout and a module of another library."""
    for args in ({}, {"sharding": "fsdp"}, {"tensor_parallel_size": 2}):
        trainer = trainer_of({"model": "gpt2", "args": {**args, "bf16": True, "max_steps": 4, "neftune_noise_alpha": 1.0}}, folder)
        trainer.train_dataset = Stream("gpt2")
        trainer.model.decoder.stack.layers[0].dropout = 0.5
        first = trainer.train().training_loss
        trainer.args.bf16 = False
        trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: outputs.logits.square().sum() / (num_items_in_batch or 1)
        assert trainer.train().training_loss != first
        drawn = parallel.gather(torch.rand(()).item())
        assert (drawn[0] == drawn[1]) is ("tensor_parallel_size" in args), "shares draw their own numbers, parts of a model the same"
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    args = TrainingArguments(str(folder / "module"), sharding="fsdp", use_cpu=True, disable_tqdm=True, report_to="none", max_steps=3)
    data = [(torch.ones(4) * i, i % 2) for i in range(4)]
    trainer = Trainer(Named(module), args, collate_pairs, data)
    trainer.train()
    again = Trainer(Named(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))), args, collate_pairs, data)
    again.train(resume_from_checkpoint=True)
    for a, b in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(parallel.whole(a), parallel.whole(b))


def check_bad_row(folder: Path) -> None:
    """A class that the model does not have, in a row of the last process: it says so, and the launcher ends the others."""
    trainer = trainer_of({"model": "bert", "args": {"sharding": "fsdp"}}, folder)
    trainer.train_dataset = [{**row, "labels": 7 if parallel.rank() else row["labels"]} for row in trainer.train_dataset]
    trainer.train()


class Stream(torch.utils.data.IterableDataset[Any]):
    def __init__(self, name: str) -> None:
        self.name = name

    def __iter__(self) -> Iterator[Any]:
        return iter(rows(self.name, 9))


class Named(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.inner(x)
        return {"loss": torch.nn.functional.cross_entropy(y, labels), "logits": y}


def collate_pairs(pairs: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    return {"x": torch.stack([x for x, _ in pairs]), "labels": torch.tensor([y for _, y in pairs])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for planned in json.loads(Path(sys.argv[1]).read_text()):
        if "check" in planned:
            globals()[f"check_{planned['check']}"](Path(sys.argv[2]) / planned["check"])
            (Path(sys.argv[2]) / f"{planned['check']}-{parallel.rank()}.passed").touch()
        else:
            run(planned, Path(sys.argv[2]))
