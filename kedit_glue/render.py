"""Templates to the YAML that LLaMA-Factory and mergekit read.

Jinja runs sandboxed and strict: an undefined name is an error, and no value of the user's becomes
template code. What was rendered is parsed again and compared with what went in.
"""

from __future__ import annotations

import importlib.resources
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment


class RenderError(ValueError):
    """A template failed, or rendered to something other than what was asked for."""


def template_folders(own: Path | None) -> list[Path]:
    """Where templates are looked for, first match wins: the user's folder, then the project's."""
    beside_package = Path(__file__).resolve().parent.parent / "templates"
    installed = Path(str(importlib.resources.files("kedit_glue"))) / "templates"
    shipped = beside_package if beside_package.is_dir() else installed
    return [own, shipped] if own else [shipped]


def _scalar(value: Any) -> str:
    """One value in YAML's flow style on one line."""

    def dump(style: str | None) -> str:
        text: str = yaml.safe_dump(
            value, default_flow_style=True, default_style=style, allow_unicode=True, width=10**9, sort_keys=False
        )
        return text.removesuffix("\n").removesuffix("\n...")

    plain = dump(None)
    # text of several lines would go on at a column that knows nothing of the template's indentation
    return dump('"') if "\n" in plain else plain


def _block(value: Mapping[str, Any], indent: int = 0) -> str:
    """A mapping, one key a line; every line after the first is indented by ``indent`` spaces."""
    return ("\n" + " " * indent).join(f"{_scalar(k)}: {_scalar(_plain(v))}" for k, v in value.items())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value


def render(name: str, values: Mapping[str, Any], own_templates: Path | None = None) -> str:
    """Render ``templates/<name>.j2``; the result is YAML whose top level is a mapping.

    Raises RenderError, which names the template's file and line.
    """
    environment = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in template_folders(own_templates)]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["yaml"] = _scalar
    environment.filters["yaml_block"] = _block
    try:
        template = environment.get_template(f"{name}.j2")
        text = template.render(**values)
    except Exception as error:  # a user's template can raise anything: 1 / 0, text + number
        raise RenderError(f"template {_where(error, name)}: {type(error).__name__}: {error}") from error
    try:
        parsed = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RenderError(f"template {template.filename} rendered to text that is no YAML: {error}") from error
    if not isinstance(parsed, dict):
        raise RenderError(f"template {template.filename} rendered to no mapping of keys to values")
    return text


def _where(error: Exception, name: str) -> str:
    """File and line of a template's error: a syntax error carries them, others have them in their traceback."""
    frames = [(f.filename, f.lineno) for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
    inside = frames[-1] if frames else (f"{name}.j2", None)
    file = getattr(error, "filename", None) or inside[0]
    line = getattr(error, "lineno", None) or inside[1]
    return f"{file}, line {line}" if line else str(file)


def require(text: str, expected: Mapping[str, Any], name: str) -> None:
    """Every expected key stands in the rendered YAML with the expected value *and type*.

    YAML reads ``1e-5`` as text and ``no`` as false; a template of the user's may drop a key.
    """
    parsed = yaml.safe_load(text)
    wrong = [
        f"{key}: {parsed.get(key)!r} ({type(parsed.get(key)).__name__}) instead of {value!r} ({type(value).__name__})"
        for key, value in expected.items()
        if key not in parsed or parsed[key] != value or type(parsed[key]) is not type(value)
    ]
    if wrong:
        raise RenderError(f"{name} does not say what the recipe says: " + "; ".join(wrong))
