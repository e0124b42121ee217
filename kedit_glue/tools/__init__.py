"""One module a tool. Each is imported only in the process that runs its stage."""

from collections.abc import Callable, Mapping
from typing import Any

Emit = Callable[[Mapping[str, Any]], None]
"""How a stage tells of its progress: an event with ``event`` and what belongs to it."""
