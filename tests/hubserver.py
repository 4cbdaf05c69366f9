"""A small Hugging Face Hub on 127.0.0.1: enough of its protocol for downloads and uploads by huggingface_hub (without Xet)."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Repo:
    """Files of every commit of one branch, the newest last."""

    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    private: bool = False
    gated: bool = False
    branches: set[str] = field(default_factory=lambda: {"main"})

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1]

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr((len(self.commits), sorted(self.files))).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        self.server.requests.append(f"{self.command} {unquote(self.path)}")

    def send(self, status: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status: int, code: str = "", message: str = "") -> None:
        self.send(status, {"error": message or code}, X_Error_Code=code, X_Error_Message=message or code)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def repo(self, name: str, revision: str = "main") -> Repo | None:
        """The repository, or None after an error has been sent."""
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and not self.known):
            return self.fail(401 if not self.known else 404, "RepoNotFound", "Repository not found")
        if repo.gated and not self.known:
            return self.fail(401, "GatedRepo", "Access to this model is restricted")
        if revision not in repo.branches | {repo.sha}:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.server.broken:
            return self.fail(self.server.broken)
        if path == "/api/whoami-v2":
            return self.send(200, {"name": "me", "type": "user", "orgs": []}) if self.known else self.fail(401)
        if m := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            if repo := self.repo(m[1], m[2] or "main"):
                info = {"id": m[1], "sha": repo.sha, "private": repo.private, "siblings": [{"rfilename": f} for f in repo.files]}
                self.send(200, info)
            return None
        if m := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            if not (repo := self.repo(m[1], m[2])):
                return None
            if m[3] not in repo.files:
                return self.fail(404, "EntryNotFound", "Entry not found")
            data = repo.files[m[3]]
            etag = hashlib.sha256(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X_Repo_Commit": repo.sha, "X_Linked_Etag": f'"{etag}"', "X_Linked_Size": str(len(data))}
            return self.send(200, data, **headers)
        return self.fail(404)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        oid = self.path.rpartition("/")[2]
        data = self.body()
        self.server.objects[oid] = data
        self.send(200 if hashlib.sha256(data).hexdigest() == oid else 400)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        raw = self.body()
        if path == "/api/validate-yaml":
            return self.send(200, {"errors": [], "warnings": []})
        if not self.known:
            return self.fail(401, message="Invalid username or password.")
        if path == "/api/repos/create":
            wanted = json.loads(raw)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if name in self.server.repos:
                return self.send(409, {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"})
            if not name.startswith("me/"):
                return self.fail(403, message="You don't have the rights to create a model under this namespace")
            private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
            self.server.repos[name] = Repo(private=private)
            return self.send(200, {"url": f"{self.server.url}/{name}"})
        if m := re.fullmatch(r"/api/models/(.+?)/(branch|preupload|commit)/(.+)", path):
            repo = self.repo(m[1], "main" if m[2] == "branch" else m[3])
            return getattr(self, m[2])(m[1], repo, m[3], raw) if repo else None
        if m := re.fullmatch(r"/(.+?)\.git/info/lfs/objects/batch", path):
            wanted = json.loads(raw)["objects"]
            upload = [{**o, "actions": {"upload": {"href": f"{self.server.url}/lfs/{o['oid']}"}}} for o in wanted]
            return self.send(200, {"transfer": "basic", "objects": upload})
        return self.fail(404)

    def branch(self, name: str, repo: Repo, revision: str, raw: bytes) -> None:
        repo.branches.add(revision)
        self.send(200)

    def preupload(self, name: str, repo: Repo, revision: str, raw: bytes) -> None:
        def mode(path: str) -> str:
            return "lfs" if path.endswith((".safetensors", ".gguf", ".bin")) else "regular"

        paths = [file["path"] for file in json.loads(raw)["files"]]
        self.send(200, {"files": [{"path": p, "uploadMode": mode(p), "shouldIgnore": False, "oid": None} for p in paths]})

    def commit(self, name: str, repo: Repo, revision: str, raw: bytes) -> None:
        files = dict(repo.files)
        for line in map(json.loads, raw.decode().strip().splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
        repo.commits.append(files)
        answer = {"success": True, "commitOid": repo.sha, "commitUrl": f"{self.server.url}/{name}/commit/{repo.sha}"}
        if "create_pr=1" in self.path:
            answer["pullRequestUrl"] = f"{self.server.url}/{name}/discussions/1"
        self.send(200, answer)


class HubServer(ThreadingHTTPServer):
    """``with HubServer() as hub: hub.repos["org/name"] = Repo([{"config.json": b"{}"}])``; the address is ``hub.url``."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.broken = 0  # the HTTP status of every answer, if set

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()
        self.server_close()
