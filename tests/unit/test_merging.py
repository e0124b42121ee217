"""Who is the base and who carries which parameter, for every kind of merge method there is."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue.merging import MergeMethod, MergeRefused, complement, merge_inputs


def inputs(method: MergeMethod, **settings: Any) -> tuple[str | None, list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    """Base, (path, parameters) of each model, parameters of the whole merge."""
    found = merge_inputs(method, settings, "/original", "/tuned")
    return found.base_model, [(m["path"], m["parameters"]) for m in found.models], found.parameters


@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_task_vectors_are_taken_from_the_original(methods: dict[str, MergeMethod], name: str) -> None:
    settings = {"weight": 0.7, "density": 0.1, "lambda": 1.5}
    assert inputs(methods[name], **settings) == (
        "/original",
        [("/tuned", {"weight": 0.7, "density": 0.1})],
        {"lambda": 1.5, "normalize": False},
    )


def test_slerp_has_only_shared_parameters_and_no_normalize(methods: dict[str, MergeMethod]) -> None:
    assert inputs(methods["slerp"], t=0.3) == ("/original", [("/tuned", {})], {"t": 0.3})


FORMS: list[tuple[Any, Any]] = [
    (0.7, 0.3),
    (1, 0.0),
    ([0, 0.25, 1.0], [1.0, 0.75, 0.0]),
    (
        [{"filter": "mlp", "value": 0.9}, {"value": [0.5, 0.2]}],
        [{"filter": "mlp", "value": 0.1}, {"value": [0.5, 0.8]}],
    ),
    ({"filter": "mlp", "value": 0.9}, {"filter": "mlp", "value": 0.1}),
]


@pytest.mark.parametrize(("weight", "rest"), FORMS, ids=["number", "whole", "gradient", "filters", "one filter"])
def test_linear_gives_the_original_the_rest_of_the_weight(
    methods: dict[str, MergeMethod], weight: Any, rest: Any
) -> None:
    assert inputs(methods["linear"], weight=weight) == (
        None,
        [("/original", {"weight": rest}), ("/tuned", {"weight": weight})],
        {"normalize": False},
    )


def test_an_optional_base_is_one_more_input(methods: dict[str, MergeMethod]) -> None:
    assert inputs(methods["nuslerp"], weight=0.25, nuslerp_flatten=True) == (
        None,
        [("/original", {"weight": 0.75}), ("/tuned", {"weight": 0.25})],
        {"nuslerp_flatten": True},
    )


def test_a_method_without_weight_gets_none(methods: dict[str, MergeMethod]) -> None:
    karcher = MergeMethod("karcher", "ignored", 1, None, {"max_iter": "shared"})
    assert inputs(karcher, max_iter=5) == (None, [("/original", {}), ("/tuned", {})], {"max_iter": 5})


def test_passthrough_takes_the_tuned_model_alone(methods: dict[str, MergeMethod]) -> None:
    assert inputs(methods["passthrough"], scale=0.5) == (None, [("/tuned", {"scale": 0.5})], {})


def test_model_stock_is_refused_with_the_reason(methods: dict[str, MergeMethod]) -> None:
    with pytest.raises(MergeRefused) as refused:
        inputs(methods["model_stock"])
    assert str(refused.value) == (
        "merge.method model_stock needs 3 models; an edit batch gives two, the original and the tuned one"
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_what_the_recipe_says_of_normalize_stands(methods: dict[str, MergeMethod], normalize: bool) -> None:
    assert inputs(methods["ties"], weight=1.0, normalize=normalize)[2] == {"normalize": normalize}


def test_normalize_weights_keeps_mergekits_own_default(methods: dict[str, MergeMethod]) -> None:
    assert inputs(methods["multislerp"], weight=0.5)[2] == {"normalize_weights": True}
    assert inputs(methods["multislerp"], weight=0.5, normalize_weights=False)[2] == {"normalize_weights": False}


def test_settings_are_not_changed(methods: dict[str, MergeMethod]) -> None:
    settings = {"weight": [{"filter": "mlp", "value": 0.9}]}
    merge_inputs(methods["linear"], settings, "/original", "/tuned")
    assert settings == {"weight": [{"filter": "mlp", "value": 0.9}]}


@pytest.mark.parametrize("weight", ["0.7", True, [0.5, "x"], [{"value": "x"}]])
def test_a_weight_that_is_no_number_has_no_complement(weight: Any) -> None:
    with pytest.raises(MergeRefused, match=r"a number, a gradient or filters are allowed"):
        complement(weight)
