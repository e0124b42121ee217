"""A batch's model without what it shares with the original: packed into a folder, and rebuilt bit for bit.

Only the original is needed to rebuild a batch's model, no other batch's: what is packed are the tensors that are not
the original's, and no differences to add up. Files are read and written a chunk at a time; nothing here imports torch.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import xxhash

from kedit_glue import weights
from kedit_glue.atomic import PARTIAL, link_or_copy, new_folder
from kedit_glue.content import CHUNK, hash_of
from kedit_glue.packed import (
    FILES,
    ChangedError,
    Manifest,
    Part,
    Subset,
    bytes_of,
    damage,
    damaged,
    fault,
    files_of,
    read_manifest,
    write_manifest,
)
from kedit_glue.weights import Stored

__all__ = ["ChangedError", "bytes_of", "damage", "pack", "rebuild"]

SHARD = ".safetensors"
WORTH = 0.1
"""Where leaving out tensors saves no more than this share of a shard, it is stored whole: a link, which costs nothing
to make."""

Piece = tuple[Path, int, int]
"""A file, where in it to begin, and how many bytes."""


# -- packing ------------------------------------------------------------------------------------


def pack(model: Path, original: Path, target: Path, like: Path | None = None) -> dict[str, int]:
    """Make ``target`` hold what ``model`` has and ``original`` has not; ``model`` may then be deleted.

    ``like`` is a folder packed earlier: what is stored there already becomes a link to it, and links to a file that
    was compared with the same original then are not read again. Returns ``tensors`` (that differ), ``of`` (how many
    the model has), ``written`` (bytes that are not links) and ``bytes`` (of the folder). ``target`` is whole or not
    there. Raises WeightsError for a shard that is none, ChangedError where the disk does not keep what is written.
    """
    if not (files := files_of(model)):
        raise ChangedError(f"{model} is no folder with files in it: there is nothing to pack")
    held = _tensors(original)
    earlier = _Earlier(like, original, _prints(held))
    parts: dict[str, Part] = {}
    differing = tensors = written = 0
    with whole_folder(target) as aside:
        for file in files:
            name = file.relative_to(model).as_posix()
            to = aside / FILES / name
            part = earlier.compared(file)
            if file.suffix == SHARD:
                header = weights.read_header(file)
                differ = {} if part else _differing(header, held)
                part = part or _taken_apart(file, header, differ, held, to)
                differing, tensors = differing + len(differ), tensors + len(header)
            elif _same_file(file, original / name):
                part = _described(file, "original")
            part = part or _described(file, "stored")
            if part.how == "stored":
                written += _store(earlier.file_with(part) or file, part, to)
            elif part.subset:
                written += part.subset.size
            parts[name] = part
        written += write_manifest(
            aside, Manifest(format=1, original=str(original), original_seen=_prints(held), files=parts)
        )
        size = bytes_of(aside)
    return {"tensors": differing, "of": tensors, "written": written, "bytes": size}


class _Earlier:
    """What a folder packed earlier spares the next one."""

    def __init__(self, packed: Path | None, original: Path, prints: Mapping[str, tuple[int, int]]):
        self.stored: dict[tuple[int, str], Path] = {}
        self.parts: dict[tuple[int, ...], Part] = {}
        try:
            manifest = read_manifest(packed) if packed else None
        except ChangedError:  # it spares nothing; whoever needs its model is told
            manifest = None
        if packed and manifest:
            same_original = (manifest.original, manifest.original_seen) == (str(original), prints)
            for name, part in manifest.files.items():
                if part.how == "stored":
                    self.stored[part.size, part.hash] = packed / FILES / name
                elif part.how == "tensors" and part.subset is None and same_original:
                    self.parts[part.size, part.mtime_ns, *part.seen] = part

    def compared(self, file: Path) -> Part | None:
        """The part of a file that was found then to have nothing but the original's tensors, and is the same now."""
        at = file.stat()
        return self.parts.get((at.st_size, at.st_mtime_ns, at.st_dev, at.st_ino))

    def file_with(self, part: Part) -> Path | None:
        """A sound stored file of the same content."""
        file = self.stored.get((part.size, part.hash))
        return file if file and fault(file, part.size, part.hash) is None else None


