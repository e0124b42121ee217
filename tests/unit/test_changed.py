"""Packing what a model changed, and rebuilding it, on shards written by hand: no torch here."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue import changed, weights
from kedit_glue.changed import ChangedError, bytes_of, damage, pack, rebuild
from kedit_glue.packed import read_manifest

Tensors = dict[str, tuple[str, list[int], bytes]]
EMBED, UP, DOWN, NORM = "model.embed.weight", "model.layers.0.mlp.up.weight", "model.layers.0.mlp.down.weight", "norm"
SHARD = "model.safetensors"


def shard(file: Path, tensors: Tensors, gap: bytes = b"", blanks: int = 3) -> None:
    """A safetensors file, written out by hand; ``gap`` are bytes at the end that belong to no tensor."""
    head: dict[str, object] = {"__metadata__": {"format": "pt", "by": "hand \u2713"}}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head, ensure_ascii=False).encode() + b" " * blanks
    file.write_bytes(struct.pack("<Q", len(text)) + text + data + gap)


def tensors(**other: bytes) -> Tensors:
    """An embedding, two FFN matrices and a norm, with other bytes where asked for."""
    return {
        EMBED: ("BF16", [300, 1], other.get("embed", b"embedd" * 100)),
        UP: ("F32", [2, 100], other.get("up", b"up__" * 200)),
        DOWN: ("F32", [2, 100], other.get("down", b"down" * 200)),
        NORM: ("F32", [2], other.get("norm", b"normnorm")),
    }


def model(folder: Path, tokenizer: str = "{}", **files: Tensors) -> Path:
    """A model folder; more than one shard has an index."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        shard(folder / f"{name}.safetensors", content)
    if list(files) != ["model"]:
        index = {tensor: f"{name}.safetensors" for name, content in files.items() for tensor in content}
        (folder / weights.INDEX).write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text('{"hidden_size": 2}')
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's bytes and time."""
    return {
        str(f.relative_to(folder)): (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()
    }


def kept(packed: Path) -> list[str]:
    return sorted(content(packed / "files")) if (packed / "files").is_dir() else []


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return model(tmp_path / "original", model=tensors())


def there_and_back(made: Path, original: Path) -> Path:
    """Pack, delete, rebuild: every file as it was, and nothing a link. Returns the packed folder."""
    before = content(made)
    packed = made.parent / "batch" / "changed"
    pack(made, original, packed)
    assert damage(packed) is None
    shutil.rmtree(made)
    rebuild(packed, original, made)
    assert content(made) == before
    assert all(f.stat().st_nlink == 1 and os.access(f, os.W_OK) for f in made.rglob("*") if f.is_file())
    assert not list(packed.parent.glob("*.partial")) and not list(made.parent.glob("*.partial"))
    return packed


# -- layouts ------------------------------------------------------------------------------------


def test_importing_it_is_cheap() -> None:
    import subprocess

    code = "import sys, kedit_glue.changed; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_of_a_single_file_only_the_changed_tensors_are_kept(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "tuned", model=tensors(up=b"UP__" * 200))
    packed = there_and_back(made, original)
    assert kept(packed) == [SHARD]
    held = weights.read_header(packed / "files" / SHARD)
    assert {n: (packed / "files" / SHARD).read_bytes()[at.start : at.end] for n, at in held.items()} == {
        UP: b"UP__" * 200
    }
    assert read_manifest(packed).files[SHARD].subset.tensors == (UP,)


def test_a_run_folders_layout_costs_nothing_but_the_manifest(tmp_path: Path, original: Path) -> None:
    new = tensors(up=b"UP__" * 200, down=b"DOWN" * 200)
    made = model(tmp_path / "merged", model={UP: new[UP], DOWN: new[DOWN]})
    rest, _ = weights.rest_shards(original, r"\.mlp\.", tmp_path / "cache")
    weights.lay_out(made, rest, weights.stored(original))
    touched, shared = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    inode = (made / touched).stat().st_ino
    before = content(made)
    packed = tmp_path / "packed"
    result = pack(made, original, packed)
    assert kept(packed) == [touched, weights.INDEX]
    assert (packed / "files" / touched).stat().st_ino == inode, "the touched shard is a link"
    assert result["written"] == (packed / "manifest.json").stat().st_size
    assert (result["tensors"], result["of"], result["bytes"]) == (2, 4, bytes_of(packed))
    shutil.rmtree(made)
    rebuild(packed, original, made)
    assert content(made) == before
    assert read_manifest(packed).files[shared].how == "tensors"


def test_mixed_shards_and_an_original_in_other_shards(tmp_path: Path) -> None:
    one = tensors()
    original = model(tmp_path / "original", a={NORM: one[NORM], UP: one[UP]}, b={DOWN: one[DOWN], EMBED: one[EMBED]})
    new = tensors(up=b"UP__" * 200, norm=b"NORMNORM")
    made = model(tmp_path / "made", x={EMBED: new[EMBED], UP: new[UP]}, y={DOWN: new[DOWN]}, z={NORM: new[NORM]})
    packed = there_and_back(made, original)
    files = read_manifest(packed).files
    assert [files[f"{n}.safetensors"].how for n in "xyz"] == ["tensors", "tensors", "stored"]
    assert files["x.safetensors"].subset.tensors == (UP,) and files["y.safetensors"].subset is None


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        pytest.param({NORM: ("BF16", [2], b"no__")}, (NORM,), id="number format"),
        pytest.param({NORM: ("BF16", [4], b"normnorm")}, (NORM,), id="number format, the same bytes"),
        pytest.param({NORM: ("F32", [1, 2], b"normnorm")}, (NORM,), id="shape, the same bytes"),
        pytest.param({"lm_head.weight": ("F32", [2], b"headhead")}, ("lm_head.weight",), id="tensor added"),
        pytest.param({EMBED: ("BF16", [301, 1], b"embedd" * 100 + b"ab")}, (EMBED,), id="vocabulary grown"),
        pytest.param({"empty": ("F32", [0], b"")}, ("empty",), id="tensor of no numbers"),
    ],
)
def test_what_differs_is_kept(tmp_path: Path, original: Path, change: Tensors, wanted: tuple[str, ...]) -> None:
    packed = there_and_back(model(tmp_path / "made", model={**tensors(), **change}), original)
    assert read_manifest(packed).files[SHARD].subset.tensors == wanted


