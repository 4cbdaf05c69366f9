"""Several processes are one: losses, norms of gradients, weights, metrics and predictions; and checkpoints from any number for any other.

Starting processes costs seconds, so three launches do everything: each runs a list of plans (see parallel_run.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hunmin.train.data import Batches
from hunmin.train.items import Fill, count_items, rows_of
from tests import parallel_run

SCRIPT = Path(parallel_run.__file__)
Args = dict[str, Any]
Plan = dict[str, Any]
FSDP: Args = {"sharding": "fsdp"}
TENSOR: Args = {"tensor_parallel_size": 2}
SAVE: Args = {"save_strategy": "steps", "save_steps": 3, "ema_decay": 0.5, "max_steps": 5}
GROUPED: Args = {"gradient_accumulation_steps": 2}
LION: Args = {"gradient_checkpointing": True, "ema_decay": 0.5, "optim": "lion", "learning_rate": 1e-3}
BEST: Args = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "load_best_model_at_end": True, "async_save": True}
CHECKS = ("refusals", "not_a_number", "generation", "uses")


def plan(model: str, name: str, args: Args) -> Plan:
    return {"name": f"{model}-{name}", "model": model, "args": {"max_steps": 4, **args}}


WHOLE = [plan("bert", "ddp", {}), plan("t5", "ddp", GROUPED | {"optim": "adafactor"})]
SHARDS = [
    plan("llama", "fsdp", SAVE | FSDP),
    plan("qwen3", "fsdp", FSDP | GROUPED | LION),
    plan("t5", "fsdp", FSDP),
    plan("albert", "fsdp", FSDP | BEST),
]
PARTS = [plan("llama", "tensor", SAVE | TENSOR), *(plan(model, "tensor", TENSOR) for model in ("bert", "qwen3", "t5", "gpt2", "deberta"))]
FOUR = [plan("llama", "four", SAVE | FSDP | TENSOR), plan("t5", "four", FSDP | TENSOR), plan("bert", "copies", TENSOR | GROUPED)]


def launch(plans: list[Plan], folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run plans in several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    inside = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    env = {key: value for key, value in os.environ.items() if key not in inside} | {"OMP_NUM_THREADS": "1", "HUNMIN_LANG": "en"}
    line = [sys.executable, "-m", *command, str(SCRIPT), str(folder / "plans.json"), str(folder)]
    return subprocess.run(line, capture_output=True, text=True, env=env, timeout=240)


def torchrun(processes: int, plans: list[Plan], folder: Path) -> str:
    done = launch(plans, folder, "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def go_on(saved: Path, name: str, args: Args) -> Plan:
    """A plan that goes on from another's third step."""
    return plan("llama", name, SAVE | {"save_strategy": "no"} | args) | {"resume": str(saved / "checkpoint-3")}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs of one process leave their results."""
    folder = tmp_path_factory.mktemp("one")
    parallel_run.run(plan("llama", "whole", SAVE), folder)
    return folder


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, who were asked for everything at once."""
    folder = tmp_path_factory.mktemp("two")
    then = [
        go_on(one / "llama-whole", "1-2", FSDP),
        go_on(folder / "llama-fsdp", "2-2", {}),
        go_on(folder / "llama-tensor", "2-2-parts", FSDP),
    ]
    torchrun(2, [*WHOLE, *SHARDS, *PARTS, *then, *({"check": name} for name in CHECKS)], folder)
    return folder


def equal(want: Path, got: Path) -> None:
    """Two runs left the same, up to rounding."""
    a, b = (json.loads(path.with_suffix(".json").read_text()) for path in (want, got))
    assert [*starmap(pytest.approx, ((row, None, 2e-5) for row in a["logs"]))] == b["logs"]
    assert (b["eval"], b["mean"]) == pytest.approx((a["eval"], a["mean"]), abs=2e-5)
    weights(want, got)


def weights(want: Path, got: Path) -> None:
    a, b = (load_file(path.with_suffix(".safetensors")) for path in (want, got))
    assert set(a) == set(b)
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-4, atol=2e-5, msg=lambda text, name=name: f"{got.name}: {name}: {text}")


def as_one(planned: Plan, one: Path, many: Path) -> None:
    """Run a plan in one process, see that it learnt, and compare with what several left."""
    alone = {key: value for key, value in planned["args"].items() if key not in FSDP | TENSOR}
    parallel_run.run(planned | {"args": alone}, one)
    equal(one / planned["name"], many / planned["name"])
    trained, start = load_file(one / f"{planned['name']}.safetensors"), parallel_run.model_of(planned["model"], 0)
    assert max((trained[name] - tensor).abs().max().item() for name, tensor in parallel_run.export_of(start)) > 1e-3


