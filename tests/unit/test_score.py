"""``kedit_glue.score`` and ``kedit_glue.ask`` before any model is loaded: arguments, names, keys, messages."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import ask, score
from kedit_glue.pair import Asked, answers_key, has_chat_template, protocol, question_job
from kedit_glue.referee import differences, said

FACT = {
    "id": "a",
    "prompt": "The mayor is",
    "target_new": "Ada",
    "rephrase_prompts": ["Mayor:"],
    "portability": {},
    "locality": {"Neighborhood": [{"prompt": "The river is", "answers": ["Aare"]}]},
}
ASKED = Asked("base", "edited", Path("facts.json"))


def folder(path: Path, weights: str = "w", **files: str) -> Path:
    path.mkdir(parents=True)
    for name, text in {"config.json": "{}", "model.safetensors": weights, **files}.items():
        (path / name).write_text(text)
    return path


# -- the command line ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("runs/x/model", "x"),
        ("/data/llama-rome/", "llama-rome"),
        ("owner/name", "name"),
        ("smollm2-135m", "smollm2-135m"),
        ("model", "model"),
        ("..", "model"),
        ("a folder with blanks", "edited"),
    ],
)
def test_a_result_is_called_after_the_edited_model(model: str, name: str) -> None:
    assert score.name_of(model) == name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--include-path", "nowhere"], "--include-path: there is no folder nowhere\n"),
        (["--easyedit", "nowhere"], "--easyedit: there is no folder nowhere\n"),
        (
            ["--judge-endpoint", "http://localhost:1/v1"],
            "--judge-endpoint without --judge: name the model that judges\n",
        ),
        (["--judge", "no/folder"], "no/folder is no model folder here: name one, or score.edits.judge.endpoint\n"),
    ],
)
def test_what_cannot_be_asked_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert score.main(["--base", str(tmp_path), "--edited", str(tmp_path), "--facts", "f.json", *words]) == 2
    assert capsys.readouterr().err == message
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_nowhere_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score.main(["--base", "no/such/model", "--edited", str(tmp_path), "--facts", "f.json"]) == 2
    assert "model 'no/such/model' is neither a packaged model" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["0", "-1", "many"])
def test_numbers_are_whole(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number from 1"):
        score.whole(word)


# -- what is asked, and under which key it is kept ----------------------------------------------


def test_everything_is_asked_by_default() -> None:
    job = question_job(ASKED, [FACT], "chat", Path("facts.json"), "cpu")
    assert job["metrics"] == ["edit_success", "generalization", "portability", "locality"]
    assert job["protocols"] == ["teacher_forced", "likelihood", "generated"]
    assert job["generate"] == {"template": "chat", "most_tokens": 64, "ids": ["a"]}
    assert job["judge"] is None and job["fluency_ids"] == []
    assert protocol(ASKED, "chat", 1, 1) == {
        "teacher_forced": {"scorer": "batched"},
        "likelihood": {},
        "generated": {"template": "chat", "most_tokens": 64, "facts": 1},
    }


def test_answers_are_kept_by_what_they_depend_on(tmp_path: Path) -> None:
    job = question_job(ASKED, [FACT], "bare", Path("facts.json"), "cpu")
    one = answers_key(folder(tmp_path / "one"), "score", job, [FACT])
    assert one == answers_key(folder(tmp_path / "copy", **{"README.md": "a card"}), "score", job, [FACT])
    others = [
        answers_key(folder(tmp_path / "other", "v"), "score", job, [FACT]),
        answers_key(folder(tmp_path / "tokens", **{"tokenizer.json": "{}"}), "score", job, [FACT]),
        answers_key(tmp_path / "one", "score", job, [{**FACT, "prompt": "The mayor was"}]),
        answers_key(tmp_path / "one", "score", {**job, "seed": 1}, [FACT]),
        answers_key(tmp_path / "one", "general", job, [FACT]),
    ]
    assert len({one, *others}) == 6


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ({}, False),
        ({"tokenizer_config.json": "{}"}, False),
        ({"tokenizer_config.json": '{"chat_template": "x"}'}, True),
        ({"chat_template.jinja": "x"}, True),
    ],
)
def test_a_chat_template_is_seen(tmp_path: Path, files: dict[str, str], there: bool) -> None:
    assert has_chat_template(folder(tmp_path / "m", **files)) == there


# -- the referee --------------------------------------------------------------------------------


def raw(success: float, tokens: list[int]) -> dict[str, Any]:
    forced = {"edit_success": success, "generalization": [1.0], "locality": {"Neighborhood": [tokens]}}
    return {"facts": [{"id": "a", "teacher_forced": forced}]}


def test_the_referee_names_what_differs() -> None:
    ours, theirs = [raw(0.5, [1, 2]), raw(1.0, [1, 2])], [raw(0.5, [1, 2]), raw(0.5, [1, 3])]
    items = differences([FACT], ours, theirs)
    assert len(items) == 6 and [item.same for item in items] == [True, True, True, False, True, False]
    assert said(items) == [
        "referee: EasyEdit's own code gives the same for 4 of 6 prompts",
        "  edited, a, edit_success, 'The mayor is': ours 1.0, EasyEdit's 0.5",
        "  edited, a, locality, 'The river is': ours [1, 2], EasyEdit's [1, 3]",
    ]
    assert said(differences([FACT], ours, ours)) == ["referee: EasyEdit's own code gives the same for 6 of 6 prompts"]


# -- ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which models? Give a run's folder first, or --base and --edited\n"),
        (["--base", "x"], "--base and --edited go together\n"),
        (["nowhere", "Who?"], "there is no folder nowhere: give a run's or a score's folder, or --base and --edited\n"),
        (
            ["--base", "owner/name", "--edited", "owner/name", "Who?"],
            "owner/name is not on this machine as a folder: score or run it once, or give its folder\n",
        ),
    ],
)
def test_ask_says_what_it_lacks(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask.main(words) == 2
    assert capsys.readouterr().err == message


def test_a_score_folder_knows_its_models(tmp_path: Path) -> None:
    base, edited = folder(tmp_path / "base"), folder(tmp_path / "edited")
    document = {
        "schema": 2,
        "kind": "pair",
        "name": "x",
        "base": {"model": str(base), "weights": None},
        "edited": {"model": str(edited), "weights": None},
        "protocol": {"generated": {"template": "chat", "most_tokens": 9, "facts": 1}},
        "metrics": {},
        "before": {"edits": {}, "general": None},
        "after": {"edits": {}, "general": None, "general_change": {}},
        "batches": [],
        "facts": [],
        "answers": [],
        "seconds": {},
    }
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "scores.json").write_text(json.dumps(document))
    options = ask.parser().parse_args([str(tmp_path / "scores"), "Who?", "What?"])
    assert ask.which(options) == (base, edited, "chat", ["Who?", "What?"])
