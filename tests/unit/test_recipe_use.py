"""A sound recipe, ``--set``, paths, layers, and the recipe that describes itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from kedit_glue import recipe_checks, strict_yaml
from kedit_glue.problems import RecipeError
from kedit_glue.recipe import Recipe, describe, normalized, resolve_layers
from kedit_glue.recipe_errors import fields
from kedit_glue.recipe_schema import Edits, Merge, Score, Train

Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]
HEAD = "name: run\nmodel: smollm2-135m\nedits:\n  source: facts.json\n"
TOP, TRAIN = (", ".join(fields(section)) for section in (Recipe, Train))
INSTEAD = "written beside {}; allowed: one of the two"
ONE_STEP = (
    "4, while train.order is breadth, which takes one step on a mini-batch at a time; allowed: 1, or order: depth"
)
SHARED = "the processes share each mini-batch evenly"
APART = "while train.from is base: no model holds the batches so far"
ZERO = (
    "is 0 everywhere: the merge would give back the base; allowed: a number other than 0; "
    "nothing that was learned would be kept"
)

# keys that do not go together: below a sound head of four lines; the problem without the file's name
TOGETHER: list[tuple[str, str]] = [
    (
        "train: {mini_batch: 11}\n",
        ":5:9  train.mini_batch: 11, while edits.batch_size is 10; allowed: at most 10; "
        "a mini-batch cannot hold more texts than an edit batch",
    ),
    (
        "train: {mini_batch: 17, rehearse: 6}\n",
        ":5:9  train.mini_batch: 17, while edits.batch_size is 10 and train.rehearse 6; allowed: at most 16; "
        "a mini-batch cannot hold more texts than an edit batch",
    ),
    (
        "train: {mini_batch: 49, rehearse: 6, rephrasings: 1, contexts: 1}\n",
        ":5:9  train.mini_batch: 49, while edits.batch_size is 10 and train.rehearse 6, and a fact has 3 texts; "
        "allowed: at most 48; a mini-batch cannot hold more texts than an edit batch",
    ),
    (
        "train: {rehearse: 6, from: base}\nmerge: {when: end}\n",
        ":5:9  train.rehearse: 6, while train.from is base: that model was taught no earlier fact; "
        "allowed: 0, or train.from: previous",
    ),
    (
        "train: {protect: {neighbours: 32}}\n",
        ":5:19  train.protect.neighbours: 32, while train.protect.directions is 0; allowed: 0, or "
        "train.protect.directions: 128; they are kept beside those of general text",
    ),
    (
        "train: {protect: {neighbours: 32, strength: 1}}\n",
        ":5:19  train.protect.neighbours: 32, while train.protect.strength is set; allowed: 0; "
        "neighbours' directions are kept wholly or not at all",
    ),
    (
        "launch: {processes: 2}\n",
        f"  train.mini_batch: 1, while launch.processes is 2; allowed: a multiple of 2; {SHARED}",
    ),
    (
        "train: {mini_batch: 4}\nlaunch: {processes: 3}\n",
        f":5:9  train.mini_batch: 4, while launch.processes is 3; allowed: a multiple of 3; {SHARED}",
    ),
    (
        "train: {mini_batch: 6}\nlaunch: {processes: 2, nodes: 2}\n",
        ":5:9  train.mini_batch: 6, while launch.processes is 2 and launch.nodes 2; "
        f"allowed: a multiple of 4; {SHARED}",
    ),
    ("train: {inner_steps: 4}\n", f":5:9  train.inner_steps: {ONE_STEP}"),
    ("train: {order: breadth, inner_steps: 4}\n", f":5:25  train.inner_steps: {ONE_STEP}"),
    (
        "train: {order: depth, inner_steps: 1}\n",
        ":5:23  train.inner_steps: 1, while train.order is depth; allowed: 2 or more, or order: breadth",
    ),
    (
        "train: {protect: {directions: 3, energy: 0.9}}\n",
        ":5:34  train.protect.energy: 0.9, while train.protect.directions is 3; allowed: one of the two, the other 0",
    ),
    (
        "merge:\n  protect: {directions: 3, energy: 0.9}\n",
        ":6:28  merge.protect.energy: 0.9, while merge.protect.directions is 3; allowed: one of the two, the other 0",
    ),
    (
        "merge:\n  protect: {strength: 0.1}\n  regmean: {tokens: 100}\n",
        ":7:13  merge.regmean.tokens: 100, while merge.protect is set; allowed: one of the two; it weighs all "
        "directions of general text",
    ),
    (
        "train: {parameters: lm_head, modules: mlp}\n",
        f":5:30  train.modules: {INSTEAD.format('train.parameters, which says what is trained')}",
    ),
    (
        "train: {parameters: lm_head, layers: all}\n",
        f":5:30  train.layers: {INSTEAD.format('train.parameters, which says what is trained')}",
    ),
    (
        "train: {parameters: mlp, lora: {rank: 4}}\n",
        ":5:33  train.lora.rank: 4, while train.parameters is set; allowed: 0; LoRA adapts whole modules: use modules",
    ),
    (
        "train: {lora: {rank: 4}, protect: {strength: 1}}\n",
        ":5:16  train.lora.rank: 4, while train.protect.strength is set; allowed: 0; "
        "soft protection shrinks a matrix's change; of LoRA's factors only hard is exact",
    ),
    (
        "train: {lora: {rank: 4}}\nmerge: {when: end}\n",
        ":5:16  train.lora.rank: 4, while merge.when is end; allowed: 0, or train.from: base; "
        "the next batch is trained from a model, not from an adapter",
    ),
    (
        "train: {from: base}\nmerge: {when: each}\n",
        ":6:9  merge.when: each, while train.from is base: the batches' models are merged together; "
        "allowed: end, or train.from: previous",
    ),
    (
        "train: {from: base}\nmerge: {when: end}\nscore: {edits: {when: each}}\n",
        f":7:17  score.edits.when: each, {APART}; allowed: end",
    ),
    (
        "train: {from: base}\nmerge: {when: end}\nscore: {general: {when: each}}\n",
        f":7:19  score.general.when: each, {APART}; allowed: ends, never",
    ),
    (
        "train: {from: base}\nmerge: {when: end, parameters: {weight: 1, lambda: 0}}\n",
        f":6:44  merge.parameters.lambda: lambda {ZERO}",
    ),
    (
        "merge:\n  onto: previous\n  when: end\n",
        ":6:3  merge.onto: previous, while merge.when is end: a single merge has no previous result; "
        "allowed: onto: base, or when: each",
    ),
    *(
        (f"merge: {{file: own.yaml, {key}: {value}}}\n", f":5:25  merge.{key}: {INSTEAD.format(WRITTEN)}")
        for WRITTEN in ["merge.file, which says it"]
        for key, value in (("method", "ties"), ("parameters", "{weight: 1}"), ("dtype", "null"), ("extra", "{}"))
    ),
    # a value that is not allowed is the only problem: nothing follows from it
    (
        "train: {from: bas, lora: {rank: 4}}\nmerge: {when: end, parameters: {weight: 0.5, normalize: true}}\n",
        ":5:15  train.from: bas (text); allowed: one of previous, base; did you mean 'base'?",
    ),
    (
        "train: {from: base}\nmerge: {when: end}\nscore: {edits: {when: ends}}\n",
        ":7:23  score.edits.when: ends (text); allowed: one of each, end; did you mean 'end'?",
    ),
    (
        "train: {parameters: '[', modules: mlp}\n",
        ":5:21  train.parameters: '[' (text); allowed: a regular expression that is searched for in each name, "
        "or null; it does not compile: unterminated character set at position 0",
    ),
]


@pytest.mark.parametrize(("body", "expected"), TOGETHER, ids=[repr(body) for body, _ in TOGETHER])
def test_keys_that_do_not_go_together(body: str, expected: str, problems: Problems) -> None:
    assert problems(HEAD + body) == [expected]


def test_all_at_once_in_line_order(folder: Path, load: Load) -> None:
    text = (
        "zzz: 1\nmerge: {onto: previous, when: end, parameters: {weight: [a, {value: b}], normalize: 1}}\n"
        "name: run\nmodel: smollm2-135m\nscore: {general: {tasks: [1, 2]}}\ntemplates: nowhere\n"
        "edits: {source: none, batch_size: 4}\ntrain: {mini_batch: 5, epochs: 0, "
        "extra: {packing: 1}, layers: [-1, x]}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(text, "seed=x", "device=tpu")
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
def test_bad_overrides(override: str, expected: str, problems: Problems) -> None:
    assert problems(HEAD, override) == [expected]


def test_overrides(load: Load) -> None:
    text = HEAD + "train:\nmerge: {method: ties, parameters: {weight: 0.5, density: 0.2}}\nseed: nonsense\n"
    overrides = ("train.epochs=3", "train.learning_rate=5e-5", "merge.parameters.normalize=false", "seed=7",
                 "train.layers=[1, 4-8]", "name=other", "score.general.limit=2",
                 "train.epochs=4")  # fmt: skip
    recipe = load(text, *overrides)
    assert (recipe.name, recipe.seed, recipe.train.epochs, recipe.train.learning_rate) == (
        "other",
        7,
        4,
        5e-5,
    )
    assert recipe.merge.parameters == {"weight": 0.5, "density": 0.2, "normalize": False}
    assert recipe.train.layers == (1, "4-8") and recipe.score.general.limit == 2


def test_defaults(load: Load) -> None:
    recipe = load(HEAD + "train:\nmerge:\nscore:\n  edits:\n")
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
        "train: {mini_batch: 4, order: depth}\nlaunch: {processes: 2, nodes: 2, ray: {gpus: 2, memory_gb: 0.5}}\n",
        "train: {order: depth, inner_steps: 2, template: chat, contexts: 3}\n",
        "train: {inner_steps: 1, parameters: 'mlp\\.c_fc|lm_head'}\n",
        "train: {lora: {rank: 4, alpha: 16}, protect: {directions: 10}}\nmerge: {protect: {strength: 0.1}}\n",
        "train: {protect: {directions: 128, neighbours: 32}}\n",
        "train: {protect: {energy: 0.9, strength: 1}}\nmerge: {protect: {directions: 10, texts: 5}}\n",
        "train: {from: base, lora: {rank: 4}}\nmerge: {when: end}\n",
        "train: {from: base}\nmerge: {when: end, parameters: {weight: 0.5, normalize: true}}\n",
        "train: {from: base}\nmerge: {when: end}\nscore: {edits: {when: end}, general: {when: never}}\n",
        "merge: {file: own.yaml, onto: previous}\n",
        "method: rome\ntrain: {mini_batch: 11}\n",  # a section of methods that are not chosen
        "method: locft_bf\ntrain: {mini_batch: 11}\n",
    ],
)
def test_good(body: str, load: Load) -> None:
    head = HEAD.split("edits:")[0] if body.startswith("edits") else HEAD
    recipe = load(head + body)
    assert load(strict_yaml.dump(normalized(recipe))) == recipe, "resolved.yaml is the same recipe"


def test_without_merge_methods_names_are_not_checked(load: Load) -> None:
    load(HEAD + "merge: {method: brandnew, parameters: {anything: [1, 2]}}\n", methods=None)


def test_paths(folder: Path, load: Load) -> None:
    (folder / "own").mkdir()
    (folder / "only.json").write_text("[]")
    (Path.cwd() / "model").mkdir()
    text = HEAD.replace("facts", "only").replace("smollm2-135m", "model") + "templates: own\n"
    recipe = load(text + "score: {general: {include_path: own}}\n")
    assert recipe.edits.source == str(folder / "only.json")
    assert recipe.templates == recipe.score.general.include_path == str(folder / "own")
    assert (recipe.model, recipe.output) == (str(Path.cwd() / "model"), "runs")
    assert load(HEAD.replace("smollm2-135m", "owner/name")).model == "owner/name"
    assert load(HEAD + "merge: {file: own.yaml}\n").merge.file == str(folder / "own.yaml")


def test_a_path_that_could_be_two_is_refused(folder: Path, load: Load, problems: Problems) -> None:
    """The current folder's file must not take the place of the one that the recipe's author had beside it."""
    both = (Path.cwd() / "only.json", folder / "only.json")
    for path in both:
        path.write_text("[]")
    text = HEAD.replace("facts", "only")
    assert problems(text) == [
        f":4:11  edits.source: only.json (text) is both {both[0]} and {both[1]}; allowed: one of them, written in full"
        "; the first is under the current folder, the second under the recipe's"
    ]
    assert load(text.replace("only.json", str(both[1]))).edits.source == str(both[1])
    both[0].unlink()
    both[0].symlink_to(both[1])
    assert load(text).edits.source == str(both[1]), "two names of one file"
    both[0].unlink()
    both[0].write_text("[]")
    (folder / "resolved.yaml").write_text("")
    assert load(text).edits.source == str(both[0]), "a run's own copy of its recipe: beside it lies what the run made"
    (folder / "resolved.yaml").unlink()
    (folder / "facts.json").mkdir()
    assert load(HEAD).edits.source == str(Path.cwd() / "facts.json"), "a folder is no file"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("null", None),
        ("own.txt", "{folder}/own.txt"),
        ("texts/own.txt", "{folder}/texts/own.txt"),  # looks like a hub id, but lies here
        ("texts/set", "{folder}/texts/set"),  # a folder
        ("./texts/own.txt", "{folder}/texts/own.txt"),
        ("owner/name", "owner/name"),
        ("'owner/name:validation'", "owner/name:validation"),
        ("'owner/name:raw:validation'", "owner/name:raw:validation"),
    ],
)
def test_a_corpus_is_a_file_or_a_data_set(written: str, expected: str | None, folder: Path, load: Load) -> None:
    (folder / "texts" / "set").mkdir(parents=True)
    for name in ("own.txt", "texts/own.txt"):
        (folder / name).write_text("A text.")
    body = f"train: {{protect: {{corpus: {written}}}}}\nmerge: {{protect: {{corpus: {written}}}}}\n"
    recipe = load(HEAD + body)
    assert recipe.train.protect.of_text == recipe.merge.protect
    assert recipe.train.protect.corpus == (expected and expected.format(folder=folder))
    assert not recipe.train.protect.on


@pytest.mark.parametrize("written", ["directions: 1", "energy: 0.5", "strength: 0.1"])
def test_protection_is_on_as_soon_as_it_is_said_how(written: str, load: Load) -> None:
    assert load(HEAD + f"train: {{protect: {{{written}}}}}\n").train.protect.on


@pytest.mark.parametrize(
    ("written", "steps"),
    [("order: breadth", 1), ("order: depth", 10), ("order: depth, inner_steps: 3", 3), ("inner_steps: 1", 1)],
)
def test_steps_in_a_row_follow_from_the_order(written: str, steps: int, load: Load) -> None:
    assert load(HEAD + f"train: {{{written}}}\n").train.steps_in_a_row == steps


def test_resolved_yaml_leaves_out_what_may_not_stand_beside_another_key(load: Load) -> None:
    plain = normalized(load(HEAD + "train: {parameters: lm_head, from: base}\nmerge: {when: end}\n"))
    assert list(plain["train"])[:2] == ["from", "parameters"] and "when" not in plain["score"]["edits"]
    plain = normalized(load(HEAD + "merge: {file: own.yaml}\n"))
    assert list(plain["merge"]) == ["onto", "when", "protect", "regmean", "search", "file"]


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


def test_describe_is_a_recipe_of_all_defaults(folder: Path, load: Load) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "facts.json").write_text("[]")
    described = load(describe())
    source = str(folder / "data" / "facts.json")
    assert described == Recipe(name="my-run", model="smollm2-135m", edits=Edits(source=source))
    assert (
        "  # The optimizer's step size, without unit: a number above 0 up to 1.\n  learning_rate: 0.0001\n"
        in describe()
    )


def test_every_key_is_described_and_every_owned_key_exists() -> None:
    keys: list[str] = []

    def walk(section: type[BaseModel], at: str) -> None:
        for name, field in fields(section).items():
            assert field.description and field.description.endswith("."), name
            inner = field.annotation
            keys.append(at + name)
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                walk(inner, f"{at}{name}.")

    walk(Recipe, "")
    assert set(recipe_checks.TRAIN_EXTRA.values()) <= set(keys)


def test_explain_prints_that_recipe() -> None:
    found = subprocess.run([sys.executable, "-m", "kedit_glue.run", "--explain"], capture_output=True, check=True)
    assert found.stdout.decode() == describe()


def test_imports_no_torch() -> None:
    code = "import sys, kedit_glue.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
