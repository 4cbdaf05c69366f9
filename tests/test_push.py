"""push_to_hub against a local server, and back through the resolver."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from hunmin.errors import SourceError
from hunmin.hub.files import resolve
from hunmin.hub.push import push_folder
from tests.hubserver import TOKEN, HubServer

# huggingface_hub uploads with an argument that its HTTP library is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4000)
    return folder


def test_what_is_pushed_comes_back(hub: HubServer, model: Path) -> None:
    url = push_folder(model, "me/tiny", private=True, token=TOKEN, commit_message="First")
    assert url == f"{hub.url}/me/tiny/commit/{hub.repos['me/tiny'].sha}"
    assert hub.messages == ["First"]
    assert hub.repos["me/tiny"].private
    source = resolve("me/tiny", token=TOKEN)
    assert source.names() == ["1_Pooling/config.json", "config.json", "model.safetensors"]
    for name in source.names():
        assert source.require(name).read_bytes() == (model / name).read_bytes()


def test_push_again_and_as_pull_request(hub: HubServer, model: Path) -> None:
    push_folder(model, "tiny", token=TOKEN)  # without a namespace: the user's own
    (model / "README.md").write_text("---\nlicense: mit\n---\nHello\n")
    push_folder(model, "me/tiny", token=TOKEN)
    push_folder(model, "me/tiny", token=TOKEN, create_pr=True)
    push_folder(model, "me/tiny", token=TOKEN, revision="v2")
    assert "README.md" in hub.repos["me/tiny"].files
    assert hub.repos["me/tiny"].branches == {"main", "v2"}


def test_no_token_and_no_rights(hub: HubServer, model: Path) -> None:
    with pytest.raises(SourceError, match=r"refuses access to me/tiny \(401\): run `hf auth login`, set HF_TOKEN"):
        push_folder(model, "me/tiny", token=False)
    with pytest.raises(SourceError, match=r"refuses access to other/tiny \(403\)"):
        push_folder(model, "other/tiny", token=TOKEN)


@pytest.mark.parametrize("repo", ["a/b/c", "a--b", ".x"])
def test_bad_names(hub: HubServer, model: Path, repo: str) -> None:
    with pytest.raises(SourceError, match="is not a Hub id"):
        push_folder(model, repo, token=TOKEN)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a folder"):
        push_folder(tmp_path / "absent", "me/tiny")


def test_unreachable_soon(hub: HubServer, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        with pytest.raises(SourceError, match=r"me/tiny cannot be reached at http://127\.0\.0\.1"):
            push_folder(model, "me/tiny", token=TOKEN)
        assert time.monotonic() - begun < 5
