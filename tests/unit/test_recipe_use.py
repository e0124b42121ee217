"""A sound recipe, ``--set``, paths, layers, and the recipe that describes itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from kedit_glue import recipe as recipe_module
from kedit_glue import recipe_checks, strict_yaml
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import (
    Edits,
    Merge,
    Recipe,
    Score,
    Train,
    describe,
    load_recipe,
    normalized,
    resolve_layers,
)

HEAD = "name: run\nmodel: smollm2-135m\nedits:\n  source: facts.json\n"
TOP = ", ".join(Recipe.model_fields)
TRAIN = ", ".join(Train.model_fields)
ZERO = (
    "is 0 everywhere: the merge would give back the base; allowed: a number other than 0; "
    "nothing that was learned would be kept"
)
METHODS = {
    "task_arithmetic": frozenset({"weight", "density", "normalize", "rescale", "lambda", "int8_mask"}),
    "ties": frozenset({"weight", "density", "normalize", "rescale", "lambda", "int8_mask"}),
    "linear": frozenset({"weight", "normalize"}),
    "sce": frozenset({"int8_mask", "select_topk"}),
    "passthrough": frozenset({"scale"}),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipes folder with a data file, beside the current folder."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "facts.json").write_text("[]")
    (tmp_path / "cwd" / "facts.json").write_text("[]")
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "recipes"


def load(folder: Path, text: str, *overrides: str, methods: Any = METHODS) -> Recipe:
    path = folder / "r.yaml"
    path.write_text(text)
    return load_recipe(path, overrides, methods)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(folder, text, *overrides)
    return [str(p).removeprefix(str(folder / "r.yaml")) for p in caught.value.problems]


def test_all_at_once_in_line_order(folder: Path) -> None:
    text = (
        "zzz: 1\nmerge: {onto: previous, when: end, parameters: {weight: [a, {value: b}], normalize: 1}}\n"
        "name: run\nmodel: smollm2-135m\nscore: {general: {tasks: [1, 2]}}\ntemplates: nowhere\n"
        "edits: {source: none, batch_size: 4}\ntrain: {mini_batch: 5, epochs: 0, "
        "extra: {packing: 1}, layers: [-1, x]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(folder, text, "seed=x", "device=tpu")
    found = [(p.line, p.column, p.key) for p in caught.value.problems]
    assert found == [
        (1, 1, "zzz"), (2, 9, "merge.onto"), (2, 58, "merge.parameters.weight[0]"),
        (2, 85, "merge.parameters.normalize"), (5, 27, "score.general.tasks[0]"),
        (5, 30, "score.general.tasks[1]"),
        (6, 12, "templates"), (7, 17, "edits.source"), (8, 9, "train.mini_batch"), (8, 32, "train.epochs"),
        (8, 43, "train.extra.packing"), (8, 65, "train.layers[0]"), (8, 69, "train.layers[1]"),
        (None, None, "seed"), (None, None, "device"),
    ]  # fmt: skip
    assert str(caught.value).startswith(f"15 problems in {folder / 'r.yaml'}; nothing was started\n")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "train.epoch=3",
            f"--set train.epoch  train.epoch: unknown key; known here: {TRAIN}; did you mean 'epochs'?",
        ),
        (
            "trian.epochs=3",
            f"--set trian.epochs  trian: unknown key; known here: {TOP}; did you mean 'train'?",
        ),
        (
            "train.epochs=x",
            "--set train.epochs  train.epochs: x (text); allowed: a whole number from 1 to 1000",
        ),
        (
            "train.epochs=",
            ("--set train.epochs  train.epochs: nothing (no value given); allowed: a whole number from 1 to 1000"),
        ),
        (
            "train.epochs",
            "--set train.epochs  'train.epochs' is no key=value; allowed: key=value, such as train.epochs=3",
        ),
        (
            "train..x=1",
            "--set train..x  'train..x=1' is no key=value; allowed: key=value, such as train.epochs=3",
        ),
        (
            "train.epochs='",
            (
                "--set train.epochs  train.epochs: a quote that is not closed or not closed well; "
                "allowed: the same quote at the end; found unexpected end of stream"
            ),
        ),
        ("name.x=1", "--set name.x  name.x: 'name' holds no keys; allowed: a key of a section"),
        (
            "edits.source=no",
            (
                "--set edits.source  edits.source: no (true/false); allowed: a path that exists, "
                "relative to the current folder or to the recipe's; "
                'if it is text, put it in quotes: "no"'
            ),
        ),
        (
            "merge.parameters.weight=0",
            f"--set merge.parameters.weight  merge.parameters.weight: weight {ZERO}",
        ),
    ],
)
def test_bad_overrides(override: str, expected: str, folder: Path) -> None:
    assert problems(folder, HEAD, override) == [expected]


def test_overrides(folder: Path) -> None:
    text = HEAD + "train:\nmerge: {method: ties, parameters: {weight: 0.5, density: 0.2}}\nseed: nonsense\n"
    overrides = ("train.epochs=3", "train.learning_rate=5e-5", "merge.parameters.normalize=false", "seed=7",
                 "train.layers=[1, 4-8]", "name=other", "score.general.limit=2",
                 "train.epochs=4")  # fmt: skip
    recipe = load(folder, text, *overrides)
    assert (recipe.name, recipe.seed, recipe.train.epochs, recipe.train.learning_rate) == (
        "other",
        7,
        4,
        5e-5,
    )
    assert recipe.merge.parameters == {"weight": 0.5, "density": 0.2, "normalize": False}
    assert recipe.train.layers == (1, "4-8") and recipe.score.general.limit == 2


def test_defaults(folder: Path) -> None:
    recipe = load(folder, HEAD + "train:\nmerge:\nscore:\n  edits:\n")
    assert recipe.edits == Edits(source=str(Path.cwd() / "facts.json"))
    assert (recipe.train, recipe.merge, recipe.score) == (Train(), Merge(), Score())
    assert recipe.train.modules == ("mlp",) and recipe.merge.parameters == {"weight": 0.7}
    with pytest.raises(ValidationError):
        recipe.name = "other"
    recipe.merge.parameters["weight"] = 0
    assert Merge().parameters == {"weight": 0.7}, "a default is nobody's to change"


@pytest.mark.parametrize(
    "body",
    [
        "train: {learning_rate: 1e-5, layers: last 4, modules: [down_proj, gate_proj], mini_batch: 10}\n",
        "train: {learning_rate: 1, precision: bf16, extra: {warmup_steps: 3}}\ndevice: cpu\n",
        "merge: {when: end}\nscore: {edits: {when: each, metrics: []}, general: {when: each}}\n",
        "merge: {method: ties, parameters: {weight: 0.5, normalize: false}}\n",
        "merge: {method: ties}\n",
        "merge: {method: ties, parameters: {weight: 1}}\n",
        ("merge: {method: ties, parameters: {weight: [{filter: mlp, value: 1}, {value: 0}], normalize: true}}\n"),
        "merge: {method: linear, parameters: {weight: [0, 0.5], normalize: true}}\n",
        ("merge: {method: sce, parameters: {}, onto: previous, dtype: bfloat16, extra: {tokenizer_source: base}}\n"),
        "edits: &e {source: facts.json, limit: 2}\n",
    ],
)
def test_good(body: str, folder: Path) -> None:
    head = HEAD.split("edits:")[0] if body.startswith("edits") else HEAD
    recipe = load(folder, head + body)
    path = folder / "resolved.yaml"
    path.write_text(strict_yaml.dump(normalized(recipe)))
    assert load_recipe(path, (), METHODS) == recipe, "resolved.yaml is the same recipe"


def test_without_merge_methods_names_are_not_checked(folder: Path) -> None:
    load(folder, HEAD + "merge: {method: brandnew, parameters: {anything: [1, 2]}}\n", methods=None)


def test_paths(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "only.json").write_text("[]")
    (Path.cwd() / "model").mkdir()
    text = HEAD.replace("facts", "only").replace("smollm2-135m", "model") + "templates: own\n"
    recipe = load(folder, text + "score: {general: {include_path: own}}\n")
    assert recipe.edits.source == str(folder / "only.json")
    assert recipe.templates == recipe.score.general.include_path == str(folder / "own")
    assert (recipe.model, recipe.output) == (str(Path.cwd() / "model"), "runs")
    assert load(folder, HEAD.replace("smollm2-135m", "owner/name")).model == "owner/name"


def test_layers() -> None:
    assert resolve_layers("all", 3) == (0, 1, 2)
    assert resolve_layers("4-8", 30) == (4, 5, 6, 7, 8)
    assert resolve_layers("last 4", 30) == (26, 27, 28, 29)
    assert resolve_layers("first 2", 30) == (0, 1)
    assert resolve_layers([5, "1-2", 1, "last 1"], 30) == (1, 2, 5, 29)
    for expression, message in (
        ([40], "layer 40 asked for, the model has layers 0 to 29"),
        ("28-40", "layer 40 asked for, the model has layers 0 to 29"),
        ("last 31", "'last 31' layers asked for, the model has layers 0 to 29"),
        ([-1], "layer -1 asked for, the model has layers 0 to 29"),
        ("8-4", "'8-4' holds no layer"),
        ([], "no layer asked for, the model has layers 0 to 29"),
        ("some", "'some' is no layer expression: 'all', '4-8', 'first 4', 'last 4' or numbers"),
    ):
        with pytest.raises(ValueError) as caught:
            resolve_layers(expression, 30)
        assert str(caught.value) == message


def test_describe_is_a_recipe_of_all_defaults(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "facts.json").write_text("[]")
    described = load(folder, describe())
    source = str(folder / "data" / "facts.json")
    assert described == Recipe(name="my-run", model="smollm2-135m", edits=Edits(source=source))
    assert Recipe.describe() == describe()
    assert (
        "  # The optimizer's step size, without unit: a number above 0 up to 1.\n  learning_rate: 0.0001\n"
        in describe()
    )


def test_every_key_is_described_and_every_owned_key_exists() -> None:
    keys: list[str] = []

    def walk(section: type[BaseModel], at: str) -> None:
        for name, field in section.model_fields.items():
            assert field.description and field.description.endswith("."), name
            inner = field.annotation
            keys.append(at + name)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                walk(inner, f"{at}{name}.")

    walk(recipe_module.Recipe, "")
    assert set(recipe_checks.TRAIN_EXTRA.values()) <= set(keys)


def test_imports_no_torch() -> None:
    code = "import sys, kedit_glue.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
