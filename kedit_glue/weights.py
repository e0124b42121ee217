"""Model folders of safetensors shards: where each tensor lies, what changed, and the layout a merge leaves.

The layout is the standard one (``model-00001-of-0000N.safetensors`` and an index), with each shard of
one kind: *touched* shards hold what training may change, *rest* shards everything else. A model of the
next batch needs new touched shards only; rest shards are hard links. Bytes are copied as they lie, so
no number format can change. Nothing here imports torch before a tensor is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedit_glue.atomic import link_or_copy, write_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
LORA = re.compile(r"^base_model\.model\.|\.lora_[AB](?=\.)")
"""What PEFT adds to the name of the tensor that an adapter's matrix belongs to."""
CHUNK = 1 << 20
"""Bytes that are read at once; memory for larger pieces is asked anew of the system, ten times slower."""
PROBE = 4096
"""Bytes of each end of a tensor that ``differs_at_ends`` reads."""


class WeightsError(ValueError):
    """A model's weights are not what they have to be; the message says which and why."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor's bytes lie."""

    file: Path
    dtype: str
    """safetensors' name: ``F32``, ``BF16`` …"""
    shape: tuple[int, ...]
    start: int
    """First byte in the file."""
    end: int
    """The byte after its last."""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def entries(self) -> int:
        return math.prod(self.shape)


# -- reading ------------------------------------------------------------------------------------


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of one shard. Raises WeightsError for what is no safetensors file."""
    return laid_out(file, header_text(file))


def header_text(file: Path) -> bytes:
    """The JSON at the beginning of a shard as it stands, padding included. Raises WeightsError as ``read_header``."""
    with file.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
        if not 0 < length < file.stat().st_size:
            raise WeightsError(f"{file} is no whole safetensors file")
        return handle.read(length)


def laid_out(file: Path, text: bytes) -> dict[str, Stored]:
    """Where a header says that its tensors lie in ``file``."""
    found = json.loads(text)
    found.pop("__metadata__", None)
    data = 8 + len(text)
    return {
        name: Stored(file, t["dtype"], tuple(t["shape"]), data + t["data_offsets"][0], data + t["data_offsets"][1])
        for name, t in found.items()
    }


def shards(folder: Path) -> list[Path]:
    """A model folder's weight files. Raises WeightsError where it has none that are safetensors."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise WeightsError(f"{folder} holds no {SINGLE} and no {INDEX}: load the model with transformers and save it")


def stored(folder: Path) -> dict[str, Stored]:
    """Every tensor of a model folder, over all its shards."""
    return {name: at for file in shards(folder) for name, at in read_header(file).items()}


class Weights:
    """The tensors of a model folder as torch tensors, read one at a time; names across all its shards."""

    def __init__(self, folder: Path):
        self.stored = stored(folder)

    def __getitem__(self, name: str) -> Any:
        from safetensors import safe_open

        # opened anew for each tensor: a handle that is kept keeps every page that was ever read mapped
        with safe_open(self.stored[name].file, framework="pt") as shard:
            return shard.get_tensor(name)

    def __contains__(self, name: str) -> bool:
        return name in self.stored

    def names(self) -> Iterator[str]:
        return iter(self.stored)


# -- comparing ----------------------------------------------------------------------------------


def check_untouched(before: Path, tuned: Path, trainable: str) -> int:
    """How many tensors ``trainable`` does not find; each has the same bits in both folders.

    Compares bytes, a chunk at a time, and what is a link to the same file not at all. Tensors that
    only ``before`` holds (tied copies, buffers that transformers no longer saves) are passed over: a
    merge keeps them. ``tuned`` may be a PEFT adapter, which is judged by the tensors it names. Raises
    WeightsError for the first tensor that training changed or added.
    """
    pattern = re.compile(trainable)
    if (tuned / ADAPTER).is_file():
        if strayed := adapter_strays(tuned, trainable):
            raise WeightsError(f"training changed {strayed}, which {trainable!r} does not find (by {tuned / ADAPTER})")
        return sum(not pattern.search(name) for name in stored(before))
    old, new = stored(before), stored(tuned)
    compared = 0
    for name in new:
        if pattern.search(name):
            continue
        if name not in old:
            raise WeightsError(f"training added {name}, which {before} does not hold and {trainable!r} does not find")
        if why := difference(old[name], new[name]):
            raise WeightsError(f"training changed {name}, which {trainable!r} does not find ({why})")
        compared += 1
    return compared


def adapter_strays(adapter: Path, trainable: str) -> str | None:
    """A tensor that a PEFT adapter changes and ``trainable`` does not find; None: there is none."""
    pattern = re.compile(trainable)
    changed = (LORA.sub("", name) for name in read_header(adapter / ADAPTER))
    return next((name for name in changed if not pattern.search(name)), None)


def differs_at_ends(one: Path, other: Path, trainable: str) -> str | None:
    """A tensor not found by ``trainable`` whose format, shape, first or last bytes differ; None: there is none.

    Reads a few kilobytes of each tensor. It tells models that share what training does not touch from
    models that do not; it is no proof that all bits are the same (``check_untouched`` is).
    """
    pattern = re.compile(trainable)
    old, new = stored(one), stored(other)
    return next((n for n in old if not pattern.search(n) and n in new and difference(old[n], new[n], PROBE)), None)


