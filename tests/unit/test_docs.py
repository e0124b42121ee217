"""The pages: what a reader copies from them is accepted, and where they point to is there."""

from __future__ import annotations

import importlib
import itertools
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue.recipe import load_recipe

HERE = Path(__file__).parents[2]
PAGES = [
    *(HERE / name for name in ("README.md", "CONTRIBUTING.md", "runs/README.md")),
    *sorted((HERE / "docs").glob("*.md")),
]
SOURCES = ("my_facts.csv", "facts.json", "data/counterfact_train.json")
BASE = {
    "name": "try",
    "model": "smollm2-135m",
    "edits": {"source": "facts.json", "batch_size": 16},
    "train": {"mini_batch": 16},  # for as many processes as a page has
}
METHODS = {"task_arithmetic": frozenset({"weight"}), "ties": frozenset({"weight", "density"})}


def blocks(page: Path, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for word, text in fenced if word == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(HERE))


# -- YAML ---------------------------------------------------------------------------------------


def recipes() -> list[Any]:
    """A case for each YAML block that is a recipe or a part of one: no study, no manifest."""
    return [
        pytest.param(data, id=f"{name_of(page)}-{number}")
        for page in PAGES
        for number, block in enumerate(blocks(page, "yaml"))
        if not {"axes", "cells", "apiVersion"} & (data := yaml.safe_load(block)).keys()
    ]


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: over(below[key], value) for key, value in above.items() if isinstance(below.get(key), dict)}
    return {**below, **above, **both}


@pytest.mark.parametrize("block", recipes())
def test_a_recipe_on_a_page_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: dict[str, Any]) -> None:
    for source in SOURCES:
        (tmp_path / source).parent.mkdir(exist_ok=True)
        (tmp_path / source).write_text("[]")
    (tmp_path / "recipes").symlink_to(HERE / "recipes")
    monkeypatch.chdir(tmp_path)
    whole = over(BASE, block)
    if str(whole["model"]).startswith("/"):  # a folder of the reader's
        whole["model"] = str(tmp_path)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(whole))
    assert load_recipe(Path("my.yaml"), merge_methods=METHODS).name == whole["name"]


# -- commands -----------------------------------------------------------------------------------


def commands() -> list[Any]:
    """A case for each command of ours in a block: no comments, continued lines joined, none with … or NAME in it."""
    found = {
        line.partition("  #")[0].split("&&")[-1].strip(): name_of(page)
        for page in PAGES
        for block in blocks(page, "")
        for line in block.replace("\\\n", " ").splitlines()
        if "python -m kedit_glue." in line and not re.search(r"…|NAME", line)
    }
    return [pytest.param(line, id=f"{page}: {' '.join(line.split())}") for line, page in found.items()]


@pytest.mark.parametrize("line", commands())
def test_a_command_on_a_page_is_understood(line: str) -> None:
    words = shlex.split(line)
    name, *rest = words[words.index("-m") + 1 :]
    module = importlib.import_module(name)
    if hasattr(module, "parser"):
        module.parser().parse_args(rest)
    for path in (word for word in rest if re.match(r"(recipes|templates)/", word)):
        assert (HERE / path).exists(), path
    recipe = next((HERE / word for word in rest if word.startswith("recipes/") and word.endswith(".yaml")), None)
    if name == "kedit_glue.run" and recipe:
        sets = [value for key, value in itertools.pairwise(rest) if key == "--set"]
        made_first = re.compile(r"=(runs|\.\./shared)/")  # by the reader, or brought
        load_recipe(recipe, [one for one in sets if not made_first.search(one)])


# -- links --------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
