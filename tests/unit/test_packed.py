"""What is said of a packed model that was damaged, and of an original that is another one by now."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue.changed import ChangedError, damage, pack, rebuild

SHARD = "model.safetensors"
EMBED = "model.embed.weight"
EMBEDDING = ("BF16", [300, 1], b"embedd" * 100)
Tensors = dict[str, tuple[str, list[int], bytes]]


def model(folder: Path, up: bytes = b"up__", tokenizer: str = "{}") -> Path:
    """One shard with an embedding and an FFN matrix, a config and a tokenizer."""
    folder.mkdir()
    shard(folder / SHARD, {EMBED: EMBEDDING, "model.layers.0.mlp.up.weight": ("F32", [2, 100], up * 200)})
    (folder / "config.json").write_text('{"hidden_size": 2}')
    (folder / "tokenizer.json").write_text(tokenizer)
    return folder


def shard(file: Path, tensors: Tensors) -> None:
    """A safetensors file, written out by hand."""
    head, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def original(tmp_path: Path) -> Path:
    return model(tmp_path / "original")


@pytest.fixture
def packed(tmp_path: Path, original: Path) -> Path:
    """With a subset, a shard stored whole, a tokenizer and a config that is the original's."""
    made = model(tmp_path / "made", b"UP__", '{"a": 1}')
    shard(made / "more.safetensors", {"new": ("F32", [2], b"newer!!!")})
    pack(made, original, tmp_path / "packed")
    shutil.rmtree(made)
    return tmp_path / "packed"


def flip(file: Path) -> None:
    """One bit of its last byte, behind the file's time."""
    before = file.stat()
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def cut(file: Path) -> None:
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:-3])


def refused(packed: Path, original: Path) -> str:
    """What ``rebuild`` says; it leaves nothing behind."""
    target = packed.parent / "again"
    with pytest.raises(ChangedError) as caught:
        rebuild(packed, original, target)
    assert not target.exists() and not target.with_name("again.partial").exists()
    return str(caught.value)


@pytest.mark.parametrize("name", [SHARD, "more.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Path.unlink, "is missing"),
        (cut, "is damaged: {less} bytes, not {size}"),
        (flip, "is damaged: other content than was written"),
    ],
)
def test_damage_is_found_and_named(
    packed: Path, original: Path, name: str, harm: Callable[[Path], None], why: str
) -> None:
    file = packed / "files" / name
    size = file.stat().st_size
    harm(file)
    why = f"{file} {why.format(less=f'{size - 3:,}', size=f'{size:,}')}"
    assert damage(packed) == why
    assert refused(packed, original) == (
        f"{why}\n  the model cannot be rebuilt without it: bring it back from a backup, or make the model again (run "
        "the recipe with --from and the batch's number)"
    )


def test_a_subset_that_is_no_shard_any_more_is_named(packed: Path, original: Path) -> None:
    file = packed / "files" / SHARD
    file.chmod(0o644)
    file.write_bytes(b"\0" * file.stat().st_size)
    assert refused(packed, original).startswith(f"{file} is damaged: ")


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (Path.unlink, "is missing"),
        (lambda file: file.write_text(file.read_text().replace('"size"', '"sizes"', 1)), "other content than was wri"),
        (cut, "is damaged: it is no JSON"),
        (lambda file: file.write_bytes(b"\xff\xfe"), "is damaged: it is no JSON"),
        (lambda file: file.write_text("[]"), "is damaged: other content than was written"),
    ],
)
def test_a_damaged_manifest_is_named(packed: Path, original: Path, harm: Callable[[Path], object], why: str) -> None:
    harm(packed / "manifest.json")
    for said in (damage(packed) or "", refused(packed, original)):
        assert said.startswith(f"{packed / 'manifest.json'} ") and why in said


def seal(packed: Path, change: Callable[[dict[str, object]], None]) -> None:
    """Write another manifest with a hash that fits."""
    from kedit_glue.packed import _check

    said = json.loads((packed / "manifest.json").read_text())
    del said["check"]
    change(said)
    (packed / "manifest.json").write_text(json.dumps({**said, "check": _check(said)}))


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "", ".", "a//b", "./a", "a\0b"])
def test_no_name_leads_out_of_the_folder(packed: Path, original: Path, name: str) -> None:
    seal(packed, lambda said: said["files"].update({name: said["files"]["tokenizer.json"]}))
    assert refused(packed, original) == (
        f"{packed / 'manifest.json'} cannot be used, another program wrote it: files: Value error, {name!r} is no name "
        "of a file inside a model's folder"
    )


def test_a_manifest_of_a_later_version_is_refused(packed: Path, original: Path) -> None:
    seal(packed, lambda said: said.update(format=2))
    assert refused(packed, original).endswith("another program wrote it: format: Input should be 1")


# -- another original ---------------------------------------------------------------------------


def not_the_original(packed: Path, original: Path, why: str) -> str:
    return (
        f"the original at {original} is no longer the one that {packed} was made with: {why}\n  bring the original "
        "back as it was: the packed model holds only what differs from it"
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({EMBED: ("BF16", [300, 1], b"EMBEDD" * 100)}, f"tensors of {SHARD} hold other bytes than then"),
        ({EMBED: ("F32", [150, 1], b"embedd" * 100)}, f"{EMBED} is F32 [150, 1], not BF16 [300, 1]"),
        ({EMBED: ("BF16", [301, 1], b"embedd" * 100 + b"..")}, f"{EMBED} is BF16 [301, 1], not BF16 [300, 1]"),
    ],
)
def test_another_original_is_told_from_damage(packed: Path, original: Path, change: Tensors, why: str) -> None:
    shard(original / SHARD, {"model.layers.0.mlp.up.weight": ("F32", [2, 100], b"up__" * 200), **change})
    assert refused(packed, original) == not_the_original(packed, original, why)
    assert damage(packed) is None


def test_an_original_that_lost_a_tensor_is_named(packed: Path, original: Path) -> None:
    shard(original / SHARD, {"another": EMBEDDING})
    assert refused(packed, original) == not_the_original(packed, original, f"it holds no {EMBED}")


def test_an_original_that_is_gone_or_cut_off_is_named(packed: Path, original: Path) -> None:
    (original / "config.json").write_text('{"hidden_size": 9}')
    assert refused(packed, original) == not_the_original(
        packed, original, f"{original / 'config.json'} holds other bytes than then"
    )
    (original / "config.json").unlink()
    assert refused(packed, original) == not_the_original(packed, original, f"{original / 'config.json'} is missing")
    (original / "config.json").write_text('{"hidden_size": 2}')
    (original / SHARD).write_bytes((original / SHARD).read_bytes()[:20])
    assert refused(packed, original) == not_the_original(
        packed, original, f"{original / SHARD} is no whole safetensors file"
    )
    shutil.rmtree(original)
    assert "is no longer the one" in refused(packed, original)


def test_an_original_that_moved_is_still_the_original(packed: Path, original: Path, tmp_path: Path) -> None:
    moved = original.rename(tmp_path / "moved")
    rebuild(packed, moved, tmp_path / "again")
    assert b"UP__" * 200 in (tmp_path / "again" / SHARD).read_bytes()


def test_changing_what_is_rebuilt_changes_nothing_that_is_kept(packed: Path, original: Path, tmp_path: Path) -> None:
    before = content(packed), content(original)
    rebuild(packed, original, tmp_path / "again")
    for file in (f for f in (tmp_path / "again").rglob("*") if f.is_file()):
        with file.open("r+b") as handle:
            handle.write(b"........")
    assert (content(packed), content(original)) == before
