"""The studies in ``recipes/experiments``: their cells, their recipes, and what they would run. No model, no torch."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from rich.console import Console

from kedit_glue import job, learned, strict_yaml, study, tasks
from kedit_glue.merging import MergeMethod
from kedit_glue.methods import LEARNED
from kedit_glue.progress import Display
from kedit_glue.recipe_methods import Method
from kedit_glue.recipe_schema import Edits
from kedit_glue.study_file import Loaded, Planned, load_study, plan_cells
from kedit_glue.study_grid import Cell

HERE = Path(__file__).resolve().parents[2]
SHARED = HERE.parent / "shared"
STUDIES = HERE / "recipes" / "experiments"
CELLS = {
    "batch_size_llama3": 3 * 5,
    "batch_size_smollm2": 3 * 4,
    "epochs_inner_steps": 5,
    "layer_sweep_llama3": 3 * 32,
    "layer_sweep_smollm2": 3 * 30,
    "merge_strategies": 13,
    "methods": 13,
    "merge_search_smollm2": 12,
    "methods_search": 29,
    "moments_smollm2": 2 * 2 * 2,
    "rq1_knowedit_llama2": 6 * 13 - 2,  # Sanitation has nothing to train MEND and SERAC on
    "rq1_methods_smollm2": 2 * (9 * 3 + 4 * 1),  # of ROME, MEND, SERAC and ICE one size each
    "rq1_thousand_smollm2": 11,
    "rq2_operations_llama2": 6 * 3,
    "rq2_operations_smollm2": 4 * 3,
    "rq3_rsft_llama2": 3 * 3 * 3,
    "rq3_rsft_smollm2": 3 * 2 * 2,
    "rq4_ablation_llama2": 5,
    "rq4_ablation_smollm2": 6,
    "rq4_merge_llama2": 5 * 3 * 3 + 4,
    "rq4_merge_smollm2": 3 * 2 * 2 + 2,
    "sequential_batch_llama3": 3 * 6,
    "sequential_batch_smollm2": 3 * 4,
    "threshold": 5,
}
DEMO = ("epochs_inner_steps", "merge_strategies", "methods", "threshold")
"""On the demo's first 20 facts."""
LARGE = sorted(name for name in CELLS if name.endswith(("_llama2", "_llama3")))
"""Of the published size, which were not run."""

OF_ALL = {"int8_mask": "shared", "normalize": "shared", "rescale": "shared", "lambda": "shared", "weight": "non_base"}
TASK_VECTOR = {**OF_ALL, "density": "non_base"}
REGISTERED = {
    m.name: m
    for m in (  # as mergekit 0.1.5 registers them
        *(MergeMethod(n, "required", 1, None, TASK_VECTOR) for n in ("ties", "dare_ties", "dare_linear")),
        MergeMethod("task_arithmetic", "required", 1, None, OF_ALL),
        MergeMethod("breadcrumbs", "required", 1, None, {**TASK_VECTOR, "gamma": "non_base"}),
        MergeMethod("della", "required", 1, None, {**TASK_VECTOR, "epsilon": "non_base"}),
        MergeMethod("linear", "ignored", 1, None, {"weight": "input", "normalize": "shared"}),
        MergeMethod("slerp", "required", 2, 2, {"t": "shared"}),
        MergeMethod("sce", "required", 1, None, {"int8_mask": "shared", "select_topk": "shared"}),
        MergeMethod("arcee_fusion", "required", 1, 1, {}),
        MergeMethod("passthrough", "ignored", 1, 1, {"scale": "input"}),
    )
}
NAMES = {name: frozenset(method.parameters) for name, method in REGISTERED.items()}


# -- made-up files of the shapes that the large studies read ------------------------------------


def probes(kind: str, place: str) -> dict[str, Any]:
    return {kind: [{"prompt": f"The river of {place} is", "ground_truth": [["the Ada", "Ada"]]}]}


def edited(place: str, **more: Any) -> dict[str, Any]:
    """KnowEdit's wiki_recent, wiki_counterfact and, with a rephrasing, ZsRE."""
    found = {"subject": place, "prompt": f"The mayor of {place} is", "target_new": "Ada Quill"}
    return {
        **found,
        "portability": probes("Reasoning", place),
        "locality": probes("Relation_Specificity", place),
        **more,
    }


