"""Every benchmark of running models, one table a part, in processes one after another.

    python benchmarks/all.py [--threads N] [--quick] [--text FILE]

``--text`` is the text whose perplexity accuracy.py measures, which is left out without it. Ends with the minutes that each script took; the
exit code is 1 when one failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

PARTS = ("decode", "prefill", "many", "encoders", "seq2seq", "startup", "growth", "accuracy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, help="2, or as many as this process may use")
    parser.add_argument("--quick", action="store_true", help="small counts: do they work?")
    parser.add_argument("--text", type=Path, help="a text file, plain or .gz")
    given = parser.parse_args()
    shared = (["--threads", str(given.threads)] if given.threads else []) + (["--quick"] if given.quick else [])
    taken: dict[str, str] = {}
    failed = False
    for part in PARTS:
        if part == "accuracy" and given.text is None:
            continue
        script = Path(__file__).with_name(f"{part}.py")
        print(f"\n## {part}\n", flush=True)
        start = time.perf_counter()
        code = subprocess.run(
            [sys.executable, str(script), *([str(given.text)] if part == "accuracy" else []), *shared], check=False
        ).returncode
        taken[part] = f"{part} {(time.perf_counter() - start) / 60:.1f}" + (" (failed)" if code else "")
        failed |= bool(code)
    print(f"\nminutes: {', '.join(taken.values())}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
