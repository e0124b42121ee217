"""Files that cannot be used as a whole: each message says the fault, what is allowed and what to do."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from kedit_glue.facts import FORMATS, FactsError, load

GOOD = '{"prompt": "p", "target_new": "t"}'
NEEDS = (
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
    "locality_ground_truth, portability_prompt, portability_ground_truth, and rephrase_prompt_2, "
    "rephrase_prompt_3 …"
)
LIST = "Allowed: a list of records. Next: put at least one record into it."


def message(path: Path, **options: object) -> str:
    with pytest.raises(FactsError) as caught:
        load(path, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "", f"an empty file. {LIST}"),
        ("a.json", "\ufeff \n", f"an empty file. {LIST}"),
        ("a.json", "[]", f"an empty list. {LIST}"),
        (
            "a.json",
            '{"data": [' + GOOD + "]}",
            "one JSON object (keys: 'data') where a list of records should be. "
            "Allowed: a JSON list of records, [{…}, {…}]. "
            "Next: save the list itself, not an object around it.",
        ),
        ("a.json", "7", "JSON, but a number (7). Allowed: a JSON list of records. Next: name another file."),
        (
            "a.json",
            "[\n " + GOOD + ",\n {'prompt': 1}]",
            "line 3, column 3: not valid JSON (Expecting property name enclosed in double quotes). "
            "Allowed: one JSON list of records. Next: correct it there.",
        ),
        (
            "a.json",
            "[\n " + GOOD + ",\n " + GOOD[:20],
            "line 3, column 18: not valid JSON (Unterminated string starting at). "
            "Allowed: one JSON list of records. Next: the file seems cut off: fetch or write it again.",
        ),
        (
            "a.json",
            "[" + GOOD + ",\n",
            "line 2, column 1: not valid JSON (Expecting value). "
            "Allowed: one JSON list of records. Next: the file seems cut off: fetch or write it again.",
        ),
        (
            "a.json",
            GOOD + "\n" + GOOD,
            "line 2, column 1: not valid JSON (Extra data). "
            "Allowed: one JSON list of records. Next: it looks like one record a line: name it .jsonl.",
        ),
        (
            "a.json",
            "[" * 100_000,
            "lists or objects nested too deep. Allowed: a list of records. Next: name another file.",
        ),
        (
            "a.jsonl",
            "[" + GOOD + "]",
            "a JSON list. Allowed: in a .jsonl file, one JSON object a line. Next: name it .json.",
        ),
        (
            "a.json",
            '[{"question": "q", "answer": "a"}]',
            f"no known format has these keys: 'question', 'answer'. Allowed: {NEEDS}. "
            "Next: give each record at least prompt and target_new.",
        ),
        (
            "a.json",
            '[{"promt": "q", "target": "a"}]',
            f"no known format has these keys: 'promt', 'target'. Allowed: {NEEDS}. "
            "Next: rename 'promt' to 'prompt', 'target' to 'target_new'.",
        ),
        (
            "a.json",
            "[1, null]",
            "read as records, none of its 2 records can be used: 2 bad records (record 1: a number (1), not "
            "an object with named fields; record 2: null, not an object with named fields). "
            "Allowed: records with a prompt and a new target, both of them text. "
            "Next: correct these, or name the right format.",
        ),
        (
            "a.json",
            '{"K_F": [{"question": "q", "target_new": " "}, 7], "K_R": []}',
            "read as knowedit, none of its 2 records can be used: 1 empty field (K_F 1: target_new holds only white "
            "space); 1 bad record (K_F 2: a number (7), not an object with named fields). "
            "Allowed: records with a prompt and a new target, both of them text. "
            "Next: correct these, or name the right format.",
        ),
        (
            "a.json",
            '{"K_F": {}, "locality": []}',
            "one JSON object (keys: 'K_F', 'locality') where a list of records should be. "
            "Allowed: a JSON list of records, [{…}, {…}]. "
            "Next: save the list itself, not an object around it.",
        ),
        (
            "a.csv",
            "promt,target_new\np,t\n",
            f"line 1: unknown column 'promt' (column 1). Allowed: {COLUMNS}. Next: rename it to prompt.",
        ),
        (
            "a.csv",
            "prompt,target_new,xyzzy\np,t,u\n",
            f"line 1: unknown column 'xyzzy' (column 3). Allowed: {COLUMNS}. "
            "Next: remove it, or give it one of these names.",
        ),
        (
            "a.csv",
            "prompt,subject\np,t\n",
            f"line 1: no column target_new (found: 'prompt', 'subject'). Allowed: {COLUMNS}. "
            "Next: name the columns in the first line; prompt and target_new must be there.",
        ),
        (
            "a.csv",
            "prompt,target_new,prompt\np,t,u\n",
            f"line 1: two columns are named 'prompt'. Allowed: {COLUMNS}. Next: rename one, e.g. rephrase_prompt_2.",
        ),
        (
            "a.csv",
            "prompt,target_new\n",
            "a header and no rows. Allowed: a header and rows. Next: put at least one row under it.",
        ),
        (
            "a.csv",
            'prompt,target_new\np,t\nq,"open\nr,t\n',
            "line 3: not valid CSV (unexpected end of data). Allowed: a header and rows; text that holds a "
            'delimiter, a quote or a line break stands in "…", a quote in it is doubled (""). '
            "Next: correct the quotes in the record that begins there.",
        ),
        (
            "a.txt",
            "prompt,target_new\np,t\n",
            "neither JSON nor a table: it begins with 'prompt,target_new\\np,'. "
            "Allowed: .json, .jsonl, .ndjson, .csv, .tsv. "
            "Next: give the file the extension of what it holds.",
        ),
    ],
)
def test_bad_text(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert message(path) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"[\n\xff]",
            "not UTF-8: byte 0xff (ÿ in Windows-1252) in line 2. Allowed: UTF-8 text. Next: save it as UTF-8.",
        ),
        ("[]".encode("utf-16"), "UTF-16 text. Allowed: UTF-8 text. Next: save it as UTF-8."),
        (
            b"[\n\n{\0}]",
            "a NUL byte in line 3. Allowed: UTF-8 text. Next: remove it, or name a text file.",
        ),
    ],
)
def test_bad_bytes(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    assert message(path) == expected


def test_bad_path(tmp_path: Path) -> None:
    missing = tmp_path / "none.json"
    assert message(missing) == "no such file. Allowed: a file of facts. Next: check the path."
    expected = "a folder. Allowed: one file (.json, .jsonl, .ndjson, .csv, .tsv). Next: name a file in it."
    assert message(tmp_path) == expected


def test_bad_options(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{GOOD}]", encoding="utf-8")
    allowed = "Allowed: auto, knowedit, counterfact, zsre, wikibigedit, qaedit, mquake, rippleedits, records, csv."
    assert message(path, format="zrse") == f"unknown format 'zrse'. {allowed} Next: did you mean 'zsre'?"
    assert message(path, format="?") == f"unknown format '?'. {allowed} Next: name one of these"
    expected = "limit 0. Allowed: a limit of 1 or more, or none. Next: raise it or leave it out."
    assert message(path, limit=0) == expected
    expected = "skip 1. Allowed: a number below the file's 1 sound fact. Next: lower it."
    assert message(path, skip=1) == expected
    table = tmp_path / "a.csv"
    table.write_text("prompt,target_new\np,t\n", encoding="utf-8")
    expected = "a .csv file, to be read as zsre. Allowed: .json or .jsonl for it. Next: use format csv."
    assert message(table, format="zsre") == expected


def test_a_wrong_format_says_what_it_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[{GOOD}]", encoding="utf-8")
    assert message(path, format="zsre").startswith(
        "read as zsre, none of its 1 records can be used: "
        "1 missing field (record 1: no src (found: 'prompt', 'target_new'))."
    )


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.txt", f"[{GOOD}]", "auto"),
        ("a", f"{GOOD}\n{GOOD}", "auto"),
        ("a.txt", "prompt,target_new\np,t\n", "csv"),
        ("a.tsv", "prompt\ttarget_new\np\tt\n", "auto"),
        ("a.jsonl", GOOD, "knowedit"),
    ],
)
def test_other_extensions(tmp_path: Path, name: str, content: str, format: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    assert len(load(path, format).edits) == 1


def test_broken_first_records_do_not_hide_the_format(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    zsre = [{"src": f"q{n}", "alt": "a"} for n in range(3)]
    path.write_text(json.dumps([5, {"src": "q"}, {}, *zsre]), encoding="utf-8")
    facts = load(path)
    assert (facts.format, len(facts.edits), facts.records_read) == ("zsre", 3, 6)


def test_formats() -> None:
    assert FORMATS == (
        "knowedit", "counterfact", "zsre", "wikibigedit", "qaedit", "mquake", "rippleedits", "records", "csv",
    )  # fmt: skip
