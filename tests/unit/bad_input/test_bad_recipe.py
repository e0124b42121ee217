"""Recipes that cannot be used, names included: ``{work}`` stands for the current folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kedit_glue.recipe_errors import fields
from kedit_glue.recipe_schema import LAYERS, NAMES, Recipe, Train

BASE = """\
name: try
model: model
edits:
  source: facts.json
  batch_size: 2
device: cpu
runner: command
"""
"""The cases below take the place of one of these lines, or are added as line 8."""


def instead(old: str, new: str) -> str:
    assert BASE.count(old) == 1
    return BASE.replace(old, new)


TOP, TRAIN = (", ".join(fields(section)) for section in (Recipe, Train))
EPOCHS = "allowed: a whole number from 1 to 1000"
RATE = "allowed: a number above 0 up to 1"
MODEL = "allowed: a packaged model (smollm2-135m), an existing folder, or a hub id owner/name"
PLAIN = "plain YAML: mappings, lists, text, numbers, true/false, null"
RECORDS = "a recipe is copied into records"
TEN = "[x, x, x, x, x, x, x, x, x, x]"
BOMB = "".join(f"{b}: &{b} {TEN.replace('x', f'*{a}')}\n" for a, b in zip("abcd", "bcde", strict=True))

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "unknown key": (
        BASE + "trian: {epochs: 3}\n",
        f":8:1  trian: unknown key; known here: {TOP}; did you mean 'train'?",
    ),
    "key of a section": (
        BASE + "epochs: 3\n",
        f":8:1  epochs: unknown key; known here: {TOP}; did you mean 'train.epochs'?",
    ),
    "unknown key in a section": (
        BASE + "train:\n  epcohs: 3\n",
        f":9:3  train.epcohs: unknown key; known here: {TRAIN}; did you mean 'epochs'?",
    ),
    "text for a number": (BASE + "train: {epochs: three}\n", f":8:17  train.epochs: three (text); {EPOCHS}"),
    "a number in quotes": (
        BASE + "train: {epochs: '3'}\n",
        f":8:17  train.epochs: '3' (text); {EPOCHS}; write it without quotes",
    ),
    "half a number": (BASE + "train: {epochs: 2.5}\n", f":8:17  train.epochs: 2.5 (number); {EPOCHS}"),
    "a number for a switch": (
        BASE + "train: {shuffle: 1}\n",
        ":8:18  train.shuffle: 1 (whole number); allowed: true or false",
    ),
    "a list for a section": (BASE + "train: [1]\n", f":8:8  train: [1] (list); allowed: a mapping of keys: {TRAIN}"),
    "not a number": (BASE + "train: {learning_rate: .nan}\n", f":8:24  train.learning_rate: .nan (number); {RATE}"),
    "out of range": (BASE + "train: {learning_rate: 3}\n", f":8:24  train.learning_rate: 3 (whole number); {RATE}"),
    "a key without a value": (instead("name: try", "name:"), f":1:6  name: nothing (no value given); allowed: {NAMES}"),
    "no is false": (
        instead("name: try", "name: no"),
        f":1:7  name: no (true/false); allowed: {NAMES}; if it is text, put it in quotes: \"no\"",
    ),
    "a number in base 8": (
        BASE + "seed: 010\n",
        ":8:7  seed: 010 (a number in base 8 or 60); allowed: a decimal number; write it without leading zeros, or in "
        "quotes if it is text",
    ),
    "layers the wrong way round": (
        BASE + "train: {layers: 8-4}\n",
        f":8:17  train.layers: 8-4 (text); allowed: {LAYERS}; did you mean '4-8'?",
    ),
    "layers the model lacks": (
        BASE + "train: {layers: 1-8}\n",
        ":8:17  train.layers: 1-8 (text); allowed: layers 0 to 1; layer 8 asked for, the model has layers 0 to 1",
    ),
    "a tab as indentation": (
        BASE + "train:\n\tepochs: 3\n",
        ":9:1  a tab in the indentation; allowed: spaces; indent with spaces",
    ),
    "a tab between words": (
        BASE + "train:\n  epochs:\t3\n",
        ":9:10  a tab between words; allowed: spaces; replace the tab by a space",
    ),
    "uneven indentation": (
        BASE + "train:\n  epochs: 3\n mini_batch: 1\n",
        ":10:2  the indentation fits no line above; allowed: the same indentation for all keys of a section",
    ),
    "a key twice": (
        BASE + "name: again\n",
        ":8:1  name: the key is there twice (first in line 1); allowed: each key once",
    ),
    "an alias of nothing": (
        BASE + "train: *defaults\n",
        ":8:8  alias *defaults has no anchor &defaults above it; write &defaults before the value it repeats, or put "
        "text in quotes",
    ),
    "an alias misspelt": (
        instead("device: cpu", "device: &where cpu") + "runner2: *wehre\n",
        ":8:10  alias *wehre has no anchor &wehre above it; allowed: *where; did you mean 'where'?",
    ),
    "an anchor twice": (
        instead("device: cpu", "device: &a cpu") + "output: &a runs\n",
        ":8:9  the anchor &a is there twice (first in line 6); allowed: each anchor name once",
    ),
    "an alias in its own anchor": (
        BASE + "train: &t {extra: *t}\n",
        ":8:8  train.extra: an alias inside its own anchor; allowed: a value that ends; name an anchor of another "
        "value",
    ),
    "a merge of no mapping": (
        BASE + "train:\n  <<: 3\n",
        ":9:3  train.<<: a merge key that names no mapping; allowed: <<: *anchor, of a mapping, or a list of such",
    ),
    "a billion laughs": (
        f"{BASE}a: &a {TEN}\n{BOMB}",
        "  more than 20,000 values once its aliases are expanded; allowed: at most 20,000 values",
    ),
    "an empty file": ("", "  the file is empty or holds comments only; allowed: a mapping of keys to values"),
    "a list": (
        "- name: try\n",
        ":1:1  the top level is a list; allowed: a mapping of keys to values, such as 'name: my-run'",
    ),
    "two documents": (
        BASE + "---\nname: b\n",
        ":8:1  a second document begins here ('---'); allowed: one document per file",
    ),
    "binary": (b"\x89PNG\r\n\x1a\n\x00\x00", ":3:1  a NUL byte: the file is binary; allowed: UTF-8 text"),
    "Latin-1": (
        BASE.encode() + b"output: caf\xe9\n",
        ":8:12  byte 0xe9 is not UTF-8; allowed: UTF-8 text; save it as UTF-8",
    ),
    "UTF-16": (BASE.encode("utf-16"), "  the file is UTF-16; allowed: UTF-8 text; save it as UTF-8"),
    "a control character": (
        BASE + "output: a\x07b\n",
        ":8:10  control character U+0007; allowed: printable text",
    ),
    "text with a colon": (
        instead("name: try", "name: try: again"),
        ":1:10  a ':' that cannot stand here; allowed: one 'key: value' per line; put text that holds ': ' in quotes, "
        "or check the indentation and the line above",
    ),
    "a brace left open": (
        BASE + "train: {epochs: 3\n",
        ":8:8  '{' is not closed; allowed: {key: value, other: value}",
    ),
    "a Python object": (
        BASE + "train: !!python/object/apply:os.system [ls]\n",
        f":8:8  train: a Python object: !!python/object/apply:os.system; allowed: {PLAIN}; remove "
        "!!python/object/apply:os.system",
    ),
    "a name above": (
        instead("name: try", "name: ../x"),
        f":1:7  name: ../x (text); allowed: {NAMES}; the folder that run folders are made in is set with 'output'",
    ),
    "an absolute name": (
        instead("name: try", "name: /tmp/x"),
        f":1:7  name: /tmp/x (text); allowed: {NAMES}; the folder that run folders are made in is set with 'output'",
    ),
    "a name of 300 characters": (
        instead("name: try", f"name: {300 * 'x'}"),
        f":1:7  name: {57 * 'x'}... (text); allowed: {NAMES}; it has 300 characters",
    ),
    "a name with a line break": (
        instead("name: try", 'name: "a\\nb"'),
        f':1:7  name: "a\\nb" (text); allowed: {NAMES}',
    ),
    "a path of 300 characters": (
        instead("facts.json", 300 * "f"),
        f":4:11  edits.source: {57 * 'f'}... (text); allowed: a path; File name too long",
    ),
    "no such facts": (
        instead("facts.json", "fcats.json"),
        ":4:11  edits.source: fcats.json (text): no such file; allowed: a file that exists; looked for "
        "{work}/fcats.json",
    ),
    "facts with a NUL in their name": (
        instead("facts.json", '"a\\0b"'),
        ':4:11  edits.source: "a\\0b" (text): no such file; allowed: a file that exists; looked for {work}/a\\x00b',
    ),
    "a folder for facts": (
        instead("facts.json", "model"),
        ":4:11  edits.source: model (text) is a folder; allowed: a file",
    ),
    "no such model": (
        instead("model: model", "model: modell"),
        f":2:8  model: modell (text); {MODEL}; looked for {{work}}/modell",
    ),
    "a file for a model": (
        instead("model: model", "model: facts.json"),
        f":2:8  model: facts.json (text) is a file; {MODEL}; looked for {{work}}/facts.json",
    ),
    "a model by its URL": (
        instead("model: model", "model: https://hub.example/a/b"),
        f":2:8  model: https://hub.example/a/b (text); {MODEL}; write a hub's model as owner/name",
    ),
    "a URL with a password": (
        instead("model: model", "model: https://me:secret@hub.example/a/b"),
        f":2:8  model: a URL with a login in it; allowed: a URL without; {RECORDS}",
    ),
    "a secret": (
        BASE + "train: {extra: {hf_hub_token: hf_x}}\n",
        ":8:17  train.extra.hf_hub_token: a secret must not be set here; set HF_TOKEN in the environment: " + RECORDS,
    ),
    "a key of the recipe under extra": (
        BASE + "train: {extra: {seed: 3}}\n",
        ":8:17  train.extra.seed: the recipe sets this key itself; set it with 'seed'",
    ),
    "a merge method misspelt": (
        BASE + "merge: {method: tise}\n",
        ":8:17  merge.method: tise: mergekit has no such method; allowed: task_arithmetic, ties; did you mean 'ties'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_recipe(case: str, main: Callable[..., int], workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    content, message = RECIPES[case]
    workplace.recipe.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main() == 2
    found = capsys.readouterr()
    expected = message.replace("{work}", str(workplace.folder))
    assert found.err == f"1 problem in try.yaml; nothing was started\ntry.yaml{expected}\n"
    assert found.out == "" and workplace.tool.calls() == []


def test_every_problem_is_said_at_once(
    main: Callable[..., int], workplace: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workplace.recipe.write_text(instead("name: try", "name: .x") + "trian: 1\ntrain: {epochs: no}\n")
    assert main("--set", "device=gpu0") == 2
    assert capsys.readouterr().err.splitlines() == [
        "4 problems in try.yaml; nothing was started",
        f"try.yaml:1:7  name: .x (text); allowed: {NAMES}",
        f"try.yaml:8:1  trian: unknown key; known here: {TOP}; did you mean 'train'?",
        f"try.yaml:9:17  train.epochs: no (true/false); {EPOCHS}",
        "--set device  device: gpu0 (text); allowed: one of auto, cpu, cuda",
    ]
