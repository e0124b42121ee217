"""What a study's figures say of cells that lack something, and of what they took."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kedit_glue.page import of_grid, of_run
from kedit_glue.page.figure import Missing
from kedit_glue.study_report import About, Result

Scored = Callable[..., dict[str, Any]]
ABOUT = About("grid", "r.yaml", "a")


def drawn(*documents: dict[str, Any]) -> dict[str, Any]:
    results = [Result(name, {}, document) for name, document in zip("abcdef", documents, strict=False)]
    return {one.id: one for one in of_grid.figures(ABOUT, results)}


def without_general(document: dict[str, Any], **more: Any) -> dict[str, Any]:
    document["after"] |= {"general": None, "general_change": {}}
    return document | more


def test_a_study_of_edits_each_alone_says_that_there_is_no_general_ability(scored: Scored) -> None:
    asked = drawn(without_general(scored()), without_general(scored()))
    assert asked["general"].why == asked["success_general"].why == of_run.NO_GENERAL
    alone = drawn(*(without_general(scored(), mode="independent") for _ in "ab"))
    assert alone["general"].why == alone["success_general"].why == of_run.NO_GENERAL_ALONE
    assert isinstance(alone["worth"], Missing) and of_run.NO_GENERAL_ALONE in alone["worth"].why
    assert of_run.NO_GENERAL_ALONE not in asked["worth"].why
