"""How many Ray workers a search starts."""

from __future__ import annotations

import pytest

from kedit_glue.tools.search_workers import fitting


@pytest.mark.parametrize(
    ("asked", "free", "gpus", "started"),
    [
        (2, {"CPU": 2.0}, 0, 2),
        (4, {"CPU": 2.0}, 0, 2),
        (4, {"CPU": 16.0}, 0, 4),
        (4, {"CPU": 16.0, "GPU": 1.0}, 1, 1),
        (4, {"CPU": 16.0, "GPU": 8.0}, 1, 4),
        (4, {"CPU": 0.5}, 0, 1),
        (4, {}, 0, 1),
    ],
)
def test_no_more_than_find_a_place(asked: int, free: dict[str, float], gpus: int, started: int) -> None:
    """A worker that finds none would be waited for as long as the others keep theirs, which is to the end."""
    assert fitting(asked, free, gpus) == started
