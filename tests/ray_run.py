"""What test_train_ray.py runs beside itself: two workers of a Ray cluster on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def work(config: dict[str, Any]) -> Any:
    from tests.parallel_run import trainer_of

    return trainer_of({"model": "llama", "args": {"max_steps": 4, "sharding": config["sharding"]}}, Path(config["folder"])).train()


if __name__ == "__main__":
    import ray

    from hunmin.train.ray import train_on_ray

    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}})
    for sharding in ("ddp", "fsdp"):
        result = train_on_ray(work, 2, config={"sharding": sharding, "folder": sys.argv[1]})
        print("RESULT", json.dumps(result.metrics))
    ray.shutdown()
