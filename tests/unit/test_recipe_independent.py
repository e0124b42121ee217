"""Keys that do not go together with ``edits.mode: independent``, and what stays allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue import strict_yaml
from kedit_glue.recipe import Recipe, describe, normalized

Problems = Callable[..., list[str]]
HEAD = "name: run\nmodel: smollm2-135m\nedits: {source: facts.json, mode: independent}\n"
WHILE = "while edits.mode is independent"

TOGETHER = [
    (
        "method: ice\n",
        f":4:1  method: ice, {WHILE}: the method leaves the weights alone, and there is nothing to restore; "
        "allowed: a method that changes weights, or edits.mode: sequential",
    ),
    (
        "train: {from: base}\n",
        f":4:9  train.from: base, {WHILE}: each batch begins with the original anyway; allowed: previous",
    ),
    (
        "train: {rehearse: 5}\n",
        f":4:9  train.rehearse: 5, {WHILE}: each batch begins with the original, which no earlier batch was taught; "
        "allowed: 0",
    ),
    (
        "train: {lora: {rank: 4}}\n",
        f":4:16  train.lora.rank: 4, {WHILE}: in memory the trained matrices alone are merged; allowed: 0",
    ),
    (
        "train: {report_to: [tensorboard, wandb]}\n",
        f":4:9  train.report_to: tensorboard, wandb, {WHILE}: a tracker's curve is of batches that follow each other; "
        "allowed: []",
    ),
    (
        "train: {mini_batch: 4}\nlaunch: {processes: 2}\n",
        f":5:10  launch.processes: 2, {WHILE}: one process keeps the model and edits it again and again; allowed: 1",
    ),
    (
        "train: {mini_batch: 4}\nlaunch: {nodes: 2}\n",
        f":5:10  launch.nodes: 2, {WHILE}: one process keeps the model and edits it again and again; allowed: 1",
    ),
    (
        "merge: {onto: previous}\n",
        f":4:9  merge.onto: previous, {WHILE}: each batch begins with the original; allowed: base",
    ),
    (
        "merge: {when: end}\n",
        f":4:9  merge.when: end, {WHILE}: each batch is merged and scored at once; allowed: each",
    ),
    (
        "merge: {dtype: bfloat16}\n",
        f":4:9  merge.dtype: bfloat16, {WHILE}: the model is asked in the number format of training; "
        "allowed: null, or float32",
    ),
    (
        "train: {precision: bf16}\nmerge: {dtype: float32}\n",
        f":5:9  merge.dtype: float32, {WHILE}: the model is asked in the number format of training; "
        "allowed: null, or bfloat16",
    ),
    (
        "merge: {protect: {directions: 3}}\n",
        f":4:9  merge.protect: set, {WHILE}: the merged model is not written; allowed: train.protect instead",
    ),
    (
        "merge: {regmean: {tokens: 30}}\n",
        f":4:9  merge.regmean: set, {WHILE}: the merged model is not written; allowed: merge.regmean.tokens: 0",
    ),
    (
        "score: {edits: {when: end}}\n",
        f":4:17  score.edits.when: end, {WHILE}: each batch is scored at once; allowed: each",
    ),
    (
        "score: {edits: {old_facts: 5}}\n",
        f":4:17  score.edits.old_facts: 5, {WHILE}: no model holds the facts of earlier batches; allowed: null",
    ),
    (
        "score: {edits: {judge: {model: judge}}}\n",
        f":4:25  score.edits.judge.model: judge, {WHILE}: a judge on this machine would be loaded for each batch; "
        "allowed: null, or one at an endpoint",
    ),
    (
        "method: rome\nscore: {edits: {easyedit: checkout}}\n",
        f":5:17  score.edits.easyedit: a checkout, {WHILE}: one process edits and scores, with one version of "
        "EasyEdit: the package's; allowed: null",
    ),
    (
        "method: ft_m\nmethods: {easyedit: checkout}\n",
        f":5:11  methods.easyedit: a checkout, {WHILE}: one process edits and scores, with one version of EasyEdit: "
        "the package's; allowed: null",
    ),
    (
        "score: {general: {tasks: [hellaswag, arc]}}\n",
        f":4:19  score.general.tasks: hellaswag, arc, {WHILE}: no model holds the edits; allowed: [], or when: never",
    ),
    ("keep: all\n", f":4:1  keep: all, {WHILE}: no batch's model is kept; allowed: deltas, which then keeps nothing"),
]


@pytest.mark.parametrize(("body", "expected"), TOGETHER, ids=[body for body, _ in TOGETHER])
def test_what_means_a_batch_before_or_a_model_that_stays(body: str, expected: str, problems: Problems) -> None:
    assert problems(HEAD + body) == [expected]


def test_all_at_once(problems: Problems) -> None:
    found = problems(HEAD + "merge: {onto: previous, when: end}\nkeep: last\n")
    assert [line.partition(":  ")[0].split()[1] for line in found] == ["merge.onto:", "merge.when:", "keep:"]


@pytest.mark.parametrize(
    "body",
    [
        "merge: {parameters: {weight: 0.8}}\n",
        "train: {protect: {directions: 8}}\n",
        "score: {general: {tasks: [hellaswag], when: never}}\n",
        "score: {edits: {judge: {model: judge, endpoint: 'http://localhost/v1'}}}\n",
        "method: rsft\nmerge: {onto: previous}\n",  # which that method does not read
        "method: rome\ntrain: {lora: {rank: 4}}\n",
        "merge: {dtype: float32}\n",
        "score: {edits: {easyedit: checkout}}\n",  # training is not EasyEdit's
    ],
)
def test_what_may_stay(body: str, load: Callable[..., Recipe]) -> None:
    assert load(HEAD + body).edits.mode == "independent"


def test_a_resolved_recipe_is_the_same_recipe(load: Callable[..., Recipe]) -> None:
    recipe = load(HEAD)
    assert load(strict_yaml.dump(normalized(recipe))) == recipe


def test_sequential_is_the_default_and_explained(load: Callable[..., Recipe], problems: Problems) -> None:
    assert load(HEAD.replace(", mode: independent", "")).edits.mode == "sequential"
    assert "  mode: sequential" in describe()
    [problem] = problems(HEAD.replace("independent", "independant"))
    assert problem.endswith("allowed: one of sequential, independent; did you mean 'independent'?")


def test_a_bad_mode_is_the_only_problem(problems: Problems) -> None:
    body: Any = HEAD.replace("independent", "alone") + "merge: {onto: previous}\n"
    assert len(problems(body)) == 1
