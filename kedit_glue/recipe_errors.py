"""From what is wrong with a recipe's data to Problems: positions, plain words, near names."""

from __future__ import annotations

import copy
import types
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from kedit_glue import strict_yaml
from kedit_glue.problems import SET_PREFIX, UNKNOWN_KEY, Problem, RecipeError, did_you_mean, dotted
from kedit_glue.recipe_values import ValueProblems
from kedit_glue.redact import Redaction
from kedit_glue.strict_yaml import KeyPath, Position

KINDS = (
    (bool, "true/false"),
    (int, "whole number"),
    (float, "number"),
    (str, "text"),
    (list, "list"),
    (dict, "mapping"),
)
SYNONYMS = {
    "gpu": "cuda",
    "float32": "fp32",
    "bfloat16": "bf16",
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
}
NO_SECRETS = Redaction({})
"""Hides what a URL says of user and password."""
STAND_INS: dict[KeyPath, Any] = {("name",): "x", ("model",): "x", ("edits",): {}, ("edits", "source"): "x"}


class Draft:
    """A recipe's data on the way to a Recipe, with what was found wrong so far."""

    def __init__(
        self, file: str, data: dict[str, Any], positions: dict[KeyPath, Position], schema: type[BaseModel]
    ) -> None:
        self.file, self.data, self.positions, self.schema = file, data, positions, schema
        self.problems: list[Problem] = []
        self.bad: set[KeyPath] = set()
        """Keys that have a problem already: no further check looks at their values."""

    # -- adding problems ------------------------------------------------------------------------

    def add(
        self,
        path: KeyPath,
        found: str,
        allowed: str,
        hint: str = "",
        *,
        at_value: bool = False,
        bad: bool = True,
    ) -> None:
        """A problem with the key at ``path``; a key that is not written stands where its section does."""
        place = path
        while place and place not in self.positions:
            place = place[:-1]
        position = self.positions.get(place)
        if position is None:
            where: tuple[str, int | None, int | None] = (self.file, None, None)
        elif at_value and place == path:
            where = (position.file, position.value_line, position.value_column)
        else:
            where = (position.file, position.line, position.column)
        self.problems.append(Problem(*where, dotted(path), found, allowed, hint))
        if bad:
            self.bad.add(path)

    def sound(self, *paths: KeyPath) -> bool:
        """Whether no problem is known at, in or around any of these keys."""
        return not any(p[: len(b)] == b or b[: len(p)] == p for p in paths for b in self.bad)

    def written(self, path: KeyPath) -> bool:
        return path in self.positions

    def value(self, path: KeyPath) -> Any:
        value: Any = self.data
        for part in path:
            value = value[part]
        return value

    def shown(self, path: KeyPath) -> str:
        """A value as it was written, and what YAML takes it for."""
        value = self.value(path)
        position = self.positions.get(path)
        written = position.written if position else None
        if value is None:
            return f"{written} (nothing)" if written else "nothing (no value given)"
        if written is None:
            written = strict_yaml.dump(value, flow=True)
        written = NO_SECRETS.text(" ".join(written.split()))
        kind = next((name for kind, name in KINDS if isinstance(value, kind)), type(value).__name__)
        return f"{written if len(written) <= 60 else written[:57] + '...'} ({kind})"

    # -- the schema -----------------------------------------------------------------------------

    def lookup(self, path: KeyPath) -> tuple[FieldInfo | type[BaseModel], KeyPath]:
        """The key that ``path`` leads to or into, or the section if it ends at one; and its path."""
        section = self.schema
        for depth, part in enumerate(path):
            field = fields(section)[str(part)]
            inner = section_of(field)
            if inner is None:
                return field, path[: depth + 1]
            section = inner
        return section, path

    def keys(self, section: type[BaseModel] | None = None, at: str = "") -> Iterable[str]:
        """Every key and every section, dotted."""
        for name, field in fields(section or self.schema).items():
            yield at + name
            if (inner := section_of(field)) is not None:
                yield from self.keys(inner, f"{at}{name}.")

    def add_pydantic(self, error: ValidationError) -> None:
        known_bad = set(self.bad)
        for item in error.errors(include_url=False):
            path: KeyPath = item["loc"]
            if item["type"] == "extra_forbidden":
                self.unknown(path)
                continue
            target, key = self.lookup(path)
            if item["type"] == "missing":
                self.add(path, "missing", allowed_for(target), "this key is required")
            elif isinstance(reasons := item.get("ctx", {}).get("error"), ValueProblems):
                for reason in reasons.problems:
                    where = (*key, *reason.at)
                    found, allowed = reason.found or self.shown(where), reason.allowed or allowed_for(target)
                    at_value = found != UNKNOWN_KEY
                    self.add(where, found, allowed, reason.hint, at_value=at_value, bad=False)
                self.bad.add(key)
            elif key not in known_bad:
                where = path if self.holds(path) else key
                hint = self.hint(where, target)
                self.add(where, self.shown(where), allowed_for(target), hint, at_value=True, bad=False)
                self.bad.add(key)

    def holds(self, path: KeyPath) -> bool:
        try:
            self.value(path)
        except (KeyError, IndexError, TypeError):
            return False
        return True

    def unknown(self, path: KeyPath) -> None:
        word = str(path[-1])
        section, _ = self.lookup(path[:-1])
        assert isinstance(section, type)
        known = list(fields(section))
        elsewhere = [key for key in self.keys() if key.rpartition(".")[2] == word]
        elsewhere = [key for key in elsewhere if not key.startswith("methods.")] or elsewhere[:1]
        here = [key for key in known if word in key.split("_")]  # most_tokens, where tokens is train's
        if here or elsewhere:
            hint = f"did you mean {' or '.join(repr(key) for key in here or elsewhere)}?"
        else:
            hint = did_you_mean(word, known)
        self.add(path, UNKNOWN_KEY, ", ".join(known), hint)

    def hint(self, path: KeyPath, target: FieldInfo | type[BaseModel]) -> str:
        if isinstance(target, type):
            return ""
        value = self.value(path)
        position = self.positions.get(path)
        written = (position.written or "") if position else ""
        kinds = set(_types(target.annotation))
        if path == ("name",) and isinstance(value, str):
            if "/" in value and "output" in fields(self.schema):
                return "the folder that run folders are made in is set with 'output'"
            return f"it has {len(value)} characters" if len(value) > 64 else ""
        if isinstance(value, str):
            if get_origin(target.annotation) is tuple and len(path) == len(self.lookup(path)[1]):
                return f"write a list: [{value}]"
            if choices := [arg for arg in _choices(target.annotation) if isinstance(arg, str)]:
                return did_you_mean(value, choices, SYNONYMS)
            if written[:1] in ("'", '"') and kinds & {int, float, bool}:
                return "write it without quotes"
        elif isinstance(value, bool | int | float) and str in kinds and int not in kinds:
            return f'if it is text, put it in quotes: "{written}"'
        return ""

    # -- changing the data ----------------------------------------------------------------------

    def fill_empty_sections(self, section: type[BaseModel] | None = None, data: Any = None) -> None:
        """``train:`` with nothing under it means all of its defaults."""
        data = self.data if data is None else data
        for name, field in fields(section or self.schema).items():
            inner = section_of(field)
            if inner is None or name not in data:
                continue
            if data[name] is None:
                data[name] = {}
            if isinstance(data[name], dict):
                self.fill_empty_sections(inner, data[name])

    def override(self, text: str) -> None:
        """``train.epochs=3``: the right side is YAML."""
        key, equals, right = text.partition("=")
        key = key.strip()
        file = f"{SET_PREFIX}{key}"
        parts = key.split(".")
        if not equals or not all(parts):
            found = f"'{text}' is no key=value"
            self.problems.append(Problem(file, None, None, "", found, "key=value, such as train.epochs=3"))
            return
        try:
            value = strict_yaml.parse_value(right, file)
        except RecipeError as error:
            for problem in error.problems:
                self.problems.append(Problem(file, None, None, key, problem.found, problem.allowed, problem.hint))
            self.bad.add(tuple(parts))
            return
        data: Any = self.data
        for depth, part in enumerate(parts[:-1], 1):
            if data.get(part) is None:
                data[part] = {}
                self.positions.setdefault(tuple(parts[:depth]), Position(file, None, None, None, None))
            data = data[part]
            if not isinstance(data, dict):
                section = ".".join(parts[:depth])
                found = f"'{section}' holds no keys"
                self.problems.append(Problem(file, None, None, key, found, "a key of a section"))
                return
        path: KeyPath = tuple(parts)
        for inside in [p for p in self.positions if p[: len(path)] == path]:
            del self.positions[inside]
        written = right.strip() if not isinstance(value, dict | list) else None
        self.positions[path] = Position(file, None, None, None, None, written)
        data[parts[-1]] = value

    def without_bad(self) -> dict[str, Any]:
        """The data less everything that has a problem, with stand-ins for what is required."""
        data = copy.deepcopy(self.data)
        for path in sorted(self.bad, key=len):
            parent: Any = data
            for part in path[:-1]:
                parent = parent.get(part) if isinstance(parent, dict) else None
            if isinstance(parent, dict):
                parent.pop(path[-1], None)
        for path, value in STAND_INS.items():
            parent = data
            for part in path[:-1]:
                parent = parent[part]
            parent.setdefault(path[-1], copy.deepcopy(value))
        return data


def fields(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's keys as a recipe writes them (``from`` is no name in Python)."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def allowed_for(target: FieldInfo | type[BaseModel]) -> str:
    if isinstance(target, type):
        return f"a mapping of keys: {', '.join(fields(target))}"
    extra = target.json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""


def _types(annotation: Any) -> Iterable[Any]:
    """The plain types inside an annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)


def _choices(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
        return
    for argument in get_args(annotation):
        yield from _choices(argument)
