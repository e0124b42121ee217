"""Who is the base and who carries which parameter, for every kind of merge method there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from kedit_glue.merging import (
    MergeMethod,
    MergeRefused,
    Tuned,
    check_count,
    check_paths,
    each_number,
    fill_in,
    merge_formats,
    merge_inputs,
    models_named,
    renamed,
)

Found = tuple[str | None, list[tuple[str, dict[str, Any]]], dict[str, Any]]
ONE = [Tuned("/tuned")]
THREE = [Tuned("/a"), Tuned("/b"), Tuned("/c")]


def inputs_of(method: MergeMethod, tuned: Sequence[Tuned], **settings: Any) -> Found:
    """Base, (path, parameters) of each model, parameters of the whole merge."""
    found = merge_inputs(method, settings, "/original", tuned)
    return found.base_model, [(m["path"], m["parameters"]) for m in found.models], found.parameters


def inputs(method: MergeMethod, **settings: Any) -> Found:
    return inputs_of(method, ONE, **settings)


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


def test_an_adapter_stands_behind_its_model(methods: dict[str, MergeMethod]) -> None:
    tuned = [Tuned("/before", "/batch/tuned")]
    assert inputs_of(methods["ties"], tuned, weight=1.0)[1] == [("/before+/batch/tuned", {"weight": 1.0})]


# -- how many models ----------------------------------------------------------------------------

MORE = "with train.from: base and merge.when: end the models of all batches are merged together"
FEWER = "merge after each batch (merge.when: each), or use a method for several models"
REFUSED = [
    ("model_stock", 1, f"model_stock needs 3 models, here are 2 (1 tuned and the original): {MORE}"),
    ("slerp", 2, f"slerp takes at most 2, here are 3 models (2 tuned and the original): {FEWER}"),
    ("passthrough", 2, f"passthrough takes at most 1, here are 2 models (2 tuned): {FEWER}"),
]


@pytest.mark.parametrize(("name", "tuned", "message"), REFUSED)
def test_too_few_or_too_many_models_are_refused_with_the_way_out(
    methods: dict[str, MergeMethod], name: str, tuned: int, message: str
) -> None:
    with pytest.raises(MergeRefused) as refused:
        inputs_of(methods[name], THREE[:tuned])
    assert str(refused.value) == f"merge.method {message}"


@pytest.mark.parametrize(("name", "tuned"), [("model_stock", 2), ("slerp", 1), ("passthrough", 1), ("ties", 99)])
def test_as_many_models_as_a_method_takes(methods: dict[str, MergeMethod], name: str, tuned: int) -> None:
    check_count(methods[name], tuned)


def test_several_task_vectors_each_have_the_whole_weight(methods: dict[str, MergeMethod]) -> None:
    own = {"weight": 0.4, "density": 0.2}
    assert inputs_of(methods["ties"], THREE, **own) == (
        "/original",
        [("/a", own), ("/b", own), ("/c", own)],
        {"normalize": False},
    )
    stock = inputs_of(methods["model_stock"], THREE[:2], filter_wise=True)
    assert stock == ("/original", [("/a", {}), ("/b", {})], {"filter_wise": True})


@pytest.mark.parametrize(
    ("weight", "rest", "each"),
    [
        (0.5, 0.5, 0.125),
        ([0, 0.8], [1.0, 0.2], [0.0, 0.2]),
        ([{"filter": "mlp", "value": 0.8}, {"value": 0}], None, [{"filter": "mlp", "value": 0.2}, {"value": 0.0}]),
    ],
)
def test_several_tuned_models_share_the_weight_where_the_original_is_one_more_input(
    methods: dict[str, MergeMethod], weight: Any, rest: Any, each: Any
) -> None:
    rest = rest or [{"filter": "mlp", "value": 0.2}, {"value": 1.0}]
    base, models, _ = inputs_of(methods["linear"], [*THREE, Tuned("/d", "/adapter")], weight=weight)
    assert base is None
    assert models[0] == ("/original", {"weight": rest})
    assert models[1:] == [(path, {"weight": each}) for path in ("/a", "/b", "/c", "/d+/adapter")]


# -- normalize, and what is left alone ----------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
def test_what_the_recipe_says_of_normalize_stands(methods: dict[str, MergeMethod], normalize: bool) -> None:
    assert inputs(methods["ties"], weight=1.0, normalize=normalize)[2] == {"normalize": normalize}


def test_normalize_weights_keeps_mergekits_own_default(methods: dict[str, MergeMethod]) -> None:
    assert inputs(methods["multislerp"], weight=0.5)[2] == {"normalize_weights": True}
    assert inputs(methods["multislerp"], weight=0.5, normalize_weights=False)[2] == {"normalize_weights": False}


def test_settings_are_not_changed(methods: dict[str, MergeMethod]) -> None:
    settings = {"weight": [{"filter": "mlp", "value": 0.9}]}
    merge_inputs(methods["linear"], settings, "/original", THREE)
    assert settings == {"weight": [{"filter": "mlp", "value": 0.9}]}


@pytest.mark.parametrize("weight", ["0.7", True, [0.5, "x"], [{"value": "x"}]])
def test_a_weight_that_is_no_number_cannot_be_shared(weight: Any) -> None:
    with pytest.raises(MergeRefused, match=r"a number, a gradient or filters are allowed"):
        each_number(weight, lambda w: w)


def test_each_number_in_any_form() -> None:
    weight = [{"filter": "mlp", "value": [1, 2]}, {"value": 3}, 4]
    assert each_number(weight, lambda w: 10 * w) == [{"filter": "mlp", "value": [10, 20]}, {"value": 30}, 40]


# -- a merge YAML of the user's -----------------------------------------------------------------

NAMES = {"original": "/original", "previous": "/before"}
MODELS: dict[str, Any] = {
    "merge_method": "ties",
    "base_model": "original",
    "models": [
        {"model": "previous", "parameters": {"weight": [0.1, 0.2]}},
        {"model": "tuned", "parameters": {"weight": 0.5, "note": "tuned"}},
        {"model": "owner/another"},
    ],
    "parameters": {"normalize": False},
}
SLICES: dict[str, Any] = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "original", "layer_range": [0, 2]}]},
        {"sources": [{"model": "tuned", "layer_range": [2, 4], "parameters": {"scale": 0.5}}]},
    ],
}


def test_the_runs_models_take_the_places_of_their_names() -> None:
    assert fill_in(MODELS, NAMES, ONE) == {
        "merge_method": "ties",
        "base_model": "/original",
        "models": [
            {"model": "/before", "parameters": {"weight": [0.1, 0.2]}},
            {"model": "/tuned", "parameters": {"weight": 0.5, "note": "tuned"}},
            {"model": "owner/another"},
        ],
        "parameters": {"normalize": False},
    }
    assert fill_in(SLICES, NAMES, [Tuned("/before", "/adapter")]) == {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "/original", "layer_range": [0, 2]}]},
            {"sources": [{"model": "/before+/adapter", "layer_range": [2, 4], "parameters": {"scale": 0.5}}]},
        ],
    }
    assert MODELS["base_model"] == "original", "what was read is left alone"


def test_an_entry_of_tuned_stands_once_for_each_tuned_model() -> None:
    filled = fill_in(MODELS, NAMES, THREE)["models"]
    assert [m["model"] for m in filled] == ["/before", "/a", "/b", "/c", "owner/another"]
    assert [m["parameters"] for m in filled[1:4]] == 3 * [{"weight": 0.5, "note": "tuned"}]
    assert [m["model"] for m in fill_in(SLICES, NAMES, THREE)["slices"][1]["sources"]] == ["/a", "/b", "/c"]


def test_tuned_as_the_base() -> None:
    turned = {"merge_method": "slerp", "base_model": "tuned", "models": [{"model": "original"}]}
    assert fill_in(turned, NAMES, ONE) == {**turned, "base_model": "/tuned", "models": [{"model": "/original"}]}


@pytest.mark.parametrize("content", [{}, {"models": [{"model": "original"}], "parameters": {"note": "tuned"}}])
def test_a_merge_of_nothing_that_was_trained_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(MergeRefused) as refused:
        fill_in(content, NAMES, ONE)
    assert str(refused.value) == "merge.file names no model 'tuned': nothing that was trained would be merged"


def test_models_that_a_merge_yaml_names() -> None:
    assert models_named(MODELS) == {"original", "previous", "tuned", "owner/another"}
    assert models_named(SLICES) == {"original", "tuned"}
    assert models_named(None) == models_named([]) == models_named("tuned") == set()


@pytest.mark.parametrize(
    ("dtype", "precision", "extra", "expected"),
    [
        (None, "fp32", {}, (None, None)),
        ("float16", "bf16", {}, ("float16", None)),
        (None, "bf16", {}, ("float32", "bfloat16")),
        (None, "bf16", {"out_dtype": "float16"}, ("float32", None)),
    ],
)
def test_formats(dtype: str | None, precision: str, extra: dict[str, Any], expected: tuple[Any, Any]) -> None:
    found = merge_formats(dtype, precision, extra)
    assert (found["dtype"], found["out_dtype"]) == expected


def test_models_get_other_names_wherever_they_stand() -> None:
    content = {
        "base_model": "/run/original",
        "models": [{"model": "/run/tuned", "parameters": {"weight": [0.1, {"filter": "/run/tuned", "value": 1}]}}],
        "slices": [{"sources": [{"model": "/run/tuned", "layer_range": [0, 2]}]}],
    }
    found = renamed(content, {"/run/tuned": "/scratch/tuned"})
    assert models_named(found) == {"/run/original", "/scratch/tuned"}
    assert found["models"][0]["parameters"] == content["models"][0]["parameters"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ["/models/a", "/runs/a@b/tuned"],
            "mergekit reads '@' in a model's path as the beginning of a revision: /runs/a@b/tuned; "
            "move or rename the folder: of runs with 'output', of the model with 'model'",
        ),
        (
            ["/c++/model", None],
            "mergekit reads '+' in a model's path as the beginning of an adapter: /c++/model; "
            "move or rename the folder: of runs with 'output', of the model with 'model'",
        ),
    ],
)
def test_a_path_that_mergekit_takes_apart(paths: list[str | None], message: str) -> None:
    with pytest.raises(MergeRefused) as refused:
        check_paths(paths)
    assert str(refused.value) == message
    check_paths(["/a b/#1", None, "owner/name"])