@pytest.mark.parametrize(("count", "size", "world"), [(13, 2, 2), (9, 2, 4), (1, 3, 3), (8, 1, 4)])
@pytest.mark.parametrize("stream", [False, True])
def test_every_row_counts_once(count: int, size: int, world: int, stream: bool) -> None:
    """The shares of an epoch are its rows; all have as many batches, and a batch of one that has no row left counts nothing."""
    data: Any = Stream(count) if stream else [{"x": i} for i in range(count)]

    def collate(batch: list[dict[str, int]]) -> dict[str, Any]:
        return {"x": torch.tensor([row["x"] for row in batch])}

    shares = [list(Batches(data, collate, size, shuffle=True, rank=rank, world=world).epoch(1)) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1 and all(len(batch["x"]) for share in shares for batch in share)
    real = [row for share in shares for batch in share if not isinstance(batch, Fill) for row in batch["x"].tolist()]
    assert sorted(real) == list(range(count))
    fills = [batch for share in shares for batch in share if isinstance(batch, Fill)]
    assert all(count_items(batch, None) == rows_of(batch) == 0 for batch in fills)


class Stream(torch.utils.data.IterableDataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Any:
        return iter([{"x": i} for i in range(self.count)])


@pytest.mark.parametrize("planned", [*WHOLE, *SHARDS, *PARTS], ids=lambda planned: planned["name"])
def test_two_processes_are_one(planned: Plan, one: Path, two: Path) -> None:
    as_one(planned, one, two)


@pytest.mark.parametrize("name", ["1-2", "2-2", "2-2-parts"])
def test_two_processes_go_on(name: str, one: Path, two: Path) -> None:
    """A run that stopped at step 3 of 5 ends as if it had not, whoever had written the checkpoint."""
    weights(one / "llama-whole", two / f"llama-{name}")


@pytest.mark.parametrize("saved", ["llama-fsdp", "llama-tensor"])
def test_one_process_goes_on(saved: str, one: Path, two: Path) -> None:
    parallel_run.run(go_on(two / saved, f"{saved}-1", {}), one)
    weights(one / "llama-whole", one / f"llama-{saved}-1")
    assert not [*two.rglob(".checkpoint-*")], "what is written beside a checkpoint's name ends under that name"


@pytest.mark.slow
def test_four_processes(one: Path, two: Path, tmp_path: Path) -> None:
    """Shards of parts of matrices, copies of parts, and a checkpoint of two processes."""
    torchrun(4, [*FOUR, go_on(two / "llama-fsdp", "2-4", FSDP | TENSOR)], tmp_path)
    for planned in FOUR:
        as_one(planned, one, tmp_path)
    weights(one / "llama-whole", tmp_path / "llama-2-4")


@pytest.mark.parametrize("name", CHECKS)
def test_in_every_process(name: str, two: Path) -> None:
    assert len(list(two.glob(f"{name}-*.passed"))) == 2


def test_accelerate_launch_and_an_error_in_one_process(one: Path, tmp_path: Path) -> None:
    flags = (
        "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    )  # --cpu would start one process
    done = launch([plan("bert", "accelerate", {}), {"check": "bad_row"}], tmp_path, "accelerate.commands.launch", *flags)
    as_one(plan("bert", "accelerate", {}), one, tmp_path)
    assert done.returncode != 0 and done.stderr.count("InputError: labels hold 7, but the model has 3 classes") == 1


def test_a_broken_or_evil_index_is_refused(one: Path, two: Path, tmp_path: Path) -> None:
    import pickle
    import shutil

    shutil.copytree(two / "llama-fsdp/checkpoint-3", tmp_path / "checkpoint-3")
    index = tmp_path / "checkpoint-3/shards/.metadata"
    for content in (index.read_bytes()[:100], pickle.dumps(Evil()), b""):
        index.write_bytes(content)
        with pytest.raises(parallel_run.FormatError, match="shards"):
            parallel_run.run(go_on(tmp_path, "broken", {}), one)
    index.unlink()
    with pytest.raises(parallel_run.FormatError, match="shards"):
        parallel_run.run(go_on(tmp_path, "broken", {}), one)
    assert not Evil.ran


class Evil:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "ran", True)
