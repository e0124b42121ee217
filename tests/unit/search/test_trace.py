"""A trace that is gone on from, or begun anew."""

from __future__ import annotations

from pathlib import Path

from kedit_glue.search import trace

HEAD = {"space": "ps", "inputs": "abc"}


def test_a_trace_under_the_same_head_is_gone_on_from(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    assert trace.begin(file, HEAD) == []
    trace.add(file, {"number": 1, "fitness": 0.1 + 0.2})
    trace.add(file, {"number": 2})
    with file.open("a", encoding="utf-8") as handle:
        handle.write('{"number": 3, "val')  # killed while it was written
    assert trace.begin(file, HEAD) == [{"number": 1, "fitness": 0.1 + 0.2}, {"number": 2}]
    trace.add(file, {"number": 3})
    assert trace.read(file) == (HEAD, [{"number": 1, "fitness": 0.1 + 0.2}, {"number": 2}, {"number": 3}])


def test_another_search_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    trace.begin(file, HEAD)
    trace.add(file, {"number": 1})
    assert trace.begin(file, {**HEAD, "inputs": "other"}) == []
    assert trace.read(file) == ({**HEAD, "inputs": "other"}, [])