def _differing(header: Mapping[str, Stored], held: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors of a shard that the original does not have, or not so."""
    return {n: at for n, at in header.items() if n not in held or weights.difference(held[n], at)}


def _taken_apart(
    file: Path, header: Mapping[str, Stored], differ: Mapping[str, Stored], held: Mapping[str, Stored], to: Path
) -> Part | None:
    """A shard as its header and tensors, those that differ written to ``to``; None: it is better stored whole."""
    text = weights.header_text(file)
    size = sum(at.size for at in header.values())
    saved = size - sum(at.size for at in differ.values())
    if (differ and saved <= WORTH * size) or not _covered(8 + len(text), header, file.stat().st_size):
        return None
    if not differ:
        return _described(file, "tensors", header=text.decode())
    weights.write_subset(differ, to)
    subset = Subset(size=to.stat().st_size, hash=hash_of(to), tensors=tuple(differ))
    part = _described(file, "tensors", header=text.decode(), subset=subset)
    found = xxhash.xxh3_128()
    for chunk in chunks_of(_head(text), _pieces(part, weights.read_header(to), held)):
        found.update(chunk)
    if found.hexdigest() != part.hash:
        raise ChangedError(f"{file} cannot be packed: {to} reads otherwise than it was written; check the disk")
    return part


def _covered(start: int, header: Mapping[str, Stored], end: int) -> bool:
    """Whether the tensors lie one after another from ``start`` to ``end``, so that they make up the file."""
    for at in sorted(header.values(), key=lambda at: (at.start, at.end)):
        if at.start != start:
            return False
        start = at.end
    return start == end


def _store(source: Path, part: Part, to: Path) -> int:
    to.parent.mkdir(parents=True, exist_ok=True)
    written = link_or_copy(source, to)
    if written and (why := fault(to, part.size, part.hash)):
        raise ChangedError(f"{source} cannot be packed: its copy {to} {why}; check the disk")
    return written


def _described(file: Path, how: Literal["stored", "original", "tensors"], **more: Any) -> Part:
    at = file.stat()
    seen = at.st_dev, at.st_ino
    return Part(size=at.st_size, hash=hash_of(file), mtime_ns=at.st_mtime_ns, seen=seen, how=how, **more)


def _same_file(one: Path, other: Path) -> bool:
    return other.is_file() and one.stat().st_size == other.stat().st_size and hash_of(one) == hash_of(other)


def _tensors(original: Path) -> dict[str, Stored]:
    """The original's tensors; none where it has no safetensors (everything is stored then)."""
    has_any = (original / weights.INDEX).is_file() or (original / weights.SINGLE).is_file()
    return weights.stored(original) if has_any else {}


def _prints(held: Mapping[str, Stored]) -> dict[str, tuple[int, int]]:
    files = {at.file for at in held.values()}
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(files)}


# -- rebuilding ---------------------------------------------------------------------------------


def rebuild(packed: Path, original: Path, target: Path) -> None:
    """Make ``target`` the folder that was packed: each file's bytes (checked by hash) and time, nothing a link.

    ``target`` is whole or not there. Raises ChangedError where ``packed`` or ``original`` is not as it was.
    """
    manifest = read_manifest(packed)
    held = _held(original, packed, manifest)
    with whole_folder(target) as aside:
        for name, part in manifest.files.items():
            to = aside / name
            if write_hashed(to, _source(name, part, packed, original, held)) != part.hash:
                raise _culprit(name, part, packed, original)
            os.utime(to, ns=(part.mtime_ns, part.mtime_ns))


def _held(original: Path, packed: Path, manifest: Manifest) -> dict[str, Stored]:
    if all(part.how != "tensors" for part in manifest.files.values()):
        return {}
    try:
        return _tensors(original)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # a shard gone, or cut off
        raise _not_the_original(original, packed, str(error)) from error


