"""A git checkout of EasyEdit's main in the package's place. ``KEDIT_GLUE_EASYEDIT`` names one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

pytestmark = pytest.mark.integration

TEXT = "the quick brown fox jumps over the lazy dog while the mayor of Alba lies at the river of Bern"
PROMPTS = [" ".join(TEXT.split()[start : start + length]) for start in range(0, 20, 2) for length in (1, 4, 9)]
"""Thirty, of different lengths."""


def asked(model: Path, checkout: str) -> dict[str, Any]:
    """What the checkout's Referee and our Asker say, in a process of their own: one EasyEdit per process."""
    from kedit_glue.tools import asking, easyedit

    loaded = asking.load(str(model), "cpu", False)
    asker = asking.Asker(*loaded, lambda event: None)
    referee = easyedit.Referee(*loaded, lambda event: None, checkout)
    # what the model says by itself, with a word more: answers that are right in part
    texts = asker.generated(PROMPTS, "bare", 3)
    pairs = [(prompt, f"{text.text} fox".strip()) for prompt, text in zip(PROMPTS, texts, strict=True)]
    ours = asker.forced(pairs)
    return {
        "file": referee.evaluate.__file__,
        "theirs": {"accuracies": referee.accuracies(pairs), "tokens": referee.tokens(pairs)},
        "ours": {"accuracies": [one.accuracy for one in ours], "tokens": [list(one.most_likely) for one in ours]},
    }


def test_a_checkouts_answers_are_ours(tiny_model: Path) -> None:
    checkout = os.environ.get("KEDIT_GLUE_EASYEDIT")
    if not checkout:
        pytest.skip("KEDIT_GLUE_EASYEDIT names no git checkout of EasyEdit")
    found = subprocess.run(
        [sys.executable, __file__, str(tiny_model), str(Path(checkout).resolve())],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    said = json.loads(found.stdout.splitlines()[-1])
    assert said["file"] == str(Path(checkout).resolve() / "easyeditor" / "evaluate" / "evaluate.py")
    assert said["theirs"]["tokens"] == said["ours"]["tokens"]
    assert said["theirs"]["accuracies"] == pytest.approx(said["ours"]["accuracies"], rel=0, abs=1e-9)
    assert len(PROMPTS) == len(said["ours"]["accuracies"]) == 30
    assert len(set(said["ours"]["accuracies"])) > 2, "answers that are all wrong tell nothing"


EDITORS = """
methods:
  ft_m: {layers: [1], lr: 0.01}
  emmet: {layers: [0], v_num_grad_steps: 20, clamp_norm_factor: 20.0, moments_ridge: 0.01}
"""


@pytest.mark.parametrize("method", ["ft_m", "emmet"])
def test_a_checkouts_editor_and_ours_change_as_much(
    tmp_path: Path, recipe_text: str, bits: Any, tiny_model: Path, method: str
) -> None:
    checkout = os.environ.get("KEDIT_GLUE_EASYEDIT")
    if not checkout:
        pytest.skip("KEDIT_GLUE_EASYEDIT names no git checkout of EasyEdit")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(recipe_text + EDITORS, encoding="utf-8")
    for name, easyedit in (("ours", "null"), ("theirs", str(Path(checkout).resolve()))):
        sets = [f"method={method}", f"name={name}", f"output={tmp_path}", f"methods.easyedit={easyedit}"]
        sets += ["score.edits.protocols=[teacher_forced]", "edits.batch_size=6"]
        found = subprocess.run(
            [sys.executable, "-m", "kedit_glue.run", str(recipe), *(w for s in sets for w in ("--set", s))],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "KEDIT_GLUE_CACHE": str(tmp_path / "cache")},
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=600,
        )
        assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]
    before, ours, theirs = (bits(at) for at in (tiny_model, tmp_path / "ours" / "model", tmp_path / "theirs" / "model"))
    changed = [name for name in before if theirs[name] != before[name]]
    assert changed == [name for name in before if ours[name] != before[name]] and len(changed) == 1
    first, mine, other = (numpy.frombuffer(model[changed[0]], numpy.float32) for model in (before, ours, theirs))
    if method == "ft_m":
        assert numpy.linalg.norm(mine - other) < 0.02 * numpy.linalg.norm(other - first)
    else:  # each samples contexts of its own, which EMMET's values are searched behind: as much is changed
        assert numpy.linalg.norm(mine - first) == pytest.approx(numpy.linalg.norm(other - first), rel=0.1)


def test_a_folder_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    from kedit_glue.tools import easyedit_compat

    with pytest.raises(ImportError) as error:
        easyedit_compat.evaluation(str(tmp_path))
    assert str(error.value) == (f"{tmp_path} is no checkout of EasyEdit: it holds no easyeditor/evaluate/evaluate.py")


def test_one_easyedit_in_a_process(tmp_path: Path) -> None:
    """The package's functions and a checkout's have the same names: the second is refused, not mixed in."""
    from kedit_glue.tools import easyedit_compat

    assert easyedit_compat.evaluation() is easyedit_compat.evaluation(), "as each stage of the warm server asks"
    package = sys.modules["easyeditor"].__path__[0]
    (tmp_path / "easyeditor" / "evaluate").mkdir(parents=True)
    (tmp_path / "easyeditor" / "evaluate" / "evaluate.py").write_text("", encoding="utf-8")
    with pytest.raises(ImportError) as error:
        easyedit_compat.evaluation(str(tmp_path))
    assert str(error.value) == (
        f"easyeditor was imported from {package} already, {tmp_path / 'easyeditor'} is asked for"
    )
    with pytest.raises(ImportError, match="imported alone here: import its editors in a process of their own"):
        easyedit_compat.editors()


if __name__ == "__main__":
    print(json.dumps(asked(Path(sys.argv[1]), sys.argv[2])))
