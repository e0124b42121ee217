"""A page's text: nothing of a user's becomes markup; what is written where; facts; the command."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kedit_glue import page, report, report_notes, result, results
from kedit_glue.page import __main__ as command
from kedit_glue.page import facts, latex, of_batches, of_run
from kedit_glue.page.content import Table
from kedit_glue.page.figure import Figure
from kedit_glue.page.html import hash_of, json_block
from kedit_glue.page.write import page_of
from kedit_glue.problems import CannotStart
from kedit_glue.study_report import About, Result, table

Scored = Callable[..., dict[str, Any]]
NASTY = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;{{ 7*7 }}\u2028"


class Elements(HTMLParser):
    """The elements of a page with their attributes; what stands in its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] == "script" and self.cdata_elem == "script":
            self.scripts[-1] += data
        else:
            self.words.append(data)


@pytest.fixture
def run(tmp_path: Path, scored: Scored) -> Callable[..., Path]:
    """``run(document)``: a run's folder with that ``scores.json``."""

    def make(document: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "scores.json").write_text(json.dumps(document or scored()), encoding="utf-8")
        return folder

    return make


def test_a_page_names_its_scripts_and_forbids_every_request(run: Callable[..., Path]) -> None:
    file = page.write_run(run())
    assert file.name == "report.html"
    made = Elements(file.read_text(encoding="utf-8"))
    data, plotly, own = made.scripts
    policy = next(a["content"] or "" for tag, a in made.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src ")
    assert hash_of(plotly) in policy and hash_of(own) in policy and "unsafe-eval" not in policy
    assert not [a for _, a in made.found if "src" in a or (a.get("href") or "#")[0] != "#"]
    assert json.loads(data)["name"] == "made_up"


def test_texts_of_users_stay_texts(run: Callable[..., Path], scored: Scored) -> None:
    document = scored()
    document["name"] = document["base"]["model"] = document["facts_source"]["name"] = NASTY
    document["after"]["general_change"][NASTY] = document["after"]["general_change"].pop("choices")
    for fact in document["facts"]:
        fact["prompt"] = fact["target_new"] = NASTY
    document["answers"][0] |= {"before": NASTY, "after": NASTY}
    folder = run(document)
    (folder / "recipe.yaml").write_text(f"name: {NASTY}\n", encoding="utf-8")
    text = page.write_run(folder).read_text(encoding="utf-8")
    made = Elements(text)
    assert "<img" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S), "plotly's own code speaks of images"
    assert len(made.scripts) == 3 and not [tag for tag, _ in made.found if tag in ("img", "b")]
    assert json.loads(made.scripts[0])["facts"][0]["prompt"] == NASTY
    assert NASTY.replace("\u2028", "") in " ".join(made.words).replace("\u2028", "")


