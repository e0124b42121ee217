"""Study files: what is wrong with one is said with its place; names of cells. The shipped ones: test_experiments."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kedit_glue.problems import RecipeError
from kedit_glue.study_file import Loaded, load_cells, load_study, plan_cells
from kedit_glue.study_grid import grid, with_seeds

HEAD = "name: try\nrecipe: recipe.yaml\n"
RECIPE = "name: base\nmodel: smollm2-135m\nedits: {source: facts.json, batch_size: 4}\nseed: 3\n"
NAMES = "letters, digits, '.', '_' and '-', at most 64 of them, a letter or digit first"
CELLS = "a list of cells, such as {name: short, set: {train.epochs: 5}}"
AXES = (
    "a mapping of a recipe's keys to lists of values, such as {train.epochs: [5, 30]}, or of names to settings with "
    "names, such as {data: {mine: {edits.source: my.csv}}}"
)
WITHOUT = "a list of combinations that are left out, such as {train.epochs: [30, 60], seed: 1}"
SEEDS = "a list of whole numbers, each once"
QUOTES = 'if it is text, put it in quotes: "3"'
KEYS = "name, recipe, set, axes, without, seeds, collect, cells, baseline"
SETTINGS = "a mapping of a recipe's keys, such as {train.epochs: 5}"
METHODS = {"task_arithmetic": frozenset({"weight", "density"}), "passthrough": frozenset({"scale"})}
Make = Callable[[str], Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Writes ``studies/s.yaml`` beside a recipe; the current folder is the one above."""
    (tmp_path / "studies").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "studies" / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "studies" / "facts.json").write_text("[]")

    def write(text: str) -> Path:
        path = Path("studies/s.yaml")
        path.write_text(text)
        return path

    return write


def problems(work: Callable[[], Any]) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        work()
    head, *lines = str(caught.value).splitlines()
    count = len(lines)
    assert head == f"{count} problem{'' if count == 1 else 's'} in studies/s.yaml; nothing was started"
    return lines


