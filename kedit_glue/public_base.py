"""The original model of a run as somebody else finds it: its name, where it is to be had, its licence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kedit_glue import models, records
from kedit_glue.run_folder import OpenRun

LICENCE = ("license", "license_name", "license_link")
"""Keys of a hub card's front matter."""


@dataclass(frozen=True)
class Base:
    """What an edited model was made from."""

    name: str
    """For people; the last part of an id or folder."""
    folder: Path
    """Its files as they are to be had, on this machine."""
    hub: str | None = None
    revision: str | None = None
    """The hub's commit."""
    packaged: str | None = None
    """Its name in ``models.PACKAGED``."""
    converted: bool = False
    """Whether the run converted it to another number format before it edited it."""
    licence: Mapping[str, str] = field(default_factory=dict)
    """As the hub's front matter says it; empty where it is not known."""


def find_base(run: OpenRun, hub: str | None = None) -> Base:
    """The run's original; ``hub``: the id that the user says it has."""
    edited_from = Path(run.model)
    source = _source(run, edited_from)
    folder = source or edited_from
    if run.recipe.model in models.PACKAGED:
        packaged = models.PACKAGED[run.recipe.model]
        licence = {"license": packaged.licence.lower()}
        name = packaged.hub.rpartition("/")[2]
        return Base(name, folder, hub or packaged.hub, None, run.recipe.model, source is not None, licence)
    is_folder = run.recipe.model.startswith("/")
    found = hub or (None if is_folder else run.recipe.model)
    name = (found or run.recipe.model).rstrip("/").rpartition("/")[2]
    revision = folder.name if folder.parent.name == "snapshots" and found == run.recipe.model else None
    return Base(name, folder, found, revision, None, source is not None, licence_of(folder))


def _source(run: OpenRun, edited_from: Path) -> Path | None:
    """The folder that ``edited_from`` was converted from, None where it was not converted or that is gone."""
    candidate = _located(run.recipe.model)
    if candidate is None or candidate == edited_from or not (candidate / "config.json").is_file():
        return None
    wanted = models.FORMATS[run.recipe.train.precision]
    made = models.converted_folder(candidate, wanted, json.dumps(records.fingerprint(candidate)))
    return candidate if made.name == edited_from.name else None


def _located(model: str) -> Path | None:
    if model in models.PACKAGED:
        return models.packaged_folder(model)
    if model.startswith("/"):
        return Path(model).resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True, allow_patterns=["*.safetensors", "config.json"]))
    except LocalEntryNotFoundError:
        return None


def licence_of(folder: Path) -> dict[str, str]:
    """What a model folder's card says of its licence; nothing where it has no card, or none that says it."""
    front = front_matter(_text(folder / "README.md"))[0]
    return {key: str(front[key]) for key in LICENCE if isinstance(front.get(key), str)}


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def front_matter(card: str) -> tuple[dict[str, object], str]:
    """What stands between the two ``---`` at a card's beginning, and the text behind; nothing where there is none."""
    parts = card.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        return {}, card
    try:
        found = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return {}, card
    return (found, parts[2]) if isinstance(found, dict) else ({}, card)