def test_a_tensor_that_is_gone_is_not_brought_back(tmp_path: Path, original: Path) -> None:
    less = {name: t for name, t in tensors(up=b"UP__" * 200).items() if name != EMBED}
    packed = there_and_back(model(tmp_path / "made", model=less), original)
    assert read_manifest(packed).files[SHARD].subset.tensors == (UP,)


def test_an_unchanged_model_keeps_only_a_manifest(tmp_path: Path, original: Path) -> None:
    packed = there_and_back(model(tmp_path / "made", model=tensors()), original)
    assert kept(packed) == []


def test_another_order_and_other_metadata_are_kept_as_they_were(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "made", model=tensors())
    shard(made / SHARD, dict(reversed(tensors(down=b"DOWN" * 200).items())), blanks=0)
    packed = there_and_back(made, original)
    assert read_manifest(packed).files[SHARD].subset.tensors == (DOWN,)


def test_a_shard_whose_tensors_are_not_all_of_it_is_stored_whole(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "made", model=tensors(up=b"UP__" * 200))
    shard(made / SHARD, tensors(up=b"UP__" * 200), gap=b"more")
    packed = there_and_back(made, original)
    assert read_manifest(packed).files[SHARD].how == "stored"


def test_an_adapter_is_stored_whole(tmp_path: Path, original: Path) -> None:
    made = tmp_path / "tuned"
    made.mkdir()
    shard(made / weights.ADAPTER, {"base_model.model.model.layers.0.mlp.up.lora_A.weight": tensors()[UP]})
    (made / "adapter_config.json").write_text("{}")
    assert kept(there_and_back(made, original)) == ["adapter_config.json", weights.ADAPTER]


def test_an_original_without_safetensors_gives_nothing(tmp_path: Path) -> None:
    original = model(tmp_path / "original")
    (original / weights.INDEX).unlink()
    (original / "pytorch_model.bin").write_bytes(b"weights")
    packed = there_and_back(model(tmp_path / "made", model=tensors()), original)
    assert kept(packed) == [SHARD], "config and tokenizer are the original's all the same"