def test_json_in_a_page_ends_no_element() -> None:
    assert json_block({"a": "</script><!--&\u2028\u2029"}) == (
        '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028\\u2029"}'
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_block({"a": float("nan")})


def test_a_long_run_has_a_page_of_bearable_length(run: Callable[..., Path], scored: Scored) -> None:
    words = " ".join(Elements(page.write_run(run(scored(success=[1.0] * 600))).read_text(encoding="utf-8")).words)
    assert "The first 200 of 900 rows; the CSV has them all." in words, "three aspects after each of 300 batches"
    assert len(words) < 60_000


# -- facts --------------------------------------------------------------------------------------


def test_failures_come_first_the_worst_before_the_others(scored: Scored) -> None:
    rows = facts.rows(scored(success=[1.0, 0.5, 1.0, 0.0]))
    assert [(row["id"], row["failed"]) for row in rows] == [("f3", True), ("f1", True), ("f0", False), ("f2", False)]
    assert rows[2] | {"probes": []} == {
        "id": "f0", "batch": 1, "prompt": "The mayor of town 0 is", "wanted": "Ada 0", "before": "Bo", "after": "Ada 0",
        "scores": [1.0, 0.5, None, 0.75], "failed": False, "probes": [],
    }  # fmt: skip
    assert rows[0]["before"] is None, "not among the answers that scores.json has"


def test_a_wrong_generated_answer_is_a_failure_too(scored: Scored) -> None:
    document = scored()
    document["facts"][0]["after"][facts.EXACT] = 0.0
    assert facts.failed(document["facts"][0])


def test_all_generated_answers_of_a_runs_folder_are_shown(tmp_path: Path) -> None:
    fact = {
        "id": "f0", "prompt": "p", "target_new": "Ada", "rephrase_prompts": ["r"], "portability": {},
        "locality": {"Near_By": [{"prompt": "l", "answers": ["Aare"]}]},
    }  # fmt: skip

    def said(own: str, other: str, near: str) -> dict[str, Any]:
        texts = {"edit_success": {"text": own}, "generalization": [{"text": other}]}
        return {"facts": [{"id": "f0", "generated": {**texts, "locality": {"Near_By": [{"text": near}]}}}]}

    for folder, answers in (("base", said("Bo", "Bo", "Rhine")), ("batch_002", said("ada.", "Cy", "the Rhine"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    (tmp_path / "facts.json").write_text(json.dumps([fact, {**fact, "id": "f1"}]), encoding="utf-8")
    source = results.source("towns.json", [fact, {**fact, "id": "f1"}])
    result = {"batches": [{}, {}], "facts_source": source}
    found = facts.answered(tmp_path, result)
    assert [(p["aspect"], p["kind"], p["before"], p["after"], p["right"]) for p in found["f0"]] == [
        ("edit_success", "", "Bo", "ada.", True),
        ("generalization", "", "Bo", "Cy", False),
        ("locality", "Near By", "Rhine", "the Rhine", True),
    ]  # fmt: skip
    assert found.keys() == {"f0"} and facts.answered(tmp_path, {**result, "batches": [{}] * 3}) == {}
    assert facts.answered(tmp_path, {**result, "facts_source": {**source, "hash": "of other facts"}}) == {}
    assert facts.answered(tmp_path, {**result, "facts_source": None}) == {}
    (tmp_path / "facts.json").write_text("[", encoding="utf-8")
    with pytest.raises(CannotStart, match=r"facts\.json is damaged, or no JSON"):
        facts.answered(tmp_path, result)


def test_answers_of_edits_each_alone_are_shown_of_every_stage(tmp_path: Path) -> None:
    asked = [
        {"id": f"f{n}", "prompt": "p", "target_new": "Ada", "rephrase_prompts": [], "portability": {}, "locality": {}}
        for n in range(21)
    ]

    def write(folder: str, facts_of: list[dict[str, Any]], text: str) -> None:
        told = [{"id": one["id"], "generated": {"edit_success": {"text": text}}} for one in facts_of]
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "answers.json").write_text(json.dumps({"facts": told, "answers": {}}), encoding="utf-8")

    write("base", asked, "Bo")
    write("batch_001-020", asked[:20], "Ada")
    (tmp_path / "facts.json").write_text(json.dumps(asked), encoding="utf-8")
    result = {
        "mode": "independent", "batches": [{}] * 21, "facts_source": results.source("towns.json", asked),
    }  # fmt: skip
    assert facts.answered(tmp_path, result) == {}, "a stage's answers are gone"
    write("batch_021", asked[20:], "Cy")
    found = facts.answered(tmp_path, result)
    assert [found[i][0]["after"] for i in ("f0", "f19", "f20")] == ["Ada", "Ada", "Cy"] and len(found) == 21


def test_a_study_lists_a_fact_once_with_every_cell(scored: Scored) -> None:
    cells = [("a", scored(success=[1.0, 0.5])), ("b", scored(success=[0.0, 0.5]))]
    rows = facts.across(cells)
    assert [(row["id"], row["cells"], row["missed"], row["failed"]) for row in rows] == [
        ("f1", [[0.5, True], [0.5, True]], 2, True), ("f0", [[1.0, False], [0.0, True]], 1, True),
    ]  # fmt: skip
    assert rows[1]["answers"] == [[0, "Ada 0"], [1, "Ada 0"]] and rows[1]["before"] == "Bo"


def test_a_study_shows_the_answers_that_its_cells_folders_have(study: Path) -> None:
    """``scores.json`` has those of a few facts alone."""
    asked = [
        {"id": f"f{n}", "prompt": f"The mayor of town {n} is", "target_new": f"Ada {n}", "rephrase_prompts": [],
         "portability": {}, "locality": {}}
        for n in range(4)
    ]  # fmt: skip
    cell = study / "layers-6"
    for folder, text in (("base", "Cy"), ("batch_002", "Ada")):
        (cell / folder).mkdir()
        told = [{"id": one["id"], "generated": {"edit_success": {"text": text}}} for one in asked]
        (cell / folder / "answers.json").write_text(json.dumps({"facts": told}), encoding="utf-8")
    (cell / "facts.json").write_text(json.dumps(asked), encoding="utf-8")
    document = json.loads((cell / "scores.json").read_text(encoding="utf-8"))
    document["facts_source"] = results.source("towns.json", asked)
    (cell / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    found, _ = page_of(study)
    assert {row["id"]: (row["before"], row["answers"]) for row in found.facts} == {
        "f0": ("Cy", [[0, "Ada 0"], [1, "Ada"]]), **{f"f{n}": ("Cy", [[1, "Ada"]]) for n in (1, 2, 3)},
    }  # fmt: skip


# -- what is written ----------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path, scored: Scored) -> Path:
    """A study's folder: two cells with results, one that failed."""
    folder = tmp_path / "grid"
    results = []
    for number, layer in enumerate(([2], [6])):
        name = f"layers-{layer[0]}"
        document = scored(name, success=[1.0, 1.0, 1.0, 1.0 - number / 2])
        (folder / name).mkdir(parents=True)
        (folder / name / "scores.json").write_text(json.dumps(document), encoding="utf-8")
        results.append(Result(name, {"train.layers": layer}, document, at={"train.layers": layer}))
    results.append(Result("layers-8", {"train.layers": [8]}, None, "batch 1 of 2: train: exit code 3"))
    about = About("grid", "r.yaml", "layers-2", {"edits.limit": 4}, ("train.layers",))
    (folder / "study.json").write_text(json.dumps(table(about, results)), encoding="utf-8")
    assert page.write_study(folder, about, results) == folder / "report.html"
    return folder


def test_a_studys_page_is_the_same_from_its_folder(study: Path) -> None:
    written = (study / "report.html").read_text(encoding="utf-8")
    found, place = page_of(study)
    assert place == study / "report.html"
    assert command.main([str(study)]) == 0
    assert (study / "report.html").read_text(encoding="utf-8") == written
    assert found.verdict["answer"] == "1 of 3 may ship"
    assert "batch 1 of 2: train: exit code 3" in written and "curve_train_layers" in written


def test_how_a_study_was_started_stands_on_its_page(study: Path) -> None:
    def shown() -> str:
        found, _ = page_of(study)
        section = next(section for section in found.sections if section.id == "reproduce")
        return f"{section.intro.partition('. ')[0]}: {dict(section.texts)['Command']}"

    unknown = "FILE is the study's file, whose place was not recorded"
    assert shown() == f"{unknown}: uv run python -m kedit_glue.study FILE"
    values = ["keep=all", "edits.limit=4", "train.layers=[2]", "seed=1", "name=layers-2", "output=runs/grid"]
    (study / "layers-2" / "setup").mkdir()
    (study / "layers-2" / "setup" / "place.json").write_text(json.dumps({"set": values}), encoding="utf-8")
    assert shown() == f"{unknown}: uv run python -m kedit_glue.study FILE --set seed=1"
    place = {"study": "/home/ann/a b.yaml", "set": ["edits.limit=5"], "cwd": "/home/ann"}
    table = json.loads((study / "study.json").read_text(encoding="utf-8"))
    (study / "study.json").write_text(json.dumps({**table, "place": place}), encoding="utf-8")
    assert shown() == (
        "Run it again: what is done stands: uv run python -m kedit_glue.study 'a b.yaml' --set edits.limit=5"
    )


def test_figures_for_papers_and_tables_as_latex(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(study), "--to", str(tmp_path / "x.html"), "--figures", str(tmp_path / "out")]) == 0
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"curve_train_layers.pdf", "curve_train_layers.png", "curve_train_layers.csv", "cells_1.tex"} <= made
    assert f"figures: {len(made)} files in {tmp_path / 'out'}" in capsys.readouterr().out
    text = (tmp_path / "out" / "cells_1.tex").read_text(encoding="utf-8")
    assert "\\toprule" in text and "layers-2 & ship & {[}2]" in text and "$\\pm$" in text
    found, _ = page_of(study)
    drawn = next(one for one in found.figures if one.id == "curve_train_layers")
    assert isinstance(drawn, Figure)
    assert (tmp_path / "out" / "curve_train_layers.csv").read_text(encoding="utf-8") == drawn.csv()


def test_latex_takes_no_command_of_a_text() -> None:
    text = latex.latex(Table("T_1", ["a", "b"], [["\\input{x}", "1 ± 2 %"]], "50 %."), "t")
    assert "\\textbackslash{}input\\{x\\} & 1 $\\pm$ 2 \\% \\\\" in text and "\\caption{T\\_1. 50 \\%.}" in text


def test_a_latex_table_breaks_long_texts_and_goes_over_pages() -> None:
    words = Table("T", ["cell", "its cause"], [["a", "x" * 41], ["b", "short"]], numbers=False)
    assert "\\begin{tabular}{lp{0.60\\linewidth}}" in latex.latex(words, "t")
    rows = [[str(number), "1"] for number in range(41)]
    short, long = (latex.latex(Table("T", ["cell", "a head of many words"], some), "t") for some in (rows[:40], rows))
    assert "\\begin{tabular}{lr}" in short and "longtable}{" not in short
    assert "\\begin{longtable}{lr}" in long and "tabular}" not in long
    assert long.count("\\shortstack{a head of \\\\") == 2, "on the first page and on the others"
    name = latex.latex(Table("T", ["cell", "locality.generated.agreement"], [["a", "1"]]), "t")
    assert "& \\shortstack{locality. \\\\ generated. \\\\ agreement} \\\\" in name


def test_a_run_of_batches_alone_speaks_of_no_edited_model(run: Callable[..., Path], scored: Scored) -> None:
    document = scored() | {"mode": "independent", "edited": None, "retention": None}
    for batch in document["batches"]:
        del batch["all_so_far"]
    document["after"] |= {"general": None, "general_change": {}}
    text = page.write_run(run(document)).read_text(encoding="utf-8")
    words = " ".join(" ".join(Elements(text).words).split())
    assert f"{report_notes.mode_note(document)}." in words
    assert "Base to edited, each batch alone, teacher-forced: edit success 25.0 % to 87.5 %" in words
    assert of_batches.EACH_ALONE in words and of_batches.ONE_BATCH not in words
    assert of_run.NO_GENERAL_ALONE in words and of_run.NO_GENERAL not in words
    assert "scores are of the model that its batch was edited into" in words
    assert not re.search(r"after batch \d|merged model|scores are of the edited model|not scored before its", words)


def test_what_a_method_leaves_as_it_was_is_said_on_top(run: Callable[..., Path], scored: Scored) -> None:
    found, _ = page_of(run({**scored(), "method": "serac"}))
    assert found.sections[0].intro.startswith("SERAC leaves the weights as they are: ")
    assert found.tiles[-1]["before"] == "the original's"


def test_how_a_run_was_started_stands_on_its_page(run: Callable[..., Path]) -> None:
    folder = run()
    (folder / "setup").mkdir()
    (folder / "recipe.yaml").write_text("name: made_up # my own\n", encoding="utf-8")
    place = {"recipe": "/home/ann/recipes/a b.yaml", "set": ["train.epochs=5"], "cwd": "/home/ann"}
    (folder / "setup" / "place.json").write_text(json.dumps(place), encoding="utf-8")
    words = " ".join(Elements(page.write_run(folder).read_text(encoding="utf-8")).words)
    assert "uv run python -m kedit_glue.run 'recipes/a b.yaml' --set train.epochs=5" in words
    assert "name: made_up # my own" in words and "hash of its weights eeeeeeeeeeeeeeee" in words


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        ({}, ["run"], "run: no such file or folder"),
        ({"run/x": ""}, ["run"], "run holds no scores.json"),
        ({"run/scores.json": "{"}, ["run"], "run/scores.json is damaged, or no JSON"),
        ({"run/study.json": "{"}, ["run"], "run/study.json is damaged, or no JSON"),
        ({"run/study.json": "[]"}, ["run"], "run/study.json holds a list, not a mapping"),
        ({"run/study.json": "{}"}, ["run"], "run/study.json is no study's table; run the study again"),
        ({"run/scores.json": None}, ["run", "--to", "."], ". is a folder: give --to a file in it"),
    ],
)
def test_what_cannot_be_read_is_said(
    make: dict[str, str | None], arguments: list[str], message: str,
    tmp_path: Path, scored: Scored, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name, text in make.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(scored()) if text is None else text, encoding="utf-8")
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_page_needs_no_torch(run: Callable[..., Path]) -> None:
    code = (
        f"import sys; from kedit_glue.page.__main__ import main; main([{str(run())!r}]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def places(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(inside, dict | list):
            yield from places(inside, (*at, key))


@pytest.mark.parametrize("how", ["null", "gone"])
def test_whatever_a_result_may_lack_its_reports_are_made(run: Callable[..., Path], scored: Scored, how: str) -> None:
    """Every value of a result that is changed by hand: either it is refused by name, or there are reports."""
    whole = scored()
    folder, sound, refused = run(whole), 0, 0
    for *above, last in places(whole):
        document = copy.deepcopy(whole)
        at = document
        for key in above:
            at = at[key]
        if how == "null":
            at[last] = None
        else:
            del at[last]
        (folder / "scores.json").write_text(json.dumps(document), encoding="utf-8")
        try:
            loaded = result.plain(result.load(folder))
        except result.ResultError as error:
            assert str(folder) in str(error)
            refused += 1
            continue
        page_of(folder)
        report.markdown(loaded)
        table(About("s", "r.yaml", "a"), [Result("a", {}, loaded)])
        sound += 1
    assert sound > 20 and refused > 20
