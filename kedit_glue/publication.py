"""What is given away of a finished run: the whole model, or only the tensors that the edits changed. Starts nothing.

Of the changed tensors the edited values are given away, not their differences from the base: ``base + (edited - base)``
is rounded and misses the edited bits now and then, in fp32 as in bf16; put in place they are the edited model, bit for
bit. mergekit's ``fill_missing_params`` does just that, with a base and a folder that holds some of its tensors (with
mergekit 0.1.5 through its ``main``: run as a module it calls that before its last class is defined).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from kedit_glue import changed, environment, public_base, report, strict_yaml, weights
from kedit_glue.card import OF_MERGES
from kedit_glue.cleaned import RECORDS, Cleaned, Cleaning
from kedit_glue.content import hash_of
from kedit_glue.methods import REMEMBERED
from kedit_glue.models import PACKAGED, stored_format
from kedit_glue.problems import CannotStart
from kedit_glue.public_base import Base
from kedit_glue.recipe import Recipe
from kedit_glue.render import render
from kedit_glue.weights import Stored

MANIFEST = "publication.json"
CARD = "README.md"
MODEL, VECTOR = "model", "task vector"
"""What a publication can be."""
TITLES = {MODEL: "the whole model", VECTOR: "only the task vector"}
BASE_HASHES = "base.sha256"
ADAPTER = "adapter_config.json"
AGAIN = "run the recipe again: it makes the model anew"
ONE_SHARD = 5 * 1024**3
"""Bytes up to which ``fill_missing_params`` writes one file (its ``max_shard_size``)."""
Content = Path | bytes | Mapping[str, Stored]
"""A file as it lies, a text, or tensors that become a safetensors file."""


@dataclass(frozen=True)
class Item:
    """One file of a publication."""

    name: str
    content: Content
    size: int
    """Bytes."""
    sha256: str
    xxh3: str
    """As ``content.hash_of`` says it."""
    paths: int = 0
    """Local paths that were taken out."""
    secrets: int = 0

    @property
    def cleaned(self) -> str:
        """What was taken out of it, for a person."""
        found = [(self.paths, "local path", "local paths"), (self.secrets, "secret", "secrets")]
        return ", ".join(report.counted(count, one, many) for count, one, many in found if count)


@dataclass(frozen=True)
class Publication:
    """Every file, and what it is all about."""

    what: str
    run: str
    items: tuple[Item, ...]
    left_out: Mapping[str, str]
    """File or folder of the run -> why it stays."""

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end."""

    folder: Path
    """Its ``model``."""
    recipe: Recipe
    original: Path
    output: Mapping[str, tuple[int, int, str]]
    """Of each file of the model size, time and hash, as the run recorded them."""
    weights: str
    """Hash of the model's weights and configuration."""
    verdict: Sequence[str]
    """Whether it may ship, in a line; none where the run does not say."""


def chunks(content: Content) -> Iterator[bytes]:
    """The bytes of a file that is given away."""
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        yield from changed.chunks_of(b"", [(content, 0, content.stat().st_size)])
    else:
        yield from weights.subset(content)


def measured(name: str, content: Content, **more: Any) -> Item:
    """Reads it once."""
    size, sha256, xxh3 = 0, hashlib.sha256(), xxhash.xxh3_128()
    for chunk in chunks(content):
        size += len(chunk)
        sha256.update(chunk)
        xxh3.update(chunk)
    return Item(name, content, size, sha256.hexdigest(), xxh3.hexdigest(), **more)


# -- what goes ----------------------------------------------------------------------------------


def whole_model(run: Finished, base: Base, cleaning: Cleaning) -> Publication:
    """Raises CannotStart for a model that is no longer as the run left it."""
    items = [_of_model(run, name, mark, cleaning) for name, (_, _, mark) in sorted(run.output.items())]
    front, body = _card(run)
    readme = card_text({**_origin(front, base), **base.licence}, body.rstrip("\n") + "\n" + _about(run, base))
    return _publication(MODEL, run, base, [*items, *_told(run, readme, cleaning)], cleaning)


