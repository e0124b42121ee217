"""Which recipes give the same numbers as a run that is done, and which in doubt do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import facts, job, methods, records, results
from kedit_glue.ledger import digest
from kedit_glue.recipe import Recipe, normalized
from kedit_glue.same_numbers import content_of, same_numbers

BASE: dict[str, Any] = {"name": "a", "model": "smollm2-135m", "edits": {"source": "/facts.json"}}
TASKS = {"tasks": ["copa"], "include_path": "/one/tasks"}


def made(*changes: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys, those of a section beside the section's others."""
    found = dict(BASE)
    for change in changes:
        for key, value in change.items():
            found[key] = {**found.get(key, {}), **value} if isinstance(value, dict) else value
    return found


def recipe(*changes: Mapping[str, Any]) -> Recipe:
    """As ``load_recipe`` gives it."""
    found = Recipe.model_validate(made(*changes))
    return found.model_copy(update={"train": methods.training(found)})


def ran(changes: Mapping[str, Any], lacks: str = "", **more: Any) -> dict[str, Any]:
    """``resolved.yaml`` of a run, as a version wrote it that did not have the key ``lacks``."""
    plain = normalized(recipe(changes)) | more
    *sections, key = lacks.split(".")
    section = plain
    for name in sections:
        section = section[name]
    section.pop(key, None)
    return plain


SAME: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({}, "", {}),
    ({}, "", {"name": "b", "output": "/elsewhere"}),
    ({}, "", {"verdict": {"least_locality": 0.4}}),
    ({}, "verdict.least_locality", {}),
    ({}, "", {"launch": {"ray": {"cpus": 4}}}),
    ({}, "", {"methods": {"rome": {"layers": [3]}}}),
    ({}, "train.rehearse", {}),
    ({}, "train.protect.neighbours", {}),
    ({"method": "sft"}, "train.tokens", {"method": "sft"}),
    ({"method": "locft_bf"}, "train.tokens", {"method": "locft_bf"}),
    ({"train": {"parameters": "mlp"}}, "train.tokens", {"train": {"parameters": "mlp"}}),
    ({}, "", {"edits": {"source": "/moved/facts.json"}}),
    ({"score": {"general": TASKS}}, "", {"score": {"general": {**TASKS, "include_path": "/moved/tasks"}}}),
    ({"score": {"general": {"when": "never"}}}, "", {"score": {"general": {"when": "never", **TASKS}}}),
    ({"method": "mend", "methods": {"mend": {"train_facts": "/one/f.json"}}}, "", {"method": "mend", "methods": {
        "mend": {"train_facts": "/moved/f.json"}}}),
]  # fmt: skip
OTHER: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({}, "", {"seed": 1}),
    ({}, "", {"keep": "all"}),
    ({}, "", {"threads": 1}),
    ({}, "", {"train": {"epochs": 3}}),
    ({}, "train.rehearse", {"train": {"rehearse": 4}}),
    ({"method": "rome"}, "", {"method": "rome", "methods": {"rome": {"layers": [3]}}}),
    ({}, "", {"method": "sft"}),
    ({}, "", {"edits": {"limit": 3}}),
    ({}, "", {"edits": {"source": "/other/facts.json"}}),
    ({}, "", {"model": "/moved/model"}),
    ({}, "", {"train": {"extra": {"a": 1}}}),
    ({"train": {"extra": {"a": 1}}}, "", {"train": {"extra": {"a": True}}}),
    ({"score": {"general": TASKS}}, "", {"score": {"general": {**TASKS, "include_path": None}}}),
]


def moved(path: Any, one: str, other: str) -> bool:
    return other.startswith("/moved/")


@pytest.mark.parametrize(("then", "lacks", "now"), SAME)
def test_what_no_number_depends_on(then: dict[str, Any], lacks: str, now: dict[str, Any]) -> None:
    assert same_numbers(ran(then, lacks), recipe(now), moved)


@pytest.mark.parametrize(("then", "lacks", "now"), OTHER)
def test_what_a_number_may_depend_on(then: dict[str, Any], lacks: str, now: dict[str, Any]) -> None:
    assert not same_numbers(ran(then, lacks), recipe(now), moved)


def test_a_key_that_is_no_more_may_have_meant_something() -> None:
    assert not same_numbers(ran({}, gone=1), recipe(), moved)


def test_files_are_looked_at_only_where_their_paths_differ() -> None:
    def never(*_: Any) -> bool:
        raise AssertionError

    assert same_numbers(ran({}), recipe(), never)


