"""A finished run's model given away to a folder: what goes, what is shown before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from kedit_glue.public_base import front_matter

PLANTED = "hf_plantedPLANTEDplanted"
Files = Callable[[Path], dict[str, bytes]]


# -- the whole model ----------------------------------------------------------------------------


def test_the_whole_model(run: Path, ask: Callable[..., str], tmp_path: Path, files: Files, bits: Files) -> None:
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
    run: Path, ask: Callable[..., str], tmp_path: Path, done: Path, option: tuple[str, ...], files: Files
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


# -- what is shown before -----------------------------------------------------------------------


def test_a_dry_run_shows_every_file_and_writes_none(
    run: Path, ask: Callable[..., str], tmp_path: Path, files: Files
) -> None:
    (run / "model" / "notes.txt").write_text("mine")
    said = ask("--dry-run", to=tmp_path / "out").splitlines()
    assert not list(tmp_path.glob("out*"))
    assert said[1] == f"the whole model of run try -> {tmp_path / 'out'}"
    assert said[-1] == "nothing was sent or written; run the same command without --dry-run"
    ask(to=tmp_path / "out")
    made = files(tmp_path / "out")
    rows = [line.split() for line in said[2 : 2 + len(made)]]
    assert {row[0] for row in rows} == made.keys()
    for row in rows:
        assert hashlib.sha256(made[row[0]]).hexdigest()[:12] in row
        assert " ".join(row[1:3]) == f"{len(made[row[0]])} bytes" or row[2] == "kB"
    assert f"  {len(made)} files, " in said[2 + len(made)]
    assert f"({sum(map(len, made.values())):,} bytes)" in said[2 + len(made)]
    telling = [name for name, data in made.items() if name.startswith("provenance/") and b"target_new" in data]
    assert said[3 + len(made)].startswith("  with the edited facts and the models' answers to them: ")
    assert telling and all(name in said[3 + len(made)] for name in telling), "whose facts go is told"
    assert "without 1 local path, 2 secrets" in said[[row[0] for row in rows].index("provenance/recipe.yaml") + 2]
    assert said[-2].startswith("Verdict: ship: ")
    assert said[-4:-2] == [
        "  model/notes.txt  not the run's own",
        "  all else         batches, logs, environment: the run's own work",
    ]


def test_a_dry_run_for_the_hub_asks_nobody(ask: Callable[..., str]) -> None:
    said = ask("--dry-run", "--public", "--revision", "v2", to="me/edited")
    assert "the whole model of run try -> me/edited on the hub, branch v2, public\n" in said
    assert "-> me/edited on the hub, branch main, private\n" in ask("--dry-run", "--only-task-vector", to="me/edited")
