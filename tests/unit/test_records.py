"""A stage's record and what it says of its output: what is found, and what is left unread."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import records
from kedit_glue.atomic import write_json

RECORD = {
    "stage": "batch_001/train",
    "key": "1",
    "parts": {"train.yaml": "2"},
    "inputs": {},
    "output": {"model.safetensors": (3, 4, "5")},
    "content": "6",
    "beside": {"trace.jsonl": "7"},
    "result": {"learned": 2, "not_learned": ["Łódź 💥 \u2028"], "loss": 0.1},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    records.write_record(tmp_path / "train.record.json", RECORD)
    return tmp_path / "train.record.json"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "merged"
    (folder / "sub").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "sub/more.txt"):
        (folder / name).write_text(f"text of {name}")
    return folder


# -- the record ---------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(file: Path) -> None:
    assert records.read_record(file) == {**RECORD, "output": {"model.safetensors": [3, 4, "5"]}}
    assert json.loads(file.read_text(encoding="utf-8")).items() > {"key": "1", "content": "6"}.items(), "plain JSON"
    assert records.read_record(file.with_name("none.record.json")) is None


def test_every_bit_of_a_record_counts(file: Path) -> None:
    whole = file.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        file.write_bytes(flipped)
        with pytest.raises(ValueError):
            records.read_record(file)


def test_a_record_that_was_cut_off_or_added_to_is_none(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError):
            records.read_record(file)
    for more in (b"\n", b" ", whole):
        file.write_bytes(whole + more)
        with pytest.raises(ValueError, match="its seal does not fit"):
            records.read_record(file)


def test_a_value_changed_by_hand_breaks_the_seal(file: Path) -> None:
    said = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**said, "key": "another"}, ensure_ascii=False, indent=1), encoding="utf-8")
    with pytest.raises(ValueError, match="its seal does not fit"):
        records.read_record(file)


def test_a_record_of_another_kind_is_refused(file: Path) -> None:
    records.write_record(file, {"key": "1", "parts": {}})
    with pytest.raises(ValueError, match="it lacks what a record has"):
        records.read_record(file)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "record.json"
    write_json(file, {"word": "Łódź"})
    monkeypatch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"):
        write_json(file, {"word": "new"})
    assert json.loads(file.read_text(encoding="utf-8")) == {"word": "Łódź"}


# -- an output ----------------------------------------------------------------------------------


def test_prints_name_every_file_with_size_time_and_hash(model: Path) -> None:
    sizes = {name: size for name, (size, _) in records.fingerprint(model).items()}
    assert sizes == {"config.json": 19, "model.safetensors": 25, "sub/more.txt": 20, "tokenizer.json": 22}
    found = records.prints(model)
    assert {name: list(each[:2]) for name, each in found.items()} == records.fingerprint(model)
    assert len({mark for _, _, mark in found.values()}) == 4
    assert records.prints(model / "sub" / "more.txt") == {"more.txt": found["sub/more.txt"]}


DAMAGES: list[tuple[Callable[[Path], Any], str | None, str | None]] = [
    (lambda m: (m / "config.json").unlink(), "config.json is gone", "config.json is gone"),
    (lambda m: (m / "sub" / "new").touch(), "sub/new is new", "sub/new is new"),
    (lambda m: (m / "config.json").write_text("short"), *["config.json has another size"] * 2),
    (lambda m: os.truncate(m / "sub" / "more.txt", 3), *["sub/more.txt has another size"] * 2),
    (lambda m: (m / "config.json").write_text("TEXT OF config.json"), *["config.json holds something else"] * 2),
    (lambda m: (m / "config.json").touch(), None, None),
    (lambda m: flip(m / "config.json"), None, "config.json holds something else"),
    (lambda m: None, None, None),
]


def flip(file: Path) -> None:
    at = file.stat()
    file.write_bytes(file.read_bytes().replace(b"t", b"u", 1))
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))


@pytest.mark.parametrize(("change", "found", "thorough"), DAMAGES)
def test_damage_of_a_folder(
    model: Path, change: Callable[[Path], Any], found: str | None, thorough: str | None
) -> None:
    before = records.prints(model)
    os.utime(model / "config.json", ns=(1, 1))
    before["config.json"] = (before["config.json"][0], 1, before["config.json"][2])
    change(model)
    assert records.damage(model, before) == found
    assert records.damage(model, before, thorough=True) == thorough


def test_damage_of_a_single_file_is_always_found(model: Path) -> None:
    file = model / "config.json"
    before = records.prints(file)
    assert records.damage(file, before) is None
    flip(file)
    assert records.damage(file, before) == "config.json holds something else"


def test_a_folder_with_a_file_of_its_own_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "tuned").write_text("text")
    before = records.prints(tmp_path / "tuned")
    flip(tmp_path / "tuned" / "tuned")
    assert records.damage(tmp_path / "tuned", before) is None
    assert records.damage(tmp_path / "tuned", before, thorough=True) == "tuned holds something else"


def test_nothing_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        records.damage(tmp_path / "none", {})


# -- hashes -------------------------------------------------------------------------------------


def test_a_hash_knows_values_and_their_types() -> None:
    values = [1, 1.0, True, "1", None, "null", [1], {"a": 1}, {"a": True}, "é", "e\u0301"]
    assert len({records.hashed(value) for value in values}) == len(values)
    assert records.hashed({"a": 1, "b": 2}) == records.hashed({"b": 2, "a": 1})
    assert [records.hashed(value) for value in values] == [records.hashed(value) for value in values]


def test_weights_and_configuration_are_a_models_content(model: Path) -> None:
    before = records.content(records.prints(model))
    (model / "tokenizer.json").write_text("another")
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert records.content(records.prints(model)) == before
    (model / "config.json").write_text("another")
    assert records.content(records.prints(model)) != before


def test_all_of_another_output_is_its_content(tmp_path: Path) -> None:
    file = tmp_path / "answers.json"
    file.write_text("{}")
    before = records.content(records.prints(file))
    file.touch()
    assert records.content(records.prints(file)) == before
    file.write_text("[]")
    assert records.content(records.prints(file)) != before
