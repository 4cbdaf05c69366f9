"""The program that runs other people's Python in a process of its own. ``hunmin.align.code`` starts it; it imports nothing of Hunmin.

First the process gives up what it does not need: memory, time, file sizes, the network (a namespace without one where the system permits
it). Then an audit hook (PEP 578) refuses sockets, other processes, C libraries and writing outside the working folder. The hook stops what
a model writes by habit or by accident. It is no wall against an attacker: for that, run this in a container or a virtual machine.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import types
from typing import Any

_NEW_USER, _NEW_NET = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_REFUSED = {
    "os.exec", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
    "signal.pthread_kill", "subprocess.Popen", "ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function", "socket.connect", "socket.bind",
    "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "webbrowser.open",
}  # fmt: skip
_PATHS = {"os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate", "os.utime"}


def limit(memory: int, seconds: int, file_bytes: int) -> None:
    """Bytes of address space, seconds of processor time, bytes of a file. What a system does not know is left out."""
    import resource

    wanted = {"AS": memory, "CPU": seconds, "FSIZE": file_bytes, "CORE": 0, "NOFILE": 64}
    for name, value in wanted.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        most = resource.getrlimit(kind)[1]
        hard = value + (name == "CPU")  # at the soft limit a signal that says why, a second later the end
        try:
            resource.setrlimit(kind, (value, hard) if most == resource.RLIM_INFINITY else (min(value, most), min(hard, most)))
        except (ValueError, OSError):  # macOS refuses some
            continue


def leave_network() -> bool:
    """Move into a network namespace that has no interface. False where the system does not permit it."""
    try:
        import ctypes

        done = ctypes.CDLL(None, use_errno=True).unshare(_NEW_USER | _NEW_NET) == 0
        del sys.modules["ctypes"], sys.modules["_ctypes"]  # imported again it is refused
        return done
    except (OSError, AttributeError, ImportError):
        return False


def watch(folder: str) -> None:
    """Refuse, for the rest of the process, what ``_REFUSED`` names, sockets of the network, and changes outside ``folder``."""
    real, inside, join = os.path.realpath, folder + os.sep, os.fsdecode
    unix = 1  # AF_UNIX, for the socket pair of an asyncio loop

    def outside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False  # a number: a file that is open already
        name = join(path)
        return name != os.devnull and not (real(name) + os.sep).startswith(inside)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        refused = event in _REFUSED or (event == "socket.__new__" and args[1] != unix)
        if event == "open":
            refused = isinstance(args[2], int) and bool(args[2] & _WRITES) and outside(args[0])
        elif event in _PATHS:
            refused = any(outside(path) for path in args[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1])
        if refused:
            raise PermissionError(errno.EPERM, f"not allowed here: {event}")

    sys.addaudithook(hook)


def execute(source: str, tests: str) -> tuple[str, str]:
    """Run ``source``, then ``tests`` among its names. Returns what became of it, and the error."""
    module = types.ModuleType("solution")  # not __main__: what stands under `if __name__ == …` is no part of a solution
    sys.modules["solution"] = module
    for name, text in (("solution", source), ("tests", tests)):
        try:
            exec(compile(text, f"<{name}>", "exec", dont_inherit=True), module.__dict__)
        except MemoryError:
            return "memory", "MemoryError"
        except BaseException as error:  # SystemExit too: a program that leaves has passed no test
            said = traceback.format_exception_only(error)[-1].strip()
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == f"<{name}>"]
            status = "output" if isinstance(error, OSError) and error.errno == errno.EFBIG else "error" if name == "solution" else "failed"
            return status, f"{name}, line {lines[-1]}: {said}" if lines else f"{name}: {said}"
    return "passed", ""


def main() -> None:
    """Read the job from standard input, run it, and write what became of it into the file whose number is the argument."""
    answer = int(sys.argv[1])
    job = json.loads(sys.stdin.buffer.read())
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the rest of the process
    alone = leave_network()
    limit(job["memory"], job["seconds"], job["file_bytes"])
    watch(os.path.realpath(os.getcwd()))
    write, leave = os.write, os._exit
    status, error = execute(job["source"], job["tests"])
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # more than fits, or closed by the program
        status = "output" if status == "passed" else status
    write(answer, json.dumps({"token": job["token"], "status": status, "error": error[-2000:], "alone": alone}).encode())
    leave(0)


if __name__ == "__main__":
    main()
