"""What a run was made with: the versions, and the commit."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in names}}


def git() -> dict[str, Any]:
    def ask(*words: str) -> str:
        here = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return {"commit": ask("rev-parse", "HEAD") or None, "changed": ask("status", "--porcelain").splitlines()[:50]}
    except OSError:
        return {"commit": None, "changed": []}
