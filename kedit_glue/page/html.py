"""A ``Page`` to one HTML file that needs nothing else: plotly's script, styles and numbers are in it.

Texts of users and models reach it in two ways: through Jinja, which escapes them, and in a JSON block whose ``<``,
``>`` and ``&`` are escaped. The page's own policy forbids any request and any script but its two.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from kedit_glue.page.content import Page, section_of
from kedit_glue.page.figure import Figure
from kedit_glue.page.interactive import HEIGHT, spec
from kedit_glue.problems import CannotStart
from kedit_glue.render import template_folders

ESCAPED = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}
POLICY = (
    "default-src 'none'; script-src {}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "form-action 'none'"
)


def html(page: Page) -> str:
    """The whole file. Raises CannotStart where plotly is not installed."""
    figures = {one.id: one for one in page.figures if isinstance(one, Figure)}
    specs = {name: spec(one) for name, one in figures.items()}
    data = {
        "name": page.name,
        "figures": {
            name: {"spec": specs[name], "csv": one.csv(), "choice": dict(one.choice)} for name, one in figures.items()
        },
        "facts": list(page.facts),
        **page.data,
    }
    sections = [section_of(section, page.figures) for section in page.sections]
    for section in sections:
        for group in section["groups"]:
            for figure in group["figures"]:
                figure["height"] = specs[figure["id"]]["layout"].get("height", HEIGHT)
    scripts = [plotly(), own("report.js")]
    values: dict[str, Any] = {
        "title": f"{page.name}: {page.verdict['answer']}",
        "policy": POLICY.format(" ".join(map(hash_of, scripts))),
        "style": Markup(own("report.css")),
        "plotly": Markup(scripts[0]),
        "script": Markup(scripts[1]),
        "data": Markup(json_block(data)),
        "kind": page.kind,
        "name": page.name,
        "about": page.about,
        "headline": page.headline,
        "verdict": page.verdict,
        "tiles": page.tiles,
        "sections": sections,
        "footer": page.footer,
    }
    return environment().get_template("report.html.j2").render(values)


def json_block(data: Any) -> str:
    """JSON that ends no script element, whatever texts are in it."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(ESCAPED)


def hash_of(script: str) -> str:
    """As a content security policy names a script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@functools.lru_cache(maxsize=1)
def environment() -> ImmutableSandboxedEnvironment:
    """Escapes every value that is not said to be markup."""
    return ImmutableSandboxedEnvironment(
        loader=FileSystemLoader(template_folders(None)),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def own(name: str) -> str:
    return (template_folders(None)[-1] / name).read_text(encoding="utf-8")


def plotly() -> str:
    """plotly's script, as its package carries it; the package itself is not imported."""
    found = importlib.util.find_spec("plotly")
    if found is None or found.origin is None:
        raise CannotStart("plotly, which draws the report's charts, is not installed; install it with: uv sync")
    file = Path(found.origin).parent / "package_data" / "plotly.min.js"
    return file.read_text(encoding="utf-8")
