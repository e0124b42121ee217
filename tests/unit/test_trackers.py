"""One run over all batches: steps that go on, what is sent once, what is deleted; no torch, no tracker."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kedit_glue import check
from kedit_glue.batch_files import train_yaml
from kedit_glue.files import write_rendered
from kedit_glue.modules import trained
from kedit_glue.render import RenderError
from kedit_glue.tools import trackers
from kedit_glue.tools.trackers import OneRun, Unrepeated

# -- the recipe -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "report_to: none\n"),
        ("train: {report_to: []}", "report_to: none\n"),
        ("train: {report_to: [tensorboard]}", "report_to: [tensorboard]\n"),
        ("train: {report_to: [wandb, tensorboard, mlflow]}", "report_to: [wandb, tensorboard, mlflow]\n"),
    ],
)
def test_the_yaml_says_what_the_recipe_says(
    recipe_of: Callable[..., Any], place_of: Callable[..., Any], more: str, expected: str
) -> None:
    recipe, place = recipe_of(more), place_of()
    rendered = train_yaml(recipe, place, 1, 2, place.model, trained(recipe.train, 12, None))
    write_rendered([rendered], None)
    assert expected in rendered.path.read_text(encoding="utf-8")


def test_a_template_that_drops_the_trackers_is_refused(
    recipe_of: Callable[..., Any], place_of: Callable[..., Any], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shipped = Path(__file__).parents[2] / "templates" / "train.yaml.j2"
    text = shipped.read_text(encoding="utf-8").replace("{{ (train.report_to or 'none') | yaml }}", "none")
    (own / "train.yaml.j2").write_text(text, encoding="utf-8")
    recipe, place = recipe_of("train: {report_to: [wandb]}"), place_of()
    rendered = train_yaml(recipe, place, 1, 2, place.model, trained(recipe.train, 12, None))
    with pytest.raises(RenderError, match=r"report_to: 'none' \(str\) instead of \['wandb'\] \(list\)"):
        write_rendered([rendered], own)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  report_to: [tensorbord]", "'tensorboard'"),
        ("  report_to: tensorboard", "a list of tensorboard, wandb or others that transformers knows"),
        ("  report_to: [wandb, wandb]", "'wandb' is listed twice"),
        ("  report_to: [none]", "a list of tensorboard, wandb or others that transformers knows"),
        ("  extra: {report_to: wandb}", "set it with 'train.report_to'"),
    ],
)
def test_a_recipe_that_cannot_be_meant(problems: Callable[..., list[str]], more: str, said: str) -> None:
    [problem] = problems(f"name: try\nmodel: smollm2-135m\nedits:\n  source: facts.json\ntrain:\n{more}\n")
    assert said in problem


@pytest.mark.parametrize(
    ("report_to", "expected"),
    [
        (None, []), ("none", []), (["none"], []), ([], []), ("wandb", ["wandb"]),
        (["tensorboard", "wandb"], ["tensorboard", "wandb"]),
    ],
)  # fmt: skip
def test_llamafactorys_ways_to_name_trackers(report_to: Any, expected: list[str]) -> None:
    assert trackers.named(report_to) == expected


# -- before the start -------------------------------------------------------------------------------


def test_a_tracker_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorboard"}
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: name if name in installed else None)
    assert trackers.missing(["tensorboard", "wandb", "mlflow", "azure_ml"]) == [
        "train.report_to: wandb is not installed; uv sync --extra trackers, or pip install wandb",
        "train.report_to: mlflow is not installed; pip install mlflow",
        "train.report_to: azure_ml is not installed; pip install azure_ml",
    ]
    installed |= {"wandb", "mlflow", "azureml"}
    assert trackers.missing(["tensorboard", "wandb", "mlflow", "azure_ml"]) == []
    assert trackers.missing([]) == []


@pytest.mark.parametrize(
    ("names", "settings", "fine"),
    [
        (["tensorboard"], {}, True),
        (["wandb"], {}, False),
        (["wandb"], {"WANDB_API_KEY": ""}, False),
        (["wandb"], {"WANDB_API_KEY": "planted"}, True),
        (["wandb"], {"WANDB_MODE": "offline"}, True),
        (["wandb"], {"WANDB_MODE": "disabled"}, True),
        (["wandb"], {"WANDB_MODE": "online"}, False),
        (["wandb"], {"NETRC": "good"}, True),
        (["wandb"], {"NETRC": "good", "WANDB_BASE_URL": "https://wandb.example.org"}, False),
        (["wandb"], {"NETRC": "bad"}, False),
    ],
)
def test_a_login_that_is_missing_is_said(
    tmp_path: Path, names: list[str], settings: dict[str, str], fine: bool
) -> None:
    (tmp_path / "good").write_text("machine api.wandb.ai login user password planted\n")
    (tmp_path / "bad").write_text("nonsense\n")
    for file in (tmp_path / "good", tmp_path / "bad"):
        file.chmod(0o600)
    settings = {**settings, "NETRC": str(tmp_path / settings.get("NETRC", "none"))}
    said = trackers.no_login(names, settings)
    assert (said is None) == fine
    if said is not None:
        assert said.startswith("train.report_to: wandb has no login for ") and "planted" not in said


def test_the_look_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    found = check.check_trackers(["tensorboard", "wandb"], {"NETRC": "/nowhere"})
    assert [(f.level, f.what) for f in found] == [("fail", "trackers")] * 2 + [("warn", "trackers")]
    assert check.check_trackers([], {}) == []


# -- where a batch begins ---------------------------------------------------------------------------


def test_a_batch_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    assert trackers.begins_at(tmp_path, 1) == (0, 0.0)
    trackers.note_end(tmp_path, 1, (0, 0.0), (14, 5.0))
    assert trackers.begins_at(tmp_path, 2) == (14, 5.0)
    trackers.note_end(tmp_path, 2, (14, 5.0), (30, 9.5))
    assert trackers.begins_at(tmp_path, 3) == (30, 9.5)
    assert trackers.begins_at(tmp_path, 2) == (14, 5.0), "a batch that is done again begins where it began"
    trackers.note_end(tmp_path, 1, (0, 0.0), (7, 2.0))
    assert trackers.begins_at(tmp_path, 2) == (7, 2.0), "the latest training counts"
    assert trackers.begins_at(tmp_path, 1) == (0, 0.0)
    assert trackers.begins_at(tmp_path, 9) == (7, 2.0), "batches between were taken over from another run"


def test_a_note_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    trackers.note_end(tmp_path, 1, (0, 0.0), (14, 5.0))
    with (tmp_path / "batches.jsonl").open("a") as file:
        file.write('\n{"batch": 2, "sta')
    assert trackers.begins_at(tmp_path, 3) == (14, 5.0)
    trackers.note_end(tmp_path, 2, (14, 5.0), (30, 9.5))
    assert trackers.begins_at(tmp_path, 3) == (30, 9.5)


# -- a trainer's events -----------------------------------------------------------------------------


class Recorder:
    """Stands in for a tracker's callback of transformers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, float, dict[str, float] | None]] = []

    def __getattr__(self, name: str) -> Any:
        def note(args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            self.told.append((name, state.global_step, state.epoch, logs))

        return note


def state_at(step: int, epoch: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(global_step=step, epoch=epoch, max_steps=20)


def train_on(one: Any, losses: list[float]) -> None:
    """The events that a trainer sends: a step and a log for each loss, then its summary."""
    one.on_init_end("args", state_at(0), "control", model="model")
    one.on_train_begin("args", state_at(0), "control", model="model")
    for step, loss in enumerate(losses, 1):
        state = state_at(step, step / 2)
        one.on_step_end("args", state, "control")
        one.on_log("args", state, "control", logs={"loss": loss, "epoch": state.epoch})
        assert state.global_step == step, "the trainer's own state is left alone"
    last = state_at(len(losses), len(losses) / 2)
    one.on_log("args", last, "control", logs={"train_loss": 0.5, "epoch": last.epoch})
    one.on_train_end("args", last, "control")


def test_steps_and_epochs_go_on_and_what_is_known_is_added() -> None:
    recorder = Recorder()
    one = OneRun([recorder], (14, 5.0), lambda: {"batch": 2, "facts_learned": 1}, lambda: {"batch_learned": 3})
    train_on(one, [0.9, 0.1])
    assert recorder.told == [
        ("on_init_end", 14, 5.0, None),
        ("on_train_begin", 14, 5.0, None),
        ("on_step_end", 15, 5.5, None),
        ("on_log", 15, 5.5, {"loss": 0.9, "epoch": 5.5, "batch": 2, "facts_learned": 1}),
        ("on_step_end", 16, 6.0, None),
        ("on_log", 16, 6.0, {"loss": 0.1, "epoch": 6.0, "batch": 2, "facts_learned": 1}),
        ("on_log", 16, 6.0, {"train_loss": 0.5}),
        ("on_log", 16, 6.0, {"batch_learned": 3}),
        ("on_train_end", 16, 6.0, None),
    ]
    assert one.position == (16, 6.0)


def test_nothing_but_a_trainers_events_is_made_up() -> None:
    one = OneRun([Recorder()], (0, 0.0), dict, dict)
    with pytest.raises(AttributeError):
        one.state  # noqa: B018
    one.on_an_event_of_a_later_version("args", state_at(1), "control")
    assert one.trackers[0].told == [("on_an_event_of_a_later_version", 1, 0.0, None)]


# -- Weights & Biases ---------------------------------------------------------------------------------


def losses_sent(recorder: Recorder) -> list[tuple[int, float]]:
    return [(step, logs["loss"]) for name, step, _, logs in recorder.told if logs and "loss" in logs]


def send(folder: Path, batch: int, losses: list[float], inputs: str = "same", stop_after: int | None = None) -> Any:
    """A batch's training as the stage does it; ``stop_after`` so many steps it is killed."""
    start = trackers.begins_at(folder, batch)
    run_id, opened = trackers.wandb_run(folder / "wandb.json", "try", batch, start, inputs)
    recorder = Recorder()
    one = OneRun([Unrepeated(recorder, folder / "wandb.json")], start, dict, lambda: {"batch_learned": 1})
    if stop_after is not None:
        for step, loss in enumerate(losses[:stop_after], 1):
            one.on_log("args", state_at(step), "control", logs={"loss": loss})
    else:
        train_on(one, losses)
        trackers.note_end(folder, batch, start, one.position)
    return SimpleNamespace(id=run_id, opened=opened, sent=losses_sent(recorder), told=recorder.told)


def test_all_batches_are_sent_to_one_run(tmp_path: Path) -> None:
    first = send(tmp_path, 1, [3.0, 2.0])
    second = send(tmp_path, 2, [4.0, 1.0], inputs="other facts")
    assert first.id == second.id and first.id.startswith("try-") and not second.opened
    assert first.sent + second.sent == [(1, 3.0), (2, 2.0), (3, 4.0), (4, 1.0)]
    ends = [
        (step, logs) for batch in (first, second) for _, step, _, logs in batch.told if logs and "batch_learned" in logs
    ]
    assert ends == [(2, {"batch_learned": 1}), (4, {"batch_learned": 1})]


@pytest.mark.parametrize("stop_after", [0, 1, 2, 3])
def test_a_batch_that_broke_off_goes_on_from_there(tmp_path: Path, stop_after: int) -> None:
    send(tmp_path, 1, [9.0])
    broken = send(tmp_path, 2, [3.0, 2.0, 1.0], stop_after=stop_after)
    again = send(tmp_path, 2, [3.0, 2.0, 1.0])
    assert again.id == broken.id and not again.opened
    assert broken.sent + again.sent == [(2, 3.0), (3, 2.0), (4, 1.0)]
    assert send(tmp_path, 3, [5.0], inputs="next").sent == [(5, 5.0)]


def test_a_batch_that_is_done_again_otherwise_opens_a_run(tmp_path: Path) -> None:
    first = send(tmp_path, 1, [9.0])
    send(tmp_path, 2, [3.0, 2.0, 1.0], stop_after=2)
    again = send(tmp_path, 2, [6.0, 5.0], inputs="another learning rate")
    assert again.opened and again.id != first.id
    assert again.sent == [(2, 6.0), (3, 5.0)]
    third = send(tmp_path, 3, [4.0], inputs="next")
    assert third.id == again.id and not third.opened and third.sent == [(4, 4.0)]


def test_a_batch_before_others_opens_a_run(tmp_path: Path) -> None:
    first = send(tmp_path, 1, [9.0], inputs="one")
    send(tmp_path, 2, [3.0], inputs="two")
    again = send(tmp_path, 1, [9.0], inputs="one")
    assert again.opened and again.id != first.id and again.sent == [(1, 9.0)]


def test_the_last_batch_done_again_from_the_same_files_sends_nothing_twice(tmp_path: Path) -> None:
    send(tmp_path, 1, [9.0], inputs="one")
    second = send(tmp_path, 2, [3.0, 2.0], inputs="two")
    again = send(tmp_path, 2, [3.0, 2.0], inputs="two")
    assert again.id == second.id and not again.opened and again.sent == []


def test_what_a_batch_is_trained_from(tmp_path: Path) -> None:
    files = [tmp_path / "train.yaml", tmp_path / "edits.json"]
    for file in files:
        file.write_text("one")
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    first = trackers.inputs_of(files, model)
    assert trackers.inputs_of(files, model) == first
    (model / "model.safetensors").write_bytes(b"others!!")
    second = trackers.inputs_of(files, model)
    files[0].write_text("two")
    assert len({first, second, trackers.inputs_of(files, model), trackers.inputs_of(files, Path("owner/name"))}) == 4


def test_the_environment_of_a_stage_that_reports_to_wandb(tmp_path: Path) -> None:
    assert trackers.wandb_environment(tmp_path, "try", "try-1", {}) == {
        "WANDB_NAME": "try",
        "WANDB_DIR": str(tmp_path),
        "WANDB_PROJECT": "kedit_glue",
        "WANDB_RUN_ID": "try-1",
        "WANDB_RESUME": "allow",
    }
    users = {"WANDB_PROJECT": "mine", "WANDB_NAME": "", "WANDB_RUN_ID": "of another run", "WANDB_API_KEY": "planted"}
    found = trackers.wandb_environment(tmp_path, "try", "try-1", users)
    assert (found["WANDB_PROJECT"], found["WANDB_NAME"], found["WANDB_RUN_ID"]) == ("mine", "try", "try-1")
    assert "planted" not in json.dumps(found)


# -- TensorBoard ------------------------------------------------------------------------------------


def test_event_files_of_a_batch_done_again_and_of_later_ones_are_emptied(tmp_path: Path) -> None:
    names = [f"events.out.tfevents.1.my_host.7.0{suffix}" for suffix in ("", ".batch_001", ".batch_002", ".batch_1000")]
    for name in (*names, "notes.txt"):
        (tmp_path / name).write_text("events")
    assert not trackers.clear_events(tmp_path, 1001)
    assert trackers.clear_events(tmp_path, 2)
    held = {file.name for file in tmp_path.iterdir() if file.stat().st_size}
    assert held == {*names[:2], "notes.txt"}
    assert not trackers.clear_events(tmp_path, 2), "they hold nothing any more"
    assert not trackers.clear_events(tmp_path / "not made yet", 1)


# -- who reports --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "rank"), [([], "0"), (["tensorboard"], "1"), (["wandb"], "3")])
def test_nobody_but_the_first_process_reports(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    job: Mapping[str, Any] = {"tracker": {"folder": str(tmp_path / "trackers"), "run": "try", "batch": 1}}
    with trackers.reporting(names, job, dict, dict, lambda event: None) as callbacks:
        assert callbacks == []
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_named_by_hand_that_is_not_installed_ends_the_stage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    reporting = trackers.reporting(["wandb"], {}, dict, dict, lambda event: None)
    with (
        pytest.raises(ValueError, match=r"train\.report_to: wandb is not installed; uv sync --extra trackers"),
        reporting,
    ):
        raise AssertionError("training began")
