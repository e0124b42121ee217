"""How much memory this process took at most."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def peak() -> int:
    """Bytes: what torch allocated at most on a GPU that it uses, else what the process held (0 where nobody says)."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status")
    # not getrusage(): a forked process starts there with what its parent held
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
