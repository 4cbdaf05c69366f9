"""Compile the CPU kernels when the package is installed; without a compiler it is installed without them, and PyTorch serves."""

from __future__ import annotations

import runpy
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Kernels(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        build = runpy.run_path(str(Path(self.root) / "hunmin" / "native" / "build.py"))
        try:
            made = build["build"]()
        except (RuntimeError, OSError) as error:
            self.app.display_warning(f"The CPU kernels were not built ({error}). Hunmin works without them, more slowly.")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        build_data["artifacts"].append(str(made.relative_to(self.root)))
