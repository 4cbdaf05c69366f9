"""What every test stands on: no network, few threads, fixed seeds, English messages."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports huggingface_hub or torch, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HUNMIN_LANG"] = "en"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("HUNMIN_DEBUG", None)

import pytest

if TYPE_CHECKING:
    from tests.hubserver import HubServer


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the comparisons with transformers where it is not installed."""
    if find_spec("transformers") is None:
        for item in items:
            if item.get_closest_marker("parity"):
                item.add_marker(pytest.mark.skip(reason="needs transformers: pip install -e '.[dev,parity]'"))


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """One thread: tiny models gain nothing from more, and threads that wait for each other cost seconds on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch alone: for what has to be the same bit for bit with hooks, which the CPU kernels leave to PyTorch, and without."""
    for module in ("native.encoder", "native.program", "quantize"):
        monkeypatch.setattr(f"hunmin.{module}.library", lambda: None)


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Every test draws the same random numbers, alone or in company."""
    import numpy as np
    import torch

    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def korean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Messages in Korean for one test."""
    from hunmin.errors import language

    monkeypatch.setenv("HUNMIN_LANG", "ko")
    language.cache_clear()
    yield
    language.cache_clear()
    monkeypatch.setenv("HUNMIN_LANG", "en")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A Hub of this machine with one small model, and an empty cache."""
    from huggingface_hub import constants

    from tests.hubserver import HubServer, Repo

    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        server.repos["org/tiny"] = Repo(
            [{"config.json": b'{"model_type": "bert"}', "model.safetensors": b"w" * 5000, "sub/config.json": b"{}"}]
        )
        yield server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models of the pipeline tests: a folder with weights for each."""
    from safetensors.torch import save_file

    from tests.cases import weight
    from tests.pipeline_cases import MODELS

    place, golden = tmp_path_factory.mktemp("pipelines"), Path(__file__).parent / "golden" / "pipelines"
    for name in MODELS:
        shutil.copytree(golden / name, place / name)
        shapes = json.loads((place / name / "shapes.json").read_text())
        save_file({key: weight(key, shape) for key, shape in shapes.items()}, place / name / "model.safetensors", {"format": "pt"})
    return place
