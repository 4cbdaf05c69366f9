"""Seconds of CPU until Hunmin is ready, beside transformers where it is installed.

    python benchmarks/startup.py [RUNS]

Each command runs in a fresh interpreter, after one run that warms the file cache. Printed is the median of user plus system time.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from importlib.util import find_spec

LIMITS = {"hunmin --help": 0.25, "from hunmin import pipeline": 0.15}
COMMAND = "import sys; from hunmin.cli import main; sys.exit(main())"  # the script that pip installs
PEER = "from transformers import pipeline"


def cpu(command: list[str], runs: int) -> float:
    """Median of the CPU seconds of ``command``; raises CalledProcessError when it fails."""
    spent: list[float] = []
    for _ in range(runs + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(spent[1:])


def main() -> int:
    """Print the table; 1 when a limit is exceeded."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    python = sys.executable
    seconds = {
        "python -c pass": cpu([python, "-c", "pass"], runs),
        "hunmin --help": cpu([python, "-c", COMMAND, "--help"], runs),
        "from hunmin import pipeline": cpu([python, "-c", "from hunmin import pipeline"], runs),
    }
    if find_spec("transformers"):
        seconds[PEER] = cpu([python, "-c", PEER], max(3, runs // 3))
    print(f"{'':34}{'CPU s':>7}  {'limit':>6}  {'transformers /':>14}")
    for name, value in seconds.items():
        limit = f"{LIMITS[name]:.2f}" if name in LIMITS else ""
        ratio = f"{seconds[PEER] / value:.0f}x" if PEER in seconds and name in LIMITS else ""
        print(f"{name:34}{value:7.3f}  {limit:>6}  {ratio:>14}")
    return int(any(seconds[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
