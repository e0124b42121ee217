"""The models of ``result_fields.py`` as a page of tables and as a JSON schema; the command that prints either."""

from __future__ import annotations

import argparse
import json
import sys
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from kedit_glue.result import ResultError, find, load
from kedit_glue.result_fields import SCHEMA, FromTool, Result
from kedit_glue.result_types import Part
from kedit_glue.tables import markdown_table

EXAMPLES = """examples:
  python -m kedit_glue.result runs/x                                       is it a sound result, and of what
  python -m kedit_glue.result --schema > docs/scores.schema.json
  python -m kedit_glue.result --fields > docs/scores.md

exit codes: 0 done, 2 no result, or none that can be read
"""
SCHEMA_NAME = "scores.schema.json"
HEAD = f"""# scores.json, field by field

<!-- Made by `python -m kedit_glue.result --fields`: change kedit_glue/result_fields.py, not this page. -->

A run, and a scoring of any two models, ends in a `scores.json`: schema {SCHEMA}, JSON in UTF-8, without NaN or
infinity. [{SCHEMA_NAME}]({SCHEMA_NAME}) is the same as a JSON schema. Keys that are not
named here are an error, but for what tools report. `null` and an absent key mean the same where both are allowed.

`kedit_glue.result.load(path)` reads it: a file, a run's folder or an edited model's. Files of schema 1 are brought to
schema {SCHEMA} as they are read; what they do not say is null. Files of a newer schema, and damaged ones, are
refused with the reason. `python -m kedit_glue.result PATH` says whether a file is sound;
`python -m kedit_glue.compare` puts several side by side.

Shares are from 0 to 1, times in seconds, losses in nats a token; other units are named. A metric's name is
`aspect.protocol.measure`; its range, direction and denominator stand in the file itself, in `metrics`.
"""
NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", type(None): "null"}


def schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of ``scores.json``."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Result.model_json_schema()}


def page() -> str:
    """``docs/scores.md``: a table for each model, the outermost first, each where it is first named."""
    lines = [HEAD]
    for model in parts(Result):
        about = " ".join((model.__doc__ or "").split()).replace("``", "`")
        lines += [f"## {model.__name__}", "", about, ""]
        rows = [
            [f"`{field.alias or name}`", type_text(field.annotation), f"{field.description}"]
            for name, field in model.model_fields.items()
        ]
        lines += [*markdown_table(["field", "type", "meaning"], rows), ""] if rows else []
    return "\n".join(lines)


def parts(model: type[BaseModel]) -> list[type[BaseModel]]:
    """``model`` and all that it is made of, in the order in which a reader meets them."""
    found = [model]
    for one in found:
        for field in one.model_fields.values():
            found += [inner for inner in _models(field.annotation) if inner not in found]
    return found


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, (Part, FromTool)):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def type_text(annotation: Any) -> str:
    """A field's type in words; every list, mapping and choice that ``result_fields.py`` uses."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(inner[0])
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(one) for one in inner)
    if origin is list:
        return f"list of {_inner(inner[0])}"
    if origin is dict:
        return f"mapping of {_inner(inner[0])} to {_inner(inner[1])}"
    if origin is tuple:
        return f"list of {len(inner)}: {', '.join(type_text(one) for one in inner)}"
    return NAMES[annotation] if annotation in NAMES else f"[{annotation.__name__}](#{annotation.__name__.lower()})"


def _inner(annotation: Any) -> str:
    text = type_text(annotation)
    return f"({text})" if " or " in text and not text.startswith(("list", "mapping")) else text


# -- the command --------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.result",
        description="Look whether a scores.json is sound; print its fields or its JSON schema.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("result", nargs="?", type=Path, help="a scores.json, or the folder that holds one")
    made.add_argument("--schema", action="store_true", help="print the JSON schema")
    made.add_argument("--fields", action="store_true", help="print every field with its meaning, as Markdown")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    if sum((options.schema, options.fields, options.result is not None)) != 1:
        parser().error("give one of a result, --schema or --fields")
    if options.result is not None:
        return look(options.result)
    print(json.dumps(schema(), ensure_ascii=False, indent=1) if options.schema else page(), end="\n" * options.schema)
    return 0


def look(path: Path) -> int:
    """Says what a result is of; returns the exit code."""
    try:
        result = load(path)
        version = json.loads(find(path).read_bytes())["schema"]
    except ResultError as error:
        print(error, file=sys.stderr)
        return 2
    measured = ", ".join(result.after.edits) or "no metric"
    print(f"{find(path)}: schema {version}, {result.kind} {result.name}, {len(result.facts)} facts, {measured}")
    return 0
