"""Python that a model wrote, run with its tests in a process of its own: never in this one.

A run has limits of time, memory and output, a folder of its own that is removed after it, no network and no other programs; the whole
process group ends with it (``hunmin.align.jail`` says what that holds off, and what not).
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hunmin.align.formats import as_text
from hunmin.errors import InputError, say

Status = Literal["passed", "failed", "error", "timeout", "memory", "output", "crashed"]
JAIL = Path(__file__).with_name("jail.py")


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    ``status``: "passed" (source and tests ran to their end), "failed" (in the tests), "error" (before them), "timeout", "memory",
    "output" (too much), or "crashed" (the process ended by itself or by a signal). ``error`` says which line and why.
    """

    status: Status
    error: str = ""
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run_code(source: str, tests: str = "", *, timeout: float = 5.0, memory_mb: int = 512, output_kb: int = 256) -> Outcome:
    """Run ``source`` and then ``tests`` among its names, in a sandboxed process without third-party packages.

    Args:
        timeout: seconds of the clock, and about as many of the processor.
        memory_mb: MiB of address space; Python itself takes some 30.
        output_kb: KiB of standard output, of errors, and of every file that the program writes.

    Raises InputError on systems without resource limits (Windows).
    """
    if os.name != "posix":
        raise InputError(
            say("Running code needs resource limits: Linux or macOS.", "코드를 실행하려면 자원 제한이 되는 Linux나 macOS가 필요합니다.")
        )
    with tempfile.TemporaryDirectory(prefix="hunmin-code-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        token = secrets.token_hex(16)  # a program that leaves early, or prints what looks like an answer, has not passed
        limits = {"memory": memory_mb << 20, "seconds": int(timeout) + 1, "file_bytes": output_kb << 10}
        (folder / "job").write_text(json.dumps({"source": source, "tests": tests, "token": token, **limits}), encoding="utf-8")
        (folder / "work").mkdir()
        begun = time.perf_counter()
        answer, ended = _spawn(folder, timeout)
        spent = time.perf_counter() - begun
        said = {stream: _start_of(folder / stream, output_kb << 10) for stream in ("stdout", "stderr")}
    if answer.get("token") == token:
        return Outcome(answer["status"], str(answer["error"]), **said, seconds=spent)
    if ended is None or ended == -signal.SIGXCPU:
        return Outcome("timeout", say(f"not done after {timeout:g} s", f"{timeout:g}초 안에 끝나지 않음"), **said, seconds=spent)
    if "MemoryError" in said["stderr"]:
        return Outcome("memory", "MemoryError", **said, seconds=spent)
    return Outcome("crashed", say(f"ended with {ended} before its tests", f"테스트 전에 {ended}(으)로 끝남"), **said, seconds=spent)


def _spawn(folder: Path, timeout: float) -> tuple[dict[str, Any], int | None]:
    """Run the jail on ``folder/job``. Returns its answer, if any, and how it ended; None when it ran out of time."""
    command = [sys.executable, "-s", "-P", "-S", str(JAIL)]
    environment = {
        "PATH": os.defpath, "HOME": str(folder / "work"), "TMPDIR": str(folder / "work"), "LANG": "C.UTF-8", "PYTHONUTF8": "1",
        "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    reader, writer = os.pipe()
    try:
        with (folder / "job").open("rb") as job, (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            try:
                process = subprocess.Popen(
                    [*command, str(writer)], stdin=job, stdout=out, stderr=err, cwd=folder / "work", env=environment,
                    start_new_session=True, pass_fds=(writer,),
                )  # fmt: skip
            finally:
                os.close(writer)
        try:
            answer, in_time = _read(reader, time.monotonic() + timeout)
        finally:
            # The process is not waited for yet, so its group cannot be another's. What it started, and what still runs, ends here.
            os.killpg(process.pid, signal.SIGKILL)
            ended = process.wait()
    finally:
        os.close(reader)
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    return (found if isinstance(found, dict) else {}), (ended if in_time else None)


def _read(reader: int, deadline: float) -> tuple[bytes, bool]:
    """What is written until all writers are gone; False when the deadline comes first, or far too much is written."""
    data = b""
    while (left := deadline - time.monotonic()) > 0 and len(data) < 1 << 16:
        if select.select([reader], [], [], left)[0]:
            block = os.read(reader, 1 << 14)
            if not block:
                return data, True
            data += block
    return data, False


def _start_of(path: Path, most: int) -> str:
    with path.open("rb") as file:
        return file.read(most).decode("utf-8", errors="replace")


def run_many(programs: Iterable[tuple[str, str]], *, workers: int | None = None, **limits: Any) -> list[Outcome]:
    """:func:`run_code` for pairs of source and tests, ``workers`` (the processors) at a time; ``limits`` as there."""
    pairs = list(programs)
    with ThreadPoolExecutor(max(1, min(workers or os.cpu_count() or 1, len(pairs) or 1))) as pool:
        return list(pool.map(lambda item: run_code(*item, **limits), pairs))


# ---------------------------------------------------------------- from an answer to a program

_FENCE = re.compile(r"```[ \t]*(?:python|py|python3)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


def extract_code(answer: str) -> str:
    """The Python of an answer: its first fenced block, or all of it, up to the last line with which it can be parsed."""
    found = _FENCE.search(answer)
    return parsed_part(found[1] if found else answer)


def parsed_part(text: str) -> str:
    """``text`` without lines at its end that make it no Python; as it is where no part can be parsed."""
    lines = text.splitlines()
    for end in range(len(lines), 0, -1):
        part = "\n".join(lines[:end]) + "\n"
        if part.strip() and _parses(part):
            return part
    return text


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def program(prompt: Any, answer: Any) -> str:
    """The program of an answer: its code where this defines something, else what ``prompt`` began and the answer goes on with."""
    asked, said = as_text(prompt), as_text(answer)
    code = extract_code(said)
    defines = _parses(code) and any(
        isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.parse(code).body
    )
    if defines:
        return code
    whole = parsed_part(asked + said)
    return whole if _parses(whole) and len(whole) > len(asked) else code


def row_tests(row: Mapping[str, Any]) -> str:
    """The tests of a row of HumanEval (``test``, ``entry_point``), MBPP (``test_list``, ``test_setup_code``) or one with ``tests``.

    Raises InputError for a row without tests.
    """
    if isinstance(row.get("test"), str) and row.get("entry_point"):
        return f"{row['test']}\n\ncheck({row['entry_point']})\n"
    if row.get("test_list"):
        return "\n".join([str(row.get("test_setup_code") or ""), *map(str, row["test_list"])]) + "\n"
    if isinstance(row.get("tests"), str):
        return str(row["tests"])
    listed = ", ".join(map(str, row))
    raise InputError(
        say(f"A row with tests has test and entry_point, test_list, or tests; this one has {listed}.",
            f"테스트가 있는 행에는 test와 entry_point, test_list, tests 가운데 하나가 있습니다. 이 행에 있는 것: {listed}.")
    )  # fmt: skip


def pass_reward(prompts: Sequence[Any], completions: Sequence[Any], tests: Sequence[str], **columns: Any) -> list[float]:
    """A reward function: 1 where the program of a completion passes its tests, else 0. ``tests`` is a column of the data."""
    outcomes = run_many((program(prompt, answer), test) for prompt, answer, test in zip(prompts, completions, tests, strict=True))
    return [float(outcome.passed) for outcome in outcomes]
