"""The scorecard and report.md: what a person reads, and what they must not misread."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from kedit_glue import report
from kedit_glue.metrics import (
    AGREEMENT,
    EFFICACY_SCORE,
    FLUENCY,
    GENERALIZATION,
    LOCALITY,
    METRICS,
    PORTABILITY,
    SUCCESS,
    described,
)
from kedit_glue.problems import printable
from kedit_glue.tables import percent

EXACT = "edit_success.generated.exact_match"
OF_TARGET = "edit_success.teacher_forced.perplexity"

ACCURACY = {
    "metric": "acc", "better": "higher", "before": 0.5, "after": 0.25, "items": 40,
    "change": -0.25, "change_95": [-0.4, -0.1], "noise": False, "base_95": [0.34, 0.66], "inside_base_interval": False,
}  # fmt: skip
PERPLEXITY = {
    "metric": "word_perplexity", "better": "lower", "before": 20.0, "after": 21.0, "items": 40,
    "change": 0.05, "change_95": [-0.01, 0.11], "noise": True, "base_95": [15.0, 25.0], "inside_base_interval": True,
    "change_is": "ratio minus 1",
}  # fmt: skip


def fact(name: str, success: float, learned: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "id": name, "batch": 1, "prompt": f"About {name}", "target_new": f"new {name}", "before": {SUCCESS: 0.0},
        "after": {SUCCESS: success}, "steps": 3, "loss_before": 9.0, "loss_after": 0.0123, "learned": learned, **more,
    }  # fmt: skip


@pytest.fixture
def document() -> dict[str, Any]:
    def edits(success: float, locality: float, fluency: float) -> dict[str, Any]:
        return {
            SUCCESS: {"mean": success, "facts": 4, "half_width_95": 0.1234},
            GENERALIZATION: {"mean": success / 2, "facts": 3},
            PORTABILITY: {"mean": None, "facts": 0, "by_kind": {}},
            LOCALITY: {"mean": locality, "facts": 4, "by_kind": {"near": locality, "far": None}},
            FLUENCY: {"mean": fluency, "facts": 4},
        }

    return {
        "schema": 2,
        "kind": "run",
        "name": "try",
        "base": {"model": "smollm2-135m", "weights": None},
        "edited": {"model": "merged", "weights": None},
        "metrics": described([SUCCESS, GENERALIZATION, PORTABILITY, LOCALITY, FLUENCY]),
        "before": {"edits": edits(0.125, 1.0, 6.5), "general": None},
        "batches": [
            {
                "batch": 1,
                "facts": 4,
                "training": {"learned": 3, "optimizer_steps": 17, "seconds": 2.0},
                "merge": {"seconds": 1.26},
                "edited": {SUCCESS: {"mean": 0.9, "facts": 4}},
                "all_so_far": {SUCCESS: {"mean": 0.8, "facts": 4}, LOCALITY: {"mean": 0.7, "facts": 4}},
            },
            {"batch": 2, "facts": 1},
        ],
        "after": {
            "edits": edits(0.8, 0.934, 6.25),
            "general": None,
            "general_change": {"arc": ACCURACY, "text": PERPLEXITY},
        },
        "facts": [
            fact("whole", 1.0),
            fact("half", 0.5, learned=False),
            fact("none", 0.0),
            fact("late", 1.0, learned=False),
        ],
        "answers": [
            {"id": "half", "prompt": "a | b", "target_new": "c\nd", "before": "", "after": "one\n\n two | three"}
        ],
        "seconds": {"train": 65.0, "score": 3.2, "all": 68.2},
    }


def printed(document: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    for part in report.terminal(document):
        console.print(part)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


# -- rows ---------------------------------------------------------------------------------------


def test_edits_before_and_after(document: dict[str, Any]) -> None:
    assert [row[:5] for row in report.edit_rows(document)] == [
        ["edit success", "teacher-forced", "12.5 %", "80.0 % ± 12.3", "4"],
        ["generalization", "teacher-forced", "6.2 %", "40.0 %", "3"],
        ["portability", "teacher-forced", "-", "-", "0"],
        ["locality", "teacher-forced", "by definition", "93.4 %", "4"],
        ["fluency", "sampled", "6.50", "6.25", "4"],
    ]
    assert [row[5] for row in report.edit_rows(document)] == [
        METRICS[m].what for m in (SUCCESS, GENERALIZATION, PORTABILITY, LOCALITY, FLUENCY)
    ]


def test_edits_are_grouped_by_protocol(document: dict[str, Any]) -> None:
    for metric, mean in ((EFFICACY_SCORE, 0.5), (AGREEMENT, 0.25), (EXACT, 0.75), (OF_TARGET, 12.345)):
        entry = {"mean": mean, "facts": 4, "half_width_95": 0.05}
        document["before"]["edits"] = {metric: entry} | document["before"]["edits"]
        document["after"]["edits"] = {metric: entry} | document["after"]["edits"]
    rows = report.edit_rows(document)
    assert [row[1] for row in rows] == 5 * ["teacher-forced"] + 2 * ["generated"] + ["likelihood", "sampled"]
    by_title = {row[0]: row[2:4] for row in rows}
    assert by_title["edit success, exact"] == ["75.0 %", "75.0 % ± 5.0"]
    assert by_title["locality, same answer"] == ["by definition", "25.0 % ± 5.0"]
    assert by_title["perplexity of the target"] == ["12.35", "12.35 ± 0.05"], "no percentage"


@pytest.mark.parametrize(
    "more", [{"facts": 1, "half_width_95": 0.0}, {"facts": 4}, {"facts": 4, "half_width_95": None}]
)
def test_an_interval_that_is_not_known_is_not_shown(document: dict[str, Any], more: dict[str, Any]) -> None:
    document["after"]["edits"][SUCCESS] = {"mean": 0.8, **more}
    assert report.edit_rows(document)[0][3] == "80.0 %"


def test_locality_before_is_no_measurement(document: dict[str, Any]) -> None:
    document["before"]["edits"][LOCALITY]["mean"] = 0.777
    for text in (report.markdown(document), printed(document, 200)):
        assert "77.7" not in text
        assert "by definition" in text


def test_a_metric_that_was_not_measured_has_no_row(document: dict[str, Any]) -> None:
    del document["after"]["edits"][PORTABILITY]
    assert "portability" not in [row[0] for row in report.edit_rows(document)]


def test_a_metric_that_only_the_edited_model_has(document: dict[str, Any]) -> None:
    del document["before"]["edits"][FLUENCY]
    assert report.edit_rows(document)[-1][:4] == ["fluency", "sampled", "-", "6.25"]


def test_general_ability(document: dict[str, Any]) -> None:
    assert report.general_rows(document) == [
        [
            "arc", "acc (higher is better)", "50.0 %", "25.0 %", "-25.0 [-40.0, -10.0] points", "40",
            "worse on the same items, outside the original's own 95 % interval",
        ],
        ["text", "word_perplexity (lower is better)", "20.00", "21.00", "+5.0 [-1.0, +11.0] %", "40",
         "no change beyond noise"],
    ]  # fmt: skip


def test_a_task_without_items(document: dict[str, Any]) -> None:
    bare = {k: ACCURACY[k] for k in ("metric", "better", "before", "after")}
    document["after"]["general_change"] = {"arc": {**bare, "items": 0}}
    assert report.general_rows(document)[0][4:] == ["-", "0", "no items to compare"]
    assert "arc" not in report.headline(document)


@pytest.mark.parametrize(
    ("change", "better", "inside", "expected"),
    [
        (0.1, "higher", True, "better on the same items, inside the original's own 95 % interval"),
        (-0.1, "higher", True, "worse on the same items, inside the original's own 95 % interval"),
        (0.1, "lower", False, "worse on the same items, outside the original's own 95 % interval"),
        (-0.1, "lower", False, "better on the same items, outside the original's own 95 % interval"),
    ],
)
def test_verdict(change: float, better: str, inside: bool, expected: str) -> None:
    said = {"noise": False, "change": change, "better": better, "inside_base_interval": inside}
    assert report.verdict(said) == expected
    assert report.verdict({**said, "noise": True}) == "no change beyond noise"


def test_batch_by_batch(document: dict[str, Any]) -> None:
    assert report.batch_rows(document) == [
        ["1", "4", "3", "17", "90.0 %", "80.0 %", "-", "70.0 %", "3.3 s"],
        ["2", "1", "-", "-", "-", "-", "-", "-", "0.0 s"],
    ]


def test_tables_have_as_many_cells_as_their_heads(document: dict[str, Any]) -> None:
    for head, rows in (
        (report.EDIT_HEAD, report.edit_rows(document)),
        (report.GENERAL_HEAD, report.general_rows(document)),
        (report.BATCH_HEAD, report.batch_rows(document)),
    ):
        assert {len(row) for row in rows} == {len(head)}


# -- sentences ----------------------------------------------------------------------------------


def test_headline_says_what_was_learned_and_what_it_cost(document: dict[str, Any]) -> None:
    assert report.headline(document) == (
        "4 facts in 2 batches; edit success 80.0 %; rephrased 40.0 %; unrelated answers kept 93.4 %; arc -25.0 points"
    )


def test_headline_says_what_the_model_generates(document: dict[str, Any]) -> None:
    document["after"]["edits"][EXACT] = {"mean": 0.25, "facts": 4}
    assert "; rephrased 40.0 %; generated exactly 25.0 %; unrelated" in report.headline(document)


def test_headline_of_two_models_has_no_batches(document: dict[str, Any]) -> None:
    document["batches"] = []
    assert report.headline(document).startswith("4 facts; edit success 80.0 %; ")


def test_headline_names_a_perplexitys_change_in_percent(document: dict[str, Any]) -> None:
    document["after"]["general_change"] = {"text": {**PERPLEXITY, "noise": False}}
    assert report.headline(document).endswith("; text +5.0 %")


def test_headline_of_a_run_that_measured_nothing(document: dict[str, Any]) -> None:
    document["after"] = {"edits": {}, "general": None, "general_change": {}}
    assert report.headline(document) == "4 facts in 2 batches"


def test_facts_that_need_a_look(document: dict[str, Any]) -> None:
    assert [f["id"] for f in report.not_learned(document)] == ["half", "late"]
    assert [f["id"] for f in report.lost(document)] == ["none", "half"]  # worst first


def test_without_edit_success_nothing_counts_as_lost(document: dict[str, Any]) -> None:
    document["facts"] = [fact("a", 1.0, after={})]
    assert report.lost(document) == []


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        (" a\n\n b\tc ", 80, "a b c"),
        ("", 80, "(nothing)"),
        (" \n", 80, "(nothing)"),
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
    ],
)
def test_one_line(text: str, most: int, expected: str) -> None:
    assert report.one_line(text, most) == expected


@pytest.mark.parametrize(("value", "expected"), [(None, "-"), (0.0, "0.0 %"), (1.0, "100.0 %"), (0.1234, "12.3 %")])
def test_percent(value: float | None, expected: str) -> None:
    assert percent(value) == expected


# -- the terminal -------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [20, 80, 200])
def test_terminal_renders_at_any_width(document: dict[str, Any], width: int) -> None:
    text = printed(document, width)
    assert max(len(line) for line in text.splitlines()) <= width
    if width == 200:
        assert "try: edits" in text
        assert "80.0 %" in text and "one two | three" in text
        assert "not wholly answered: none, half" in text


def test_terminal_shows_a_facts_text_as_it_is(document: dict[str, Any]) -> None:
    document["answers"] = [{"prompt": "[bold]x[/]", "target_new": "[/b]", "before": ":heart:", "after": "[red]"}]
    document["facts"] = [fact("[/b]", 0.0)]
    text = printed(document, 200)
    for said in ("[bold]x[/]", "[/b]", ":heart:", "[red]", "not wholly answered: [/b]"):
        assert said in text


def test_no_text_changes_the_terminal(document: dict[str, Any]) -> None:
    """A file of facts may hold what clears the screen, sets the title or writes the clipboard."""
    escape = "\x1b]52;c;ZXZpbA==\x07\x1b[2J"
    document["answers"] = [{"prompt": f"a{escape}", "target_new": escape, "before": escape, "after": "x"}]
    document["facts"] = [fact(f"f{escape}", 0.0)]
    text = printed(document, 300)
    assert "\x1b" not in text and "\x07" not in text
    assert "not wholly answered: f\\x1b]52;c;ZXZpbA==\\x07\\x1b[2J" in text
    assert printable("dix\xa0mille\u2028") == "dix\xa0mille\\u2028"


def test_terminal_leaves_out_what_there_is_not(document: dict[str, Any]) -> None:
    document["after"]["general_change"], document["answers"], document["facts"] = {}, [], [fact("a", 1.0)]
    text = printed(document, 200)
    assert "lm-eval" not in text and "really says" not in text and "not wholly" not in text


def test_a_long_list_of_lost_facts_is_cut(document: dict[str, Any]) -> None:
    document["facts"] = [fact(f"f{n}", 0.0) for n in range(25)]
    assert "f9 and 15 more" in printed(document, 200)
    assert "f19 and 5 more." in report.markdown(document)


# -- report.md ----------------------------------------------------------------------------------


def tables(markdown: str) -> list[list[str]]:
    """Blocks of lines that begin with a bar."""
    blocks: list[list[str]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [b for b in blocks if b]


def bars(line: str) -> int:
    return line.replace("\\\\", "").replace("\\|", "").count("|")


NASTY = ["a | b", "c\nd", "e\r\nf", "g\\", "h\\|i", "`|`", "", "line\u2028break", "|||"]


@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_no_text_breaks_a_markdown_table(document: dict[str, Any], text: str) -> None:
    document["answers"][0].update(prompt=text, target_new=text, before=text, after=text)
    document["facts"] = [fact("lost", 0.0, prompt=text, target_new=text)]
    found = tables(report.markdown(document))
    assert len(found) == 5
    for head, rule, *rows in found:
        assert {bars(line) for line in (head, rule, *rows)} == {bars(head)}
        assert len(rows) >= 1


def test_cells_are_escaped(document: dict[str, Any]) -> None:
    assert r"| a \| b | c d | (nothing) | one two \| three |" in report.markdown(document)


def test_markdown_has_every_part(document: dict[str, Any]) -> None:
    text = report.markdown(document)
    for part in (
        "# try: smollm2-135m edited",
        "4 facts in 2 batches; edit success 80.0 %",
        "Locality by kind, after: near 93.4 %, far -.",
        "Not under the loss threshold when their batch's training ended: half, late.",
        "Not wholly answered by the edited model: none, half.",
        "| none | About none | new none | 0.0 % | 0.012 |",
        "1 min 08 s in tools: train 1 min 05 s, score 3 s.",
        f"- `{SUCCESS}`: share of the target's tokens",
        "in nats, the end-of-sequence token included",
    ):
        assert part in text
    assert "Portability by kind" not in text  # no fact has such probes


def test_markdown_of_a_run_without_a_flaw(document: dict[str, Any]) -> None:
    document["facts"] = [fact("a", 1.0)]
    text = report.markdown(document)
    assert "training ended: none." in text
    assert "answered by the edited model: none." in text


def test_markdown_of_two_models_speaks_of_no_training(document: dict[str, Any]) -> None:
    pair = dict.fromkeys(("steps", "loss_before", "loss_after", "learned", "batch"))
    document |= {"kind": "pair", "batches": [], "seconds": {}, "facts": [fact("none", 0.0, **pair)]}
    text = report.markdown(document)
    assert "| none | About none | new none | 0.0 % | - |" in text
    for absent in ("training ended", "Batch by batch", "## Time", "Retention"):
        assert absent not in text
    assert "batch" not in printed(document, 200)


def batch(facts: int, **more: int) -> dict[str, Any]:
    return {"facts": facts, **more}


@pytest.mark.parametrize(
    ("batches", "of"),
    [
        ([batch(4), batch(1)], "all facts until then"),  # scored in the end only
        ([batch(4, asked_so_far=4), batch(1, asked_so_far=5)], "all facts until then"),
        ([batch(4, asked_so_far=4), batch(4, asked_so_far=5), batch(1, asked_so_far=9)], "this batch and a sample of"),
    ],
)
def test_the_table_of_batches_says_which_facts_it_is_about(
    document: dict[str, Any], batches: list[dict[str, Any]], of: str
) -> None:
    note = report.batch_note({"batches": batches})
    assert note.startswith(f"success: of the batch just edited; so far, rephrased, locality: of {of}")
    document["batches"] = [{"batch": n, **each} for n, each in enumerate(batches, 1)]
    assert f"{note}." in report.markdown(document).splitlines()


@pytest.mark.parametrize("method", ["ice", "serac"])
def test_a_method_that_remembers_says_what_was_scored(document: dict[str, Any], method: str) -> None:
    assert "leaves the weights" not in report.markdown(document)
    said = "leaves the weights as they are: edits were scored through its memory, general ability is the original's"
    assert f"{method.upper()} {said}" in report.markdown({**document, "method": method})
    assert any(said in str(part) for part in report.terminal({**document, "method": method}))
