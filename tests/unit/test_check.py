"""The look before a run starts: what stops it, with the remedy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import check, environment
from kedit_glue.check import Finding, check_model, check_room, check_versions, model_bytes
from kedit_glue.plan import Plan
from kedit_glue.recipe import Recipe

GB = 10**9
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


def weights(size: int) -> bytes:
    """A safetensors file of one number, so many bytes long."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(size - 12)
    return len(head).to_bytes(8, "little") + head + bytes(4)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model folder, 1 kB of weights."""
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "model.safetensors").write_bytes(weights(1000))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def problems(folder: Path) -> list[str]:
    found = check_model(folder)
    assert {f.what for f in found} == {"model"}
    return [f.detail for f in found if f.level == "fail"]


# -- versions -----------------------------------------------------------------------------------


def test_versions_that_were_tested() -> None:
    assert check_versions(environment.TESTED) == [Finding("ok", t, v) for t, v in environment.TESTED.items()]


@pytest.mark.parametrize(
    ("found", "level", "detail"),
    [
        ({"mergekit": "0.1.4"}, "warn", "0.1.4 is installed; 0.1.5 is what was tested here"),
        ({"mergekit": "missing"}, "fail", "not installed; install it with: uv sync, or: pip install mergekit==0.1.5"),
    ],
)
def test_another_version_is_a_warning_and_none_a_failure(found: dict[str, str], level: str, detail: str) -> None:
    findings = {f.what: f for f in check_versions({**environment.TESTED, **found})}
    assert findings["mergekit"] == Finding(level, "mergekit", detail)
    assert {f.level for name, f in findings.items() if name != "mergekit"} == {"ok"}


def test_a_tool_that_nobody_looked_for_is_missing() -> None:
    assert {f.level for f in check_versions({})} == {"fail"}


def test_a_finding_in_print() -> None:
    assert str(Finding("ok", "disk", "plenty")) == "ok      disk: plenty"
    assert str(Finding("skipped", "disk", "plenty")) == "skipped disk: plenty"


# -- the model ----------------------------------------------------------------------------------


def test_a_whole_model(model: Path) -> None:
    assert check_model(model) == [Finding("ok", "model", f"llama in {model}")]


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    assert check_model(tmp_path) == [
        Finding("fail", "model", f"{tmp_path} holds no config.json: it is not a model that transformers loads")
    ]


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_a_configuration_that_cannot_be_read(model: Path, text: str) -> None:
    (model / "config.json").write_text(text)
    (found,) = problems(model)
    assert found.startswith(str(model / "config.json")) and found.endswith(": fetch the model again")


@pytest.mark.parametrize(
    ("architectures", "shown"),
    [(["BertModel"], "['BertModel']"), (["T5ForConditionalGeneration"], None), ([], "[]"), (None, "[]"), ("x", "[]")],
)
def test_a_model_that_is_not_causal(model: Path, architectures: Any, shown: str | None) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": architectures}))
    assert problems(model) == [
        f"its architecture is {shown or architectures}: only causal language models can be edited; name another"
    ]


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM"])
def test_causal_models_by_their_names(model: Path, name: str) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": [name]}))
    assert problems(model) == []


def test_shards_that_are_missing_are_named(model: Path) -> None:
    (model / "model.safetensors").rename(model / "model-00001-of-00003.safetensors")
    shards = [f"model-0000{n}-of-00003.safetensors" for n in (3, 1, 2)]
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shards[1], "v": shards[0], "u": shards[2]}}))
    assert problems(model) == [
        f"its index names shards that are not there: {shards[2]}, {shards[0]}; fetch the model again"
    ]
    for shard in shards:
        (model / shard).write_bytes(weights(1000))
    assert problems(model) == [f"its index says that {shards[0]} holds v, and it does not: fetch the model again"]
    index.write_text(json.dumps({"weight_map": {"w": shards[1]}}))
    assert problems(model) == []


def test_weights_that_are_cut_off(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(weights(1000)[:-1])
    assert problems(model) == [f"{file} is cut off, 999 of 1,000 bytes are there: fetch the model again"]
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert problems(model) == [f"{file} is no safetensors file: it is a pointer: git lfs pull"]


@pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": []}'])
def test_an_index_that_cannot_be_read(model: Path, text: str) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text(text)
    assert problems(model) == [f"{index} cannot be read: fetch the model again"]


def test_weights_in_another_format(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert problems(model) == [f"{model} holds no .safetensors; load and save it once with transformers"]


def test_a_model_without_a_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    names = "tokenizer.json, tokenizer.model, vocab.json"
    assert problems(model) == [f"{model} holds no tokenizer ({names}); fetch it as well"]
    (model / "tokenizer.model").touch()
    assert problems(model) == []


def test_everything_that_is_wrong_is_said_at_once(model: Path) -> None:
    for name in ("model.safetensors", "tokenizer.json"):
        (model / name).unlink()
    (model / "config.json").write_text("{}")
    assert len(problems(model)) == 3


def test_size_is_that_of_the_weights(model: Path) -> None:
    (model / "model-2.safetensors").write_bytes(bytes(500))
    assert model_bytes(model) == 1500


# -- room ---------------------------------------------------------------------------------------


class Room:
    """A model of 1 GB, a plan, and as much disk and memory as a test wants."""

    def __init__(self, patch: pytest.MonkeyPatch, plan: Plan, recipe: Recipe, folder: Path):
        self.patch, self.plan, self.recipe, self.folder = patch, plan, recipe, folder
        patch.setattr("kedit_glue.check.model_bytes", lambda folder: GB)
        self.memory(100 * GB)
        self.disk(100 * GB)

    def disk(self, free: int) -> None:
        self.patch.setattr(environment, "disk_free", lambda path: free)

    def memory(self, available: int | None) -> None:
        self.patch.setattr(environment, "memory_available", lambda: available)

    def look(self, device: str = "cpu") -> dict[str, Finding]:
        return {f.what: f for f in check_room(self.recipe, self.plan, Path("m"), self.folder, device)}


@pytest.fixture
def room(
    monkeypatch: pytest.MonkeyPatch,
    plan_of: Callable[..., Plan],
    recipe_of: Callable[..., Recipe],
    tmp_path: Path,
) -> Callable[..., Room]:
    def make(batches: int = 10, keep: str = "all", more: str = "", **place: Any) -> Room:
        plan = plan_of(more, facts=2 * batches, **place)
        return Room(monkeypatch, plan, recipe_of(f"{more}\nkeep: {keep}"), tmp_path / "run")

    return make


def test_enough_room(room: Callable[..., Room]) -> None:
    found = room().look()
    assert found["disk"].level == found["memory"].level == "ok"
    assert found["disk"].detail.startswith("about 21.0 GB for 20 models of 1.0 GB in ")
    assert found["disk"].detail.endswith("100.0 GB free")


@pytest.mark.parametrize(
    ("more", "models"),
    [
        ("merge: {when: end}", 4),
        ("train: {from: base}\nmerge: {when: end}", 4),
        ("merge: {protect: {energy: 0.5}}", 9),  # merged, and once more without what general text uses
        ("merge: {regmean: {tokens: 100}}", 9),
    ],
)
def test_every_stage_that_leaves_a_model_is_counted(room: Callable[..., Room], more: str, models: int) -> None:
    assert room(3, more=more).look()["disk"].detail.startswith(f"about {models + 1}.0 GB for {models} models")


def test_too_small_a_disk_stops_the_run_with_a_remedy(room: Callable[..., Room]) -> None:
    every = room(10, "all")
    every.disk(20 * GB)
    assert every.look()["disk"].level == "fail"
    assert every.look()["disk"].detail.endswith("20.0 GB free; keep: last needs less")

    last = room(10, "last")
    last.disk(20 * GB)
    assert last.look()["disk"].level == "ok"
    last.disk(4 * GB)
    assert last.look()["disk"].level == "fail"
    assert last.look()["disk"].detail.endswith("; make room, or set output: to a folder on another disk")


def test_keep_last_is_no_remedy_where_it_does_not_help(room: Callable[..., Room]) -> None:
    short = room(2, "all")
    short.disk(GB)
    assert "keep: last" not in short.look()["disk"].detail
    assert short.look()["disk"].detail.startswith("about 5.0 GB for 4 models")
    assert room(1, "last").look()["disk"].detail.startswith("about 3.0 GB for 2 models")


def test_what_the_run_wrote_before_counts_as_room(room: Callable[..., Room]) -> None:
    again = room(1)
    again.disk(3 * GB - 1000)
    assert again.look()["disk"].level == "fail"
    merged = again.folder / "batch_001" / "merged"
    merged.mkdir(parents=True)
    (merged / "model.safetensors").write_bytes(bytes(2000))
    assert again.look()["disk"].level == "ok"


def test_little_memory_is_a_warning(room: Callable[..., Room]) -> None:
    small = room()
    small.memory(4 * GB)
    assert small.look()["memory"] == Finding("warn", "memory", "training wants up to 5.0 GB, 4.0 GB available")


QUARTER = {"model.layers.0.mlp.up_proj.weight": (1, 10), "lm_head.weight": (3, 10)}


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ("", "3.8"),  # the weights; gradients and two moments of a quarter; libraries
        ("train: {parameters: .}", "6.0"),  # of all
        ("train: {lora: {rank: 4}}", "3.0"),  # of nothing that counts
    ],
)
def test_memory_follows_from_what_is_trained(room: Callable[..., Room], more: str, wanted: str) -> None:
    found = room(more=more, tensors=QUARTER).look()["memory"]
    assert found == Finding("ok", "memory", f"training wants up to {wanted} GB, 100.0 GB available")


def test_memory_that_nobody_asked_for_is_skipped_not_ok(room: Callable[..., Room]) -> None:
    unknown = room()
    unknown.memory(None)
    assert unknown.look()["memory"].level == "skipped"
    assert unknown.look("cuda:0")["memory"] == Finding("skipped", "memory", "the GPU's memory was not asked")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"model": None, "endpoint": None}, None),
        ({"model": "nowhere", "endpoint": None}, "nowhere is no model folder here"),
        ({"model": "j", "endpoint": "http://localhost:1/v1"}, None),
        (
            {"model": "j", "endpoint": "https://example.com/v1"},
            "needs a key, and the environment variable JUDGE is not set",
        ),
        ({"model": "j", "endpoint": "https://me:secret@example.com/v1"}, "must have no user, password"),
    ],
)
def test_a_judge_that_cannot_be_asked(judge: dict[str, str | None], said: str | None) -> None:
    findings = check.check_judge({**judge, "key_variable": "JUDGE"}, {})
    assert [f.level for f in findings] == ([] if said is None else ["fail"])
    assert said is None or (said in findings[0].detail and "secret" not in findings[0].detail)
