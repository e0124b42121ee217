"""What a merge says of itself, and the merges that are errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.merge_record import MergeError

pytestmark = pytest.mark.integration
WEIGHTED = {"weight": 0.7}
SPARSE = {"weight": 0.7, "density": 0.5}


def test_the_record_says_what_the_merge_did(bench: Any) -> None:
    """By hand, from the tensors: norms, density, and the same signs as the batch before."""
    import torch

    bench.merge(bench.yaml("ties", SPARSE), "1")
    before = bench.merged("1")
    tuned = bench.altered(before, "tuned", bench.moved(2))
    text = bench.yaml("ties", SPARSE, tuned=tuned, before=before)
    found = bench.merge(text, "2", before=str(before), tuned_model=tuned, earlier=[str(bench.original), str(before)])
    zero, one, two = (bench.tensors(folder) for folder in (bench.original, before, bench.merged("2")))
    new, names = bench.tensors(tuned), [n for n in one if ".mlp." in n]

    def norm(values: list[Any]) -> float:
        return float(torch.cat([v.flatten() for v in values]).double().norm())

    first = torch.cat([(one[n] - zero[n]).flatten() for n in names])
    second = torch.cat([(two[n] - one[n]).flatten() for n in names])
    both = (first != 0) & (second != 0)
    agreement = float((first[both].sign() == second[both].sign()).double().mean())
    assert found["tensors"] == len(names) == 6
    assert found["task_vector_norm_tuned"] == pytest.approx(norm([new[n] - one[n] for n in names]), rel=1e-5)
    assert found["task_vector_norm_merged"] == pytest.approx(norm([second]), rel=1e-5)
    assert found["density"] == pytest.approx(float((second != 0).double().mean())) == pytest.approx(0.5, abs=0.01)
    assert found["sign_agreement"] == pytest.approx(agreement)

    stats = json.loads((bench.folder / "2" / "merge_stats.json").read_text())
    name = "model.layers.1.mlp.up_proj.weight"
    own = stats["tensors"][name]
    assert (own["layer"], own["module"]) == (1, "mlp.up_proj")
    assert own["norm_merged"] == pytest.approx(norm([two[name] - one[name]]), rel=1e-5)
    assert set(stats["layers"]) == {"0", "1"}
    assert set(stats["modules"]) == {f"mlp.{m}_proj" for m in ("up", "gate", "down")}
    squares = sum(layer["norm_merged"] ** 2 for layer in stats["layers"].values())
    assert squares == pytest.approx(found["task_vector_norm_merged"] ** 2)


def test_without_the_previous_batchs_model_there_is_no_sign_agreement(bench: Any) -> None:
    found = bench.merge(bench.yaml("linear", WEIGHTED), earlier=[str(bench.folder / "gone"), str(bench.original)])
    assert found["sign_agreement"] is None


def test_sign_agreement_of_a_batch_merged_onto_the_original(bench: Any) -> None:
    """``before`` is then the original, and the previous batch's change is not counted from it to there."""
    back = bench.altered(bench.original, "back", bench.moved(1, -0.01))
    text = bench.yaml("task_arithmetic", WEIGHTED)
    same = bench.merge(text, "same", earlier=[str(bench.original), str(bench.tuned)])
    against = bench.merge(text, "against", earlier=[str(bench.original), str(back)])
    assert same["sign_agreement"] > 0.999 and against["sign_agreement"] < 0.001


def test_the_norm_of_two_tuned_models_is_that_of_their_summed_changes(bench: Any) -> None:
    """The second takes back what the first did."""
    old, new = bench.tensors(bench.original), bench.tensors(bench.tuned)
    back = bench.altered(bench.original, "back", lambda n, t: 2 * old[n] - new[n] if n in old else t)
    both = [{"model": str(model), "adapter": None} for model in (bench.tuned, back)]
    found = bench.merge(bench.yaml("task_arithmetic", WEIGHTED), tuned=both)
    assert found["task_vector_norm_tuned"] < 1e-3 * found["task_vector_norm_merged"]


# -- errors -------------------------------------------------------------------------------------


def test_a_merge_that_forgets_everything_is_an_error(bench: Any) -> None:
    settings = {"weight": [{"filter": "attn", "value": 1}, {"value": 0}]}
    with pytest.raises(MergeError, match="gave back the model it began with"):
        bench.merge(bench.yaml("ties", settings))


@pytest.mark.parametrize("weight", [0.7, [0.5, 0.9], [{"filter": "mlp", "value": 0.7}, {"value": 1.0}]])
def test_a_weight_that_does_nothing_is_an_error(bench: Any, weight: Any) -> None:
    message = r"gave back the tuned model although merge\.yaml asks for weight 0\.[57].*divides by the sum"
    with pytest.raises(MergeError, match=message):
        bench.merge(bench.yaml("ties", {"weight": weight, "normalize": True}))
    assert (bench.folder / "ours" / "merge_stats.json").is_file(), "the numbers are there to look at"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("ties", {"weight": 1.0, "normalize": True}),
        ("task_arithmetic", {"weight": [{"filter": "mlp", "value": 1.0}, {"value": 0.0}]}),
        ("task_arithmetic", {"weight": 0.5, "lambda": 2.0}),
        ("passthrough", {}),
        ("nearswap", {"t": 10.0}),
    ],
)
def test_the_tuned_model_where_it_was_asked_for_is_no_error(bench: Any, method: str, settings: dict[str, Any]) -> None:
    found = bench.merge(bench.yaml(method, settings))
    assert found["task_vector_norm_merged"] == pytest.approx(found["task_vector_norm_tuned"], rel=1e-4)


def test_weights_that_are_not_finite_are_an_error(bench: Any) -> None:
    nan = float("nan")
    diverged = bench.altered(bench.original, "nan", lambda n, t: t * nan if "0.mlp.up" in n else t)
    with pytest.raises(MergeError, match=r"0\.mlp\.up_proj\.weight is not finite after the merge: training diverged"):
        bench.merge(bench.yaml("task_arithmetic", WEIGHTED, tuned=diverged), tuned_model=diverged)


def test_a_pattern_that_finds_nothing_is_an_error(bench: Any) -> None:
    with pytest.raises(MergeError, match="holds no tensor that 'feed_forward' finds"):
        bench.merge(bench.yaml("task_arithmetic", WEIGHTED), trainable="feed_forward")


def test_a_key_that_mergekit_would_drop_in_silence_is_an_error(tmp_path: Path) -> None:
    from kedit_glue.tools import mergekit

    config = {"merge_method": "linear", "models": [{"model": "a", "wieght": 1}], "parametres": {}}
    assert mergekit.dropped_keys(config) == ["parametres", "models[0].wieght"]
    (tmp_path / "merge.yaml").write_text(json.dumps(config))
    with pytest.raises(MergeError, match="mergekit knows no key parametres"):
        mergekit.merge({"merge_yaml": str(tmp_path / "merge.yaml")}, lambda event: None)
