"""Training on a Ray cluster: the same function that ``torchrun`` would start, in workers that Ray places on the cluster's machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hunmin.errors import InputError, say
from hunmin.train import parallel


def train_on_ray(
    train_function: Callable[[dict[str, Any]], Any],
    workers: int,
    use_gpu: bool = False,
    config: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Run ``train_function(config)`` in ``workers`` processes of the cluster that ``ray.init`` reached, or of this machine.

    Inside, a Trainer finds the other processes as it does under ``torchrun``; ``output_dir`` has to be a folder that all machines share. Metrics of a
    :class:`TrainOutput` that the function returns are reported to Ray. ``options`` go to ``ray.train.torch.TorchTrainer`` (``run_config``,
    ``scaling_config`` for other resources than a CPU or GPU a worker, …).

    Returns Ray's ``Result``; its ``metrics`` are those of process 0. Raises InputError without the package ray, or without workers.
    """
    try:
        from ray.train import Checkpoint, ScalingConfig, report  # type: ignore[import-not-found]
        from ray.train.torch import TorchTrainer  # type: ignore[import-not-found]
    except ImportError as error:
        raise InputError(
            say(
                "train_on_ray needs Ray Train: pip install 'ray[train]'.",
                "train_on_ray에는 Ray Train이 필요합니다: pip install 'ray[train]'.",
            )
        ) from error
    if workers < 1:
        raise InputError(say(f"workers is {workers}; at least one is needed.", f"workers가 {workers}입니다. 하나 이상이어야 합니다."))

    def in_worker(given: dict[str, Any]) -> None:
        metrics = getattr(train_function(given), "metrics", None)
        if not isinstance(metrics, dict):
            return
        with TemporaryDirectory() as folder:  # Ray keeps those metrics that come with a checkpoint
            (Path(folder) / "metrics.json").write_text(json.dumps(metrics))
            report(metrics, checkpoint=Checkpoint.from_directory(folder) if parallel.rank() == 0 else None)

    options = {"scaling_config": ScalingConfig(num_workers=workers, use_gpu=use_gpu)} | options
    return TorchTrainer(in_worker, train_loop_config=dict(config or {}), **options).fit()