# -- files that lie elsewhere -------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, facts_file: Path) -> Path:
    """A run's folder with what it recorded of its facts and of a folder of tasks, ``one/tasks``."""
    for where in ("one", "two"):
        (tmp_path / where / "tasks").mkdir(parents=True)
        data = {"dataset_kwargs": {"data_files": {"test": "../data.jsonl"}}}
        (tmp_path / where / "tasks" / "t.yaml").write_text(json.dumps({"task": "t", **data}), encoding="utf-8")
        (tmp_path / where / "data.jsonl").write_text("{}\n", encoding="utf-8")
    folder = tmp_path / "run"
    for place, key, after in (("base", "k1", {}), ("batch_001", "k2", {"stage base/general": "k1"})):
        (folder / place).mkdir(parents=True)
        parts = {"tasks": digest(tmp_path / "one" / "tasks"), **after}
        record(folder / place, key, parts)
    loaded = facts.load(facts_file).edits
    document = {"facts_source": results.source("f", [job.dry_fact(asdict(edit), 0) for edit in loaded])}
    (folder / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "setup").mkdir()
    (folder / "setup" / "prepare.record.json").write_text("{}", encoding="utf-8")
    return folder


@pytest.fixture
def facts_file(tmp_path: Path) -> Path:
    file = tmp_path / "facts.json"
    file.write_text(
        json.dumps([{"prompt": "The capital of A is", "target_new": "B", "subject": "A"}]), encoding="utf-8"
    )
    return file


def record(place: Path, key: str, parts: Mapping[str, str]) -> None:
    plain = {"stage": f"{place.name}/general", "key": key, "parts": parts, "output": {}, "content": "", "beside": {}}
    records.write_record(place / "general.record.json", plain)


@pytest.mark.parametrize("old_is_gone", [False, True])
def test_facts_are_known_by_their_hash(run: Path, facts_file: Path, old_is_gone: bool) -> None:
    other = facts_file.rename(run / "f.json") if old_is_gone else run / "f.json"
    other.write_bytes((other if old_is_gone else facts_file).read_bytes())
    assert same_source(run, facts_file, other)
    text = other.read_text(encoding="utf-8")
    changed = run / "changed.json"
    changed.write_text(text.replace('"B"', '"C"'), encoding="utf-8")
    assert not same_source(run, facts_file, changed)
    assert not same_source(run, facts_file, run / "nowhere.json")


def same_source(run: Path, one: Path, other: Path) -> bool:
    now = recipe({"edits": {"source": str(other)}})
    return content_of(run, run / "scores.json", now)(("edits", "source"), str(one), str(other))


def spoil_tasks(run: Path) -> None:
    (run.parent / "two" / "tasks" / "t.yaml").write_text("task: u", encoding="utf-8")


def spoil_data(run: Path) -> None:
    (run.parent / "two" / "data.jsonl").write_text("[]\n", encoding="utf-8")


def spoil_record(run: Path) -> None:
    (run / "base" / "general.record.json").write_text("{", encoding="utf-8")


def do_base_again(run: Path) -> None:
    record(run / "base", "k3", {"tasks": digest(run.parent / "one" / "tasks")})


def do_base_otherwise(run: Path) -> None:
    record(run / "base", "k1", {"tasks": "else"})


def forget(run: Path) -> None:
    for file in run.glob("b*/general.record.json"):
        file.unlink()


def nothing(run: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("spoil", "same"),
    [
        (nothing, True),
        (spoil_tasks, False),
        (spoil_data, False),
        (spoil_record, False),
        (do_base_again, False),
        (do_base_otherwise, False),
        (forget, False),
    ],
)
def test_a_folder_is_known_by_the_hash_in_the_stages_records(
    run: Path, spoil: Callable[[Path], None], same: bool
) -> None:
    spoil(run)
    one, two = (str(run.parent / name / "tasks") for name in ("one", "two"))
    content = content_of(run, run / "scores.json", recipe())
    assert content(("score", "general", "include_path"), one, two) is same


def test_a_folder_whose_old_place_is_gone(run: Path) -> None:
    one, two = (run.parent / name / "tasks" for name in ("one", "two"))
    (one / "t.yaml").unlink()
    one.rmdir()
    content = content_of(run, run / "scores.json", recipe())
    assert content(("score", "general", "include_path"), str(one), str(two))
