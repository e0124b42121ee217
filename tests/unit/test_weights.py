"""Shards by their bytes: no torch here."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path

import pytest

from kedit_glue import weights
from kedit_glue.weights import WeightsError, check_untouched, difference, lay_out, rest_shards, stored

Tensors = dict[str, tuple[str, list[int], bytes]]
FFN = r"\.\d+\.mlp\."
EMBED, UP, NORM = "model.embed.weight", "model.layers.0.mlp.up.weight", "model.norm.weight"


def shard(file: Path, tensors: Tensors) -> None:
    """A safetensors file, written out by hand."""
    head, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(head).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def model(folder: Path, **files: Tensors) -> Path:
    """A model folder; one file called ``model`` has no index."""
    folder.mkdir()
    for name, tensors in files.items():
        shard(folder / f"{name}.safetensors", tensors)
    if list(files) != ["model"]:
        index = {tensor: f"{name}.safetensors" for name, tensors in files.items() for tensor in tensors}
        (folder / weights.INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def base(**changes: bytes) -> Tensors:
    """Embedding (bfloat16), one FFN matrix and a norm (float32), with other bytes where asked for."""
    return {
        EMBED: ("BF16", [3, 1], changes.get("embed", b"abcdef")),
        UP: ("F32", [2], changes.get("up", b"01234567")),
        NORM: ("F32", [1], changes.get("norm", b"wxyz")),
    }


def content(folder: Path) -> dict[str, bytes]:
    return {name: at.file.read_bytes()[at.start : at.end] for name, at in stored(folder).items()}


def test_importing_it_is_cheap() -> None:
    import subprocess

    code = "import sys, kedit_glue.weights, kedit_glue.merge_record; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_an_index_says_which_files_are_the_models(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", one={EMBED: base()[EMBED]}, two={NORM: base()[NORM]})
    shard(folder / "consolidated.safetensors", base())  # the same weights again, as some models have them
    assert {name: at.file.name for name, at in stored(folder).items()} == {
        EMBED: "one.safetensors",
        NORM: "two.safetensors",
    }
    assert content(folder)[NORM] == b"wxyz"


@pytest.mark.parametrize("found", [b"", b"12", struct.pack("<Q", 999) + b"{}"])
def test_half_a_file_is_an_error(tmp_path: Path, found: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(found)
    with pytest.raises(WeightsError, match=r"model\.safetensors is no whole safetensors file"):
        stored(tmp_path)


def test_a_folder_without_weights_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors and no model\.safetensors\.index\.json"):
        stored(tmp_path)


# -- what training left alone -------------------------------------------------------------------


def test_untouched_tensors_are_counted(tmp_path: Path) -> None:
    before = model(tmp_path / "before", model=base())
    tensors = base(up=b"--------")
    tuned = model(tmp_path / "tuned", a={UP: tensors[UP], NORM: tensors[NORM]}, b={EMBED: tensors[EMBED]})
    assert check_untouched(before, tuned, FFN) == 2


def test_what_training_no_longer_saves_is_passed_over(tmp_path: Path) -> None:
    before = model(tmp_path / "before", model={**base(), "model.layers.0.rotary.inv_freq": ("F32", [1], b"....")})
    assert check_untouched(before, model(tmp_path / "tuned", model=base()), FFN) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: ("F32", [1], b"wxy!")}, rf"training changed {NORM}, which .* does not find \(other bits\)"),
        ({NORM: ("BF16", [1], b"wx")}, r"\(F32 before, BF16 after\)"),
        ({EMBED: ("BF16", [4, 1], b"abcdef..")}, r"\(shape \[3, 1\] before, \[4, 1\] after\)"),
        ({"lm_head.weight": ("F32", [1], b"....")}, r"training added lm_head\.weight, which"),
    ],
)
def test_training_that_strayed_is_an_error(tmp_path: Path, change: Tensors, message: str) -> None:
    before = model(tmp_path / "before", model=base())
    with pytest.raises(WeightsError, match=message):
        check_untouched(before, model(tmp_path / "tuned", model={**base(), **change}), FFN)


def test_not_a_number_is_the_same_as_itself(tmp_path: Path) -> None:
    nan = struct.pack("<f", float("nan"))
    folders = [model(tmp_path / name, model=base(norm=nan)) for name in "ab"]
    assert check_untouched(*folders, FFN) == 2


def test_a_large_tensor_is_compared_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK", 64)
    size = 1000
    one, middle, last = (bytearray(size) for _ in range(3))
    middle[500] = last[-1] = 1
    for name, data in (("one", one), ("middle", middle), ("last", last)):
        model(tmp_path / name, model={EMBED: ("U8", [size], bytes(data))})
    at = {name: stored(tmp_path / name)[EMBED] for name in ("one", "middle", "last")}
    assert difference(at["one"], at["middle"]) == difference(at["one"], at["last"]) == "other bits"
    assert difference(at["one"], at["one"]) is None
    assert difference(at["one"], at["last"], ends=8) == "other bits"
    assert difference(at["one"], at["middle"], ends=8) is None, "the ends alone are no proof"


# -- the layout ---------------------------------------------------------------------------------


def test_the_rest_of_a_mixed_shard_keeps_its_bits_and_lies_aligned(tmp_path: Path) -> None:
    before = model(tmp_path / "before", model=base())
    (file,), written = rest_shards(before, FFN, tmp_path / "cache")
    assert file.parent == tmp_path / "cache" / "rest" and written == file.stat().st_size
    found = weights.read_header(file)
    assert {n: file.read_bytes()[at.start : at.end] for n, at in found.items()} == {EMBED: b"abcdef", NORM: b"wxyz"}
    assert found[NORM].start % 8 == 0 and found[EMBED].start == found[NORM].end, "four-byte numbers first"
    assert found[EMBED].shape == (3, 1) and found[EMBED].dtype == "BF16"
    assert rest_shards(before, FFN, tmp_path / "cache") == ([file], 0), "kept"


def test_what_is_kept_belongs_to_the_file_and_the_pattern(tmp_path: Path) -> None:
    before = model(tmp_path / "before", model=base())
    kept = rest_shards(before, FFN, tmp_path / "cache")[0]
    assert rest_shards(before, r"\.norm\.", tmp_path / "cache")[0] != kept
    assert rest_shards(before, r"mlp", tmp_path / "cache")[0] == kept, "another pattern that finds the same"
    shard(before / "model.safetensors", base(norm=b"!!!!"))
    (file,), _ = rest_shards(before, FFN, tmp_path / "cache")
    assert file != kept[0] and file.read_bytes().endswith(b"!!!!abcdef")


def test_a_disk_that_is_full_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model(tmp_path / "before", model=base())

    def full(self: Path, mode: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "chmod", full)
    with pytest.raises(OSError, match="No space left"):
        rest_shards(before, FFN, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "rest").iterdir())


def test_touched_and_rest_become_one_model(tmp_path: Path) -> None:
    before = model(tmp_path / "before", a={EMBED: base()[EMBED]}, b={UP: base()[UP], NORM: base()[NORM]})
    out = model(tmp_path / "out", model={UP: base(up=b"changed!")[UP]})
    rest, _ = rest_shards(before, FFN, tmp_path / "cache")
    size = (out / "model.safetensors").stat().st_size
    assert lay_out(out, rest, stored(before)) == size, "links are not written"
    assert content(out) == {EMBED: b"abcdef", UP: b"changed!", NORM: b"wxyz"}
    assert sorted(f.name for f in out.iterdir()) == [
        *(f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)),
        weights.INDEX,
    ]
    assert json.loads((out / weights.INDEX).read_text())["metadata"]["total_size"] == 18
    again, written = rest_shards(out, FFN, tmp_path / "unused")
    assert written == 0 and {f.parent for f in again} == {out}


def test_copies_where_links_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = model(tmp_path / "before", model=base())
    out = model(tmp_path / "out", model={UP: base()[UP]})
    rest, _ = rest_shards(before, FFN, tmp_path / "cache")

    def refuse(self: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert lay_out(out, rest, stored(before)) == sum(f.stat().st_size for f in out.glob("*.safetensors"))
    assert content(out) == content(before)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({NORM: ("F32", [1], b"....")}, rf"{NORM} is both in model-00001-of-00002.safetensors and in model-00002"),
        ({"h.0.mlp.up": ("F32", [1], b"....")}, r"h\.0\.mlp\.up is new \(and 1 more\): the tool names tensors otherw"),
    ],
)
def test_shards_that_make_no_model_are_an_error(tmp_path: Path, tensors: Tensors, message: str) -> None:
    before = model(tmp_path / "before", model=base())
    rest, _ = rest_shards(before, FFN, tmp_path / "cache")
    with pytest.raises(WeightsError, match=message):
        lay_out(model(tmp_path / "out", model=tensors), rest, stored(before))
