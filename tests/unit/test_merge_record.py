"""What a merge's numbers say, without tensors."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue.merge_record import Change, MergeError, asked_for_less, check_not_the_tuned, place, statistics

UP, DOWN = "model.layers.3.mlp.up_proj.weight", "model.layers.11.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (UP, (3, "mlp.up_proj")),
        ("transformer.h.0.mlp.c_fc.bias", (0, "mlp.c_fc")),
        ("model.layers.1.mlp.experts.7.w1.weight", (1, "mlp.experts.7.w1")),
        ("model.norm.weight", (None, "model.norm.weight")),
    ],
)
def test_layer_and_module_of_a_tensor(name: str, found: tuple[int | None, str]) -> None:
    assert place(name) == found


def test_layers_and_modules_add_up() -> None:
    changes = {
        UP: Change(tuned_square=9.0, merged_square=4.0, entries=10, merged_entries=5, both=4, agreeing=3),
        UP.replace("up", "gate"): Change(tuned_square=16.0, merged_square=5.0, entries=30, merged_entries=15),
        DOWN: Change(entries=4),
    }
    found = statistics(changes)
    assert found["tensors"][DOWN] == {
        "layer": 11,
        "module": "mlp.down_proj",
        "norm_tuned": 0.0,
        "norm_merged": 0.0,
        "density": 0.0,
        "sign_agreement": None,
    }
    assert list(found["layers"]) == ["3", "11"]
    assert found["layers"]["3"] == {"norm_tuned": 5.0, "norm_merged": 3.0, "density": 0.5, "sign_agreement": 0.75}
    assert set(found["modules"]) == {"mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"}


@pytest.mark.parametrize(
    ("method", "parameters", "density", "found"),
    [
        ("task_arithmetic", {"weight": 0.7, "lambda": 1.0}, 1.0, "weight 0.7"),
        ("task_arithmetic", {"weight": 0.7, "lambda": 2.0}, 1.0, "weight 0.7, lambda 2"),
        ("task_arithmetic", {"weight": 0.5, "lambda": 2.0}, 1.0, None),
        ("task_arithmetic", {"weight": 0.995}, 1.0, None),
        ("ties", {"weight": 1.0, "density": 0.3}, 1.0, "density 0.3"),
        ("ties", {"weight": 1.0, "density": 0.3}, 0.25, None),
        ("passthrough", {"scale": None}, 1.0, None),
        ("passthrough", {"scale": 0.5}, 1.0, "scale 0.5"),
        ("slerp", {"t": 0.7}, 1.0, "t 0.7"),
        ("nearswap", {"t": 0.001}, 1.0, None),
        ("karcher", {"max_iter": 10, "tol": 1e-5}, 1.0, None),
    ],
)
def test_what_asks_for_less_than_the_tuned_model(
    method: str, parameters: dict[str, Any], density: float, found: str | None
) -> None:
    assert asked_for_less(method, parameters, density) == found


def changed(missed: float) -> Change:
    """A tensor whose merged values are ``missed`` (in lengths of the tuned change) from the tuned ones."""
    return Change(tuned_square=4.0, merged_square=4.0, missed_square=4.0 * missed**2, entries=10, tuned_entries=10)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"weight": 0.7, "normalize": True},
            r"asks for weight 0\.7 \(of .*up_proj\.weight and 1 more tensors\): with normalize: true .*set nor",
        ),
        ({"weight": 0.7}, r"multislerp does not use it with these inputs, or the changes are smaller than"),
    ],
)
def test_the_tuned_model_given_back_is_an_error_that_says_why(parameters: dict[str, Any], message: str) -> None:
    changes = {UP: changed(0.0), DOWN: changed(1e-4)}
    with pytest.raises(MergeError, match=message):
        check_not_the_tuned("multislerp", changes, dict.fromkeys(changes, parameters))


def test_only_tensors_that_were_asked_for_less_count() -> None:
    changes = {UP: changed(0.0), DOWN: changed(0.3)}
    check_not_the_tuned("linear", changes, {UP: {"weight": 1.0}, DOWN: {"weight": 0.7}})
    check_not_the_tuned("linear", changes, {})
    check_not_the_tuned("linear", {UP: Change()}, {UP: {"weight": 0.7}})
    with pytest.raises(MergeError, match=r"asks for weight 0\.7 \(of model"):
        check_not_the_tuned("linear", changes, {UP: {"weight": 0.7}, DOWN: {"weight": 1.0}})