def difference(one: Stored, other: Stored, ends: int | None = None) -> str | None:
    """What differs between two tensors, None where nothing does; ``ends`` looks at that many bytes of each end."""
    if one.dtype != other.dtype:
        return f"{one.dtype} before, {other.dtype} after"
    if one.shape != other.shape:
        return f"shape {list(one.shape)} before, {list(other.shape)} after"
    if one.start == other.start and os.path.samefile(one.file, other.file):
        return None
    size = one.size
    if ends is None or size <= 2 * ends:
        pieces = [(offset, min(CHUNK, size - offset)) for offset in range(0, size, CHUNK)]
    else:
        pieces = [(0, ends), (size - ends, ends)]
    with one.file.open("rb") as a, other.file.open("rb") as b:
        for offset, length in pieces:
            a.seek(one.start + offset)
            b.seek(other.start + offset)
            if a.read(length) != b.read(length):
                return "other bits"
    return None


# -- writing ------------------------------------------------------------------------------------


def rest_shards(before: Path, trainable: str, cache: Path) -> tuple[list[Path], int]:
    """Files that hold exactly the tensors of ``before`` that ``trainable`` does not find, and the bytes written.

    A shard without touched tensors is such a file already. Of a shard that has both, the untouched
    ones are written once into ``cache/rest``, for every later merge and run: the name is made of the
    shard's path, size and time, and of the tensors' names.
    """
    pattern = re.compile(trainable)
    files, written = [], 0
    for shard in shards(before):
        header = read_header(shard)
        rest = {name: at for name, at in header.items() if not pattern.search(name)}
        if rest and len(rest) < len(header):
            kept = cache / "rest" / f"{_key(shard, rest)}.safetensors"
            written += 0 if _is_whole(kept, rest) else write_subset(rest, kept)
            files.append(kept)
        elif rest:
            files.append(shard)
    return files, written


def _key(shard: Path, names: Mapping[str, Stored]) -> str:
    file = shard.resolve()
    seen = [str(file), file.stat().st_size, file.stat().st_mtime_ns, sorted(names)]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:24]


def _is_whole(file: Path, tensors: Mapping[str, Stored]) -> bool:
    """Whether ``file`` begins as ``write_subset`` would begin it and has the right length."""
    if not file.is_file():
        return False
    head = _head(tensors)
    with file.open("rb") as handle:
        return handle.read(len(head)) == head and file.stat().st_size == len(head) + sum(
            at.size for at in tensors.values()
        )


def _ordered(tensors: Mapping[str, Stored]) -> list[tuple[str, Stored]]:
    """Wide number formats first, as safetensors itself writes, so that each tensor begins aligned."""
    return sorted(tensors.items(), key=lambda item: (-(item[1].size // max(item[1].entries, 1)), item[1].start))


def _head(tensors: Mapping[str, Stored]) -> bytes:
    """A safetensors file up to its data: length (8 bytes, little-endian), then JSON padded to 8 bytes."""
    said: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, at in _ordered(tensors):
        said[name] = {"dtype": at.dtype, "shape": at.shape, "data_offsets": [offset, offset + at.size]}
        offset += at.size
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def subset(tensors: Mapping[str, Stored]) -> Iterator[bytes]:
    """The bytes of a safetensors file of these tensors, whichever files they lie in, bit for bit."""
    yield _head(tensors)
    for _, at in _ordered(tensors):
        with at.file.open("rb") as old:
            old.seek(at.start)
            for offset in range(0, at.size, CHUNK):
                yield old.read(min(CHUNK, at.size - offset))


def write_subset(tensors: Mapping[str, Stored], target: Path) -> int:
    """A new shard of these tensors, bit for bit; returns its size in bytes. Whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        with aside.open("wb") as new:
            new.writelines(subset(tensors))
        # models share this file by hard links: writing into one of them must fail, not change them all
        aside.chmod(0o444)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    return target.stat().st_size


def lay_out(folder: Path, rest: Sequence[Path], names: Collection[str]) -> int:
    """Make one model of ``folder``'s shards and links to ``rest``, with standard names and index.

    Returns the bytes of weights in it that are not links. Raises WeightsError where the shards do not
    hold each of ``names`` once and nothing else.
    """
    touched = shards(folder)
    (folder / INDEX).unlink(missing_ok=True)
    aside = [file.rename(file.with_name(f"touched-{number}")) for number, file in enumerate(touched)]
    written = sum(file.stat().st_size for file in aside)
    total = len(aside) + len(rest)
    weight_map: dict[str, str] = {}
    size = 0
    for number, source in enumerate([*aside, *rest], start=1):
        target = folder / f"model-{number:05d}-of-{total:05d}.safetensors"
        if number <= len(aside):
            source.rename(target)
        else:
            written += link_or_copy(source, target)
        for name, at in read_header(target).items():
            if name in weight_map:
                raise WeightsError(f"{folder}: {name} is both in {weight_map[name]} and in {target.name}")
            weight_map[name] = target.name
            size += at.size
    if wrong := sorted(weight_map.keys() ^ set(names)):
        said = "was not written" if wrong[0] in names else "is new"
        raise WeightsError(
            f"{folder}: {wrong[0]} {said} (and {len(wrong) - 1} more): the tool names tensors otherwise than the "
            "model's files; load the model with transformers and save it"
        )
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / INDEX, index)
    return written