BAD: list[tuple[str, str]] = [
    ("recipe: recipe.yaml\naxes: {seed: [1]}", f"  name: missing; allowed: {NAMES}; this key is required"),
    ("name: a/b\nrecipe: recipe.yaml\naxes: {seed: [1]}", f":1:7  name: a/b (text); allowed: {NAMES}"),
    (f"{HEAD}", "  there is no cell; allowed: axes, cells, or both"),
    (f"{HEAD}axes: {{}}\ncells: []", "  there is no cell; allowed: axes, cells, or both"),
    (
        f"{HEAD}axis: {{seed: [1]}}",
        f":3:1  axis: unknown key; known here: {KEYS}; did you mean 'axes'?",
    ),
    (f"{HEAD}axes: [seed]", f":3:7  axes: [seed] (list); allowed: {AXES}"),
    (f"{HEAD}axes: 1", f":3:7  axes: 1 (whole number); allowed: {AXES}"),
    (f"{HEAD}axes: {{seed: 1}}", f":3:14  axes.seed: 1 (whole number); allowed: {AXES}"),
    (f"{HEAD}axes: {{seed: []}}", f":3:14  axes.seed: [] (list); allowed: {AXES}"),
    (
        f"{HEAD}axes: {{seed: [1, 2, 1]}}",
        ":3:21  axes.seed[2]: the value is there twice; allowed: each value once",
    ),
    (f"{HEAD}axes: {{name: [a]}}", f":3:14  axes.name: the study sets this key itself; allowed: {AXES}"),
    (f"{HEAD}axes: {{output: [a]}}", f":3:16  axes.output: the study sets this key itself; allowed: {AXES}"),
    (f"{HEAD}set: 3\naxes: {{seed: [1]}}", f":3:6  set: 3 (whole number); allowed: {SETTINGS}"),
    (
        f"{HEAD}set: {{name: x}}\naxes: {{seed: [1]}}",
        f":3:13  set.name: the study sets this key itself; allowed: {SETTINGS}",
    ),
    (f"{HEAD}cells: {{name: x}}", f":3:8  cells: {{name: x}} (mapping); allowed: {CELLS}"),
    (f"{HEAD}cells: [x]", f":3:9  cells[0]: x (text); allowed: {CELLS}"),
    (
        f"{HEAD}cells: [{{nmae: x}}]",
        ":3:10  cells[0].nmae: unknown key; known here: name, set; did you mean 'name'?",
    ),
    (f"{HEAD}cells: [{{set: {{}}}}]", f":3:9  cells[0]: name is missing; allowed: {CELLS}"),
    (f"{HEAD}cells: [{{name: ../x}}]", f":3:16  cells[0].name: ../x (text); allowed: {NAMES}"),
    (f"{HEAD}cells: [{{name: 1.0}}]", f":3:16  cells[0].name: 1.0 (number); allowed: {NAMES}"),
    (f"{HEAD}cells: [{{name: x, set: [1]}}]", f":3:24  cells[0].set: [1] (list); allowed: {SETTINGS}"),
    (
        f"{HEAD}cells: [{{name: x, set: {{output: y}}}}]",
        f":3:33  cells[0].set.output: the study sets this key itself; allowed: {CELLS}",
    ),
    (
        f"{HEAD}axes: {{seed: [1]}}\ncells:\n- {{name: x}}\n- {{name: seed-1}}",
        ":6:10  cells[1].name: seed-1 is another cell's name, too; allowed: each name once",
    ),
    (
        f"{HEAD}axes: {{seed: [1]}}\ncells:\n- {{name: x}}\n- {{name: report.html}}",
        ":6:10  cells[1].name: report.html is a file that the study writes beside its cells' folders; allowed: "
        "another name",
    ),
    (
        f"{HEAD}axes: {{data: {{a: {{}}, study.json: {{}}}}}}",
        ":3:34  axes.data.study.json: study.json is a file that the study writes beside its cells' folders; allowed: "
        "another name",
    ),
    (
        f"{HEAD}axes: {{seed: [1, 2]}}\nbaseline: sed-1",
        ":4:11  baseline: there is no cell sed-1; allowed: seed-1, seed-2; did you mean 'seed-1'?",
    ),
    (
        "name: try\nrecipe: nope.yaml\naxes: {seed: [1]}",
        ":2:9  recipe: nope.yaml (text): no such file; allowed: a file that exists; looked for {0}/studies/nope.yaml "
        "and {0}/nope.yaml",
    ),
    (f"{HEAD}axes: {{seed: [1}}", ":3:14  '[' is not closed; allowed: [one, two]"),
    (f"{HEAD}axes: {{seed: [1], seed: [2]}}", ":3:19  axes.seed: the key is there twice (first in line 3); "
                                             "allowed: each key once"),
    (f"{HEAD}axes: {{data: {{a b: {{seed: 1}}}}}}", f":3:20  axes.data.a b: {{seed: 1}} (mapping); allowed: {NAMES}"),
    (f"{HEAD}axes: {{data: {{a: 3}}}}", f":3:18  axes.data.a: 3 (whole number); allowed: {SETTINGS}"),
    (
        f"{HEAD}axes: {{data: {{a: {{name: x}}}}}}",
        f":3:25  axes.data.a.name: the study sets this key itself; allowed: {AXES}",
    ),
    (
        f"{HEAD}axes: {{seed: [1], data: {{a: {{seed: 2}}}}}}",
        ":3:36  axes.data.a.seed: the axis seed sets this key, too; allowed: each key in one axis",
    ),
    (
        f"{HEAD}axes: {{merge.parameters.weight: [1], how: {{a: {{merge.parameters: {{weight: 2}}}}}}}}",
        ":3:66  axes.how.a.merge.parameters: the axis merge.parameters.weight sets merge.parameters.weight, too; "
        "allowed: each key in one axis",
    ),
    (f"{HEAD}axes: {{seed: [1]}}\nwithout: 3", f":4:10  without: 3 (whole number); allowed: {WITHOUT}; {QUOTES}"),
    (f"{HEAD}axes: {{seed: [1]}}\nwithout: [x]", f":4:11  without[0]: x (text); allowed: {WITHOUT}"),
    (
        f"{HEAD}axes: {{seed: [1, 2]}}\nwithout: [{{sead: 1}}]",
        ":4:18  without[0].sead: there is no axis sead; allowed: seed; did you mean 'seed'?",
    ),
    (
        f"{HEAD}axes: {{seed: [1, 2]}}\nwithout: [{{seed: [1, 3]}}]",
        ":4:18  without[0].seed: the axis has no value 3; allowed: 1, 2",
    ),
    (
        f"{HEAD}axes: {{seed: [1]}}\nwithout: [{{seed: 1}}]",
        ":4:1  without: it leaves out every combination of the axes; allowed: combinations that leave some",
    ),
    (f"{HEAD}cells: [{{name: x}}]\nseeds: [1, a]", f":4:12  seeds[1]: a (text); allowed: {SEEDS}"),
    (f"{HEAD}cells: [{{name: x}}]\nseeds: [1, 1]", ":4:12  seeds[1]: the seed is there twice; allowed: each seed once"),
    (
        f"{HEAD}axes: {{seed: [1]}}\nseeds: [1, 2]",
        ":3:15  axes.seed[0]: seeds: sets this key; allowed: one of them",
    ),
    (
        f"{HEAD}cells: [{{name: x}}]\ncollect: [edit_success.teacher_forced.token_acuracy]",
        ":4:11  collect[0]: there is no metric edit_success.teacher_forced.token_acuracy; allowed: a name of "
        "docs/scores.md; did you mean 'edit_success.teacher_forced.token_accuracy'?",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_a_bad_study(make: Make, tmp_path: Path, text: str, expected: str) -> None:
    path = make(text)
    assert problems(lambda: load_study(path)) == ["studies/s.yaml" + expected.replace("{0}", str(tmp_path))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # the file's own, what keys say of each other, and the recipe that is not there
            "name: a/b\nrecipe: nope.yaml\naxes: {train.epochs: [1, 2]}\nwithout: [{epochs: 1}]\nseeds: [1, 1]\n"
            "collect: [nonsense]\nbaseline: epochs-3",
            ["1:7  name", "2:9  recipe", "4:20  without[0].epochs", "5:12  seeds[1]", "6:11  collect[0]",
             "7:11  baseline"],
        ),
        (  # and what the recipes' values are
            f"{HEAD}axes: {{train.epochs: [1, 0]}}\nset: {{train.order: deep}}\ncollect: [nonsense]\n"
            "baseline: epochs-3",
            ["3:26  train.epochs", "4:7  train.order", "5:11  collect[0]", "6:11  baseline"],
        ),
        (  # a baseline, combinations and values of axes that cannot be read are not missed
            f"{HEAD}axes: {{train.epochs: 0}}\nwithout: [{{train.epochs: 1}}]\nbaseline: epochs-1",
            ["3:22  axes.train.epochs"],
        ),
        (  # nor those of axes that are misspelt
            f"{HEAD}axs: {{train.epochs: [0]}}\nwithout: [{{train.epochs: 1}}]\nbaseline: epochs-1",
            ["3:1  axs"],
        ),
        (  # nor is a value looked at in combinations that were to be left out
            f"{HEAD}axes: {{train.epochs: [1, 0]}}\nwithout: [{{epochs: 0}}]",
            ["4:20  without[0].epochs"],
        ),
    ],
)  # fmt: skip
def test_as_much_as_can_be_told_is_said_at_once(make: Make, text: str, expected: list[str]) -> None:
    path = make(text)
    found = problems(lambda: load_cells(path, (), METHODS))
    assert [line.removeprefix("studies/s.yaml:").partition(": ")[0] for line in found] == expected