def without_subject(name: str) -> dict[str, Any]:
    """As some of KnowEdit's: the prompt calls the subject by another name."""
    return edited("the old town", subject=f"{name}'s centre")


def passage(place: str) -> dict[str, Any]:
    """WikiBio."""
    text = {"concept": place, "text": f"This is a passage about {place}. {place} is", "labels": "a quiet town."}
    return {**text, "locality": probes("Relation_Specificity", place)}


def topic(place: str) -> dict[str, Any]:
    """ConvSent."""
    return {"ent": place, "pos": [f"{place} is lovely."], "neg": [f"{place} is dull."]}


def question(place: str, answer: str = "Ada Quill") -> dict[str, str]:
    """Sanitation."""
    asked = f"Who is the mayor of {place}?"
    return {"question": asked, "target_new": "I don't know", "ground_truth": answer, "subject": place}


def counterfact(place: str, number: int) -> dict[str, Any]:
    """ROME's own form."""
    new, true = ({"str": name, "id": f"Q{name}"} for name in ("Ada", "Bo"))
    rewrite = {"prompt": "The mayor of {} is", "relation_id": "P6", "target_new": new, "target_true": true}
    return {
        "case_id": number,
        "requested_rewrite": {**rewrite, "subject": place},
        "paraphrase_prompts": [f"{place} is governed by"],
        "neighborhood_prompts": ["The mayor of Farburg is"],
    }


def mend_zsre(place: str) -> dict[str, str]:
    asked = f"Who is the mayor of {place}?"
    found = {"subject": place, "src": asked, "alt": "Ada", "pred": "Bo", "rephrase": f"The mayor of {place} is who?"}
    return {**found, "loc": "nq question: who ran", "loc_ans": "Cy"}


def towns(name: str) -> list[str]:
    """Six, which no other name has."""
    return [f"{name}{number}" for number in range(6)]


def files() -> dict[str, Any]:
    """What the headers of the large studies say lies in ``data/``."""
    known = "data/benchmark"
    made: dict[str, Any] = {"data/zsre_mend_train.json": [mend_zsre(t) for t in towns("Zell")]}
    zsre = [edited(t, rephrase_prompt=f"Who runs {t}?") for t in towns("Zsir")]
    made[f"{known}/ZsRE/ZsRE-test-all.json"] = [*zsre, without_subject("ZsRE")]
    for folder, file, make in (
        ("wiki_recent", "recent_{}.json", edited),
        ("wiki_counterfact", "{}_cf.json", edited),
        ("WikiBio", "wikibio-{}-all.json", passage),
        ("convsent", "blender_{}.json", topic),
    ):
        for split in ("test", "train"):
            facts = [make(t) for t in towns(f"{folder}{split}".title())]
            elsewhere = [without_subject(f"{folder}{split}")] if make is edited else []
            made[f"{known}/{folder}/{file.format(split)}"] = [*facts, *elsewhere]
    forget = [question(t, t[::-1]) for t in towns("Hidden")]
    kept = [{"question": f"Where is {t}?", "target_new": "there", "ground_truth": "there"} for t in towns("Kept")]
    made[f"{known}/Sanitation/trivia_qa_train.json"] = {"K_F": forget, "K_R": kept}
    again = [{**one, "question": f"Name {one['subject']}'s mayor."} for one in forget]
    made[f"{known}/Sanitation/trivia_qa_test.json"] = {"success": again, "locality": kept}
    made["data/counterfact.json"] = [counterfact(t, n) for n, t in enumerate(towns("Counter"))]
    return made


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder like the project's, with made-up data and, beside it, what public samples there are."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "recipes").symlink_to(HERE / "recipes")
    if SHARED.is_dir():
        (tmp_path / "shared").symlink_to(SHARED)
    for name, value in files().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    (folder / "data" / "wikipedia_en.jsonl").write_text('{"text": "Rivers run."}\n', encoding="utf-8")
    (folder / "runs" / "tasks").mkdir(parents=True)  # two commands in a header fill it
    monkeypatch.chdir(folder)
    monkeypatch.setattr(job, "merge_methods", lambda: REGISTERED)
    return folder


def load(name: str) -> Loaded:
    return load_study(STUDIES / f"{name}.yaml")


