"""Which layers come next, and how their inputs are scaled."""

from __future__ import annotations

import math

import pytest

from kedit_glue.merging import MergeRefused
from kedit_glue.search.paths import Layout, NoPath, Step, runs, writers


def layout(repetitions: int = 1, scaling: bool = False, most: int = 9) -> Layout:
    return Layout(("a", "b"), 2, repetitions, scaling, ("o_proj", "down_proj"), most, 1, (0.8, 1.25))


def test_the_first_candidate_is_one_model_as_it_is() -> None:
    for of in (layout(), layout(2, True)):
        steps = of.path([gene.begin for gene in of.genes()])
        assert steps == [Step(1, 0), Step(1, 1)]


def test_indicators_above_a_half_are_laid_out_in_order_again_and_again() -> None:
    assert layout(2).path([0.9, 0, 0, 0.51, 0.5, 1.0, 0, 0]) == [Step(0, 0), Step(1, 1), Step(0, 1)]


def test_a_scale_is_one_by_the_product_of_all_inputs_scales_so_far() -> None:
    of = layout(scaling=True)
    shares = [1.0, 1.0, 0.0, 1.0, *[0.5] * 16]
    shares[4 + 0 * 4 + 1] = 1.0  # W[a0, a1] = 1.25
    shares[4 + 1 * 4 + 3] = 0.0  # W[a1, b1] = 0.8
    scales = [step.scale for step in of.path(shares)]
    assert scales == [1.0, pytest.approx(0.8), pytest.approx(1.0)]
    assert len(of.genes()) == 4 + 16
    assert of.genes()[4 + 1].name == "input of model 1, layer 1 behind model 1, layer 0: log scale"
    assert of.genes()[4].value(0.5) == pytest.approx(math.log(1.0))


def test_the_yaml_has_a_slice_for_each_run_of_layers() -> None:
    of = layout(2)
    assert of.config([1, 1, 0, 0, 0, 0, 0, 1]) == {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "a", "layer_range": [0, 2]}]},
            {"sources": [{"model": "b", "layer_range": [1, 2]}]},
        ],
    }


def test_a_scaled_run_says_so_at_what_writes_into_the_stream() -> None:
    of = layout(scaling=True)
    shares = [1.0, 1.0, 0.0, 0.0, *[0.5] * 16]
    shares[4 + 1] = 1.0
    second = of.config(shares)["slices"][1]["sources"][0]
    assert second == {
        "model": "a",
        "layer_range": [1, 2],
        "parameters": {"scale": [{"filter": "o_proj", "value": 0.8}, {"filter": "down_proj", "value": 0.8}]},
    }


def test_runs_end_where_model_layer_or_scale_jump() -> None:
    steps = [Step(0, 0), Step(0, 1), Step(0, 3), Step(1, 4), Step(1, 5, 0.5), Step(1, 6, 0.5)]
    assert [len(run) for run in runs(steps)] == [2, 1, 1, 2]


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ([0.0] * 4, "it goes through no layer"),
        ([1.0] * 4, "it goes through 4 layers; merge.search.most_layers is 3"),
    ],
)
def test_no_path(shares: list[float], said: str) -> None:
    with pytest.raises(NoPath) as caught:
        layout(most=3).path(shares)
    assert str(caught.value) == said


def test_a_scale_is_above_nothing() -> None:
    with pytest.raises(MergeRefused, match=r"merge.search.ranges.scale begins at 0; allowed: a number above 0"):
        Layout(("a",), 2, 1, True, (), 3, 0, (0, 1))


def test_what_writes_into_the_stream() -> None:
    llama = ["model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.down_proj.weight", "model.norm.weight"]
    assert writers(dict.fromkeys(llama)) == ("o_proj", "down_proj")
    assert writers(dict.fromkeys([*llama, "model.layers.0.post_feedforward_layernorm.weight"])) == ()
    assert writers({"transformer.h.0.mlp.c_proj.weight": None}) == ("c_proj",)
