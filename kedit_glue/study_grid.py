"""The cells of a study: each combination of its axes' values, less those left out, and once for each seed. Pure."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kedit_glue import strict_yaml
from kedit_glue.strict_yaml import KeyPath

Axis = Sequence[Any] | Mapping[str, Mapping[str, Any]]
"""Values of the recipe's key that the axis is named after, or of several keys, ``train.layers, methods.rome.layers``,
which get the same value; or names, each with the settings that it stands for."""
LONGEST = 64
"""Letters of a cell's name."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: its name, and what it changes."""

    name: str
    settings: Mapping[str, Any]
    places: Mapping[str, KeyPath]
    """Where each setting stands in the study's file."""
    at: Mapping[str, Any] = field(default_factory=dict)
    """Axis -> its value here, or that value's name; empty for a cell outside the grid."""
    group: str = ""
    """What cells that differ in nothing but their seed have in common: the name without it."""


@dataclass(frozen=True)
class Point:
    """A value of an axis."""

    label: Any
    word: str
    """Its part of a cell's name."""
    settings: Mapping[str, Any]
    places: Mapping[str, KeyPath]


def keys_of(axis: str) -> list[str]:
    """The recipe's keys that an axis of values is named after."""
    return [key.strip() for key in axis.split(",")]


def labels(keys: Sequence[str]) -> dict[str, str]:
    """``train.epochs`` as ``epochs``, where no other key ends so; of several keys the first speaks for all."""
    ends = {key: keys_of(key)[0].rpartition(".")[2] for key in keys}
    often = Counter(ends.values())
    return {key: end if often[end] == 1 else keys_of(key)[0] for key, end in ends.items()}


def texts(settings: Mapping[str, Any]) -> list[str]:
    """Settings as after ``--set``."""
    return [f"{key}={strict_yaml.dump(value, flow=True)}" for key, value in settings.items()]


def said(settings: Mapping[str, Any]) -> str:
    """Settings on one line, as after ``--set``."""
    return ", ".join(texts(settings)) or "as it is"


def points(name: str, axis: Axis, short: str) -> list[Point]:
    """An axis' values in their order; ``short``: its key in cells' names."""
    if isinstance(axis, Mapping):
        return [
            Point(label, label, settings, {key: ("axes", name, label, key) for key in settings})
            for label, settings in axis.items()
        ]
    keys = keys_of(name)
    return [
        Point(
            value,
            f"{short}-{strict_yaml.dump(value, flow=True)}",
            dict.fromkeys(keys, value),
            dict.fromkeys(keys, ("axes", name, at)),
        )
        for at, value in enumerate(axis)
    ]


def grid(axes: Mapping[str, Axis], without: Sequence[Mapping[str, Any]] = ()) -> list[Cell]:
    """A cell for each combination of the axes' values, the last axis fastest; none without axes.

    ``without``: combinations that are left out, each as axis -> a value or a list of values; a combination is left
    out where all that one entry names are met.
    """
    if not axes:
        return []
    short = labels(list(axes))
    found = []
    for picks in itertools.product(*(points(name, axis, short[name]) for name, axis in axes.items())):
        at = {name: pick.label for name, pick in zip(axes, picks, strict=True)}
        if any(all(at[name] in alternatives(axes[name], asked) for name, asked in entry.items()) for entry in without):
            continue
        settings = {key: value for pick in picks for key, value in pick.settings.items()}
        places = {key: place for pick in picks for key, place in pick.places.items()}
        name = re.sub(r"[^A-Za-z0-9._]+", "-", "_".join(pick.word for pick in picks)).strip("._-")
        found.append(Cell(name, settings, places, at))
    names = Counter(cell.name for cell in found)
    return [cell if names[cell.name] == 1 and len(cell.name) <= LONGEST else distinct(cell) for cell in found]


def alternatives(axis: Axis, asked: Any) -> Sequence[Any]:
    """The values of an axis that a combination names: those in a list, unless that is itself a value of the axis."""
    return asked if isinstance(asked, list) and asked not in list(axis) else [asked]


def distinct(cell: Cell) -> Cell:
    """A cell whose name would be another's, or too long: with a mark of its settings."""
    mark = hashlib.sha256(said(cell.settings).encode()).hexdigest()[:6]
    return replace(cell, name=f"{cell.name[: LONGEST - 7]}-{mark}")


def with_seeds(cells: Sequence[Cell], seeds: Sequence[int]) -> list[Cell]:
    """Each cell once for each seed, together; as they are without seeds."""
    if not seeds:
        return [replace(cell, group=cell.name) for cell in cells]
    found = []
    for cell in cells:
        for at, seed in enumerate(seeds):
            settings, places = {**cell.settings, "seed": seed}, {**cell.places, "seed": ("seeds", at)}
            one = replace(cell, name=f"{cell.name}_seed-{seed}", settings=settings, places=places, group=cell.name)
            found.append(one if len(one.name) <= LONGEST else distinct(one))
    return found
