"""The recipe: what it takes, and what each mistake is answered with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kedit_glue.recipe import Recipe
from kedit_glue.recipe_errors import fields
from kedit_glue.recipe_schema import Merge, Train

Load = Callable[..., Recipe]
Problems = Callable[..., list[str]]
HEAD = "name: run\nmodel: smollm2-135m\nedits:\n  source: facts.json\n"
TOP, TRAIN, MERGE = (", ".join(fields(section)) for section in (Recipe, Train, Merge))
LAYERS = "'all', a range such as '4-8', 'first 4', 'last 4', or a list of layer numbers from 0 and such ranges"
PATTERN = "a regular expression that is searched for in each name, or null"
NAMES = "one name or a list of names of letters, digits and '_'"
NAME = "letters, digits, '.', '_' and '-', at most 64 of them, a letter or digit first"
MODEL = "a packaged model (smollm2-135m), an existing folder, or a hub id owner/name"
METRICS = "a list of edit_success, generalization, portability, locality, fluency, perplexity, each at most once"
NOWHERE = "(text): no such file; allowed: a file that exists; looked for {{cwd}}/{0} and {{folder}}/{0}"
ZERO = (
    "is 0 everywhere: the merge would give back the base; allowed: a number other than 0; "
    "nothing that was learned would be kept"
)
NOTHING = "weight does nothing: mergekit divides by it when only one tuned model is merged"
FIX = "allowed: normalize: false, or weight: 1; set normalize: false"

# below a sound head of four lines; the problem without the file's name
BAD: list[tuple[str, str]] = [
    # unknown keys
    ("scores: {}\n", f":5:1  scores: unknown key; known here: {TOP}; did you mean 'score'?"),
    ("zzz: 1\n", f":5:1  zzz: unknown key; known here: {TOP}"),
    (
        "learning_rate: 1\n",
        f":5:1  learning_rate: unknown key; known here: {TOP}; did you mean 'train.learning_rate'?",
    ),
    (
        "train:\n  learning_rat: 1\n",
        f":6:3  train.learning_rat: unknown key; known here: {TRAIN}; did you mean 'learning_rate'?",
    ),
    (
        "train: {limit: 1}\n",
        f":5:9  train.limit: unknown key; known here: {TRAIN}; did you mean 'edits.limit' or "
        "'merge.search.fitness.limit' or 'score.general.limit'?",
    ),
    (
        "merge: {onot: base}\n",
        f":5:9  merge.onot: unknown key; known here: {MERGE}; did you mean 'onto'?",
    ),
    (
        "score:\n  edit: {}\n",
        ":6:3  score.edit: unknown key; known here: edits, general, tuned, examples; did you mean 'edits'?",
    ),
    (
        "score:\n  edits:\n    metric: []\n",
        (
            ":7:5  score.edits.metric: unknown key; known here: metrics, protocols, generated, judge, scorer, "
            "easyedit, when, old_facts, fluency_facts; did you mean 'metrics'?"
        ),
    ),
    (
        "score: {general: {task: []}}\n",
        (
            ":5:19  score.general.task: unknown key; "
            "known here: tasks, include_path, limit, batch_size, when; did you mean 'tasks'?"
        ),
    ),
    (
        "train:\n  <<: {epoch: 1}\n",
        f":6:8  train.epoch: unknown key; known here: {TRAIN}; did you mean 'epochs'?",
    ),
    # types
    (
        'train:\n  epochs: "5"\n',
        ':6:11  train.epochs: "5" (text); allowed: a whole number from 1 to 1000; write it without quotes',
    ),
    (
        "train: {epochs: true}\n",
        ":5:17  train.epochs: true (true/false); allowed: a whole number from 1 to 1000",
    ),
    ("train: {epochs: 2.0}\n", ":5:17  train.epochs: 2.0 (number); allowed: a whole number from 1 to 1000"),
    (
        "train:\n  epochs:\n",
        ":6:10  train.epochs: nothing (no value given); allowed: a whole number from 1 to 1000",
    ),
    ("train: {epochs: ~}\n", ":5:17  train.epochs: ~ (nothing); allowed: a whole number from 1 to 1000"),
    ("train: {epochs: [1]}\n", ":5:17  train.epochs: [1] (list); allowed: a whole number from 1 to 1000"),
    (
        "train: {learning_rate: '1e-5'}\n",
        (":5:24  train.learning_rate: '1e-5' (text); allowed: a number above 0 up to 1; write it without quotes"),
    ),
    (
        "train: {learning_rate: yes}\n",
        ":5:24  train.learning_rate: yes (true/false); allowed: a number above 0 up to 1",
    ),
    ("train: {shuffle: 1}\n", ":5:18  train.shuffle: 1 (whole number); allowed: true or false"),
    (
        "train: {template: 7}\n",
        (
            ":5:19  train.template: 7 (whole number); allowed: bare, chat (the model's own chat template), "
            'or the name of one of LLaMA-Factory\'s; if it is text, put it in quotes: "7"'
        ),
    ),
    ("train: 5\n", f":5:8  train: 5 (whole number); allowed: a mapping of keys: {TRAIN}"),
    (
        "train: {extra: []}\n",
        ":5:16  train.extra: [] (list); allowed: a mapping of keys that no key here sets",
    ),
    (
        "score: {edits: {metrics: fluency}}\n",
        f":5:26  score.edits.metrics: fluency (text); allowed: {METRICS}; write a list: [fluency]",
    ),
    (
        "score: {general: {tasks: [1]}}\n",
        (
            ":5:27  score.general.tasks[0]: 1 (whole number); allowed: a list of task names; "
            'if it is text, put it in quotes: "1"'
        ),
    ),
    # ranges and choices
    ("train: {epochs: 0}\n", ":5:17  train.epochs: 0 (whole number); allowed: a whole number from 1 to 1000"),
    (
        "train: {learning_rate: 0}\n",
        ":5:24  train.learning_rate: 0 (whole number); allowed: a number above 0 up to 1",
    ),
    (
        "train: {learning_rate: .nan}\n",
        ":5:24  train.learning_rate: .nan (number); allowed: a number above 0 up to 1",
    ),
    (
        "train: {loss_threshold: 1e999}\n",
        ":5:25  train.loss_threshold: 1e999 (number); allowed: a number, 0 or more",
    ),
    (
        "train: {weight_decay: 1.5}\n",
        ":5:23  train.weight_decay: 1.5 (number); allowed: a number from 0 to 1",
    ),
    (
        "train: {cutoff_len: 8}\n",
        ":5:21  train.cutoff_len: 8 (whole number); allowed: a whole number from 16 to 131072",
    ),
    ("seed: -1\n", ":5:7  seed: -1 (whole number); allowed: a whole number from 0 to 4294967295"),
    (
        "threads: 0\n",
        ":5:10  threads: 0 (whole number); allowed: a whole number, 1 or more, or null for their own choice",
    ),
    ("device: gpu\n", ":5:9  device: gpu (text); allowed: one of auto, cpu, cuda; did you mean 'cuda'?"),
    (
        "runner: warn\n",
        ":5:9  runner: warn (text); allowed: one of auto, warm, spawn, command; did you mean 'warm'?",
    ),
    ("keep: no\n", ":5:7  keep: no (true/false); allowed: one of deltas, all, last"),
    (
        "merge: {dtype: bf16}\n",
        (
            ":5:16  merge.dtype: bf16 (text); allowed: one of float32, bfloat16, float16, "
            "or null for the model's own; "
            "did you mean 'bfloat16'?"
        ),
    ),
    (
        "score: {edits: {metrics: [locality, fluencyy]}}\n",
        f":5:37  score.edits.metrics[1]: fluencyy (text); allowed: {METRICS}; did you mean 'fluency'?",
    ),
    (
        "score: {edits: {metrics: [fluency, fluency]}}\n",
        f":5:36  score.edits.metrics[1]: 'fluency' is listed twice; allowed: {METRICS}",
    ),
    ("train: {from: bas}\n", ":5:15  train.from: bas (text); allowed: one of previous, base; did you mean 'base'?"),
    ("train: {from_: base}\n", f":5:9  train.from_: unknown key; known here: {TRAIN}; did you mean 'from'?"),
    (
        "train: {order: deep}\n",
        ":5:16  train.order: deep (text); allowed: one of breadth, depth; did you mean 'depth'?",
    ),
    (
        "train: {inner_steps: 0}\n",
        ":5:22  train.inner_steps: 0 (whole number); allowed: a whole number from 1 to 1000, "
        "or null for 1 in breadth, 10 in depth",
    ),
    ("train: {lora: 8}\n", ":5:15  train.lora: 8 (whole number); allowed: a mapping of keys: rank, alpha"),
    (
        "train: {lora: {alpha: 0.5}}\n",
        ":5:23  train.lora.alpha: 0.5 (number); allowed: a whole number, 1 or more, or null for twice the rank",
    ),
    (
        "launch: {processes: 0}\n",
        ":5:21  launch.processes: 0 (whole number); allowed: a whole number from 1 to 1024",
    ),
    (
        "train: {contexts: -1}\n",
        ":5:19  train.contexts: -1 (whole number); allowed: a whole number from 0 to 1000",
    ),
    (
        "train: {protect: {energy: 1}}\n",
        ":5:27  train.protect.energy: 1 (whole number); allowed: a number from 0 to below 1",
    ),
    (
        "merge: {protect: {strength: 0}}\n",
        ":5:29  merge.protect.strength: 0 (whole number); allowed: a number above 0, or null to drop it altogether",
    ),
    (
        "directions: 3\n",
        f":5:1  directions: unknown key; known here: {TOP}; "
        "did you mean 'train.protect.directions' or 'merge.protect.directions'?",
    ),
    # parameters, layers and modules
    ("train: {parameters: ''}\n", f":5:21  train.parameters: '' (text); allowed: {PATTERN}"),
    ("train: {parameters: [mlp]}\n", f":5:21  train.parameters: [mlp] (list); allowed: {PATTERN}"),
    (
        "train: {parameters: 'mlp.('}\n",
        f":5:21  train.parameters: 'mlp.(' (text); allowed: {PATTERN}; "
        "it does not compile: missing ), unterminated subpattern at position 4",
    ),
    (
        "train: {parameters: 'a{99999999999}'}\n",
        f":5:21  train.parameters: 'a{{99999999999}}' (text); allowed: {PATTERN}; "
        "it does not compile: the repetition number is too large",
    ),
    ("train: {layers: 8-4}\n", f":5:17  train.layers: 8-4 (text); allowed: {LAYERS}; did you mean '4-8'?"),
    (
        "train: {layers: last 0}\n",
        f":5:17  train.layers: last 0 (text); allowed: {LAYERS}; at least one layer must be trained",
    ),
    ("train: {layers: last four}\n", f":5:17  train.layers: last four (text); allowed: {LAYERS}"),
    (
        "train: {layers: 5}\n",
        f":5:17  train.layers: 5 (whole number); allowed: {LAYERS}; a single layer is written [5]",
    ),
    ("train: {layers: []}\n", f":5:17  train.layers: an empty list; allowed: {LAYERS}"),
    (
        "train: {layers: [1, '5']}\n",
        f":5:21  train.layers[1]: '5' (text); allowed: {LAYERS}; write the number without quotes: 5",
    ),
    (
        "train: {layers: [1, -2]}\n",
        f":5:21  train.layers[1]: -2 (whole number); allowed: {LAYERS}; layers count from 0",
    ),
    (
        "train: {modules: 'mlp,attn'}\n",
        f":5:18  train.modules: 'mlp,attn' (text); allowed: {NAMES}; write a list: [mlp, attn]",
    ),
    ("train: {modules: [mlp, 3]}\n", f":5:24  train.modules[1]: 3 (whole number); allowed: {NAMES}"),
    ("train: {modules: []}\n", f":5:18  train.modules: an empty list; allowed: {NAMES}"),
    # files and folders
    (
        "templates: nowhere\n",
        (
            ":5:12  templates: nowhere (text): no such folder; allowed: a folder that exists; "
            "looked for {cwd}/nowhere and {folder}/nowhere"
        ),
    ),
    ("merge: {file: none.yaml}\n", f":5:15  merge.file: none.yaml {NOWHERE.format('none.yaml')}"),
    ("train: {protect: {corpus: none}}\n", f":5:27  train.protect.corpus: none {NOWHERE.format('none')}"),
    (  # owner/name would be a data set of the hub, but none has such an ending
        "merge: {protect: {corpus: texts/own.jsonl}}\n",
        f":5:27  merge.protect.corpus: texts/own.jsonl {NOWHERE.format('texts/own.jsonl')}",
    ),
    ("templates: facts.json\n", ":5:12  templates: facts.json (text) is a file; allowed: a folder"),
    ("output: facts.json\n", ":5:9  output: facts.json (text) is a file; allowed: a folder, new or not"),
    # a merge that keeps nothing, a weight that does nothing
    (
        "merge:\n  method: ties\n  parameters: {density: 0.3, weight: 0.5, normalize: true}\n",
        f":7:43  merge.parameters.normalize: {NOTHING}; {FIX}",
    ),
    (
        "merge:\n  parameters: {weight: [0.3, 1], normalize: true}\n",
        f":6:34  merge.parameters.normalize: {NOTHING}; {FIX}",
    ),
    ("merge: {parameters: {weight: 0}}\n", f":5:22  merge.parameters.weight: weight {ZERO}"),
    ("merge: {parameters: {weight: [0, 0.0]}}\n", f":5:22  merge.parameters.weight: weight {ZERO}"),
    (
        "merge: {parameters: {weight: [{filter: mlp, value: 0}, {value: [0, 0]}]}}\n",
        f":5:22  merge.parameters.weight: weight {ZERO}",
    ),
    ("merge: {parameters: {weight: 1, lambda: 0}}\n", f":5:33  merge.parameters.lambda: lambda {ZERO}"),
    (
        "merge: {parameters: {density: 0.5}}\n",
        (
            ":5:9  merge.parameters: weight is missing; allowed: a weight; "
            "mergekit's task_arithmetic cannot run without it"
        ),
    ),
    # mergekit's names and values
    (
        "merge: {method: tiez}\n",
        (
            ":5:17  merge.method: tiez: mergekit has no such method; "
            "allowed: linear, passthrough, sce, task_arithmetic, ties; did you mean 'ties'?"
        ),
    ),
    (
        "merge: {parameters: {weight: 1, densty: 1}}\n",
        (
            ":5:33  merge.parameters.densty: mergekit's task_arithmetic has no such parameter; "
            "allowed: density, int8_mask, lambda, normalize, rescale, weight; did you mean 'density'?"
        ),
    ),
    (
        "merge: {method: sce}\n",
        (
            ":5:9  merge.method: mergekit's sce has no parameter weight, which is the default here; "
            "allowed: int8_mask, select_topk; write merge.parameters, {{}} if none is needed"
        ),
    ),
    ("merge: {parameters: {weight: '1'}}\n", ":5:30  merge.parameters.weight: '1' (text); allowed: a number"),
    (
        "merge: {parameters: {weight: []}}\n",
        ":5:30  merge.parameters.weight: an empty list; allowed: at least one value",
    ),
    (
        "merge: {parameters: {weight: [{val: 1}]}}\n",
        (":5:32  merge.parameters.weight[0].val: unknown key; known here: filter, value; did you mean 'value'?"),
    ),
    # YAML itself: nothing else is reported
    ("train:\n\tepochs: 0\nzzz: 1\n", ":6:1  a tab in the indentation; allowed: spaces; indent with spaces"),
    ("name: again\nzzz: 1\n", ":5:1  name: the key is there twice (first in line 1); allowed: each key once"),
    (
        "seed: *x\n",
        ":5:7  alias *x has no anchor &x above it; write &x before the value it repeats, or put text in quotes",
    ),
    ("---\nname: b\n", ":5:1  a second document begins here ('---'); allowed: one document per file"),
]

# keys of upstream's own that a recipe may not pass on
TAKEN = "the recipe sets this key itself; set it with"
NEVER = "this key must not be set;"
PER_SAMPLE = f"{NEVER} it breaks per-sample stopping:"
EXTRA = {
    "train.learning_rate": f"{TAKEN} 'train.learning_rate'",
    "train.lora_rank": f"{TAKEN} 'train.lora.rank'",
    "train.lora_alpha": f"{TAKEN} 'train.lora.alpha'",
    "train.lora_target": f"{TAKEN} 'train.modules'",
    "train.finetuning_type": f"{NEVER} it follows from train.lora (freeze, or lora)",
    "train.resume_from_checkpoint": f"{NEVER} it skips the new batch's steps (LLaMA-Factory issue 6350)",
    "train.adapter_name_or_path": f"{NEVER} each batch trains an adapter of its own",
    "train.use_dora": f"{NEVER} mergekit merges LoRA's form only",
    "train.save_strategy": f"{NEVER} the tuned model is saved once, when its batch is done",
    "train.packing": f"{PER_SAMPLE} several facts would share one sequence",
    "train.deepspeed": f"{TAKEN} 'launch.deepspeed'",
    "train.fsdp": f"{PER_SAMPLE} the inner loop and protection need whole matrices; launch.processes shares facts",
    "train.use_ray": f"{PER_SAMPLE} Ray's workers take no callbacks of ours; launch.processes starts torchrun",
    "merge.dtype": f"{TAKEN} 'merge.dtype'",
    "merge.models": "the recipe sets this key itself; kedit_glue names the tuned model of each batch",
}


@pytest.mark.parametrize(("body", "expected"), BAD, ids=[repr(body) for body, _ in BAD])
def test_bad(body: str, expected: str, folder: Path, problems: Problems) -> None:
    if "{cwd}" in expected or "{{" in expected:
        expected = expected.format(cwd=Path.cwd(), folder=folder)
    assert problems(HEAD + body) == [expected]


@pytest.mark.parametrize("key", EXTRA)
def test_keys_that_are_not_passed_on(key: str, problems: Problems) -> None:
    section, name = key.split(".")
    body = f"{section}: {{extra: {{{name}: x}}}}\n"
    assert problems(HEAD + body) == [f":5:17  {section}.extra.{name}: {EXTRA[key]}"]


def test_bad_heads(folder: Path, problems: Problems) -> None:
    assert problems("{}") == [
        f"  name: missing; allowed: {NAME}; this key is required",
        f"  model: missing; allowed: {MODEL}; this key is required",
        (
            "  edits: missing; allowed: a mapping of keys: source, format, skip, limit, with_subject, batch_size, "
            "mode; this key is required"
        ),
    ]
    assert problems(f"name: {'a' * 65}\nmodel: smolm2-135m\nedits:\n") == [
        f":1:7  name: {'a' * 57}... (text); allowed: {NAME}; it has 65 characters",
        f":2:8  model: smolm2-135m (text); allowed: {MODEL}; did you mean 'smollm2-135m'?",
        (
            ":3:1  edits.source: missing; allowed: a path that exists, "
            "relative to the current folder or to the recipe's; "
            "this key is required"
        ),
    ]
    assert problems("name: ../x\nmodel: ./none\nedits: {source: no.json}\n") == [
        f":1:7  name: ../x (text); allowed: {NAME}; the folder that run folders are made in is set with 'output'",
        f":2:8  model: ./none (text); allowed: {MODEL}; looked for {Path.cwd()}/none",
        (
            ":3:17  edits.source: no.json (text): no such file; allowed: a file that exists; "
            f"looked for {Path.cwd()}/no.json and {folder}/no.json"
        ),
    ]
    assert problems(f"name: no\nmodel: ~nobody-x/a\nedits: {{source: {'x' * 300}}}\n") == [
        f':1:7  name: no (true/false); allowed: {NAME}; if it is text, put it in quotes: "no"',
        ":2:8  model: ~nobody-x/a (text); allowed: a path; Could not determine home directory.",
        f":3:17  edits.source: {'x' * 57}... (text); allowed: a path; File name too long",
    ]
