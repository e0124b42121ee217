"""Scoring any two models by the command, and asking them: the README's way, on the two-layer model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kedit_glue import ask, compare, result, score

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def edited(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, its feed-forward networks disturbed, as somebody else's edit would leave it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("elsewhere") / "rome-edited"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp" in name:
                parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TASK = """task: tiny_text
dataset_path: json
dataset_kwargs: {data_files: {test: text.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]
"""


def test_two_models_are_scored_and_known_from_then_on(
    tiny_model: Path,
    edited: Path,
    facts_file: Path,
    place: Path,
    stages_here: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / "tasks").mkdir()
    (place / "tasks" / "tiny_text.yaml").write_text(TASK)
    lines = [json.dumps({"text": f"the quick brown fox {n}"}) for n in range(4)]
    (place / "tasks" / "text.jsonl").write_text("\n".join(lines))
    words = ["--base", str(tiny_model), "--edited", str(edited), "--facts", str(facts_file), "--most-tokens", "6"]
    more = [
        "--referee",
        "easyedit",
        "--general",
        "tiny_text",
        "--include-path",
        "tasks",
        "--fluency",
        "2",
        "--perplexity",
    ]
    assert score.main([*words, *more]) == 0
    said = capsys.readouterr().out
    assert "referee: EasyEdit's own code gives the same for 60 of 60 prompts" in said
    assert stages_here.count("score") == 4 and stages_here.count("general") == 2
    found = result.load(place / "scores" / "rome-edited")
    assert found.kind == "pair" and found.facts_source is not None and found.facts_source.facts == 5
    assert found.base.weights != found.edited.weights
    after = {name: summary.mean for name, summary in found.after.edits.items()}
    assert {name.split(".")[1] for name in after} == {"teacher_forced", "generated", "sampled"}, "no truth is known"
    assert 0 <= after["locality.teacher_forced.token_agreement"] < 1, "the edit changed something"
    assert found.before.edits["edit_success.teacher_forced.perplexity"].mean > 1
    assert set(found.after.general_change) == {"tiny_text"}

    assert score.main([*words, "--to", "again", "--general", "tiny_text", "--include-path", "tasks"]) == 0
    said = capsys.readouterr().out
    assert "base: general ability: known from before" in said and "edited model: general ability: known" in said
    assert stages_here.count("score") == 6, "another question than with fluency and perplexity"
    assert score.main([*words, "--to", "third"]) == 0
    said = capsys.readouterr().out
    assert said.count("known from before") == 2 and stages_here.count("score") == 6
    first, third = (json.loads((place / name / "scores.json").read_text()) for name in ("again", "third"))
    assert first["facts"] == third["facts"]

    assert compare.main(["again", "third"]) == 0
    assert "again" in capsys.readouterr().out


def test_facts_at_the_beginning_are_passed_over(
    tiny_model: Path, edited: Path, facts_file: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--base", str(tiny_model), "--edited", str(edited), "--facts", str(facts_file)]
    words += ["--protocols", "teacher_forced"]
    assert score.main([*words, "--to", "all"]) == 0
    assert score.main([*words, "--to", "one", "--skip", "3", "--limit", "1"]) == 0
    every, one = (json.loads((place / name / "scores.json").read_text())["facts"] for name in ("all", "one"))
    assert len(every) == 5 and one == [every[3]]
    capsys.readouterr()
    assert score.main([*words, "--skip", "5"]) == 2
    assert "skip 5" in (said := capsys.readouterr().err) and "a number below the file's 5 sound facts" in said


def test_damaged_answers_are_asked_for_again(
    tiny_model: Path, edited: Path, facts_file: Path, place: Path, stages_here: list[str]
) -> None:
    words = ["--base", str(tiny_model), "--edited", str(edited), "--facts", str(facts_file)]
    words += ["--protocols", "teacher_forced"]
    assert score.main(words) == 0
    [kept, *_] = sorted((place / "cache" / "answers").iterdir())
    kept.write_text(kept.read_text().replace("0", "1", 1))
    assert score.main(words) == 0
    assert stages_here.count("score") == 3


def test_both_models_answer_side_by_side(
    tiny_model: Path, edited: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--base", str(tiny_model), "--edited", str(edited), "--most-tokens", "4"]
    assert ask.main([*words, "The mayor of Alba is"]) == 0
    said = capsys.readouterr().out
    assert "The mayor of Alba is" in said and "original" in said and "edited" in said
    typed = iter(["The river of Bern is the", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert ask.main(words) == 0
    assert "The river of Bern is the" in capsys.readouterr().out