def test_chunks_make_no_difference(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (weights, changed):
        monkeypatch.setattr(module, "CHUNK", 64)
    late = bytearray(b"embedd" * 100)
    late[-1] ^= 1
    packed = there_and_back(model(tmp_path / "made", model=tensors(embed=bytes(late))), original)
    assert read_manifest(packed).files[SHARD].subset.tensors == (EMBED,)


# -- other files --------------------------------------------------------------------------------


def test_files_that_the_original_has_are_not_kept(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "made", tokenizer='{"a": 1}', model=tensors())  # of another size
    (made / "config.json").write_text('{"hidden_size": 3}')  # of the same size
    (made / "original" / "deep").mkdir(parents=True)
    (made / "original" / "deep" / "params.json").write_text("{}")
    (original / "README.md").write_text("the model has none")
    packed = there_and_back(made, original)
    assert kept(packed) == ["config.json", "original/deep/params.json", "tokenizer.json"]


def test_a_file_called_as_the_manifest_is_no_trouble(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "made", model=tensors())
    (made / "manifest.json").write_text("mine")
    assert kept(there_and_back(made, original)) == ["manifest.json"]


def test_the_same_tokenizer_is_kept_once_for_all_batches(tmp_path: Path, original: Path) -> None:
    packed: list[Path] = []
    for n in range(3):
        made = model(tmp_path / f"m{n}", tokenizer='{"saved": "anew"}', model=tensors(up=b"%04d" % n * 200))
        packed.append(tmp_path / f"p{n}")
        pack(made, original, packed[-1], packed[-2] if n else None)
        shutil.rmtree(made)
    assert len({(p / "files" / "tokenizer.json").stat().st_ino for p in packed}) == 1
    assert len({(p / "files" / SHARD).stat().st_ino for p in packed}) == 3
    assert sum(map(bytes_of, packed)) == bytes_of(*packed) + 2 * len('{"saved": "anew"}')
    for n in range(3):
        rebuild(packed[n], original, tmp_path / "again")
        assert (tmp_path / "again" / "tokenizer.json").read_text() == '{"saved": "anew"}'
        assert b"%04d" % n * 200 in (tmp_path / "again" / SHARD).read_bytes()


def test_what_is_damaged_in_an_earlier_folder_is_not_linked(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "m", tokenizer='{"a": 1}', model=tensors(up=b"UP__" * 200))
    pack(made, original, tmp_path / "p0")
    (made / "tokenizer.json").unlink()
    (made / "tokenizer.json").write_text('{"a": 1}')
    (tmp_path / "p0" / "files" / "tokenizer.json").write_text('{"a": 2}')
    pack(made, original, tmp_path / "p1", tmp_path / "p0")
    assert damage(tmp_path / "p1") is None
    (tmp_path / "p0" / "manifest.json").write_text("{")
    pack(made, original, tmp_path / "p2", tmp_path / "p0")
    assert damage(tmp_path / "p2") is None


def test_links_to_a_compared_file_are_not_read_again(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest, _ = weights.rest_shards(original, r"\.mlp\.", tmp_path / "cache")
    read: list[str] = []
    difference = weights.difference

    def noted(one: weights.Stored, other: weights.Stored) -> str | None:
        read.append(other.file.name)
        return difference(one, other)

    monkeypatch.setattr(weights, "difference", noted)

    def packed(n: int, like: int | None) -> set[str]:
        touched = {UP: tensors(up=b"%04d" % n * 200)[UP], DOWN: tensors(down=b"%04d" % n * 200)[DOWN]}
        made = model(tmp_path / f"m{n}", model=touched)
        weights.lay_out(made, rest, weights.stored(original))
        before = content(made)
        read.clear()
        result = pack(made, original, tmp_path / f"p{n}", tmp_path / f"p{like}" if like is not None else None)
        found = set(read)
        assert (result["tensors"], result["of"]) == (2, 4)
        rebuild(tmp_path / f"p{n}", original, tmp_path / f"r{n}")
        assert content(tmp_path / f"r{n}") == before
        return found

    touched, shared = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert packed(0, None) == {touched, shared}
    assert packed(1, 0) == {touched}
    assert packed(2, 1) == {touched}
    os.utime(original / SHARD, ns=(1, 1))  # who knows what was done to it
    assert packed(3, 2) == {touched, shared}
    rest[0].chmod(0o644)
    os.utime(rest[0], ns=(1, 1))
    assert packed(4, 3) == {touched, shared}


def test_without_links_there_are_copies(tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    made = model(tmp_path / "made", model={UP: ("F32", [2, 100], b"UP__" * 200)})
    before = content(made)
    result = pack(made, original, tmp_path / "packed")
    assert result["written"] == result["bytes"] == bytes_of(tmp_path / "packed")
    rebuild(tmp_path / "packed", original, tmp_path / "again")
    assert content(tmp_path / "again") == before


# -- half done ----------------------------------------------------------------------------------


class Kill(BaseException):
    """Ctrl-C, say."""


@pytest.mark.parametrize("error", [Kill, lambda: OSError(28, "No space left on device")])
def test_packing_that_is_stopped_leaves_the_model_and_nothing_half(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch, error: Callable[[], BaseException]
) -> None:
    made = model(tmp_path / "made", tokenizer='{"a": 1}', model=tensors(up=b"UP__" * 200))
    before = content(made)

    def stop(*_: object) -> int:
        raise error()

    monkeypatch.setattr(changed, "link_or_copy", stop)  # the tokenizer's turn comes after the shard
    with pytest.raises((Kill, OSError)):
        pack(made, original, tmp_path / "batch" / "changed")
    assert list((tmp_path / "batch").iterdir()) == [] and content(made) == before
    monkeypatch.undo()
    pack(made, original, tmp_path / "batch" / "changed")
    assert damage(tmp_path / "batch" / "changed") is None


def test_what_a_kill_left_is_no_packed_folder_and_is_swept_up(tmp_path: Path, original: Path) -> None:
    made = model(tmp_path / "made", model=tensors(up=b"UP__" * 200))
    half = tmp_path / "changed.partial" / "files"
    half.mkdir(parents=True)
    (half / SHARD).write_bytes(b"half")
    assert damage(tmp_path / "changed") == f"{tmp_path / 'changed' / 'manifest.json'} is missing"
    pack(made, original, tmp_path / "changed")
    assert damage(tmp_path / "changed") is None and not half.exists()


def test_rebuilding_that_is_stopped_leaves_nothing_half(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(model(tmp_path / "made", model=tensors(up=b"UP__" * 200)), original, tmp_path / "changed")

    def stop(*_: object, **__: object) -> None:
        raise Kill

    monkeypatch.setattr(os, "utime", stop)
    with pytest.raises(Kill):
        rebuild(tmp_path / "changed", original, tmp_path / "again")
    assert not list(tmp_path.glob("again*"))


def test_a_disk_that_loses_bytes_is_found_before_the_model_is_deleted(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(tmp_path / "made", model=tensors(up=b"UP__" * 200))
    write_subset = weights.write_subset

    def lossy(subset: dict[str, weights.Stored], to: Path) -> int:
        size = write_subset(subset, to)
        to.chmod(0o644)
        to.write_bytes(to.read_bytes()[:-1] + b"!")
        return size

    monkeypatch.setattr(weights, "write_subset", lossy)
    with pytest.raises(ChangedError, match=r"cannot be packed: .* reads otherwise than it was written; check the disk"):
        pack(made, original, tmp_path / "changed")
    assert not list(tmp_path.glob("changed*"))


def test_a_copy_that_loses_bytes_is_found_before_the_model_is_deleted(
    tmp_path: Path, original: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(source: Path, to: Path) -> int:
        to.write_bytes(source.read_bytes()[:-1] + b"!")
        return to.stat().st_size

    monkeypatch.setattr(changed, "link_or_copy", lossy)
    made = model(tmp_path / "made", tokenizer='{"a": 1}', model=tensors())
    with pytest.raises(ChangedError, match=r"cannot be packed: its copy .* is damaged: other content than was written"):
        pack(made, original, tmp_path / "changed")
    assert not list(tmp_path.glob("changed*"))


@pytest.mark.parametrize("there", [True, False])
def test_a_model_that_is_not_there_is_not_packed(tmp_path: Path, original: Path, there: bool) -> None:
    if there:
        (tmp_path / "made").mkdir()
    with pytest.raises(ChangedError, match=r"made is no folder with files in it: there is nothing to pack"):
        pack(tmp_path / "made", original, tmp_path / "changed")
    assert not list(tmp_path.glob("changed*"))
