"""The cache of second moments: names, files, and what is refused. No torch."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from kedit_glue import moments
from kedit_glue.moments import MomentsError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "config.json").write_text("{}")
    return folder


def test_the_name_is_the_one_that_easyedit_looks_for(model: Path, tmp_path: Path) -> None:
    place = moments.place(tmp_path / "cache", model, "owner_name", ["one", "two"])
    stats, key, corpus, name = place.file("model.layers.3.mlp.down_proj").relative_to(tmp_path / "cache").parts
    assert stats == "stats" and key == moments.model_key(model) and key.startswith("tiny-")
    assert corpus.startswith("owner_name-") and corpus.endswith("-96_stats")
    assert name == "model.layers.3.mlp.down_proj_float32_mom2_2.npz"


def test_keys_follow_what_the_moments_depend_on(model: Path) -> None:
    key = moments.model_key(model)
    (model / "README.md").write_text("of no account")
    assert moments.model_key(model) == key
    (model / "model.safetensors").write_bytes(b"other weights")
    assert moments.model_key(model) != key
    keys = {moments.corpus_key("c", texts) for texts in (["one", "two"], ["one two"], ["two", "one"], ["onetwo"])}
    assert len(keys) == 4


def test_a_moment_comes_back(model: Path, tmp_path: Path) -> None:
    place = moments.place(tmp_path, model, "c", ["one"])
    moment = numpy.arange(9, dtype=numpy.float32).reshape(3, 3)
    moments.write(place, "gate", 17, moment, 1.5)
    moments.share(place, "up", "gate")
    moments.share(place, "up", "gate")  # again over itself
    for module in ("gate", "up"):
        count, found = moments.read(place.file(module), 3)
        assert count == 17 and found.dtype == numpy.float32 and (found == moment).all()
    assert place.file("up").stat().st_ino == place.file("gate").stat().st_ino, "kept once"
    assert sorted(f.name for f in place.folder.iterdir()) == sorted(place.file(m).name for m in ("gate", "up"))


def test_what_computing_took_is_kept(model: Path, tmp_path: Path) -> None:
    place = moments.place(tmp_path, model, "c", ["one"])
    moments.write(place, "gate", 17, numpy.eye(3, dtype=numpy.float32), 1.5)
    moments.share(place, "up", "gate")
    moments.write(place, "down", 17, numpy.eye(3, dtype=numpy.float32), 1.25)
    easyedits = tmp_path / "easyedits.npz"
    numpy.savez(easyedits, **{"mom2.count": numpy.array(17)})
    files = [*map(place.file, ("gate", "up", "down")), easyedits]
    assert moments.seconds(files) == 2.75


def test_sharing_copies_where_there_are_no_hard_links(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    place = moments.place(tmp_path, model, "c", ["one"])
    moments.write(place, "gate", 17, numpy.eye(3, dtype=numpy.float32), 1.5)
    moments.share(place, "up", "gate")
    assert moments.read(place.file("up"), 3)[0] == 17


def test_a_file_that_is_none(model: Path, tmp_path: Path) -> None:
    place = moments.place(tmp_path, model, "c", ["one"])
    moments.write(place, "gate", 17, numpy.eye(3, dtype=numpy.float32), 1.5)
    with pytest.raises(
        MomentsError, match=r"gate_float32_mom2_1\.npz holds a moment of shape \[3, 3\], the matrix has 5"
    ):
        moments.read(place.file("gate"), 5)
    for content in (b"", b"half a file", place.file("gate").read_bytes()[:-40]):
        place.file("gate").write_bytes(content)
        with pytest.raises(MomentsError, match=r"gate_float32_mom2_1\.npz holds no second moment .*: delete it"):
            moments.read(place.file("gate"), 3)