def _source(name: str, part: Part, packed: Path, original: Path, held: Mapping[str, Stored]) -> Iterator[bytes]:
    """The bytes of a file of the model. Raises ChangedError where what they come from is not there."""
    kept, theirs = packed / FILES / name, original / name
    if part.how == "stored" or part.subset:
        want = part.subset or part
        if (why := fault(kept, want.size)) is not None:
            raise damaged(kept, why)
    if part.how == "stored":
        return chunks_of(b"", [(kept, 0, part.size)])
    if part.how == "original":
        if (why := fault(theirs, part.size)) is not None:
            raise _not_the_original(original, packed, f"{theirs} {why}")
        return chunks_of(b"", [(theirs, 0, part.size)])
    for tensor, at in weights.laid_out(theirs, part.header.encode()).items():
        if part.subset and tensor in part.subset.tensors:
            continue
        if tensor not in held:
            raise _not_the_original(original, packed, f"it holds no {tensor}")
        if (held[tensor].dtype, held[tensor].shape) != (at.dtype, at.shape):
            found = f"{held[tensor].dtype} {list(held[tensor].shape)}"
            raise _not_the_original(original, packed, f"{tensor} is {found}, not {at.dtype} {list(at.shape)}")
    try:
        own = weights.read_header(kept) if part.subset else {}
        pieces = _pieces(part, own, held)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise damaged(kept, "is damaged: its header is no shard's") from None
    return chunks_of(_head(part.header.encode()), pieces)


def _pieces(part: Part, own: Mapping[str, Stored], held: Mapping[str, Stored]) -> list[Piece]:
    """Where a shard's tensors lie now, in the shard's order."""
    wanted = weights.laid_out(Path(), part.header.encode())
    mine = set(part.subset.tensors) if part.subset else set()
    ordered = sorted(wanted, key=lambda name: (wanted[name].start, wanted[name].end))
    found = [own[name] if name in mine else held[name] for name in ordered]
    return [(at.file, at.start, at.size) for at in found]


def _head(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def write_hashed(to: Path, chunks: Iterable[bytes]) -> str:
    """Write a new file, its folder made where there is none; returns the hash (as ``content.hash_of``) of its bytes."""
    to.parent.mkdir(parents=True, exist_ok=True)
    found = xxhash.xxh3_128()
    with to.open("wb") as file:
        for chunk in chunks:
            found.update(chunk)
            file.write(chunk)
    return found.hexdigest()


def chunks_of(head: bytes, pieces: Sequence[Piece]) -> Iterator[bytes]:
    """``head``, then the pieces; less where a file ends too early."""
    yield head
    for path, start, size in pieces:
        with path.open("rb") as file:
            file.seek(start)
            while size > 0 and (chunk := file.read(min(CHUNK, size))):
                size -= len(chunk)
                yield chunk


def _culprit(name: str, part: Part, packed: Path, original: Path) -> ChangedError:
    """Whose fault it is that a file came out otherwise than it was."""
    kept = packed / FILES / name
    want = part if part.how == "stored" else part.subset
    if want and (why := fault(kept, want.size, want.hash)):
        return damaged(kept, why)
    what = f"{original / name} holds" if part.how == "original" else f"tensors of {name} hold"
    return _not_the_original(original, packed, f"{what} other bytes than then")


def _not_the_original(original: Path, packed: Path, why: str) -> ChangedError:
    return ChangedError(
        f"the original at {original} is no longer the one that {packed} was made with: {why}\n"
        "  bring the original back as it was: the packed model holds only what differs from it"
    )


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """``new_folder`` that leaves nothing behind when it fails: what is half made may be gigabytes."""
    try:
        with new_folder(target) as aside:
            yield aside
    except BaseException:
        shutil.rmtree(target.with_name(target.name + PARTIAL), ignore_errors=True)
        raise
