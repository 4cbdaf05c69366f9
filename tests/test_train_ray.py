"""The entry for Ray clusters, with a stand-in for Ray that runs one worker here. The real one runs where it is installed: see the last test."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from hunmin.errors import InputError
from hunmin.train import train_on_ray
from hunmin.train.state import TrainOutput


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Ray's trainer was made with, and what its worker reported."""
    seen = SimpleNamespace(options={}, reported=None, stored=None)

    class TorchTrainer:
        def __init__(self, loop: Any, *, train_loop_config: dict[str, Any], **options: Any) -> None:
            self.loop, self.config, seen.options = loop, train_loop_config, options

        def fit(self) -> SimpleNamespace:
            self.loop(self.config)
            return SimpleNamespace(metrics=seen.reported)

    def report(metrics: dict[str, Any], checkpoint: Any) -> None:
        seen.reported, seen.stored = metrics, json.loads((Path(checkpoint) / "metrics.json").read_text())

    package, train, torch = (ModuleType(name) for name in ("ray", "ray.train", "ray.train.torch"))
    train.__dict__.update(ScalingConfig=SimpleNamespace, report=report, Checkpoint=SimpleNamespace(from_directory=lambda folder: folder))
    torch.__dict__.update(TorchTrainer=TorchTrainer)
    for module in (package, train, torch):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return seen


def test_the_function_runs_in_workers_and_its_metrics_come_back(ray: SimpleNamespace) -> None:
    def function(config: dict[str, Any]) -> TrainOutput:
        return TrainOutput(config["steps"], 0.5, {"train_loss": 0.5})

    result = train_on_ray(function, 3, use_gpu=True, config={"steps": 4}, run_config="kept")
    assert result.metrics == ray.stored == {"train_loss": 0.5}
    assert ray.options == {"scaling_config": SimpleNamespace(num_workers=3, use_gpu=True), "run_config": "kept"}
    train_on_ray(lambda config: None, 1, scaling_config="own")
    assert ray.options == {"scaling_config": "own"}
    with pytest.raises(InputError, match="workers is 0"):
        train_on_ray(function, 0)


def test_without_ray_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'ray\[train\]'"):
        train_on_ray(lambda config: None, 1)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'ray[train]'")
def test_two_workers_of_ray(tmp_path: Path) -> None:
    import subprocess

    script = Path(__file__).parent / "ray_run.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    from tests.parallel_run import run

    run({"name": "one", "model": "llama", "args": {"max_steps": 4}}, tmp_path)
    losses = [row["loss"] for row in json.loads((tmp_path / "one.json").read_text())["logs"] if "loss" in row]
    assert [result["train_loss"] for result in found] == pytest.approx([sum(losses) / 4] * 2, abs=2e-5)
