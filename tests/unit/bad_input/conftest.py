"""What is said about bad input: every message whole, as the command line prints it.

One file for each kind of input, in the user's order: recipe, data, model, tools.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import environment, job
from kedit_glue import run as cli


@pytest.fixture
def main(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``main("--check")`` on ``try.yaml`` of the current folder; the fake tool, and tools as they were tested."""
    monkeypatch.setattr(cli, "Options", functools.partial(job.Options, python=workplace.tool.python))
    monkeypatch.setattr(environment, "versions", lambda: dict(environment.TESTED))
    return lambda *arguments: cli.main([workplace.recipe.name, *arguments])
