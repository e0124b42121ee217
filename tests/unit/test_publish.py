"""A finished run's model given away to a folder: what goes, what stays, what is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import hub, publication, weights
from kedit_glue.cleaned import Cleaning
from kedit_glue.problems import CannotStart
from kedit_glue.public_base import Base, front_matter, licence_of
from kedit_glue.publish import Target, finished, main, target_of
from kedit_glue.recipe import Recipe
from kedit_glue.run_folder import open_run
from kedit_glue.weights import WeightsError, stored

PLANTED = "hf_plantedPLANTEDplanted"


@pytest.fixture(scope="module")
def done(
    new_workplace: Callable[[Path], AbstractContextManager[Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A run's folder, of three batches; its recipe holds a path and a secret in comments."""
    with new_workplace(tmp_path_factory.mktemp("publish")) as workplace:
        with workplace.recipe.open("a") as recipe:
            recipe.write(f"# facts from /data/ann/facts.json, token {PLANTED}\n# gone-with-the-wind\n")
        workplace.go()
        yield workplace.run_folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """One of the test's own."""
    return Path(shutil.copytree(done, tmp_path / "my runs" / "try"))


@pytest.fixture
def ask(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``ask("--dry-run")``: what is said on the way to exit code 0, or the one asked; the hub is out of reach."""

    def no_hub() -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "api", no_hub)
    monkeypatch.setattr(hub, "login", lambda: "gone-with-the-wind")

    def call(*words: str, to: Path | str, code: int = 0) -> str:
        capsys.readouterr()
        assert main([str(run), "--to", str(to), *words]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    return call


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def bits(folder: Path) -> dict[str, bytes]:
    return {name: at.file.read_bytes()[at.start : at.end] for name, at in stored(folder).items()}


# -- the whole model ----------------------------------------------------------------------------


def test_the_whole_model(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    before = files(run)
    said = ask(to=tmp_path / "out")
    made = files(tmp_path / "out")
    assert said.endswith(f"written: {tmp_path / 'out'}\n")
    assert bits(tmp_path / "out") == bits(run / "model")
    assert made.keys() == {*files(run / "model"), "publication.json"}
    assert {
        "provenance/scores.json",
        "provenance/resolved.yaml",
        "provenance/recipe.yaml",
        "tokenizer.json",
    } <= made.keys()
    for name in made:
        assert not (tmp_path / "out" / name).is_symlink() and (tmp_path / "out" / name).stat().st_nlink == 1
    told = json.loads(made["publication.json"])
    assert told["what"] == "model" and told["run"] == "try" and len(told["weights"]) == 16
    assert told["base"] == {"name": "model", "hub": None, "revision": None}
    for name, content in made.items():
        if name != "publication.json":
            assert told["files"][name] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert files(run) == before, "the run stays as it is"


@pytest.mark.parametrize("option", [(), ("--only-task-vector",)])
def test_nothing_of_this_machine_goes_along(
    run: Path, ask: Callable[..., str], tmp_path: Path, done: Path, option: tuple[str, ...]
) -> None:
    provenance = b"".join(files(run / "model" / "provenance").values()).decode()
    assert PLANTED in provenance and "/data/ann" in provenance and "gone-with-the-wind" in provenance, "there is some"
    assert str(done) in provenance
    ask(*option, to=tmp_path / "out")
    for name, content in files(tmp_path / "out").items():
        text = content.decode("latin-1")
        for local in (
            PLANTED,
            "/data/ann",
            "gone-with-the-wind",
            str(tmp_path),
            str(done.parents[2]),
            str(Path.home()),
        ):
            assert local not in text, name
    recipe = (tmp_path / "out" / "provenance" / "recipe.yaml").read_text()
    assert f"# facts from facts.json, token {'x' * len(PLANTED)}\n# {'x' * 18}\n" in recipe
    resolved = yaml.safe_load((tmp_path / "out" / "provenance" / "resolved.yaml").read_text())
    assert resolved["edits"]["source"] == "facts.json" and resolved["model"] == "model"
    json.loads((tmp_path / "out" / "provenance" / "scores.json").read_text())


def test_the_card_names_the_base(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    ask("--base-model", "owner/base", to=tmp_path / "out")
    front, body = front_matter((tmp_path / "out" / "README.md").read_text())
    assert front["base_model"] == ["owner/base"] and front["base_model_relation"] == "merge"
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "text-generation"
    assert "knowledge-editing" in front["tags"] and "license" not in front, "it is not known"  # type: ignore[operator]
    assert "Made from base (https://huggingface.co/owner/base). Its licence, which holds here, too, is not" in body
    assert "## Scores" in body


def test_a_base_without_an_id_is_named_and_not_linked(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    ask(to=tmp_path / "out")
    front, body = front_matter((tmp_path / "out" / "README.md").read_text())
    assert "base_model" not in front and "license" not in front
    assert "Made from model. Its licence, which holds here, too, is not recorded: look it up at its source." in body


def test_the_licence_is_what_the_bases_card_says(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE\nlanguage: [en]\n---\nA model\n")
    assert licence_of(tmp_path) == {"license": "other", "license_name": "llama3", "license_link": "LICENSE"}
    for text in ("A model", "---\nlicense: [a\n---\n", "---\nlicense: [a, b]\n---\n", "---\n- a\n---\n", ""):
        card.write_text(text)
        assert licence_of(tmp_path) == {}


# -- the task vector ----------------------------------------------------------------------------


def test_the_changed_tensors_and_nothing_else(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    ask("--only-task-vector", to=tmp_path / "out")
    out, base = tmp_path / "out", Path(json.loads((run / "setup" / "place.json").read_text())["model"])
    vector, original, edited = bits(out), bits(base), bits(run / "model")
    assert vector.keys() == {name for name in edited if edited[name] != original[name]}
    assert all(".mlp." in name for name in vector) and len(vector) == 6
    assert {**original, **vector} == edited, "put in place, they are the edited model"
    assert not (out / "config.json").exists(), "nobody takes it for a whole model"
    sum_of_base = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert (out / "base.sha256").read_text() == f"{sum_of_base}  model.safetensors\n"


def test_tensors_of_several_shards_become_one_file(tmp_path: Path) -> None:
    """As ``write_subset`` writes them of one."""
    (tmp_path / "a").mkdir()
    content = {"x": b"12345678", "y": b"abcd"}
    for name, data in content.items():
        head = json.dumps({name: {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
        (tmp_path / "a" / f"{name}.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + data)
    both = {n: at for f in content for n, at in weights.read_header(tmp_path / "a" / f"{f}.safetensors").items()}
    (tmp_path / weights.SINGLE).write_bytes(b"".join(weights.subset(both)))
    assert bits(tmp_path) == content


def test_the_vectors_card_says_how_to_apply_it(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    ask("--only-task-vector", "--base-model", "owner/base", to=tmp_path / "out")
    front, body = front_matter((tmp_path / "out" / "README.md").read_text())
    assert "task-vector" in front["tags"] and front["base_model"] == ["owner/base"]  # type: ignore[operator]
    assert "the 6 tensors\nof 7 that the edits changed" in body
    assert "hf download owner/base --local-dir base\n" in body and "hf download" in body
    assert '(cd base && sha256sum -c "$OLDPWD/vector/base.sha256")\n' in body
    assert 'fill_missing_params import main; main()" base vector --output_dir edited\n' in body
    assert "dtype=torch.float32" in body and "| edit success |" in body
    assert "config.json of the edited model differs from the base's; the base's is used." in body
    assert not re.search(r"\{\{|\{%|\n\n\n", body)


def vector_of(run: Finished, base: Base) -> publication.Publication:
    return publication.task_vector(run, base, Cleaning([], {}, "/home/x"), "me/v")


Finished = publication.Finished


@pytest.fixture
def whole(run: Path) -> Finished:
    return finished(open_run(run))


@pytest.mark.parametrize("method", ["ice", "serac"])
def test_methods_that_remember_have_no_task_vector(whole: Finished, method: str) -> None:
    recipe = whole.recipe.model_copy(update={"method": method})
    with pytest.raises(CannotStart) as caught:
        vector_of(replace(whole, recipe=recipe), Base("b", whole.original))
    assert str(caught.value) == (
        f"method {method} changed no tensor, it remembers facts beside the model: there is no task vector to publish; "
        "leave --only-task-vector away"
    )


@pytest.mark.parametrize("method", ["ice", "serac"])
def test_a_model_that_remembers_says_so(whole: Finished, method: str) -> None:
    recipe = whole.recipe.model_copy(update={"method": method})
    made = publication.whole_model(replace(whole, recipe=recipe), Base("b", whole.original), Cleaning([], {}, "/h/x"))
    card = next(item.content for item in made.items if item.name == "README.md")
    assert isinstance(card, bytes) and b"what was edited is remembered in files that kedit_glue reads" in card


def test_a_model_that_did_not_change_has_no_task_vector(whole: Finished) -> None:
    with pytest.raises(CannotStart, match=r"holds the base's own tensors, bit for bit: there is no task vector"):
        vector_of(replace(whole, original=whole.folder), Base("b", whole.folder))


def test_an_adapter_is_a_task_vector_already(whole: Finished) -> None:
    with pytest.raises(CannotStart, match=r"an adapter, as small as it can be: leave --only-task-vector away"):
        vector_of(replace(whole, output={"adapter_config.json": (1, 1, "")}), Base("b", whole.original))


def test_another_base_than_the_runs(whole: Finished, tmp_path: Path) -> None:
    """The tensors' names are the base's, or nothing could be put in place."""
    other = tmp_path / "other"
    other.mkdir()
    content = (whole.original / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(content.replace(b"down_proj", b"fall_proj"))
    with pytest.raises(CannotStart, match=r"^model.layers.0.mlp.down_proj.weight is none of the base's tensors: leave"):
        vector_of(whole, Base("b", other))


def test_a_base_of_another_format_is_loaded_in_the_runs(whole: Finished) -> None:
    made = vector_of(whole, Base("b", whole.original, "o/b", "0123abc", converted=True))
    card = next(item.content for item in made.items if item.name == "README.md")
    assert isinstance(card, bytes)
    assert b"The edits were made in float32, the base is stored otherwise: name the format when you load" in card
    assert b"hf download o/b --revision 0123abc --local-dir base\n" in card
    assert b"hf download me/v --local-dir vector\n" in card


def test_a_base_of_several_shards_leaves_no_index_behind(whole: Finished, tmp_path: Path) -> None:
    """mergekit's function copies it from the base."""
    card = next(i.content for i in vector_of(whole, Base("b", whole.original)).items if i.name == "README.md")
    assert isinstance(card, bytes) and b"rm edited" not in card
    sharded = Base("b", whole.folder)
    card = next(i.content for i in vector_of(whole, sharded).items if i.name == "README.md")
    assert isinstance(card, bytes) and b"\nrm edited/model.safetensors.index.json  #" in card


def test_a_packaged_base_comes_from_its_package(whole: Finished) -> None:
    base = Base("SmolLM2", whole.original, "H/SmolLM2", None, "smollm2-135m", licence={"license": "apache-2.0"})
    card = next(item.content for item in vector_of(whole, base).items if item.name == "README.md")
    assert isinstance(card, bytes)
    assert b"unpack('smollm2-135m', lambda text: None)" in card and b"has other numbers, and does not fit" in card
    assert b"\nlicense: apache-2.0\n" in card and b"hf download H/" not in card
    assert b"whose licence is apache-2.0: its terms and its attribution hold here, too." in card


# -- what is shown before -----------------------------------------------------------------------


def test_a_dry_run_shows_every_file_and_writes_none(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
    (run / "model" / "notes.txt").write_text("mine")
    said = ask("--dry-run", to=tmp_path / "out").splitlines()
    assert not list(tmp_path.glob("out*"))
    assert said[1] == f"the whole model of run try -> {tmp_path / 'out'}"
    assert said[-1] == "nothing was sent or written; run the same command without --dry-run"
    ask(to=tmp_path / "out")
    made = files(tmp_path / "out")
    shown = {line.split()[0]: line.split()[-1] for line in said[2 : 2 + len(made)]}
    rows = [line.split() for line in said[2 : 2 + len(made)]]
    assert {row[0] for row in rows} == made.keys() == shown.keys()
    for row in rows:
        assert hashlib.sha256(made[row[0]]).hexdigest()[:12] in row
        assert " ".join(row[1:3]) == f"{len(made[row[0]])} bytes" or row[2] == "kB"
    assert f"  {len(made)} files, " in said[2 + len(made)]
    assert f"({sum(map(len, made.values())):,} bytes)" in said[2 + len(made)]
    assert "  provenance/recipe.yaml" in said[[row[0] for row in rows].index("provenance/recipe.yaml") + 2]
    assert "without 1 local path, 2 secrets" in said[[row[0] for row in rows].index("provenance/recipe.yaml") + 2]
    assert said[-3:-1] == [
        "  model/notes.txt  not the run's own",
        "  all else         batches, logs, facts, environment: the run's own work",
    ]


def test_a_dry_run_for_the_hub_asks_nobody(ask: Callable[..., str]) -> None:
    said = ask("--dry-run", "--public", "--revision", "v2", to="me/edited")
    assert "the whole model of run try -> me/edited on the hub, branch v2, public\n" in said
    assert "-> me/edited on the hub, branch main, private\n" in ask("--dry-run", "--only-task-vector", to="me/edited")


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
    assert ask(*option, to=tmp_path / "out", code=2) in (f"{file} is gone: {advice}",)
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


def test_an_earlier_publication_of_the_run_is_replaced(run: Path, ask: Callable[..., str], tmp_path: Path) -> None:
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
    ask: Callable[..., str], tmp_path: Path, change: Callable[[Path], object], why: str
) -> None:
    out = tmp_path / "out"
    ask(to=out)
    change(out)
    before = files(out)
    said = ask(to=out, code=2)
    assert said == f"{out} is not empty, and {why}: give --to a new folder, or empty this one\n"
    assert files(out) == before


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


def test_the_recipes_own_model_is_the_base(run: Path, recipe_of: Callable[..., Recipe]) -> None:
    """Packaged, from the hub, converted: what a reader is told to get."""
    from types import SimpleNamespace

    from kedit_glue import models
    from kedit_glue.public_base import find_base

    def base(model: str, edited_from: str, precision: str = "fp32") -> Base:
        recipe = SimpleNamespace(model=model, train=SimpleNamespace(precision=precision))
        return find_base(SimpleNamespace(recipe=recipe, model=edited_from))  # type: ignore[arg-type]

    found = base("smollm2-135m", "/cache/models/smollm2-135m-0.1.2")
    assert (found.packaged, found.hub) == ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert found.licence == {"license": "apache-2.0"} and not found.converted
    found = base("owner/name", "/hf/models--owner--name/snapshots/0123abc")
    assert (found.hub, found.revision, found.name, found.packaged) == ("owner/name", "0123abc", "name", None)
    source = run / "model"
    converted = models.converted_folder(source, "bfloat16", json.dumps(publication_fingerprint(source)))
    found = base(str(source), str(converted), "bf16")
    assert (found.folder, found.converted, found.hub, found.name) == (source, True, None, "model")


def publication_fingerprint(folder: Path) -> dict[str, list[int]]:
    from kedit_glue import records

    return records.fingerprint(folder)
