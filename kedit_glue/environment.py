"""What a run stands on: tool versions, machine, device. No tool is imported to find out."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

TESTED = {
    "llamafactory": "0.9.5",
    "mergekit": "0.1.5",
    "lm-eval": "0.4.13",
    "easyeditor": "0.0.1.dev0",
    "transformers": "5.6.0",
    "torch": "2.11.0",
}
"""Versions that were seen to work together; pinned in pyproject.toml."""


def versions() -> dict[str, str]:
    """Installed version of every tool, ``missing`` where there is none."""
    found = {}
    for tool in TESTED:
        try:
            found[tool] = importlib.metadata.version(tool).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[tool] = "missing"
    return found


def has_gpu() -> bool:
    """Whether an NVIDIA driver shows a device (asked without initialising CUDA)."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and Path("/dev/nvidia0").exists()


def device(asked: str) -> str:
    """``cpu`` or ``cuda:0`` for a recipe's ``auto``, ``cpu`` or ``cuda``."""
    if asked == "cuda" or (asked == "auto" and has_gpu()):
        return "cuda:0"
    return "cpu"


def runner_mode(asked: str, chosen_device: str) -> str:
    """``auto`` is the warm server on a CPU; on a GPU each stage starts afresh, because CUDA must
    not be touched before a fork and the tools' imports are many."""
    return asked if asked != "auto" else ("warm" if chosen_device == "cpu" else "spawn")


def memory_available() -> int | None:
    """Bytes that can still be had, None where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is, or will be made."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def size(count: float) -> str:
    """Bytes for a person: ``850 bytes``, ``12.3 MB``, ``1.2 GB``."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def describe(chosen_device: str, folder: Path) -> dict[str, Any]:
    """For ``environment.json``. Holds no environment variable."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "memory_available": memory_available(),
        "device": chosen_device,
        "git": git_state(folder),
    }


def git_state(folder: Path) -> str | None:
    """Commit of the folder's checkout, with ``-dirty``; None outside one."""
    if shutil.which("git") is None:
        return None
    found = subprocess.run(
        ["git", "-C", str(folder), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None if found.returncode == 0 else None
