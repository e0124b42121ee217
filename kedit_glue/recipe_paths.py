"""A recipe's files, folders, models and data sets: those that lie on this machine must exist, and become absolute."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kedit_glue.corpus import FILES as CORPUS_FILES
from kedit_glue.models import HUB_ID, PACKAGED, ModelError, kind_of
from kedit_glue.problems import did_you_mean
from kedit_glue.recipe_errors import Draft, allowed_for
from kedit_glue.redact import URL_WITH_LOGIN
from kedit_glue.strict_yaml import KeyPath

PATHS: tuple[tuple[KeyPath, str], ...] = (
    (("edits", "source"), "file"),
    (("merge", "file"), "file"),
    (("launch", "deepspeed"), "file"),
    (("score", "general", "include_path"), "folder"),
    (("merge", "search", "fitness", "include_path"), "folder"),
    (("score", "edits", "easyedit"), "folder"),
    (("methods", "easyedit"), "folder"),
    (("methods", "ice", "encoder"), "folder"),
    (("methods", "mend", "train_facts"), "file"),
    (("methods", "serac", "train_facts"), "file"),
    (("methods", "serac", "cls_name"), "folder"),
    (("templates",), "folder"),
)
"""Keys whose path must exist, and what it must be."""
CORPORA: tuple[KeyPath, ...] = (
    ("train", "protect", "corpus"),
    ("merge", "protect", "corpus"),
    ("merge", "regmean", "corpus"),
    ("merge", "search", "fitness", "corpus"),
    *(("methods", method, "moments") for method in ("rome", "memit", "emmet")),
)
"""Keys that hold a file or a data set of the hub, ``owner/name``."""


def find_paths(draft: Draft, recipe_folder: Path) -> None:
    """Make the recipe's paths absolute; a path that is nowhere is a problem."""
    _refuse_logins(draft)
    for path, kind in PATHS:
        if written := _path_text(draft, path):
            with _problem_if_no_path(draft, path):
                _find(draft, path, Path(written).expanduser(), recipe_folder, kind)
    for path in CORPORA:
        if written := _path_text(draft, path):
            with _problem_if_no_path(draft, path):
                _find_corpus(draft, path, written, recipe_folder)
    at = ("methods", "serac", "small_name")
    if (written := _path_text(draft, at)) and written not in PACKAGED:
        with _problem_if_no_path(draft, at):
            _find(draft, at, Path(written).expanduser(), recipe_folder, "folder")
    if model := _path_text(draft, ("model",)):
        with _problem_if_no_path(draft, ("model",)):
            _find_model(draft, model)
    if output := _path_text(draft, ("output",)):
        with _problem_if_no_path(draft, ("output",)):
            name = _path_text(draft, ("name",))
            draft.data["output"] = str(Path(output).expanduser())
            whole = Path(output).expanduser().resolve()
            for place in (whole, *whole.parents, *([whole / name] if name else [])):
                if place.is_file():
                    found = draft.shown(("output",)) if place == whole else str(place)
                    draft.add(("output",), f"{found} is a file", "a folder, new or not", at_value=True)


def _refuse_logins(draft: Draft) -> None:
    """A recipe is copied into records: no URL in it may hold a password."""
    for path, value in _texts((), draft.data):
        if URL_WITH_LOGIN.search(value.encode(errors="replace")):
            while path and path not in draft.positions:  # inside a mapping that --set gave
                path = path[:-1]
            hint = "a recipe is copied into records"
            draft.add(path, "a URL with a login in it", "a URL without", hint, at_value=True)


def _texts(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Every text in the recipe with its place."""
    if isinstance(value, str):
        yield path, value
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _texts((*path, key), inner)


def _path_text(draft: Draft, path: KeyPath) -> str:
    """The text at a key; empty where there is none, or none that is sound."""
    if not draft.holds(path) or not draft.sound(path):
        return ""
    value = draft.value(path)
    return value if isinstance(value, str) else ""


@contextmanager
def _problem_if_no_path(draft: Draft, path: KeyPath) -> Iterator[None]:
    """What the system refuses as a path: a name that is too long, the home of nobody."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        draft.add(path, draft.shown(path), "a path", why, at_value=True)


def _find_model(draft: Draft, model: str) -> None:
    try:
        if kind_of(model) == "folder":
            draft.data["model"] = str(Path(model).expanduser().resolve())
    except ModelError:
        allowed = allowed_for(draft.schema.model_fields["model"])
        hint = did_you_mean(model, PACKAGED) or f"looked for {Path(model).expanduser().absolute()}"
        if "://" in model:
            hint = "write a hub's model as owner/name"
        found = draft.shown(("model",)) + (" is a file" if Path(model).expanduser().is_file() else "")
        draft.add(("model",), found, allowed, hint, at_value=True)


def _find_corpus(draft: Draft, path: KeyPath, written: str, recipe_folder: Path) -> None:
    """``texts/own`` looks like a hub id: where such a file or folder lies, it is meant."""
    hub = written.partition(":")[0]  # owner/name:split
    of_hub = HUB_ID.fullmatch(hub) and Path(hub).suffix not in CORPUS_FILES
    if not of_hub or any((folder / written).exists() for folder in (Path.cwd(), recipe_folder)):
        _find(draft, path, Path(written).expanduser(), recipe_folder)


def _find(draft: Draft, path: KeyPath, name: Path, recipe_folder: Path, kind: str = "") -> None:
    """Look for a ``file`` or a ``folder``, or, with no ``kind``, for either."""
    places = list(dict.fromkeys([(Path.cwd() / name).absolute(), (recipe_folder / name).absolute()]))
    fitting = [p for p in places if p.exists() and (not kind or p.is_dir() == (kind == "folder"))]
    what = kind or "file"
    # beside a run's own copy of its recipe lies what the run made
    of_a_run = (recipe_folder / "resolved.yaml").is_file()
    if len({place.resolve() for place in fitting}) > 1 and not of_a_run:
        which = f"{draft.shown(path)} is both {' and '.join(map(str, fitting))}"
        hint = "the first is under the current folder, the second under the recipe's"
        draft.add(path, which, "one of them, written in full", hint, at_value=True)
        return
    if fitting:
        draft.value(path[:-1])[path[-1]] = str(fitting[0].resolve())
        return
    if any(place.exists() for place in places):
        is_now = "file" if kind == "folder" else "folder"
        draft.add(path, f"{draft.shown(path)} is a {is_now}", f"a {what}", at_value=True)
        return
    looked = f"looked for {' and '.join(map(str, places))}"
    draft.add(path, f"{draft.shown(path)}: no such {what}", f"a {what} that exists", looked, at_value=True)
