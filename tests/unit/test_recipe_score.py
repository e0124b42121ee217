"""Recipe keys that say how edits are scored: what they default to, what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue.problems import RecipeError
from kedit_glue.recipe import Recipe

HEAD = "name: try\nmodel: smollm2-135m\nedits:\n  source: facts.json\n"
PROTOCOLS = "a list of teacher_forced, likelihood, generated, each at most once"
TEMPLATES = "one of as_trained, bare, chat"


def test_by_default_every_protocol_is_asked(load: Callable[..., Recipe]) -> None:
    edits = load(HEAD).score.edits
    assert edits.protocols == ("teacher_forced", "likelihood", "generated")
    assert edits.metrics == ("edit_success", "generalization", "portability", "locality", "fluency")
    assert (edits.generated.facts, edits.generated.template, edits.generated.most_tokens) == (20, "as_trained", 64)
    assert (edits.scorer, edits.easyedit) == ("batched", None)


def test_what_can_be_said(load: Callable[..., Recipe], folder: Path) -> None:
    (folder / "EasyEdit").mkdir()
    said = (
        "score: {edits: {metrics: [perplexity], protocols: [generated], scorer: easyedit, easyedit: EasyEdit, "
        "generated: {facts: 0, template: chat, most_tokens: 1}}}\n"
    )
    edits = load(HEAD + said).score.edits
    assert (edits.metrics, edits.protocols, edits.scorer) == (("perplexity",), ("generated",), "easyedit")
    assert edits.easyedit == str(folder / "EasyEdit"), "a path like the others"
    assert (edits.generated.facts, edits.generated.template, edits.generated.most_tokens) == (0, "chat", 1)
    assert load(HEAD, "score.edits.generated.facts=7").score.edits.generated.facts == 7


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            "protocols: [generation]",
            f":5:29  score.edits.protocols[0]: generation (text); allowed: {PROTOCOLS}; did you mean 'generated'?",
        ),
        (
            "protocols: [likelihood, likelihood]",
            f":5:41  score.edits.protocols[1]: 'likelihood' is listed twice; allowed: {PROTOCOLS}",
        ),
        (
            "scorer: easyeditor",
            ":5:25  score.edits.scorer: easyeditor (text); allowed: one of batched, easyedit; did you mean 'easyedit'?",
        ),
        (
            "generated: {template: trained}",
            f":5:39  score.edits.generated.template: trained (text); allowed: {TEMPLATES}; did you mean 'as_trained'?",
        ),
        (
            "generated: {facts: -1}",
            ":5:36  score.edits.generated.facts: -1 (whole number); allowed: a whole number from 0 to 1000000000",
        ),
        (
            "generated: {most_tokens: 0}",
            ":5:42  score.edits.generated.most_tokens: 0 (whole number); allowed: a whole number from 1 to 32768",
        ),
        (
            "generated: {tokens: 9}",
            ":5:29  score.edits.generated.tokens: unknown key; known here: facts, template, most_tokens; "
            "did you mean 'most_tokens'?",
        ),
        ("easyedit: nowhere", None),
    ],
)
def test_bad(problems: Callable[..., list[str]], folder: Path, said: str, expected: str | None) -> None:
    [found] = problems(HEAD + f"score: {{edits: {{{said}}}}}\n")
    if expected is None:
        assert found.startswith(":5:27  score.edits.easyedit: ") and "nowhere" in found and str(folder) in found
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ("method: rsft", "method is rsft: nothing is merged"),
        (
            "train: {from: base}\nmerge: {when: end, onto: base}",
            "train.from is base: each batch has a tuned model of its own",
        ),
        ("train: {lora: {rank: 4}}", "train.lora.rank is 4: training leaves an adapter"),
    ],
)
def test_there_has_to_be_one_tuned_model(load: Callable[..., Recipe], more: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(f"{HEAD}{more}\nscore: {{tuned: true}}")
    assert f"score.tuned: true, while {why}; allowed: false" in str(caught.value)
