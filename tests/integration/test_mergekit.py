"""Every method mergekit registers, from a recipe's words to a model that loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.merging import MergeMethod, MergeRefused, merge_inputs
from kedit_glue.render import render

pytestmark = pytest.mark.integration
FFN = r"\.\d+\.(mlp\.)"
WEIGHTED = {"weight": 0.7}
SPARSE = {"weight": 0.7, "density": 0.5}
SETTINGS: dict[str, dict[str, Any]] = {
    "ties": SPARSE,
    "dare_ties": SPARSE,
    "dare_linear": SPARSE,
    "della": {**SPARSE, "epsilon": 0.1},
    "della_linear": {**SPARSE, "epsilon": 0.1},
    "breadcrumbs": {**SPARSE, "gamma": 0.01},
    "breadcrumbs_ties": {**SPARSE, "gamma": 0.01},
    "slerp": {"t": 0.7},
    "nearswap": {"t": 0.001},
    "passthrough": {},
    "karcher": {},
    "sce": {"select_topk": 1.0},
    "arcee_fusion": {},
    "ram": {},
    "ramplus_tl": {},
    **dict.fromkeys(("linear", "task_arithmetic", "nuslerp", "multislerp"), WEIGHTED),
}


def registered() -> dict[str, MergeMethod]:
    from kedit_glue.tools import mergekit

    return {m["name"]: MergeMethod(**m) for m in mergekit.list_methods()}


@pytest.fixture(scope="module")
def tuned_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its FFNs moved a little, as training moves them."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(tiny_model, folder)
    tensors = load_file(folder / "model.safetensors")
    torch.manual_seed(1)
    moved = {n: t + 0.01 * torch.randn_like(t) if ".mlp." in n else t for n, t in tensors.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def merge(folder: Path, original: Path, tuned: Path, method: str, settings: dict[str, Any], **more: Any) -> Any:
    from kedit_glue.tools import mergekit

    roles = merge_inputs(registered()[method], settings, str(original), str(tuned))
    text = render(
        "merge.yaml",
        {
            "run": "t",
            "batch": 0,
            "here": "merge.yaml",
            "method": method,
            "onto": "the original",
            "base_model": roles.base_model,
            "models": roles.models,
            "parameters": roles.parameters,
            "dtype": None,
            "out_dtype": None,
            "extra": {},
        },
    )
    (folder / "merge.yaml").write_text(text)
    job = {
        "merge_yaml": str(folder / "merge.yaml"),
        "output": str(folder / "merged"),
        "before": str(original),
        "tuned": str(tuned),
        "trainable": FFN,
        "seed": 0,
        "device": "cpu",
        "trust_remote_code": False,
        **more,
    }
    return mergekit.merge(job, lambda event: None)


def test_the_registry_is_what_the_table_covers() -> None:
    assert {*SETTINGS, "model_stock"} == set(registered()), "a new method of mergekit's: give it a row"


@pytest.mark.parametrize("method", sorted(SETTINGS))
def test_a_method_gives_a_model_and_leaves_the_rest_alone(
    tiny_model: Path, tuned_model: Path, tmp_path: Path, method: str
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = merge(tmp_path, tiny_model, tuned_model, method, SETTINGS[method])
    assert found["task_vector_norm_merged"] > 0
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(tmp_path / "merged" / "model.safetensors")
    for name in before:
        if ".mlp." not in name:
            assert torch.equal(before[name], after[name]), name
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer("The mayor of", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize("method", ["dare_linear", "della"])
def test_a_method_that_draws_gives_the_same_bits_again(
    tiny_model: Path, tuned_model: Path, tmp_path: Path, method: str
) -> None:
    made = []
    for seed in (0, 0, 1):
        folder = tmp_path / f"{len(made)}"
        folder.mkdir()
        merge(folder, tiny_model, tuned_model, method, SETTINGS[method], seed=seed)
        made.append((folder / "merged" / "model.safetensors").read_bytes())
    assert made[0] == made[1] != made[2]


def test_linear_gives_the_original_the_rest(tiny_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    found = merge(tmp_path, tiny_model, tuned_model, "linear", {"weight": 0.25})
    assert found["task_vector_norm_merged"] == pytest.approx(0.25 * found["task_vector_norm_tuned"], rel=1e-3)


def test_model_stock_is_refused() -> None:
    with pytest.raises(MergeRefused, match="model_stock needs 3 models"):
        merge_inputs(registered()["model_stock"], {}, "a", "b")


def test_a_merge_that_forgets_everything_is_an_error(tiny_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    from kedit_glue.tools.mergekit import MergeError

    with pytest.raises(MergeError, match="gave back the model it began with"):
        merge(
            tmp_path,
            tiny_model,
            tuned_model,
            "task_arithmetic",
            {"weight": [{"filter": "attn", "value": 1}, {"value": 0}]},
        )


def changed_copy(source: Path, target: Path, name: str, value: float) -> Path:
    from safetensors.torch import load_file, save_file

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    tensors[name].view(-1)[0] = value
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_training_that_strayed_is_an_error(tiny_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    from kedit_glue.tools.mergekit import MergeError

    strayed = changed_copy(tuned_model, tmp_path / "strayed", "model.norm.weight", 3.0)
    with pytest.raises(MergeError, match=r"training changed model\.norm\.weight"):
        merge(tmp_path, tiny_model, strayed, "task_arithmetic", WEIGHTED)


def test_weights_that_are_not_finite_are_an_error(tiny_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    from kedit_glue.tools.mergekit import MergeError

    name = "model.layers.0.mlp.up_proj.weight"
    diverged = changed_copy(tuned_model, tmp_path / "diverged", name, float("nan"))
    with pytest.raises(MergeError, match="not finite after the merge: training diverged"):
        merge(tmp_path, tiny_model, diverged, "task_arithmetic", WEIGHTED)


def test_rounded_tensors_get_their_bits_back(tiny_model: Path, tuned_model: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from kedit_glue.tools.mergekit import restore_untouched

    rounded = changed_copy(tuned_model, tmp_path / "merged", "model.norm.weight", 1.0000001)
    assert restore_untouched(tiny_model, tuned_model, rounded, FFN) == 1
    before, after = load_file(tiny_model / "model.safetensors"), load_file(rounded / "model.safetensors")
    assert torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert restore_untouched(tiny_model, tuned_model, rounded, FFN) == 0


def test_a_key_that_mergekit_would_drop_in_silence_is_an_error(
    tiny_model: Path, tuned_model: Path, tmp_path: Path
) -> None:
    from kedit_glue.tools import mergekit

    config = {"merge_method": "linear", "models": [{"model": "a", "wieght": 1}], "parametres": {}}
    assert mergekit.dropped_keys(config) == ["parametres", "models[0].wieght"]
    (tmp_path / "merge.yaml").write_text(json.dumps(config))
    with pytest.raises(mergekit.MergeError, match="mergekit knows no key parametres"):
        mergekit.merge({"merge_yaml": str(tmp_path / "merge.yaml")}, lambda event: None)
