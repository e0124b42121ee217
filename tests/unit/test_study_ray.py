"""Which cell of a study goes ahead on Ray, by what its run says of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue.study_ray import is_behind, stages_begun
from kedit_glue.study_shared import ASKED, FIRST


@pytest.mark.parametrize(
    ("begun", "asked", "first"),
    [
        ([], False, False),
        (["batch_001/train"], True, False),
        (["batch_001/edit"], True, False),
        (["batch_001/train", "batch_001/merge"], True, True),
        (["batch_002/train"], True, True),
    ],
)
def test_what_a_run_has_behind_it(begun: list[str], asked: bool, first: bool) -> None:
    assert (is_behind(ASKED, begun), is_behind(FIRST, begun)) == (asked, first)


def test_stages_are_read_from_where_a_run_began(tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    assert stages_begun(events, 0) == []
    before, *lines = (
        json.dumps({"event": event, "stage": stage, "batch": batch}).encode() + b"\n"
        for event, stage, batch in [
            ("stage_started", "batch_001/merge", 1),  # of an earlier time
            ("stage_started", "base/edits", None),
            ("stage_started", "batch_001/train", 1),
            ("stage_finished", "batch_001/merge", 1),
        ]
    )
    events.write_bytes(before + b"".join(lines) + b'{"event": "stage_sta')
    assert stages_begun(events, len(before)) == ["batch_001/train"]
