"""Numbers to a merge YAML, and to mergekit-evolve's genotype."""

from __future__ import annotations

from typing import Any

import pytest

from kedit_glue.merging import MergeMethod, MergeRefused
from kedit_glue.search import evolve
from kedit_glue.search.genome import Genome

Methods = dict[str, MergeMethod]


def genome(method: MergeMethod, settings: dict[str, Any], **more: Any) -> Genome:
    said = {"tuned": ("t",), "layers": 4, "granularity": 2, "filters": ("gate_proj",), "ranges": {}, **more}
    return Genome(method, "o", said["tuned"], said["layers"], said["granularity"], said["filters"], said["ranges"],
                  settings)  # fmt: skip


def test_a_number_for_each_group_model_set_and_parameter(methods: Methods) -> None:
    of = genome(methods["ties"], {"weight": 0.6, "density": 0.5, "normalize": True}, tuned=("t", "u"))
    names = [gene.name for gene in of.genes()]
    assert len(names) == 2 * 2 * 2 * 2
    assert names[:5] == [
        "layers 0-1, tuned 1, gate_proj: weight",
        "layers 0-1, tuned 1, gate_proj: density",
        "layers 0-1, tuned 1: weight",
        "layers 0-1, tuned 1: density",
        "layers 0-1, tuned 2, gate_proj: weight",
    ]
    assert [(g.low, g.high, g.start) for g in of.genes()[:2]] == [(0.0, 1.5, 0.6), (0.05, 1.0, 0.5)]


def test_the_yaml_says_the_numbers(methods: Methods) -> None:
    of = genome(methods["task_arithmetic"], {"weight": 0.6, "lambda": 2.0})
    assert of.config([0.0, 0.2, 0.4, 1.0]) == {
        "merge_method": "task_arithmetic",
        "base_model": "o",
        "parameters": {"lambda": 2.0, "normalize": False},
        "slices": [
            {
                "sources": [
                    {"model": "o", "layer_range": [0, 2]},
                    {
                        "model": "t",
                        "layer_range": [0, 2],
                        "parameters": {
                            "weight": [{"filter": "gate_proj", "value": 0.0}, {"value": pytest.approx(0.3)}]
                        },
                    },
                ]
            },
            {
                "sources": [
                    {"model": "o", "layer_range": [2, 4]},
                    {
                        "model": "t",
                        "layer_range": [2, 4],
                        "parameters": {
                            "weight": [{"filter": "gate_proj", "value": pytest.approx(0.6)}, {"value": 1.5}]
                        },
                    },
                ]
            },
        ],
    }


def test_the_first_candidate_is_the_recipes_own_merge(methods: Methods) -> None:
    of = genome(methods["task_arithmetic"], {"weight": 0.6}, granularity=0, filters=())
    (source,) = of.config([gene.begin for gene in of.genes()])["slices"]
    assert source["sources"][1]["parameters"] == {"weight": pytest.approx(0.6)}


def test_an_original_that_is_an_input_gets_what_is_left(methods: Methods) -> None:
    of = genome(methods["linear"], {"weight": 0.6}, granularity=0, filters=(), tuned=("t", "u"))
    config = of.config([0.2, 0.4])
    assert "base_model" not in config
    weights = [source["parameters"]["weight"] for source in config["slices"][0]["sources"]]
    assert weights == pytest.approx([0.1, 0.3, 0.6]) and sum(weights) == pytest.approx(1.0)


def test_a_merges_own_number_stands_at_the_slice(methods: Methods) -> None:
    of = genome(methods["slerp"], {"t": 0.5}, granularity=0, filters=())
    assert of.config([0.25])["slices"][0]["parameters"] == {"t": 0.25}


def test_density_is_searched_where_the_method_or_the_recipe_means_it(methods: Methods) -> None:
    assert genome(methods["task_arithmetic"], {"weight": 1.0, "density": 0.5}).names == ("weight",)
    assert genome(methods["ties"], {"weight": 1.0}).names == ("weight", "density")
    named = genome(methods["task_arithmetic"], {"weight": 1.0}, ranges={"lambda": (0.5, 2.0)})
    assert named.names == ("weight", "lambda") and named.shared == ("lambda",)


REFUSED = [
    ("task_arithmetic", {"granularity": 3}, {"weight": 1.0},
     "merge.search.layer_granularity is 3, and the model has 4 layers; allowed: 0, 1, 2, 4"),
    ("passthrough", {}, {},
     "merge.search finds no number to search in merge.method passthrough: its parameters are scale; give the range of "
     "one in merge.search.ranges"),
    ("task_arithmetic", {}, {"weight": [0.1, 0.9]},
     "merge.parameters.weight is [0.1, 0.9]: where merge.search searches weight, it begins at one number"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "more", "settings", "said"), REFUSED)
def test_refused(methods: Methods, method: str, more: dict[str, Any], settings: dict[str, Any], said: str) -> None:
    with pytest.raises(MergeRefused) as caught:
        genome(methods[method], settings, **more).genes()
    assert str(caught.value) == said


def test_mergekit_evolve_gets_what_its_genome_can_say(methods: Methods) -> None:
    of = genome(methods["task_arithmetic"], {"weight": 0.6})
    assert evolve.configuration(of, ["copa"], 50) == {
        "genome": {
            "models": ["t"],
            "merge_method": "task_arithmetic",
            "layer_granularity": 2,
            "normalize": False,
            "allow_negative_weights": False,
            "filters": ["gate_proj"],
            "base_model": "o",
        },
        "tasks": [{"name": "copa", "weight": 1.0}],
        "limit": 50,
    }
    assert evolve.configuration(genome(methods["multislerp"], {"weight": 0.6}), [], None) is None
    more = genome(methods["task_arithmetic"], {"weight": 0.6}, ranges={"lambda": (0.5, 2.0)})
    assert evolve.configuration(more, [], None) is None
    assert evolve.configuration(genome(methods["slerp"], {}), [], None) is None, "its slerp has no filters"
