"""``train.tokens: subject``: in a recipe and in a batch's files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from kedit_glue import report, result
from kedit_glue.batch_files import samples
from kedit_glue.job import CannotStart, check_subjects
from kedit_glue.plan import make_plan
from kedit_glue.render import render
from kedit_glue.report_notes import subject_note


def written(plan: Any) -> Any:
    [own] = [file for file in plan.files if file.path.name == "rsft.yaml"]
    return yaml.safe_load(render(own.template, own.values))


def test_the_files_of_a_run(recipe_of: Any, facts_of: Any, place_of: Any) -> None:
    assert written(make_plan(recipe_of("train: {tokens: subject}"), facts_of(2), place_of()))["tokens"] == "subject"
    plain = written(make_plan(recipe_of("train: {tokens: all}"), facts_of(2), place_of()))
    assert plain == written(make_plan(recipe_of(), facts_of(2), place_of())) and "tokens" not in plain


def test_every_text_of_a_fact_has_its_subject(facts_of: Callable[[int], list[dict[str, Any]]]) -> None:
    old, new, bare = facts_of(3)
    old["subject"], new["subject"], bare["subject"] = "Oak", "Elm", None
    new["also_trained"] = [{"prompt": "rephrased", "response": " x"}]
    assert [s["subject"] for s in samples([new, bare], [old], "subject")] == ["Elm", "Elm", None, "Oak"]
    assert all("subject" not in s for s in samples([new, bare], [old])), "files of other runs stay as they were"


@pytest.mark.parametrize("method", ["locft_bf", "ft_m"])
def test_rivals_are_as_their_authors_have_them(recipe_of: Any, method: str) -> None:
    assert recipe_of(f"method: {method}\ntrain: {{tokens: subject}}").train.tokens == "all"


@pytest.mark.parametrize("method", ["rsft_merge", "rsft", "sft"])
def test_one_subject_is_enough(recipe_of: Any, method: str) -> None:
    recipe = recipe_of(f"method: {method}\ntrain: {{tokens: subject}}")
    named, bare = ({"id": "a", "prompt": "Elm is", "subject": s} for s in ("Elm", None))
    check_subjects(recipe, [named, bare])
    check_subjects(recipe_of(f"method: {method}"), [bare])
    with pytest.raises(CannotStart) as error:
        check_subjects(recipe, [bare])
    assert str(error.value) == (
        f"train.tokens is subject, and no fact of {recipe.edits.source} names a subject that stands in its prompt\n"
        "  give them one, or set train.tokens to all; nothing was started"
    )


def test_a_reader_is_told(scored: Callable[..., dict[str, Any]]) -> None:
    document = scored()
    assert subject_note(document) == ""
    for batch in document["batches"]:
        batch["training"]["at_subject"] = {"texts": 5, "named": 5}
    said = "training learned at the tokens that name a fact's subject alone (train.tokens: subject)"
    assert subject_note(document) == said and said in report.markdown(document)
    document["batches"][0]["training"]["at_subject"]["named"] = 3
    texts = 5 * len(document["batches"])
    assert subject_note(document) == f"{said}; 2 of {texts} texts do not name it, and were learned at all"
    result.check(document)
