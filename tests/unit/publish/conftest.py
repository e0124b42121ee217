"""A finished run that is given away."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import hub, publication
from kedit_glue.publish import finished, main
from kedit_glue.run_folder import open_run
from kedit_glue.weights import stored

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


@pytest.fixture
def whole(run: Path) -> publication.Finished:
    return finished(open_run(run))


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder."""

    def found(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

    return found


@pytest.fixture
def bits() -> Callable[[Path], dict[str, bytes]]:
    """A model folder's tensors as they lie there."""

    def found(folder: Path) -> dict[str, bytes]:
        return {name: at.file.read_bytes()[at.start : at.end] for name, at in stored(folder).items()}

    return found