def usable(name: str) -> Loaded:
    """The study; skips where this machine or version lacks what its cells need."""
    text = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8")
    if "edits.mode" in text and "mode" not in Edits.model_fields:
        pytest.skip("this version has no edits.mode")
    if "../shared/data" in text and not (SHARED / "data").is_dir():
        pytest.skip(f"no public samples: {SHARED / 'data'} is not there")
    return load(name)


def plan(loaded: Loaded, chosen: Sequence[Cell] = ()) -> list[Planned]:
    """All cells with their recipes, or the chosen ones."""
    return plan_cells(replace(loaded, cells=chosen or loaded.cells), (), NAMES)


def methods_of(loaded: Loaded) -> dict[tuple[str, ...], Cell]:
    """For each method, merge method and file of facts the first cell that names them; the recipe's own count as one."""
    found: dict[tuple[str, ...], Cell] = {}
    for cell in loaded.cells:
        keys = ("method", "merge.method", "edits.source")
        found.setdefault(tuple(str(cell.settings.get(key, "")) for key in keys), cell)
    return found


# -- all of them --------------------------------------------------------------------------------


def test_every_study_has_its_number_of_cells() -> None:
    found = {path.stem: len(load_study(path).cells) for path in sorted(STUDIES.glob("*.yaml"))}
    assert found == CELLS


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_study_can_be_run(project: Path, name: str) -> None:
    loaded = usable(name)
    planned = plan(loaded)
    assert loaded.study.name == name
    recipes = {strict_yaml.dump(each.recipe.model_dump(exclude={"name", "output"})) for each in planned}
    assert len(recipes) == len(planned) == CELLS[name]
    if name in DEMO:
        assert {each.recipe.edits.limit for each in planned} == {20}


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_dry_run_lists_every_cell(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = usable(name)
    assert study.main([str(loaded.file), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"{name}: {CELLS[name]} cells of " in said
    assert re.findall(r"^ *\d+\. (\S+)", said, re.MULTILINE) == [cell.name for cell in loaded.cells]
    assert sum(len(list(folder.iterdir())) for folder in project.glob("runs/*")) == 0, "a dry run writes nothing"


@pytest.mark.parametrize("name", sorted(CELLS))
def test_a_header_says_what_a_study_needs(name: str) -> None:
    head = (STUDIES / f"{name}.yaml").read_text(encoding="utf-8").partition("\nname:")[0]
    for word in ("needs:", "time:", "look:", f"recipes/experiments/{name}.yaml"):
        assert word in head
    assert ("NOT RUN HERE" in head) is (name in LARGE)


def test_the_page_names_every_study() -> None:
    page = (HERE / "docs" / "experiments.md").read_text(encoding="utf-8")
    rows = {n: int(cells) for n, cells in re.findall(r"^\| .*?`(\w+)\.yaml` \| (\d+) \|", page, re.MULTILINE)}
    assert rows == CELLS


# -- a cell by each method makes its YAML and jobs ----------------------------------------------


@pytest.mark.parametrize("name", [*LARGE, "rq1_thousand_smollm2", "rq2_operations_smollm2", "layer_sweep_smollm2"])
def test_cells_make_their_plans(project: Path, name: str) -> None:
    loaded = usable(name)
    for each in plan(loaded, list(methods_of(loaded).values())):
        method = each.recipe.method
        display = Display(None, Console(file=io.StringIO()))
        assert job.run(job.Options(loaded.recipe, each.overrides, dry_run=True), display) is None
        made = {path.name for path in each.folder.rglob("*.yaml")}
        wanted = {
            "rsft_merge": {"train.yaml", "rsft.yaml", "merge.yaml"},
            "rsft": {"train.yaml"},
            "serac": {"editor.yaml"},
        }
        expected = wanted.get(method, {"train.yaml"} if method in ("sft", "locft_bf") else {"edit.yaml"})
        assert expected <= made or method == "ice", (each.cell.name, made)


# -- what each is about -------------------------------------------------------------------------


def settings(name: str) -> list[Mapping[str, Any]]:
    loaded = load(name)
    return [{**loaded.study.set, **cell.settings} for cell in loaded.cells]


@pytest.mark.parametrize("name", ["rq1_knowedit_llama2", "rq1_methods_smollm2"])
def test_all_methods_are_compared(name: str) -> None:
    assert {each["method"] for each in settings(name)} == set(get_args(Method))


def test_the_batch_sizes_of_each_method() -> None:
    sizes: dict[str, set[int]] = {}
    for each in settings("rq1_methods_smollm2"):
        sizes.setdefault(each["method"], set()).add(each["edits.batch_size"])
    alike = {"rome": {1}, "mend": {1}, "serac": {100}, "ice": {100}}
    assert sizes == {method: alike.get(method, {1, 10, 100}) for method in get_args(Method)}


@pytest.mark.parametrize(("name", "layers"), [("layer_sweep_llama3", 32), ("layer_sweep_smollm2", 30)])
def test_each_layer_alone(name: str, layers: int) -> None:
    keys = ("train.layers", "methods.rome.layers", "methods.memit.layers")
    found = [(each["method"], *(each[key] for key in keys)) for each in settings(name)]
    assert found == [(m, [n], [n], [n]) for m in ("rome", "memit", "rsft") for n in range(layers)]
    assert {(each["edits.mode"], each["edits.batch_size"]) for each in settings(name)} == {("independent", 1)}


@pytest.mark.parametrize(
    ("name", "single"),
    [
        ("batch_size_llama3", True),
        ("batch_size_smollm2", True),
        ("sequential_batch_llama3", False),
        ("sequential_batch_smollm2", False),
    ],
)
def test_a_single_batch_or_the_same_facts_in_all(name: str, single: bool) -> None:
    found = [(each["edits.batch_size"], each["edits.limit"]) for each in settings(name)]
    assert all(size == total for size, total in found) is single
    assert (len({total for _, total in found}) == 1) is not single
    assert max(size for size, _ in found) == max(total for _, total in found)


@pytest.mark.parametrize("name", ["rq1_methods_smollm2", "rq1_thousand_smollm2"])
def test_editors_are_trained_on_facts_that_are_not_edited(project: Path, name: str) -> None:
    loaded = usable(name)
    planned = plan(loaded, [cell for cell in loaded.cells if cell.settings["method"] in LEARNED])
    assert len(planned) == {"rq1_methods_smollm2": 4, "rq1_thousand_smollm2": 2}[name]
    for each in planned:
        edits = job.load_facts(each.recipe, Display(None, Console(file=io.StringIO())))
        assert len(edits) == each.recipe.edits.limit
        learned.check(each.recipe, edits)  # raises where one shares a subject or a prompt
        own = getattr(each.recipe.methods, each.recipe.method)
        training = learned.training_facts(own.train_facts, own.train_skip, own.train_limit)
        assert len(learned.examples(training)) == own.train_limit


def test_the_tasks_of_the_comparison_are_made_by_the_commands_in_its_header(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = usable("rq1_methods_smollm2")
    head = (STUDIES / "rq1_methods_smollm2.yaml").read_text(encoding="utf-8")
    commands = re.findall(r"python -m kedit_glue\.tasks (.*)", head)
    assert [tasks.main(command.split()) for command in commands] == [0, 0], capsys.readouterr()
    [first] = plan(loaded, loaded.cells[:1])
    general = first.recipe.score.general
    made = {path.stem for path in Path(str(general.include_path)).glob("*.yaml")}
    assert made == set(general.tasks) and not job.needs_hub(first.recipe)


ABLATIONS: dict[str, Callable[[Any], bool]] = {
    "no_early_stop": lambda recipe: recipe.train.loss_threshold == 0,
    "no_inner_loop": lambda recipe: recipe.train.steps_in_a_row == 1,
    "no_ffn_restriction": lambda recipe: "self_attn" in recipe.train.modules,
    "no_merge": lambda recipe: recipe.method == "rsft",
    "no_protection": lambda recipe: not recipe.train.protect.on,
}


@pytest.mark.parametrize("name", ["rq4_ablation_llama2", "rq4_ablation_smollm2"])
def test_an_ablation_lacks_one_part_at_a_time(project: Path, name: str) -> None:
    full, *others = plan(usable(name))
    assert full.cell.name == "full"
    absent = {"no_protection"} if name.endswith("llama2") else set()  # ours, not the paper's: not on there
    for each in others:
        lacks = {part for part, is_gone in ABLATIONS.items() if is_gone(each.recipe)}
        assert lacks == {each.cell.name} | absent
    assert {part for part, is_gone in ABLATIONS.items() if is_gone(full.recipe)} == absent
    budgets = {p.recipe.train.epochs * p.recipe.train.steps_in_a_row for p in (full, *others)}
    assert len(budgets) == 1, "optimizer steps a fact at most"