def test_a_recipe_that_is_no_yaml_is_named_beside_the_rest(make: Make, tmp_path: Path) -> None:
    (tmp_path / "studies" / "recipe.yaml").write_text("name: [")
    path = make(f"{HEAD}axes: {{seed: [1]}}\nbaseline: x")
    first, second = problems(lambda: load_cells(path, (), METHODS))
    assert "recipe.yaml:1:" in first and "baseline: there is no cell x" in second
    path = make(f"{HEAD}axes: {{seed: [1]}}")
    with pytest.raises(RecipeError, match=r"1 problem in .*recipe\.yaml; nothing was started"):
        load_cells(path, (), METHODS)


# -- cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({}, []),
        ({"train.loss_threshold": [0.05, 0, 1.0e-5]}, [f"loss_threshold-{x}" for x in ("0.05", "0", "1.0e-05")]),
        (
            {"train.epochs": [1, 3], "train.inner_steps": [4, None]},
            [f"epochs-{e}_inner_steps-{i}" for e in (1, 3) for i in ("4", "null")],
        ),
        ({"merge.method": ["ties"], "other.method": ["x"]}, ["merge.method-ties_other.method-x"]),
        ({"train.layers": ["4-8", "last 4", "all"]}, ["layers-4-8", "layers-last-4", "layers-all"]),
    ],
)  # fmt: skip
def test_names_of_the_grid(axes: dict[str, list[Any]], names: list[str]) -> None:
    assert [cell.name for cell in grid(axes)] == names


