"""``python -m kedit_glue.compare``: what is read, refused, printed and written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import compare
from kedit_glue.metrics import SUCCESS, described


def result(name: str, values: list[float]) -> dict[str, Any]:
    """Edit success of facts f0, f1 …, and a task of lm-eval."""
    acc = {"metric": "acc", "better": "higher", "before": 0.5, "after": 0.5, "items": 4}
    summary = {SUCCESS: {"mean": sum(values) / len(values), "facts": len(values)}}
    return {
        "schema": 2, "kind": "pair", "name": name, "base": {"model": "m", "weights": None},
        "edited": {"model": name, "weights": None}, "protocol": {"teacher_forced": {"scorer": "batched"}},
        "metrics": described([SUCCESS]), "before": {"edits": {}, "general": None},
        "after": {"edits": summary, "general": None, "general_change": {"t": acc}},
        "batches": [], "answers": [], "seconds": {},
        "facts": [
            {"id": f"f{n}", "batch": None, "prompt": "p", "target_new": "t", "before": {}, "after": {SUCCESS: value}}
            for n, value in enumerate(values)
        ],
    }  # fmt: skip


A, B = result("a", [1.0, 0.5]), result("b", [1.0, 0.5])


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``put(folder=document)``: a run's folder with it, in the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(**documents: dict[str, Any]) -> None:
        for folder, one in documents.items():
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "scores.json").write_text(json.dumps(one), encoding="utf-8")

    return write


Capture = pytest.CaptureFixture[str]


def test_side_by_side(put: Callable[..., None], capsys: Capture) -> None:
    put(one=A, two=B)
    assert compare.main(["one", "two/scores.json", "--facts"]) == 0
    out = capsys.readouterr().out
    assert "75.0*" in out and "(original)" in out and "No fact has another score" in out


def test_names_that_are_the_same_are_told_apart_by_folders(put: Callable[..., None], capsys: Capture) -> None:
    put(one=A, two=A, three=result("c", [1.0, 0.5]))
    assert compare.main(["one", "two/scores.json", "three", "--format", "csv", "--baseline", "two/scores.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[1::2]] == ["a (one)", "a (two)", "c"]
    assert ",a (two)," in lines[1]
    assert compare.main(["one", "./one/scores.json"]) == 2
    assert capsys.readouterr().err == "the same result was given twice: one and one/scores.json\n"


def test_refused_unless_told(put: Callable[..., None], capsys: Capture) -> None:
    put(one=result("a", [0.0, 0.5, 1.0]), two=result("b", [1.0, 1.0]))
    assert compare.main(["one", "two"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err == (
        "these results are not comparable as they are:\n"
        "  items: 3 facts (a); 2 facts (b); 2 in common\n"
        "--anyway compares them over the 2 facts that all have, and says so; --metrics leaves columns out\n"
    )
    assert compare.main(["one", "two", "--anyway", "--to", "made/table.md"]) == 0
    assert capsys.readouterr().err.endswith("written: made/table.md\n")
    text = Path("made/table.md").read_text(encoding="utf-8")
    assert "| a | 25.0 |" in text and "| b | **100.0** |" in text  # without a's third fact
    assert "NOT THE SAME, compared all the same over the 2 facts that all have: items: 3 facts (a)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one"], "there is one result, a: give two or more to compare\n"),
        (["one", "nope"], "nope: no such file or folder\n"),
        (["one", "two", "--baseline", "c"], "--baseline c: none of the results; they are: a, b\n"),
        (["one", "two", "--metrics", "zzz"], f"no result has the metric zzz\n  known: {SUCCESS}, general.t\n"),
        (["one", "else"], "the results have no fact in common:\n  items: 2 facts (a); 2 facts (e); 0 in common\n"),
        (["one", "else", "--anyway"], "the results have no fact in common:\n  items: 2 facts (a); 2 facts (e); 0 in"),
        (["one", "two", "--to", "one"], "one is a folder: give --to a file in it\n"),
        (["one", "two", "--to", "one/scores.json/t.md"], "one/scores.json is no folder: give --to another place\n"),
        (["one", "new"], "new/scores.json was written by a newer kedit_glue: its schema is 3, this one reads 1 to 2"),
    ],
)
def test_refusals(put: Callable[..., None], capsys: Capture, arguments: list[str], message: str) -> None:
    other = [{**fact, "id": f"g{n}"} for n, fact in enumerate(A["facts"])]
    put(one=A, two=B, new={**A, "schema": 3}, **{"else": {**A, "name": "e", "facts": other}})
    assert compare.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(message)


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (["--to", "t.tex"], "% needs \\usepackage{booktabs,graphicx,longtable}"),
        (["--to", "t.csv"], "result,protocol,metric"),
        (["--to", "t.txt"], "\nteacher-forced: "),
        (["--to", "t.txt", "--format", "markdown"], "**Teacher-forced: "),
    ],
)
def test_the_ending_of_a_file_says_the_format(put: Callable[..., None], arguments: list[str], beginning: str) -> None:
    put(one=A, two=B)
    assert compare.main(["one", "two", *arguments]) == 0
    assert Path(arguments[1]).read_text(encoding="utf-8").startswith(beginning)


def test_help_has_examples_and_exit_codes(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        compare.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes: 0 done, 2 a result that cannot be read" in out and "--metrics generated locality" in out


def test_no_torch_is_needed() -> None:
    code = "import sys, kedit_glue.compare, kedit_glue.result_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_facts_that_chose_a_merge_are_not_compared(
    put: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {"number": 1, "fitness": 0.5, "parts": {"locality": 0.5}}
    merge = {
        "batch": 1, "space": "ps", "by": "cma_es", "numbers": 1, "evaluations": 1, "failed": 0, "best": chosen,
        "first": chosen, "front": [], "candidates": [{"fitness": 0.5, "parts": {"locality": 0.5}}], "seconds": 1.0,
        "seconds_a_candidate": 1.0, "facts": ["f0"], "texts": [],
    }  # fmt: skip
    search = {"merges": [merge], "facts": ["f0"], "before": {}, "after": {}}
    put(a={**result("a", [1.0, 0.5]), "search": search}, b=result("b", [1.0, 0.5]))
    assert compare.main(["a", "b", "--anyway", "--format", "csv"]) == 0
    said = capsys.readouterr().out
    assert "0.5" in said and "0.75" not in said, "one fact of two is left"
