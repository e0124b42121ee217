"""Two batches and the real trackers: one run, steps that go on, nothing twice when a batch is done again."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.recipe_schema import Tracker
from kedit_glue.run import main
from kedit_glue.tools import trackers

pytestmark = pytest.mark.integration
SECRET = "planted-0123456789abcdef0123456789abcdef01234567"
TAGS = {"train/loss", "train/epoch", "train/batch", "train/facts_learned", "train/loss_per_token"}
BLOCK = 32768
"""Of W&B's file, in bytes; it is LevelDB's log format, after 7 bytes that name it."""


@dataclass
class Finished:
    recipe: Path
    folder: Path

    @property
    def trackers(self) -> Path:
        return self.folder / "trackers"

    def ends(self) -> dict[int, list[int]]:
        """Batch -> the trainer steps that it began after and ended with, of its latest training."""
        lines = (self.trackers / "batches.jsonl").read_text(encoding="utf-8").splitlines()
        return {e["batch"]: [e["start"][0], e["end"][0]] for e in map(json.loads, lines)}

    def learned(self) -> list[tuple[int, float]]:
        """The step that each batch ended with, and how many facts it learned."""
        found = [json.loads((self.folder / f"batch_00{b}" / "train.result.json").read_text()) for b in (1, 2)]
        return [(self.ends()[b][1], result["learned"]) for b, result in enumerate(found, 1)]

    def scalars(self) -> dict[str, list[tuple[int, float]]]:
        """What TensorBoard shows of its one run: tag -> steps and values."""
        from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

        shown = EventMultiplexer().AddRunsFromDirectory(str(self.trackers / "tensorboard"))
        shown.Reload()
        [run] = shown.Runs()
        tags = shown.Runs()[run]["scalars"]
        return {tag: [(event.step, event.value) for event in shown.Scalars(run, tag)] for tag in tags}

    def wandb_parts(self) -> list[Path]:
        """The folders that W&B wrote offline, oldest first."""
        return sorted((self.trackers / "wandb").glob("offline-run-*"), key=lambda p: p.stat().st_ctime_ns)


def wandb_records(part: Path) -> Iterator[Any]:
    """The messages in a run's ``.wandb`` file, in order."""
    from wandb.proto import wandb_internal_pb2

    [file] = part.glob("*.wandb")
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # no room for a header: padding
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_history(part: Path) -> list[dict[str, Any]]:
    """What was logged, line by line."""
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(part)
        if record.WhichOneof("record_type") == "history"
    ]


def wandb_steps(part: Path) -> list[int]:
    return [row["train/global_step"] for row in wandb_history(part) if "train/loss" in row]