def task_vector(
    run: Finished, base: Base, cleaning: Cleaning, at: str | None, revision: str | None = None
) -> Publication:
    """The tensors that the run changed; ``at``: the hub id that it goes to, ``revision``: the branch there.

    Raises CannotStart where that is nothing, everything, or no tensor of the base.
    """
    if run.recipe.method in REMEMBERED:
        raise CannotStart(
            f"method {run.recipe.method} changed no tensor, it remembers facts beside the model: there is no task "
            "vector to publish; leave --only-task-vector away"
        )
    if ADAPTER in run.output:
        raise CannotStart("the run's model is an adapter, as small as it can be: leave --only-task-vector away")
    checked = [_of_model(run, name, mark, cleaning) for name, (_, _, mark) in sorted(run.output.items())]
    edited, before, had = (weights.stored(folder) for folder in (run.folder, run.original, base.folder))
    differ = {n: at for n, at in edited.items() if n not in before or weights.difference(before[n], at)}
    if not differ:
        raise CannotStart(
            "the edited model holds the base's own tensors, bit for bit: there is no task vector to publish"
        )
    if gone := sorted(before.keys() - edited.keys()):
        raise CannotStart(
            f"the edited model has no {gone[0]}, as the base has: the merge laid its layers out anew (merge.search); "
            "leave --only-task-vector away, and publish the whole model"
        )
    strangers = [n for n, at in differ.items() if n not in had or had[n].shape != at.shape]
    if strangers or len(differ) == len(had):
        why = f"{strangers[0]} is none of the base's tensors" if strangers else "the edits changed every tensor"
        raise CannotStart(f"{why}: leave --only-task-vector away, and publish the whole model")
    vector = measured(weights.SINGLE, differ)
    shards = [measured(file.name, file) for file in weights.shards(base.folder)]
    sums = "".join(f"{shard.sha256}  {shard.name}\n" for shard in shards).encode()
    front, body = _card(run)
    front = {**_origin(front, base), **base.licence, "tags": [*_tags(front), "task-vector"]}
    applied = sum(differ.get(name, tensor).size for name, tensor in had.items())
    formats = sorted({at.dtype for at in differ.values()})
    versions = environment.versions()
    values = {
        "name": run.recipe.name,
        "base": _said_of(base),
        "at": at,
        "at_revision": revision,
        "tensors": len(differ),
        "of": len(had),
        "size": environment.size(vector.size),
        "base_size": environment.size(sum(shard.size for shard in shards)),
        "formats": formats,
        **{tool: versions[tool] for tool in ("mergekit", "transformers")},
        "load_as": stored_format(run.folder),
        "converted": base.converted,
        # mergekit copies the base's index and writes shards of its own, or one file without an index
        "stale_index": (base.folder / weights.INDEX).is_file() and applied < ONE_SHARD,
        "other_files": [item.name for item in checked if _is_other(item, base.folder)],
        "intro": _part(body, ""),
        "scores": _part(body, "Scores"),
        "licence": _licence_said(base),
    }
    readme = card_text(front, render("vector_card.md", values))
    left_out = {"model/*.safetensors": "unchanged tensors: the base's", "model/tokenizer*, config.json": "the base's"}
    items = [vector, measured(BASE_HASHES, sums), *_told(run, readme, cleaning)]
    return _publication(VECTOR, run, base, items, cleaning, left_out)


def _of_model(run: Finished, name: str, mark: str, cleaning: Cleaning) -> Item:
    file = run.folder / name
    if not file.is_file():
        raise CannotStart(f"{file} is gone: {AGAIN}")
    if file.suffix == ".safetensors":
        said = cleaning.file(name, weights.header_text(file).decode("utf-8", "replace"))
        if said.paths or said.secrets:
            raise CannotStart(
                f"{file}: its header holds a local path or a secret: load the model with transformers, save it, and "
                "publish that"
            )
    item = measured(name, file)
    if item.xxh3 != mark:
        raise CannotStart(f"{file} is not what the run made: changed from outside, or damaged\n  {AGAIN}")
    return item if file.suffix == ".safetensors" else _cleaned(item, cleaning)


def _is_other(item: Item, base: Path) -> bool:
    """Whether a file beside the weights is not the base's."""
    if item.name.endswith((".safetensors", ".index.json")):
        return False
    theirs = base / item.name
    return not theirs.is_file() or hash_of(theirs) != item.xxh3


def _cleaned(item: Item, cleaning: Cleaning) -> Item:
    """The file itself where there is nothing to take out of it, or it is no text."""
    try:
        text = b"".join(chunks(item.content)).decode("utf-8")
    except UnicodeDecodeError:
        return item
    found = cleaning.file(item.name, text)
    return _text(item.name, found) if found.text != text else item


