"""Templates to the YAML that LLaMA-Factory and mergekit read.

Jinja runs sandboxed and strict: an undefined name is an error, and no value of the user's becomes
template code. Templates are given plain data, since methods of objects lead out of the sandbox:
pydantic's ``parse_raw``, for one, unpickles. What was rendered is parsed again and compared with
what went in.
"""

from __future__ import annotations

import functools
import importlib.resources
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel

from kedit_glue import tool_yaml


class RenderError(ValueError):
    """A template failed, or rendered to something other than what was asked for."""


def template_folders(own: Path | None) -> list[Path]:
    """Where templates are looked for, first match wins: the user's folder, then the project's."""
    beside_package = Path(__file__).resolve().parent.parent / "templates"
    installed = Path(str(importlib.resources.files("kedit_glue"))) / "templates"
    shipped = beside_package if beside_package.is_dir() else installed
    return [own, shipped] if own else [shipped]


@functools.lru_cache(maxsize=8)
def _environment(own: Path | None) -> Environment:
    """Compiles each template once in a process; one that changes on the disk is compiled again."""
    made = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in template_folders(own)]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters["yaml"] = tool_yaml.flow
    made.filters["yaml_block"] = _block
    return made


def _block(value: Mapping[str, Any], indent: int = 0) -> str:
    """A mapping, one key a line; every line after the first is indented by ``indent`` spaces."""
    return ("\n" + " " * indent).join(f"{tool_yaml.flow(k)}: {tool_yaml.flow(_plain(v))}" for k, v in value.items())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value


def render(name: str, values: Mapping[str, Any], own_templates: Path | None = None) -> str:
    """The text of ``templates/<name>.j2`` with ``values``; ``content`` reads it.

    Raises RenderError, which names the template's file and line.
    """
    data = {key: value.model_dump() if isinstance(value, BaseModel) else value for key, value in values.items()}
    try:
        return _environment(own_templates).get_template(f"{name}.j2").render(data)
    except Exception as error:  # a user's template can raise anything: 1 / 0, text + number
        raise RenderError(f"template {_where(error, name)}: {type(error).__name__}: {error}") from error


def _where(error: Exception, name: str) -> str:
    """File and line of a template's error: a syntax error carries them, others have them in their traceback."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
    inside = frames[-1] if frames else (f"{name}.j2", None)
    file = getattr(error, "filename", None) or inside[0]
    line = getattr(error, "lineno", None) or inside[1]
    return f"{file}, line {line}" if line else str(file)


def content(text: str, name: str, own_templates: Path | None = None) -> dict[str, Any]:
    """What a rendered text says; RenderError, which names the template, where it is no mapping in YAML."""
    try:
        found = tool_yaml.load(text)
    except yaml.YAMLError as error:
        raise RenderError(f"template {_file(name, own_templates)} rendered to text that is no YAML: {error}") from error
    if not isinstance(found, dict):
        raise RenderError(f"template {_file(name, own_templates)} rendered to no mapping of keys to values")
    return found


def _file(name: str, own_templates: Path | None) -> str | None:
    return _environment(own_templates).get_template(f"{name}.j2").filename


def require(found: Mapping[str, Any], expected: Mapping[str, Any], name: str) -> None:
    """Every expected key stands in the rendered YAML's content with the expected value *and type*.

    YAML reads ``1e-5`` as text and ``no`` as false; a template of the user's may drop a key.
    """
    wrong = [
        f"{key}: {found.get(key)!r} ({type(found.get(key)).__name__}) instead of {value!r} ({type(value).__name__})"
        for key, value in expected.items()
        if key not in found or found[key] != value or type(found[key]) is not type(value)
    ]
    if wrong:
        raise RenderError(f"{name} does not say what the recipe says: " + "; ".join(wrong))


def says_plainly(text: str, expected: Mapping[str, Any]) -> bool:
    """Whether text that is known to be a mapping has each expected key once, on a line with its value.

    Ten times faster than to parse it. False does not mean that ``require`` would refuse it.
    """
    lines = f"\n{text}"
    return all(
        lines.count(f"\n{name}:") == 1 and f"\n{name}: {tool_yaml.flow(value)}\n" in lines
        for key, value in expected.items()
        if (name := tool_yaml.flow(key))
    )
