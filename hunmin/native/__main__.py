"""``python -m hunmin.native`` compiles the CPU kernels."""

import sys

from hunmin.native.build import build

try:
    print(build())
except RuntimeError as error:
    sys.exit(f"error: {error}")
