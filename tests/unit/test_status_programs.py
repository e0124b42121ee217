"""``kedit_glue.status`` for programs, for long runs, and where there is no run."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import status, status_document
from kedit_glue.runner import StageFailed
from kedit_glue.status_report import terminal

Go = Callable[..., list[str]]
Show = Callable[..., tuple[int, str]]


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([str(tmp_path / "nope")], [str(tmp_path / "nope"), "--json"], [str(tmp_path)]):
        assert status.main(arguments) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(arguments[0]) and "Traceback" not in err


def test_help_states_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        status.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes: 0 everything is done, 3 something is to be done" in out and "watch -n 5 python" in out


# -- for programs -------------------------------------------------------------------------------


def test_json_is_what_its_schema_says(workplace: Any, go: Go, show: Show) -> None:
    workplace.tool.behave({"batch_002/merge": "exit_3"})
    with pytest.raises(StageFailed):
        go()
    file = workplace.run_folder / "batch_001" / "merge.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("weight: 0.7", "weight: 0.6"), encoding="utf-8")
    code, out = show("--json")
    assert code == 3
    document = json.loads(out)  # nothing else on stdout
    schema = status_document.__doc__ or ""
    parts = [document, document["original"], document["batches"][0]["stages"][0], document["edited"][0]]
    for key in [key for part in [*parts, document["recipe"], document["totals"]] for key in part]:
        assert re.search(rf"\b{key}\b", schema), key
    assert document["schema"] == 1 and document["process"] is None and document["now"] is None
    first, second = document["batches"][0]["stages"][:2]
    assert first == {
        "stage": "batch_001/train",
        "kind": "train",
        "state": "done",
        "reason": None,
        "edited": [],
        "seconds": first["seconds"],
        "finished": first["finished"],
        "log": str(workplace.run_folder / "batch_001" / "train.log"),
        "last_lines": [],
    }
    assert isinstance(first["seconds"], float) and time.strptime(first["finished"], "%Y-%m-%dT%H:%M:%S%z")
    assert (second["state"], second["reason"], second["edited"]) == ("stale", "changed: merge.yaml", ["merge.yaml"])
    own = [entry["bytes"]["own"] for entry in [document["original"], *document["batches"]]]
    assert all(isinstance(count, int) and count > 0 for count in own)
    assert sum(own) < document["totals"]["bytes"]
    assert document["edited"][0]["file"] == "batch_001/merge.yaml"
    assert document["command"] == "python -m kedit_glue.run try.yaml"


# -- long runs ----------------------------------------------------------------------------------


def test_a_long_run_shows_its_ends(workplace: Any, go: Go) -> None:
    go()
    document = status_document.status(workplace.run_folder)
    done = document["batches"][0]

    def batch(number: int, state: str, reason: str | None) -> dict[str, Any]:
        stages = [{**s, "stage": f"{number}/{s['kind']}", "state": state, "reason": reason} for s in done["stages"]]
        return {**done, "batch": number, "done": reason is None, "stages": stages}

    batches = [batch(n, "done", None) if n <= 600 else batch(n, "waiting", "not done yet") for n in range(1, 1001)]
    batches[99] = batch(100, "stale", "why")
    document |= {"batches": batches, "complete": False, "to_do": True}

    def shown(everything: bool) -> tuple[list[str], list[str]]:
        parts = terminal(document, everything)
        grid = next(part for part in parts if hasattr(part, "columns"))
        lines = [str(part) for part in parts if part is not grid]
        return [str(cell) for cell in grid.columns[0].cells], lines

    numbers, lines = shown(False)
    assert numbers == ["original", "…", "100", "…", *map(str, range(589, 612))]
    assert "976 of 1000 batches left out: --all" in lines
    listed = lines[lines.index("to be done: 1203 stages") + 1 :]
    assert [line.split() for line in listed[:4]] == [
        ["100/train", "stale", "why"],
        ["100/merge", "stale", "why"],
        ["100/score", "stale", "why"],
        ["601/train", "waiting"],
    ]
    assert listed[12] == "  and 1191 more: --all"
    numbers, lines = shown(True)
    assert numbers == ["original", *map(str, range(1, 1001))]
    assert not any("--all" in line for line in lines)
