"""A result that EasyEdit made alone, its own editor and its own evaluation, is ours on the model that it saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from kedit_glue.metrics import GENERALIZATION, LOCALITY, PORTABILITY, SUCCESS

pytestmark = pytest.mark.integration

PROGRAM = Path(__file__).parents[1] / "outsider.py"
PLACES = "Alba Brunn Corvo Dorn Elm Fiora Gant Holm Ister Jura Kern Lund Morra Nyon Osk Perl Quarn Rhode Sarn Thun"
NAMES = "Ada Moss;Ben Ode;Cy;Dana Rill;Eva;Fay Orr;Gil;Hal Umber;Ida Lane;Jo"
PROBED = ("Neighborhood", "Relation_Specificity")
FACTS = [
    {
        "id": f"f{n}",
        "subject": place,
        "prompt": f"The mayor of {place} is",
        "target_new": name,
        "rephrase_prompt": f"The head of {place} is called",
        "portability": {"Reasoning": [{"prompt": f"The town hall of {place} belongs to", "ground_truth": name}]},
        "locality": {
            "Neighborhood": [
                {"prompt": "The river of Bern is the", "ground_truth": "Aare"},
                {"prompt": f"The lake behind the hills of {place} is called", "ground_truth": "the quick brown fox"},
            ],
            "Relation_Specificity": [{"prompt": f"The town of {place} lies in the", "ground_truth": "north"}],
        },
    }
    for n, (place, name) in enumerate(zip(PLACES.split(), 2 * NAMES.split(";"), strict=True))
]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("outsider_facts") / "facts.json"
    path.write_text(json.dumps(FACTS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def outsider(tiny_model: Path, facts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What EasyEdit left."""
    out = tmp_path_factory.mktemp("outsider")
    words = [str(tiny_model), str(facts), str(out), "--learning-rate", "5e-3", "--steps", "10"]
    found = subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return out


@pytest.fixture
def ours(
    outsider: Path,
    tiny_model: Path,
    facts: Path,
    tmp_path: Path,
    stages_here: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
    """Our ``scores.json`` of the pair."""
    from kedit_glue import score

    monkeypatch.setenv("KEDIT_GLUE_CACHE", str(tmp_path / "cache"))
    words = ["--base", str(tiny_model), "--edited", str(outsider / "model"), "--facts", str(facts)]
    more = ["--protocols", "teacher_forced", "--device", "cpu", "--to", str(tmp_path / "scores")]
    assert score.main([*words, *more]) == 0
    assert stages_here.count("score") == 2
    found: dict[str, Any] = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    return found


def theirs(record: dict[str, Any]) -> dict[str, Any]:
    """EasyEdit's record of one fact under our names, a kind's probes as their mean."""
    found: dict[str, Any] = {SUCCESS: mean(record["rewrite_acc"]), GENERALIZATION: mean(record["rephrase_acc"])}
    for name, aspect in ((PORTABILITY, "portability"), (LOCALITY, "locality")):
        found[name] = {kind.removesuffix("_acc"): mean(values) for kind, values in record[aspect].items()}
    return found


def same(ours: dict[str, Any], expected: dict[str, Any]) -> None:
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=0, abs=1e-9), name


def values(document: dict[str, Any], when: str, name: str) -> list[float]:
    """Each fact's score, several kinds as their mean."""
    numbers = [fact[when][name] for fact in document["facts"]]
    return [mean(one.values()) if isinstance(one, dict) else one for one in numbers]


def test_easyedits_numbers_are_ours(outsider: Path, ours: dict[str, Any]) -> None:
    """Fact by fact, of the original model and of the one after all edits."""
    found = json.loads((outsider / "easyedit.json").read_text(encoding="utf-8"))
    assert [fact["id"] for fact in ours["facts"]] == [fact["id"] for fact in FACTS]
    for fact, before, after in zip(ours["facts"], found["before"], found["after"], strict=True):
        same(fact["after"], theirs(after))
        del before["locality"]  # tokens, which agree with themselves
        same(fact["before"], theirs({**before, "locality": {}}) | {LOCALITY: dict.fromkeys(PROBED, 1.0)})
    last = found["editor"][-1]["post"]
    same(ours["facts"][-1]["after"], theirs(last))  # the editor's own word, right after the last edit

    assert ours["base"]["weights"] != ours["edited"]["weights"]
    change = {name: values(ours, "after", name) for name in (SUCCESS, GENERALIZATION, PORTABILITY, LOCALITY)}
    assert mean(change[SUCCESS]) > mean(values(ours, "before", SUCCESS)) + 0.1
    for name, numbers in change.items():
        assert len(set(numbers)) > 2, f"{name}: facts that all score the same tell nothing"