def _text(name: str, found: Cleaned) -> Item:
    return measured(name, found.text.encode(), paths=found.paths, secrets=found.secrets)


def _told(run: Finished, readme: str, cleaning: Cleaning) -> Iterable[Item]:
    """Card and provenance."""
    yield _text(CARD, cleaning.file(CARD, readme))
    provenance = run.folder / RECORDS
    for file in sorted(path for path in provenance.iterdir() if path.is_file()):
        yield _cleaned(measured(f"{RECORDS}{file.name}", file), cleaning)


def _publication(
    what: str, run: Finished, base: Base, items: list[Item], cleaning: Cleaning, more: Mapping[str, str] | None = None
) -> Publication:
    origin = {"name": base.name, "hub": base.hub, "revision": base.revision}
    document = {
        "made_by": "kedit_glue",
        "what": what,
        "run": run.recipe.name,
        "weights": run.weights,
        "base": origin,
        "files": {item.name: {"bytes": item.size, "sha256": item.sha256} for item in items},
    }
    manifest = cleaning.file(f"{RECORDS}{MANIFEST}", json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    here = {CARD, RECORDS.rstrip("/"), *(name.partition("/")[0] for name in run.output)}
    strays = {f"model/{p.name}": "not the run's own" for p in sorted(run.folder.iterdir()) if p.name not in here}
    left_out = {**(more or {}), **strays, "all else": "batches, logs, environment: the run's own work"}
    return Publication(what, run.recipe.name, (*items, _text(MANIFEST, manifest)), left_out)


# -- what the card says -------------------------------------------------------------------------


def card_text(front: Mapping[str, Any], body: str) -> str:
    return f"---\n{strict_yaml.dump(front).rstrip()}\n---\n{body}"


def _card(run: Finished) -> tuple[dict[str, Any], str]:
    file = run.folder / CARD
    front, body = public_base.front_matter(file.read_text(encoding="utf-8") if file.is_file() else "")
    if not front:
        raise CannotStart(f"{file} is no model card any more: run the recipe again, which writes it anew")
    return dict(front), body


def _origin(front: Mapping[str, Any], base: Base) -> dict[str, Any]:
    """The front matter with the base's id on the hub, and without what stood there for it."""
    rest = {key: value for key, value in front.items() if key not in ("base_model", "base_model_relation")}
    relation = "merge" if set(OF_MERGES) <= set(_tags(front)) else "finetune"
    return {"base_model": [base.hub], "base_model_relation": relation, **rest} if base.hub else rest


def _tags(front: Mapping[str, Any]) -> list[str]:
    found = front.get("tags")
    return [str(tag) for tag in found] if isinstance(found, list) else []


def _licence_said(base: Base) -> str:
    page = f" (https://huggingface.co/{base.hub})" if base.hub else ""
    if found := base.licence.get("license_name") or base.licence.get("license"):
        return f"Made from {base.name}{page}, whose licence is {found}: its terms and its attribution hold here, too."
    where = "on that page" if base.hub else "at its source"
    return f"Made from {base.name}{page}. Its licence, which holds here, too, is not recorded: look it up {where}."


def _said_of(base: Base) -> dict[str, Any]:
    packaged = PACKAGED[base.packaged] if base.packaged else None
    package = packaged and {
        "name": packaged.package,
        "version": importlib.metadata.version(packaged.package),
        "module": packaged.module,
        "file": packaged.file,
    }
    return {
        "name": base.name,
        "word": shlex.quote(base.name),
        "hub": base.hub,
        "revision": base.revision,
        "package": package,
    }


def _about(run: Finished, base: Base) -> str:
    """What a published model's card says below what the run's own card says."""
    lines = ["", "## Base model", "", _licence_said(base)]
    if run.recipe.method in REMEMBERED:
        lines += ["", "The weights are the base's own; what was edited is remembered in files that kedit_glue reads."]
    return "\n".join([*lines, "", f"`{MANIFEST}` holds the SHA-256 of every file.", ""])


def _part(body: str, title: str) -> str:
    """A section of a card without its title; "" for what stands before the first one."""
    sections = body.split("\n## ")
    if not title:
        return sections[0].partition("\n\n")[2].partition("\n\n- ")[0].strip()
    return next((s.partition("\n")[2].strip() for s in sections if s.partition("\n")[0] == title), "")
