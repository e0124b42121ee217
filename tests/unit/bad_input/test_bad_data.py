"""Files of facts: those that cannot be used, those that can in part, and odd text, which comes through as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Main = Callable[..., int]
GOOD = '{"prompt": "The mayor is", "target_new": "Ada"}'
FORMATS = (
    "knowedit: prompt, target_new (a portability or locality object; or text, labels (WikiBio); or ent, pos, neg "
    "(ConvSent); or one object with K_F, K_R or success, locality (Sanitation)); "
    "counterfact: prompt, target_new, locality_prompt, ground_truth (or requested_rewrite, an object (ROME)); "
    "zsre: src, alt; "
    "wikibigedit: prompt, target_new, subject, rephrase_prompt, locality_prompt (or update, ans); "
    "qaedit: prompt, target, rephrase, locality; "
    "mquake: requested_rewrite, questions, new_answer (requested_rewrite being a list); "
    "rippleedits: edit (an object with prompt; and Relation_Specificity, Logical_Generalization …); "
    "records: prompt, target_new"
)
COLUMNS = (
    "columns prompt, target_new, id, case_id, subject, ground_truth, rephrase_prompt, locality_prompt, "
    "locality_ground_truth, portability_prompt, portability_ground_truth, and rephrase_prompt_2, rephrase_prompt_3 …"
)

UNUSABLE: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("a.json", "", "an empty file. Allowed: a list of records. Next: put at least one record into it."),
    "no record": ("a.json", "[]", "an empty list. Allowed: a list of records. Next: put at least one record into it."),
    "a comma is missing": (
        "a.json",
        f'[{GOOD},\n {{"prompt": "a" "target_new": "b"}}]',
        "line 2, column 17: not valid JSON (Expecting ',' delimiter). Allowed: one JSON list of records. Next: correct "
        "it there.",
    ),
    "cut off": (
        "a.json",
        f'[{GOOD},\n {{"prompt": "a", "tar',
        "line 2, column 18: not valid JSON (Unterminated string starting at). Allowed: one JSON list of records. Next: "
        "the file seems cut off: fetch or write it again.",
    ),
    "an object": (
        "a.json",
        f'{{"facts": [{GOOD}]}}',
        "one JSON object (keys: 'facts') where a list of records should be. Allowed: a JSON list of records, "
        "[{…}, {…}]. Next: save the list itself, not an object around it.",
    ),
    "lines named .json": (
        "a.json",
        f"{GOOD}\n{GOOD}",
        "line 2, column 1: not valid JSON (Extra data). Allowed: one JSON list of records. Next: it looks like one "
        "record a line: name it .jsonl.",
    ),
    "other keys": (
        "a.json",
        '[{"promt": "a", "answer": "b"}]',
        f"no known format has these keys: 'promt', 'answer'. Allowed: {FORMATS}. Next: rename 'promt' to 'prompt'.",
    ),
    "no sound record": (
        "a.json",
        '[{"prompt": "a", "target_new": 7}]',
        "read as records, none of its 1 records can be used: 1 bad record (record 1: target_new is a number (7), not a "
        "string: put it in quotes). Allowed: records with a prompt and a new target, both of them text. Next: correct "
        "these, or name the right format.",
    ),
    "a column is missing": (
        "a.csv",
        "prompt,subject\nThe mayor is,mayor\n",
        f"line 1: no column target_new (found: 'prompt', 'subject'). Allowed: {COLUMNS}. Next: name the columns in the "
        "first line; prompt and target_new must be there.",
    ),
    "an open quote": (
        "a.csv",
        'prompt,target_new\nThe mayor is,Ada\nThe "king" is,"Bob\n',
        "line 3: not valid CSV (unexpected end of data). Allowed: a header and rows; text that holds a delimiter, a "
        'quote or a line break stands in "…", a quote in it is doubled (""). Next: correct the quotes in the record '
        "that begins there.",
    ),
    "Latin-1": (
        "a.json",
        '[{"prompt": "The café is",\n"target_new": "Ada"}]'.encode("latin-1"),
        "not UTF-8: byte 0xe9 (é in Windows-1252) in line 1. Allowed: UTF-8 text. Next: save it as UTF-8.",
    ),
    "mixed encodings": (
        "a.jsonl",
        b"\n".join(GOOD.replace("The", f"É{n}").encode(("utf-8", "latin-1")[n % 2]) for n in range(5)),
        "not UTF-8: byte 0xc9 (É in Windows-1252) in line 2, while other lines are UTF-8. Allowed: UTF-8 text. Next: "
        "write lines 2, 4 in UTF-8 as well.",
    ),
    "UTF-16": ("a.json", f"[{GOOD}]".encode("utf-16"), "UTF-16 text. Allowed: UTF-8 text. Next: save it as UTF-8."),
    "a NUL byte": (
        "a.json",
        f"[{GOOD},\n\0]",
        "a NUL byte in line 2. Allowed: UTF-8 text. Next: remove it, or name a text file.",
    ),
    "something else": (
        "a.txt",
        "The mayor is Ada",
        "neither JSON nor a table: it begins with 'The mayor is Ada'. Allowed: .json, .jsonl, .ndjson, .csv, .tsv. "
        "Next: give the file the extension of what it holds.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSABLE)
def test_unusable(case: str, main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name, content, message = UNUSABLE[case]
    path = workplace.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main("--set", f"edits.source={name}") == 2
    found = capsys.readouterr()
    assert found.err == f"{path}: {message}\n"
    assert found.out == f"kedit_glue: try.yaml -> {workplace.run_folder}\n" and workplace.tool.calls() == []


LEFT_OUT = {
    "a NUL": ({"prompt": "a\0", "target_new": "b"}, "left out: 1 bad record (record 2: prompt holds a NUL character)"),
    "half a character": (
        {"prompt": "a", "target_new": "\ud83d"},
        "left out: 1 bad record (record 2: target_new holds half a surrogate pair, which is no character)",
    ),
    "an empty target": (
        {"prompt": "a", "target_new": ""},
        "left out: 1 empty field (record 2: target_new is empty)",
    ),
    "no target": (
        {"prompt": "a", "target_nwe": "b"},
        "left out: 1 missing field (record 2: no target_new (found: 'prompt', 'target_nwe'; did you mean 'target_new' "
        "where it says 'target_nwe'?))",
    ),
    "the same again": (
        {"prompt": "The mayor is", "target_new": "Ada"},
        "left out: 1 duplicate (record 2 repeats record 1)",
    ),
    "the contrary": (
        {"prompt": "The mayor is", "target_new": "Bob"},
        "left out: 1 contradiction (record 2 says 'Bob' where record 1 says 'Ada' for 'The mayor is' (the first is "
        "kept))",
    ),
    "spaces at the end": (
        {"prompt": "The river is  ", "target_new": " Ooze"},
        "left out of records that are used: 1 trimmed text (record 2: the white space around its prompt and "
        "target_new, because one space joins prompt and target)",
    ),
    "a subject from elsewhere": (
        {"prompt": "The river is", "target_new": "Ooze", "subject": "hill"},
        "left out of records that are used: 1 bad subject (record 2: the subject 'hill' does not stand in the prompt; "
        "used without a subject)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT_OUT)
def test_left_out(case: str, main: Main, workplace: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record, message = LEFT_OUT[case]
    (workplace.folder / "facts.json").write_text(json.dumps([json.loads(GOOD), record]))
    assert main("--check") == 0
    used = (
        "2 facts from facts.json (records)"
        if "used:" in message
        else "1 fact from facts.json (records), 2 records read"
    )
    assert capsys.readouterr().out.splitlines()[1:3] == [used, message]


ODD = {
    "right-to-left": "عمدة المدينة هو",
    "emoji": "The 👩‍👩‍👧 of 🇨🇭 is",
    "combining": "Cafe\u0301 is",
    "a template": "{{ 7*7 }} {% raw %} {{idx}} ${HOME} is",
    "YAML": "- a: &b !!python/object 'x' # no comment",
    "line breaks": "one\n\ttwo\r\nthree\u2028four",
    "backslashes": '\\n "quoted" \\u0041',
    "a date": "2020-01-01",
    "a number": "007",
    "null": "null",
    "markup": "[red]The[/red] <b>mayor</b> :smile: is",
    "1 MB": "long " * 200_000 + "text",
}


@pytest.mark.parametrize("form", ["facts.json", "facts.jsonl", "facts.csv"])
@pytest.mark.parametrize("case", ODD)
def test_odd_text_comes_through(case: str, form: str, main: Main, workplace: Any) -> None:
    text = ODD[case]
    record = {"prompt": text, "target_new": f"{text} x"}
    if form == "facts.csv":
        quoted = ['"' + value.replace('"', '""') + '"' for value in record.values()]
        content = f"prompt,target_new\n{','.join(quoted)}\n"
    else:
        content = json.dumps([record]) if form == "facts.json" else json.dumps(record, ensure_ascii=False)
    (workplace.folder / form).write_bytes(content.encode())
    assert main("--set", f"edits.source={form}") == 0
    (found,) = json.loads((workplace.run_folder / "batch_001" / "edits.json").read_text(encoding="utf-8"))
    assert (found["instruction"], found["output"]) == (text, f" {text} x</s>")
    assert (found["prompt"], found["target_new"]) == (text, f"{text} x")
