"""``scores.json``: what is read, what is brought from schema 1, what is refused and with which words; the pages."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import result_page
from kedit_glue.problems import CannotStart
from kedit_glue.result import ResultError, check, load
from kedit_glue.result_fields import Result
from kedit_glue.result_page import page, parts, schema, type_text

DOCS = Path(__file__).parents[2] / "docs"
SUCCESS = "edit_success.teacher_forced.token_accuracy"
LOCALITY = "locality.teacher_forced.token_agreement"
FLUENCY = "fluency.sampled.n_gram_entropy"
CHANGE = {
    "metric": "acc", "better": "higher", "before": 0.5, "after": 0.75, "items": 4, "change": 0.25,
    "change_95": [-0.24, 0.74], "noise": True, "base_95": [0.0, 1.0], "inside_base_interval": True,
}  # fmt: skip


def fact(number: int, batch: int | None) -> dict[str, Any]:
    before = {SUCCESS: 0.0, LOCALITY: {"near": 1.0}}
    after = {SUCCESS: 1.0, LOCALITY: {"near": 0.5, "far": None}}
    about = {"id": f"f{number}", "batch": batch, "prompt": f"p{number}", "target_new": "t"}
    return {**about, "before": before, "after": after}


TRAINED = {"steps": 3, "loss_before": 4.5, "loss_after": 0.05, "learned": True}
SUMMARY = {
    SUCCESS: {"mean": 1.0, "facts": 2},
    LOCALITY: {"mean": 0.5, "facts": 2, "by_kind": {"near": 0.5, "far": None}},
}
ONE = {
    "schema": 1,
    "run": "old",
    "model": "smollm2-135m",
    "edited_model": "/runs/old/model",
    "metrics": {
        SUCCESS: {"definition": "as it was", "range": "0 to 1", "better": "higher"},
        LOCALITY: {"definition": "agreement", "range": "0 to 1", "better": "higher"},
        FLUENCY: {"definition": "entropy", "range": "0 upward", "better": "as before the edit"},
    },
    "before": {"edits": {**SUMMARY, FLUENCY: {"mean": 6.0, "facts": 2}}, "general": None},
    "batches": [{"batch": 1, "facts": 2, "training": {"optimizer_steps": 7, "seconds": 1.5, "samples": 2}}],
    "after": {
        "edits": {**SUMMARY, FLUENCY: {"mean": 5.5, "facts": 2}},
        "general": {"choices": {"metrics": {"acc": 0.75, "acc_stderr": 0.2}, "items": 4}},
        "general_change": {"choices": CHANGE},
    },
    "facts": [{**fact(n, 1), **TRAINED} for n in range(2)],
    "answers": [{"id": "f0", "prompt": "p0", "target_new": "t", "before": "u", "after": "t"}],
    "seconds": {"train": 1.5, "all": 2.0},
}
TWO = {
    "schema": 2,
    "kind": "pair",
    "name": "a pair",
    "base": {"model": "a", "weights": "0123"},
    "edited": {"model": "b", "weights": None},
    "facts_source": {"name": "facts.json", "facts": 2, "hash": "4567"},
    "protocol": {
        "teacher_forced": {"scorer": "batched"},
        "generated": {"template": "bare", "most_tokens": 50, "facts": 2},
    },
    "metrics": {
        name: {**dict.fromkeys(("title", "definition", "denominator", "range", "source"), "x"), "better": "higher"}
        for name in (SUCCESS, LOCALITY)
    },
    "before": {"edits": SUMMARY, "general": None},
    "after": {"edits": SUMMARY, "general": None, "general_change": {}},
    "batches": [],
    "retention": None,
    "facts": [fact(n, None) for n in range(2)],
    "answers": [],
    "generations": "generations.jsonl",
    "seconds": {"score": 1.0, "all": 1.0},
    "made": {"kedit_glue": "0.1.0", "tools": {"transformers": "5.6.0"}, "at": "2026-11-22T08:00:00+00:00"},
}  # fmt: skip
RETENTION = {
    "metric": SUCCESS,
    "after": [1, 2],
    "matrix": [[1.0, None], [0.5, 1.0]],
    "curve": [{"age": 0, "mean": 1.0, "half_width_95": 0.0, "answers": 2}],
    "sampled": False,
}


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """``put(document)``: a file with it; text as it stands."""

    def write(document: Any, name: str = "scores.json") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = document if isinstance(document, str) else json.dumps(document)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def changed(document: dict[str, Any], place: str, value: Any = ...) -> dict[str, Any]:
    """A copy with another value at ``after.edits`` and the like; without a value the key is gone."""
    whole = copy.deepcopy(document)
    *way, last = place.split("/")
    at: Any = whole
    for part in way:
        at = at[int(part) if isinstance(at, list) else part]
    if value is ...:
        del at[last]
    else:
        at[int(last) if isinstance(at, list) else last] = value
    return whole


# -- schema 2 -----------------------------------------------------------------------------------


def test_a_pair_is_read(put: Callable[..., Path]) -> None:
    result = load(put(TWO))
    assert (result.kind, result.name, result.base.weights, result.schema_) == ("pair", "a pair", "0123", 2)
    assert result.facts[0].after[LOCALITY] == {"near": 0.5, "far": None} and result.facts[0].batch is None
    assert result.protocol.likelihood is None and result.protocol.generated is not None
    assert result.protocol.generated.most_tokens == 50 and result.protocol.generated.judge is None
    assert result.made is not None and result.made.tools == {"transformers": "5.6.0"}


def test_a_run_is_read_with_its_retention_and_what_tools_added(put: Callable[..., Path]) -> None:
    batches = [{"batch": 1, "facts": 2, "training": {"seconds": 1.0, "samples": 2}, "edited": SUMMARY}]
    document = {**TWO, "kind": "run", "batches": batches, "retention": RETENTION}
    document["facts"] = [{**fact(n, 1), **TRAINED} for n in range(2)]
    result = load(put(document))
    assert result.batches[0].training is not None and result.batches[0].training.model_extra == {"samples": 2}
    assert result.retention is not None and result.retention.matrix == [[1.0, None], [0.5, 1.0]]
    assert result.facts[1].learned is True


def test_what_may_be_absent(put: Callable[..., Path]) -> None:
    document = {k: v for k, v in TWO.items() if k not in ("retention", "generations", "made", "facts_source")}
    result = load(put(document))
    assert (result.retention, result.generations, result.made, result.facts_source) == (None,) * 4


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("name", ..., "name: field required"),
        ("kind", "thing", "kind: input should be 'run' or 'pair'"),
        ("colour", "red", "colour: extra inputs are not permitted"),
        (f"after/edits/{SUCCESS}/mean", "high", f"after.edits.{SUCCESS}.mean: input should be a valid number"),
        (f"after/edits/{SUCCESS}/facts", 1.5, f"after.edits.{SUCCESS}.facts: input should be a valid integer"),
        (f"after/edits/{SUCCESS}/half_width_95", -1.0, f"after.edits.{SUCCESS}.half_width_95: input should be greater"),
        (f"facts/1/after/{SUCCESS}", True, f"facts[1].after.{SUCCESS}: input should be a valid number"),
        (f"facts/1/after/{LOCALITY}/near", "?", f"facts[1].after.{LOCALITY}.near: input should be a valid number"),
        ("facts/0/batch", 0, "facts[0].batch: input should be greater than or equal to 1"),
        ("facts/1/id", "f0", "several facts have the id f0"),
        ("protocol/teacher_forced/scorer", "mine", "protocol.teacher_forced.scorer: input should be 'batched' or"),
        ("protocol/mine", {}, "protocol.mine: extra inputs are not permitted"),
        (f"metrics/{SUCCESS}", ..., f"metrics says nothing of {SUCCESS}"),
        (f"metrics/{SUCCESS}/better", "more", f"metrics.{SUCCESS}.better: input should be 'higher', 'lower' or"),
        ("metrics/success", {}, "'success' is no metric's name: aspect.protocol.measure"),
        ("batches", [{"batch": 1, "facts": 2}], "a pair has no batches"),
    ],
)  # fmt: skip
def test_a_flaw_is_named_where_it_stands(put: Callable[..., Path], place: str, value: Any, message: str) -> None:
    document = changed(TWO, place, value)
    with pytest.raises(ResultError) as caught:
        check(document)
    assert str(caught.value).startswith("scores that are not as kedit_glue/result_fields.py says: ")
    assert message in str(caught.value)
    file = put(document)
    with pytest.raises(ResultError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file} is damaged, or was changed by hand: ")
    assert message in str(caught.value) and "score the models again" in str(caught.value)


def test_nan_is_refused(put: Callable[..., Path]) -> None:
    with pytest.raises(ResultError, match="mean: input should be a finite number"):
        load(put(changed(TWO, f"after/edits/{SUCCESS}/mean", float("nan"))))


def test_many_flaws_are_counted(put: Callable[..., Path]) -> None:
    document = {**TWO, "facts": [{**fact(n, None), "prompt": 3} for n in range(9)]}
    with pytest.raises(ResultError, match=r"facts\[4\]\.prompt: input should be a valid string; and 4 more"):
        check(document)


def test_what_is_sound_passes() -> None:
    check(TWO)


# -- schema 1 -----------------------------------------------------------------------------------


def test_schema_1_is_brought_to_2(put: Callable[..., Path]) -> None:
    result = load(put(ONE))
    assert (result.schema_, result.kind, result.name) == (2, "run", "old")
    assert (result.base.model, result.base.weights, result.edited.model) == ("smollm2-135m", None, "/runs/old/model")
    assert result.protocol.teacher_forced is not None and result.protocol.teacher_forced.scorer == "easyedit"
    assert result.protocol.sampled is not None and result.protocol.sampled.facts == 2
    assert result.protocol.generated is None and result.facts_source is None and result.made is None
    success = result.metrics[SUCCESS]
    assert (success.definition, success.title) == ("as it was", "edit success") and "facts" in success.denominator
    assert result.metrics[FLUENCY].better == "as before"
    assert [f.batch for f in result.facts] == [1, 1] and result.batches[0].batch == 1
    assert result.after.general_change["choices"].change_95 == (-0.24, 0.74)


def test_the_first_files_counted_batches_from_0(put: Callable[..., Path]) -> None:
    document = changed(ONE, "batches", [{"batch": 0, "facts": 1}, {"batch": 1, "facts": 1}])
    document["facts"] = [{**fact(n, n), **TRAINED} for n in range(2)]
    result = load(put(document))
    assert [b.batch for b in result.batches] == [1, 2] and [f.batch for f in result.facts] == [1, 2]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("edited_model", ..., "has schema 1 and cannot be brought to 2: it lacks 'edited_model'; run the recipe again"),
        ("metrics", [], "has schema 1 and cannot be brought to 2: 'list' object has no attribute 'items'"),
        ("facts/0/prompt", ..., "is damaged, or was changed by hand: facts[0].prompt: field required"),
    ],
)
def test_a_damaged_schema_1(put: Callable[..., Path], place: str, value: Any, message: str) -> None:
    with pytest.raises(ResultError) as caught:
        load(put(changed(ONE, place, value)))
    assert message in str(caught.value)


# -- what is no result --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({**TWO, "schema": 3}, "was written by a newer kedit_glue: its schema is 3, this one reads 1 to 2; update"),
        ({**TWO, "schema": 0}, "has schema 0, which no kedit_glue wrote"),
        ({**TWO, "schema": "2"}, "is not a result of kedit_glue: its schema is '2', not a whole number"),
        ({**TWO, "schema": True}, "is not a result of kedit_glue: its schema is True, not a whole number"),
        ({"facts": [], "after": {}}, "is not a result of kedit_glue: it has no schema"),
        ({"schema": 1, "study": "s", "cells": []}, "it is a study's table; compare the study's runs"),
        ({"schema": 1, "batches": []}, "is not a result of kedit_glue: it has no after and no facts"),
        ([], "is not a result of kedit_glue: it holds a list"),
        ("", "is damaged, or no JSON (Expecting value: line 1 column 1 (char 0)): run the recipe again"),
        (json.dumps(TWO)[:500], "is damaged, or no JSON ("),
        ("[" * 100_000, "is damaged, or no JSON ("),
    ],
)
def test_what_is_no_result_is_said_why(put: Callable[..., Path], document: Any, message: str) -> None:
    file = put(document)
    with pytest.raises(ResultError) as caught:
        load(file)
    assert str(caught.value).startswith(f"{file} ") and message in str(caught.value)


def test_a_result_error_is_the_users(put: Callable[..., Path]) -> None:
    assert issubclass(ResultError, CannotStart) and issubclass(ResultError, ValueError)


def test_folders(put: Callable[..., Path], tmp_path: Path) -> None:
    put(TWO, "run/scores.json")
    assert load(tmp_path / "run").name == load(str(tmp_path / "run")).name == "a pair"
    put(TWO, "model/provenance/scores.json")
    assert load(tmp_path / "model").name == "a pair"
    with pytest.raises(ResultError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path} holds no scores.json; in it are the results run"
    with pytest.raises(ResultError) as caught:
        load(tmp_path / "nope")
    assert str(caught.value) == f"{tmp_path / 'nope'}: no such file or folder"
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "resolved.yaml").write_text("")
    with pytest.raises(ResultError, match="the run has not come to its end: start it again"):
        load(tmp_path / "begun")


# -- the pages ----------------------------------------------------------------------------------


def test_the_json_schema_in_docs_is_up_to_date() -> None:
    assert json.loads((DOCS / "scores.schema.json").read_text(encoding="utf-8")) == schema(), (
        "python -m kedit_glue.result --schema > docs/scores.schema.json"
    )


def test_the_page_in_docs_is_up_to_date() -> None:
    assert (DOCS / "scores.md").read_text(encoding="utf-8") == page(), (
        "python -m kedit_glue.result --fields > docs/scores.md"
    )


def test_every_field_is_explained_and_null_has_a_reason() -> None:
    for model in parts(Result):
        assert model.__doc__, model
        for name, field in model.model_fields.items():
            about = field.description or ""
            assert about, (model, name)
            if "null" in type_text(field.annotation).split(" or "):
                assert "null" in about or "absent" in about, (model.__name__, name)


def test_the_json_schema_knows_what_the_models_know() -> None:
    found = schema()
    assert found["additionalProperties"] is False and found["properties"]["schema"]["const"] == 2
    assert found["$defs"]["Training"]["additionalProperties"] is True
    assert set(found["required"]) >= {"schema", "name", "metrics", "facts"} and "made" not in found["required"]


def test_the_command(put: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    file = put(ONE)
    assert result_page.main([str(file)]) == 0
    said = capsys.readouterr().out
    assert said == f"{file}: schema 1, run old, 2 facts, {SUCCESS}, {LOCALITY}, {FLUENCY}\n"
    assert result_page.main([str(put("{}"))]) == 2
    assert "it has no schema" in capsys.readouterr().err
    assert result_page.main(["--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
    assert result_page.main(["--fields"]) == 0
    assert capsys.readouterr().out == page()
    with pytest.raises(SystemExit) as ended:
        result_page.main(["--schema", "--fields"])
    assert ended.value.code == 2
