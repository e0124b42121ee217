"""Runs that cannot be given away, targets that mean nothing, folders that hold something else."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import publication, weights
from kedit_glue.cleaned import Cleaning
from kedit_glue.problems import CannotStart
from kedit_glue.public_base import Base
from kedit_glue.publication import Finished
from kedit_glue.publish import Target, main, target_of
from kedit_glue.weights import WeightsError

Files = Callable[[Path], dict[str, bytes]]


# -- runs that cannot be published --------------------------------------------------------------


def test_a_run_that_is_not_finished(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    (run / "batch_003" / "score.record.json").unlink()
    assert ask(to=tmp_path / "out", code=2) == (
        f"{run} is not finished, batch_003/edits not done yet: run the recipe (again) to go on\n"
    )
    (run / "batch_003" / "merge.record.json").unlink()
    assert ask(to=tmp_path / "out", code=2) == (
        f"{run} is not finished, batch_003/merge, batch_003/edits are not done yet: run the recipe (again) to go on\n"
    )


def test_a_run_that_is_at_work(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    with (run / ".lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert ask(to=tmp_path / "out", code=2) == f"{run} is in use by process 4711: wait until it has ended\n"


def test_a_run_without_scores_or_model(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    shutil.move(run / "model", tmp_path / "gone")
    assert (
        ask(to=tmp_path / "out", code=2) == f"{run / 'model'} is gone: run the recipe again: it makes the model anew\n"
    )
    (run / "scores.json").unlink()
    assert ask(to=tmp_path / "out", code=2).startswith(f"{run} holds no scores.json; the run has not come to its end")


def test_scores_of_another_model(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    scores = json.loads((run / "scores.json").read_text())
    scores["edited"]["weights"] = "0" * 16
    (run / "scores.json").write_text(json.dumps(scores))
    assert ask(to=tmp_path / "out", code=2) == (
        f"{run}: scores.json tells of another model than batch_003/merge made: run the recipe again\n"
    )


@pytest.mark.parametrize("option", [(), ("--only-task-vector",)])
@pytest.mark.parametrize(
    "name", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"]
)
def test_a_model_that_is_not_what_the_run_made(
    run: Path, ask: Callable[..., str], tmp_path: Path, name: str, option: tuple[str, ...]
) -> None:
    file = run / "model" / name
    content = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))
    advice = "run the recipe again: it makes the model anew\n"
    said = ask(*option, to=tmp_path / "out", code=2)
    assert said == f"{file} is not what the run made: changed from outside, or damaged\n  {advice}"
    file.unlink()
    assert ask(*option, to=tmp_path / "out", code=2) == f"{file} is gone: {advice}"
    assert not list(tmp_path.glob("out*"))


def test_a_shard_whose_header_names_a_place(whole: Finished) -> None:
    """A tool may write anything there; it cannot be taken out of a file whose hash the run knows."""
    file = whole.folder / "model-00001-of-00002.safetensors"
    text = weights.header_text(file)
    made_by = text.replace(b'{"format":"pt"}', b'{"format":"/s/x"}').replace(b'{"format": "pt"}', b'{"format": "/s/x"}')
    file.unlink()
    file.write_bytes(len(made_by).to_bytes(8, "little") + made_by)
    with pytest.raises(CannotStart, match=r"its header holds a local path or a secret: load the model with transform"):
        publication.whole_model(whole, Base("b", whole.original), Cleaning(["/s"], {}, "/h/x"))


def test_a_card_that_is_none(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    for text in ("just words", None):
        (run / "model" / "README.md").write_text(text) if text else (run / "model" / "README.md").unlink()
        assert ask(to=tmp_path / "out", code=2) == (
            f"{run / 'model' / 'README.md'} is no model card any more: run the recipe again, which writes it anew\n"
        )


# -- where to -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("owner/name", Target(hub="owner/name")),
        ("hub:here/name", Target(hub="here/name")),
        ("./out", "out"),
        ("./here/new", "here/new"),
        ("../out", "../out"),
        ("/abs/out", "/abs/out"),
        ("~/out", "~/out"),
        ("here", "here"),
        (".", "."),
    ],
)
def test_what_a_target_means(text: str, meant: Target | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cwd" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    wanted = meant if isinstance(meant, Target) else Target(folder=Path(os.path.abspath(Path(meant).expanduser())))
    assert target_of(text) == wanted


NEITHER = "is no hub id of the form owner/name, and no folder that is there: a new folder begins with ./ ../ / or ~"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("out", f"--to 'out' {NEITHER}"),
        ("", f"--to '' {NEITHER}"),
        ("a/b/c", f"--to 'a/b/c' {NEITHER}"),
        ("a/", f"--to 'a/' {NEITHER}"),
        (
            "here/name",
            "--to here/name can be a hub id, and a place in the folder here that is here: write ./here/name for the "
            "folder, hub:here/name for the hub",
        ),
        ("hub:name", "--to 'name' is no hub id: it has the form owner/name"),
        ("hub:a/b/c", "--to 'a/b/c' is no hub id: Repo id must be in the form 'repo_name' or 'namespace/repo_name': "),
        ("a/b--c", "--to 'a/b--c' is no hub id: Cannot have -- or .. in repo_id: "),
        ("a/b.git", "--to 'a/b.git' is no hub id: Repo_id cannot end by '.git': "),
        ("a b/c", "--to 'a b/c' is no hub id: Repo id must use alphanumeric chars, "),
        ("a/b\nc", "--to 'a/b\\nc' is no hub id: Repo id must use alphanumeric chars, "),
        ("./a\x1b[2J", "--to './a\\x1b[2J': a folder's name holds a character that cannot be printed"),
        ("~nobody-of-that-name/x", "--to '~nobody-of-that-name/x': there is no such user's home"),
    ],
)
def test_what_is_no_target(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotStart) as caught:
        target_of(text)
    assert str(caught.value).startswith(said)


def test_options_of_the_hub_do_not_go_with_a_folder(ask: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ask("--public", "--replace", to=out, code=2) == (
        f"--public, --replace: for the hub only, and --to is the folder {out}\n"
    )


def test_neither_the_run_nor_the_base_is_written_into(run: Path, ask: Callable[..., str]) -> None:
    for target, owner in ((run / "model" / "out", run), (run, run), (run.parent, run)):
        said = ask(to=target, code=2)
        assert said == f"{target} holds, or lies in, {owner}, which must stay as it is: give --to another folder\n"


# -- what is there ------------------------------------------------------------------------------


def test_an_earlier_publication_of_the_run_is_replaced(
    run: Path, ask: Callable[..., str], tmp_path: Path, files: Files
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    ask(to=out)
    first = files(out)
    (run / "model" / "README.md").write_text((run / "model" / "README.md").read_text() + "\nmore\n")
    ask(to=out)
    assert files(out).keys() == first.keys() and b"\nmore\n" in files(out)["README.md"]
    assert not list(tmp_path.glob("out.*"))


def other_run(out: Path) -> None:
    told = json.loads((out / "publication.json").read_text())
    (out / "publication.json").write_text(json.dumps({**told, "run": "other"}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda out: (out / "notes.txt").write_text("mine"), "notes.txt did not come from there"),
        (lambda out: (out / "README.md").write_text("mine"), "README.md was changed since"),
        (lambda out: flip(out / "tokenizer.json"), "tokenizer.json was changed since"),
        (lambda out: (out / "publication.json").unlink(), "holds no publication.json of an earlier publication"),
        (
            lambda out: (out / "publication.json").write_text("[]"),
            "holds no publication.json of an earlier publication",
        ),
        (other_run, "holds the model of run other"),
    ],
)
def test_what_is_not_ours_stays(
    ask: Callable[..., str], tmp_path: Path, change: Callable[[Path], object], why: str, files: Files
) -> None:
    out = tmp_path / "out"
    ask(to=out)
    change(out)
    before = files(out)
    said = ask(to=out, code=2)
    assert said == f"{out} is not empty, and {why}: give --to a new folder, or empty this one\n"
    assert files(out) == before
    assert ask("--dry-run", to=out, code=2) == said, "what is refused later is refused now"


def flip(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 4]) + content[1:])


def test_another_form_of_the_same_run_is_not_replaced(ask: Callable[..., str], tmp_path: Path) -> None:
    ask("--only-task-vector", to=tmp_path / "out")
    assert "and holds the task vector of run try: give --to a new folder" in ask(to=tmp_path / "out", code=2)


def test_a_file_and_what_a_kill_left(ask: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert ask(to=tmp_path / "file", code=2) == f"{tmp_path / 'file'} is no folder: give --to another name\n"
    (tmp_path / "out.partial").mkdir()
    assert ask(to=tmp_path / "out", code=2) == (
        f"{tmp_path / 'out.partial'} is there already: delete it if a publish that was killed left it\n"
    )


def test_a_model_that_changes_meanwhile_leaves_nothing(
    run: Path, ask: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run / "model" / "model-00002-of-00002.safetensors"

    def late(size: int, target: Path) -> None:
        content = file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 4]))

    monkeypatch.setattr("kedit_glue.published.check_space", late)
    assert ask(to=tmp_path / "out", code=2) == f"{file.name} changed while it was published: start this command again\n"
    assert not list(tmp_path.glob("out*"))


def test_no_run(tmp_path: Path, ask: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--to", str(tmp_path / "out")]) == 2
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_a_shard_that_is_cut_off(whole: Finished) -> None:
    file = whole.folder / "model-00001-of-00002.safetensors"
    file.unlink()
    file.write_bytes(b"\0")
    with pytest.raises(WeightsError, match="is no whole safetensors file"):
        publication.whole_model(whole, Base("b", whole.original), Cleaning([], {}, "/h/x"))


def test_a_run_of_batches_alone_has_no_model(
    workplace: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.go("edits.mode=independent", "merge.onto=base", "score.general.when=never")
    capsys.readouterr()
    assert main([str(workplace.run_folder), "--to", str(tmp_path / "out")]) == 2
    assert "edited each batch alone (edits.mode: independent): there is no one edited model" in capsys.readouterr().err
