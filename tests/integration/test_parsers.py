"""The tools' own parsers take every file that the shipped recipes render, and no key is lost on the way."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from kedit_glue import job
from kedit_glue.batch_files import TEMPLATES
from kedit_glue.methods import TRAINED, training
from kedit_glue.modules import layer_numbers
from kedit_glue.progress import Display
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.recipe_schema import Train

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RECIPES = {
    "smollm2_seq": ("smollm2_seq", [], 4),
    "llama2_seq": ("llama2_seq", ["edits.batch_size=2"], 3),  # the sample that it comes with has six facts
    **{
        f"{model}-{method}": (
            f"methods/{model}",
            [f"method={method}", "train.mini_batch=2", "edits.batch_size=2", "edits.limit=4"],
            2,
        )
        for model in ("llama2_7b_chat", "llama3_8b", "smollm2")
        for method in TRAINED
    },
}
"""Test -> file below ``recipes``, what is set, number of batches."""


@dataclass
class Dry:
    recipe: Recipe
    train: Train
    """As the method has it."""
    folder: Path
    trains: list[Path]
    merges: list[Path]


@pytest.fixture(scope="module", params=sorted(RECIPES))
def dry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dry:
    """A recipe after ``--dry-run``."""
    name, overrides, batches = RECIPES[request.param]
    output = tmp_path_factory.mktemp("runs")
    overrides = [f"output={output}", *overrides]
    file = ROOT / "recipes" / f"{name}.yaml"
    job.run(job.Options(file, overrides, dry_run=True), Display(None, Console(file=io.StringIO())))
    recipe = load_recipe(file, overrides)
    folder = output / recipe.name
    found = [sorted(folder.glob(f"batch_*/{kind}.yaml")) for kind in ("train", "merge")]
    assert [len(f) for f in found] == [batches, batches if recipe.method == "rsft_merge" else 0]
    return Dry(recipe, training(recipe), folder, *found)


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return found


# -- LLaMA-Factory ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parse() -> Any:
    """LLaMA-Factory's parser for ``train``; unlike ``get_train_args`` it asks no device."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.pop("ALLOW_EXTRA_ARGS", None)  # LLaMA-Factory's switch to let unknown keys pass
    from llamafactory.hparams.parser import _parse_train_args

    return _parse_train_args


def test_llamafactory_takes_every_train_yaml(dry: Dry, parse: Any) -> None:
    train = dry.train
    for number, file in enumerate(dry.trains):
        said = read(file)
        # without a GPU, TrainingArguments refuses bf16 unless it is told to use the CPU; nothing else is changed
        model, data, training, finetuning, _ = parse({**said, "use_cpu": True})
        assert model.model_name_or_path == said["model_name_or_path"]
        assert not model.trust_remote_code
        assert (data.dataset, data.dataset_dir) == (["edits"], str(file.parent))
        assert (data.template, data.cutoff_len) == (TEMPLATES.get(train.template, train.template), train.cutoff_len)
        assert not data.packing and not data.streaming and data.val_size == 0
        assert training.learning_rate == train.learning_rate
        assert training.num_train_epochs == train.epochs and training.max_steps == -1
        assert training.per_device_train_batch_size == train.mini_batch
        assert training.gradient_accumulation_steps == 1
        assert training.weight_decay == train.weight_decay
        assert training.max_grad_norm == train.max_grad_norm
        assert training.bf16 is (train.precision == "bf16") and not training.fp16
        assert training.seed == dry.recipe.seed
        assert training.lr_scheduler_type == "constant" and training.warmup_steps == 0
        assert training.save_strategy == "no" and training.report_to in ([], "none", ["none"])
        assert training.output_dir == str(file.parent / "tuned")
        assert (finetuning.stage, finetuning.finetuning_type) == ("sft", "freeze")
        assert finetuning.freeze_trainable_modules == ["mlp"]  # of which rsft.yaml narrows to some matrices
        # LLaMA-Factory can name the first or the last layers only; rsft.yaml narrows them
        layers = layer_numbers(train.layers, None)
        assert finetuning.freeze_trainable_layers == (1000 if layers is None else -(layers[-1] + 1))
        assert finetuning.disable_shuffling is not train.shuffle
        for key, value in train.extra.items():
            assert getattr(model, key, getattr(training, key, None)) == value
        if number:
            left = "merged" if dry.merges else "tuned"
            assert said["model_name_or_path"] == str(dry.folder / f"batch_{number:03d}" / left)


def test_llamafactory_takes_them_unchanged_where_the_machine_can(dry: Dry, parse: Any) -> None:
    """On a machine without a GPU the one complaint about bf16 is the missing GPU."""
    try:
        parse(read(dry.trains[0]))
    except ValueError as error:
        assert dry.recipe.train.precision == "bf16"
        assert "bf16/gpu" in str(error)


def test_llamafactory_would_refuse_a_key_it_does_not_know(dry: Dry, parse: Any) -> None:
    said = {**read(dry.trains[0]), "use_cpu": True}
    with pytest.raises(ValueError, match="loss_threshold"):
        parse({**said, "loss_threshold": 0.05})


# -- mergekit -----------------------------------------------------------------------------------


def test_mergekit_takes_every_merge_yaml(dry: Dry) -> None:
    from mergekit.config import MergeConfiguration

    from kedit_glue.tools.mergekit import dropped_keys

    merge = dry.recipe.merge
    for number, file in enumerate(dry.merges):
        said = read(file)
        assert dropped_keys(said) == []
        config = MergeConfiguration.model_validate(said)
        assert config.merge_method == merge.method
        (tuned,) = config.models
        assert tuned.model.model.path == str(file.parent / "tuned")
        given = {**(tuned.parameters or {}), **(config.parameters or {})}
        assert given == {"normalize": False, **merge.parameters}
        assert config.parameters == {"normalize": False}
        first = read(dry.trains[0])["model_name_or_path"]
        before = str(dry.folder / f"batch_{number:03d}" / "merged")
        assert config.base_model.model.path == (before if number and merge.onto == "previous" else first)
        half = dry.recipe.train.precision == "bf16"
        assert (config.dtype, config.out_dtype) == (("float32", "bfloat16") if half else (None, None))
        assert config.tokenizer_source is None


@pytest.mark.parametrize("dry", ["smollm2_seq"], indirect=True)
def test_a_key_that_mergekit_drops_is_seen(dry: Dry) -> None:
    from kedit_glue.tools.mergekit import dropped_keys

    said = read(dry.merges[0])
    said["models"][0]["weight"] = 0.5
    assert dropped_keys({**said, "densitiy": 0.1}) == ["densitiy", "models[0].weight"]


# -- R-SFT --------------------------------------------------------------------------------------


def test_rsft_takes_its_yaml(dry: Dry) -> None:
    from kedit_glue.rsft import Settings

    for file in dry.trains:
        settings = Settings(**read(file.with_name("rsft.yaml")))
        assert settings.inner_steps == dry.train.steps_in_a_row
        assert settings.loss_threshold == dry.train.loss_threshold