def test_names_that_would_be_the_same_or_too_long_are_marked() -> None:
    names = [cell.name for cell in grid({"a": [{"x": 1}, ["x", 1], "y" * 80, "z"]})]
    assert len(set(names)) == 4 and names[3] == "a-z"
    assert all(re.fullmatch(r"a-[a-z0-9-]{1,56}-[0-9a-f]{6}", name) and len(name) <= 64 for name in names[:3])
    assert [cell.name for cell in grid({"a": [{"x": 1}, ["x", 1], "y" * 80]})] == names[:3]  # and the same each time


DATA = {"mine": {"edits.source": "a.csv", "edits.format": "csv"}, "zsre": {"edits.source": "z.json"}}


def test_an_axis_of_settings_with_names() -> None:
    first, second, *_ = found = grid({"data": DATA, "edits.batch_size": [1, 10]})
    assert [c.name for c in found] == [f"{data}_batch_size-{n}" for data in DATA for n in (1, 10)]
    assert first.settings == {"edits.source": "a.csv", "edits.format": "csv", "edits.batch_size": 1}
    assert first.places["edits.format"] == ("axes", "data", "mine", "edits.format")
    assert second.at == {"data": "mine", "edits.batch_size": 10}


def test_an_axis_of_several_keys() -> None:
    first, second = grid({"train.layers, methods.rome.layers": [[0], [1]]})
    assert [first.name, second.name] == ["layers-0", "layers-1"]
    assert second.settings == {"train.layers": [1], "methods.rome.layers": [1]}
    assert set(second.places.values()) == {("axes", "train.layers, methods.rome.layers", 1)}


def test_combinations_are_left_out_where_all_is_met() -> None:
    axes = {"method": ["rome", "memit"], "edits.batch_size": [1, 10, 100]}
    without = [{"method": "rome", "edits.batch_size": [10, 100]}, {"edits.batch_size": 100}]
    assert [tuple(cell.at.values()) for cell in grid(axes, without)] == [("rome", 1), ("memit", 1), ("memit", 10)]


def test_each_seed_is_a_cell_of_the_same_group() -> None:
    found = with_seeds(grid({"train.epochs": [5, 30]}), [0, 7])
    assert [c.name for c in found] == [f"epochs-{e}_seed-{s}" for e in (5, 30) for s in (0, 7)]
    assert [c.group for c in found] == ["epochs-5", "epochs-5", "epochs-30", "epochs-30"]
    assert found[1].settings == {"train.epochs": 5, "seed": 7} and found[1].places["seed"] == ("seeds", 1)
    assert [c.group for c in with_seeds(grid({"train.epochs": [5]}), [])] == ["epochs-5"]


def test_a_baseline_is_named_without_its_seed(make: Make) -> None:
    loaded = load_study(make(f"{HEAD}cells: [{{name: a}}, {{name: b}}]\nseeds: [1, 2]\nbaseline: b"))
    assert [cell.name for cell in loaded.cells] == ["a_seed-1", "a_seed-2", "b_seed-1", "b_seed-2"]
    assert loaded.baseline == "b"


def cells(make: Make, text: str, *values: str) -> tuple[Loaded, list[Any]]:
    loaded = load_study(make(HEAD + text))
    return loaded, plan_cells(loaded, values, METHODS)


def test_what_a_cell_runs(make: Make, tmp_path: Path) -> None:
    loaded, [first, second, third] = cells(
        make,
        "set: {train: {epochs: 7}, train.layers: [1, 2], seed: 5}\naxes: {train.epochs: [1, 3]}\n"
        "cells: [{name: '5', set: {merge.method: passthrough, merge.parameters: {}, seed: 6}}]",
        "edits.limit=9",
    )
    assert loaded.recipe == tmp_path / "studies" / "recipe.yaml" and loaded.baseline == "epochs-1"
    assert [(p.recipe.name, p.recipe.train.epochs, p.recipe.seed) for p in (first, second, third)] == [
        ("epochs-1", 1, 5),
        ("epochs-3", 3, 5),
        ("5", 7, 6),
    ]
    assert {(p.recipe.edits.limit, p.recipe.train.layers, p.recipe.output) for p in (first, second, third)} == {
        (9, (1, 2), "runs/try")
    }
    assert third.recipe.merge.parameters == {} and first.recipe.merge.parameters == {"weight": 0.7}
    assert third.folder == tmp_path / "runs" / "try" / "5"
    assert second.overrides == (
        "keep=all", "train={epochs: 7}", "train.layers=[1, 2]", "seed=5", "train.epochs=3", "edits.limit=9",
        "name=epochs-3", "output=runs/try",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recipe", "study", "keep"),
    [("", "", "all"), ("keep: last\n", "", "last"), ("", "set: {keep: deltas}\n", "deltas")],
)
def test_every_model_is_kept_for_later_cells_unless_the_recipe_or_the_study_says_otherwise(
    make: Make, tmp_path: Path, recipe: str, study: str, keep: str
) -> None:
    (tmp_path / "studies" / "recipe.yaml").write_text(RECIPE + recipe)
    _, planned = cells(make, f"{study}axes: {{seed: [1, 2]}}")
    assert [each.recipe.keep for each in planned] == [keep, keep]