@pytest.fixture(scope="module")
def done(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A run of two batches that reported to both trackers."""
    folder = tmp_path_factory.mktemp("tracked")
    recipe = folder / "tiny.yaml"
    text = recipe_text.replace("epochs: 100", "epochs: 60\n  report_to: [tensorboard, wandb]")
    text = text.replace("loss_threshold: 0.05", "loss_threshold: 0.5")
    recipe.write_text(text + f"output: {json.dumps(str(folder))}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("WANDB_MODE", "offline")
        environment.setenv("WANDB_API_KEY", SECRET)
        for name in ("WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_NAME", "WANDB_DIR"):
            environment.delenv(name, raising=False)
        assert main([str(recipe)]) == 0, (folder / "tiny" / "log.txt").read_text(encoding="utf-8")
        yield Finished(recipe, folder / "tiny")


def test_the_names_are_transformers_own() -> None:
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(typing.get_args(Tracker)) == set(INTEGRATION_TO_CALLBACK)


def test_tensorboard_has_one_run_whose_steps_go_on(done: Finished) -> None:
    ends = done.ends()
    assert ends[1][0] == 0 and ends[1][1] == ends[2][0] < ends[2][1]
    shown = done.scalars()
    assert shown.keys() >= TAGS
    for tag in TAGS:
        assert [step for step, _ in shown[tag]] == list(range(1, ends[2][1] + 1)), tag
    for tag, points in shown.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), tag
    assert [value for _, value in shown["train/batch"]] == [1.0] * ends[1][1] + [2.0] * (ends[2][1] - ends[2][0])
    assert shown["train/batch_learned"] == done.learned()
    assert shown["train/batch_facts"] == [(ends[1][1], 3.0), (ends[2][1], 2.0)]
    epochs = [value for _, value in shown["train/epoch"]]
    assert epochs == sorted(epochs), "epochs go on as well"


def test_what_is_reported_is_what_training_did(done: Finished) -> None:
    """Against the events that the training stages left, of which LLaMA-Factory's reporting knows nothing."""
    lines = [
        json.loads(line)
        for batch in ("batch_001", "batch_002")
        for line in (done.folder / batch / "train.events.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps = [line for line in lines if line["event"] == "step"]
    shown = done.scalars()
    assert [v for _, v in shown["train/loss_per_token"]] == pytest.approx([s["loss"] for s in steps], abs=1e-4)
    assert [value for _, value in shown["train/facts_learned"]] == [s["learned"] for s in steps]
    assert {s["facts"] for s in steps} == {3, 2} and {s["learned"] for s in steps} > {0, 1}


def test_wandb_has_one_run_for_both_batches(done: Finished) -> None:
    ends, notes = done.ends(), json.loads((done.trackers / "wandb.json").read_text(encoding="utf-8"))
    parts = done.wandb_parts()[:2]
    assert [part.name.partition("tiny-")[1:] for part in parts] == [("tiny-", notes["id"].removeprefix("tiny-"))] * 2
    runs = [r.run for part in parts for r in wandb_records(part) if r.WhichOneof("record_type") == "run"]
    assert {(run.run_id, run.project, run.display_name) for run in runs} == {(notes["id"], "kedit_glue", "tiny")}
    assert [wandb_steps(part) for part in parts] == [
        list(range(1, ends[1][1] + 1)),
        list(range(ends[2][0] + 1, ends[2][1] + 1)),
    ]
    learned = [row for part in parts for row in wandb_history(part) if "train/batch_learned" in row]
    assert [(row["train/global_step"], row["train/batch_learned"]) for row in learned] == done.learned()


def test_a_batch_done_again_is_there_once(done: Finished) -> None:
    before, ends, parts = done.scalars(), done.ends(), done.wandb_parts()
    assert main([str(done.recipe), "--force", "batch_002/train"]) == 0
    assert done.ends() == ends
    held = [file for file in (done.trackers / "tensorboard").iterdir() if file.stat().st_size]
    assert len(held) == 2, "a file a batch"
    after = done.scalars()
    for tag in TAGS | {"train/batch_learned"}:
        assert after[tag] == before[tag], tag
    [again] = [part for part in done.wandb_parts() if part not in parts]
    assert again.name.endswith(json.loads((done.trackers / "wandb.json").read_text(encoding="utf-8"))["id"])
    assert again.name.partition("tiny-")[2] == parts[0].name.partition("tiny-")[2], "the same run"
    assert wandb_steps(again) == [], "nothing is sent twice"


def test_an_open_tensorboard_forgets_what_is_done_again(tmp_path: Path) -> None:
    """A viewer that has read a batch's points drops them when the batch begins again, and keeps the batch before."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def write(batch: int, start: int, values: list[float]) -> None:
        writer = trackers.event_writer(tmp_path, batch, (start, 0.0))
        for step, value in enumerate(values, start + 1):
            writer.add_scalar("train/loss", value, step)
        writer.close()

    write(1, 0, [5.0, 4.0])
    write(2, 2, [3.0, 2.0, 1.0])
    viewer = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in viewer.Scalars("train/loss")] == [
        (1, 5.0),
        (2, 4.0),
        (3, 3.0),
        (4, 2.0),
        (5, 1.0),
    ]
    write(2, 2, [6.0, 7.0])
    viewer.Reload()
    assert [(e.step, e.value) for e in viewer.Scalars("train/loss")] == [(1, 5.0), (2, 4.0), (3, 6.0), (4, 7.0)]


def test_no_key_is_written_anywhere(done: Finished) -> None:
    found = [file for file in done.folder.parent.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()]
    assert found == []
    assert any(file.suffix == ".wandb" for file in done.folder.rglob("*")), "W&B wrote its files here"