def test_what_is_wrong_with_a_cells_recipe_is_said_at_its_place(make: Make) -> None:
    text = (
        "set: {trian.epochs: 3, train.mini_batch: 4}\n"
        "axes:\n  train.epochs: [5, 0]\n  edits.batch_size: [8, 2]\n"
        "cells:\n- {name: x, set: {merge.parameters: {wieght: 1}}}\n- {name: y, set: {seed: -1}}\n"
    )
    found = problems(lambda: cells(make, text))
    assert [line.partition("; allowed")[0].partition("; known")[0] for line in found] == [
        "studies/s.yaml:3:7  trian: unknown key",
        "studies/s.yaml:3:24  train.mini_batch: 4, while edits.batch_size is 2",
        "studies/s.yaml:5:21  train.epochs: 0 (whole number)",
        "studies/s.yaml:8:19  merge.parameters.wieght: mergekit's task_arithmetic has no such parameter",
        "studies/s.yaml:9:19  seed: -1 (whole number)",
    ]
    assert not found[0].endswith("y") and "in cell" not in found[0]  # all of them have it
    assert found[1].endswith("; in cells epochs-5_batch_size-2, epochs-0_batch_size-2")
    assert found[4].endswith("; in cell y")


def test_what_is_wrong_with_the_recipe_itself_is_said_once(make: Make, tmp_path: Path) -> None:
    (tmp_path / "studies" / "recipe.yaml").write_text(RECIPE + "spped: 1\n")
    [found] = problems(lambda: cells(make, "axes: {seed: [1, 2]}"))
    assert found.startswith(f"{tmp_path / 'studies' / 'recipe.yaml'}:5:1  spped: unknown key")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("name=x", "name: this cannot be changed here; each cell has a name of its own"),
        ("train.epochs=4", "train.epochs: this cannot be changed here; studies/s.yaml says it for each cell"),
        ("train={}", "train: this cannot be changed here; studies/s.yaml says it for each cell"),
        ("merge.parameters.weight=1", "merge.parameters.weight: this cannot be changed here; studies/s.yaml says it "
                                      "for each cell"),
        ("seed=-1", "seed: -1 (whole number); allowed: a whole number from 0 to 4294967295"),
        ("nonsense", "'nonsense' is no key=value; allowed: key=value, such as train.epochs=3"),
    ],
)  # fmt: skip
def test_values_of_the_command_line(make: Make, value: str, expected: str) -> None:
    text = "set: {seed: -2}\naxes: {train.epochs: [1]}\ncells: [{name: x, set: {merge.parameters: {weight: 1}}}]"
    text = text if value.startswith("seed") else text.replace("-2", "2")
    assert problems(lambda: cells(make, text, value)) == [f"--set {value.partition('=')[0]}  {expected}"]


def test_a_list_that_is_a_value_of_its_axis_is_left_out(make: Make) -> None:
    loaded = load_study(make(f"{HEAD}axes: {{train.layers: [[4, 5], [6], 7]}}\nwithout: [{{train.layers: [4, 5]}}]"))
    assert [cell.at["train.layers"] for cell in loaded.cells] == [[6], 7]
    loaded = load_study(make(f"{HEAD}axes: {{train.layers: [[4, 5], [6], 7]}}\nwithout: [{{train.layers: [[6], 7]}}]"))
    assert [cell.at["train.layers"] for cell in loaded.cells] == [[4, 5]]


def test_a_list_that_is_a_value_of_its_axis_names_no_other_values() -> None:
    found = grid({"train.layers": [4, 5, [4, 5]]}, [{"train.layers": [4, 5]}])
    assert [cell.at["train.layers"] for cell in found] == [4, 5]


def test_a_cells_folder_may_be_called_like_a_file_of_the_study_but_for_its_seed(make: Make) -> None:
    loaded = load_study(make(f"{HEAD}cells: [{{name: log.txt}}]\nseeds: [1]"))
    assert [cell.name for cell in loaded.cells] == ["log.txt_seed-1"]
