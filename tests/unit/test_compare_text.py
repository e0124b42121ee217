"""A comparison's words: terminal, Markdown, CSV and LaTeX, from tables made by hand."""

from __future__ import annotations

import csv
import io
import re

import pytest

from kedit_glue.compare import plain_tables
from kedit_glue.compare_facts import Spread
from kedit_glue.compare_latex import escaped, grouped_head, latex, stacked
from kedit_glue.compare_same import Differs
from kedit_glue.compare_table import Column, Difference, Table, Value
from kedit_glue.compare_text import Page, comma_separated, markdown

SUCCESS = Column("edit_success.teacher_forced.token_accuracy", "edit success", "higher", True)
PERPLEXITY = Column("edit_success.teacher_forced.perplexity", "perplexity", "lower", False)
FLUENCY = Column("fluency.sampled.n_gram_entropy", "fluency", "as before", False)
TASK = Column("general.arc_easy", "arc_easy, acc", "higher", True)
VALUES = {
    ("a_1", SUCCESS.key): Value(0.98765, 0.01, 40, best=True),
    ("b & c", SUCCESS.key): Value(0.97, 0.02, 40, noise=True),
    ("a_1", PERPLEXITY.key): Value(3.456, None, 40, noise=False),
    ("b & c", PERPLEXITY.key): Value(1.5, None, 40, best=True),
    ("b & c", FLUENCY.key): Value(5.5, None, 8),
    ("a_1", TASK.key): Value(0.5, None, 120, best=True),
    ("b & c", TASK.key): Value(0.25, None, 120, noise=False),
}
LESS = {
    ("b & c", SUCCESS.key): Difference(-0.01765, (-0.0353, 0.0), 40),
    ("b & c", PERPLEXITY.key): Difference(-1.956, None, 40),
    ("b & c", TASK.key): Difference(-0.5, (-0.6, -0.4), 120, is_ratio=True),
}
COLUMNS = (SUCCESS, PERPLEXITY, FLUENCY, TASK)
TABLE = Table(("a_1", "b & c"), COLUMNS, VALUES, {SUCCESS.key: 0.2, TASK.key: 0.75}, "a_1", LESS, 40)
SPREADS = [Spread(("f1", "What | is_it", "new"), SUCCESS, (1.0, 0.25), 0.75)]
DIFFERS = [Differs("scorer (teacher_forced)", (("batched", ("a_1",)), ("easyedit", ("b & c",))))]


def lines(text: str, *beginnings: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip().startswith(beginnings)]


def test_markdown() -> None:
    text = markdown(Page(TABLE, SPREADS))
    assert lines(text, "|")[:4] == [
        "|  | edit success ↑ | perplexity ↓ |",
        "| --- | --- | --- |",
        "| (original) | 20.0 | - |",
        "| a_1 | **98.8** | 3.46 |",
    ]
    assert "| b & c | 97.0† | **1.50** |" in text
    assert "|  | fluency ≈ (8 facts) |" in text and "|  | arc_easy, acc ↑ (120 items) |" in text
    assert "**General ability (lm-eval): lm-eval's tasks**" in text
    assert lines(text, "| b & c | -") == [
        "| b & c | -1.8 [-3.5, +0.0] | -1.96 |",
        "| b & c | - |",
        "| b & c | -50.0 [-60.0, -40.0] % |",
    ]
    assert "| f1 | What \\| is_it | new | edit success (teacher-forced) | 100.0 | 25.0 |" in text
    assert "Teacher-forced: edit success = edit_success.teacher_forced.token_accuracy; perplexity =" in text
    assert "**Bold** is the best of a column, † is inside the noise" in text
    assert "NOT THE SAME" not in text


def test_terminal() -> None:
    text = plain_tables(Page(TABLE, None, DIFFERS))
    assert [line.split() for line in lines(text, "a_1", "b & c")[:2]] == [
        ["a_1", "98.8*", "3.46"],
        ["b", "&", "c", "97.0†", "1.50*"],
    ]
    flat = " ".join(text.split())
    assert (
        "NOT THE SAME, compared all the same over the 40 facts that all have: "
        "scorer (teacher_forced): batched (a_1); easyedit (b & c)." in flat
    )
    assert "facts on which" not in text


def test_text_of_facts_changes_no_terminal() -> None:
    odd = [Spread(("f1", "two\nlines [red]x[/red] \x1b[31m", "n\tw"), SUCCESS, (1.0, 0.25), 0.75)]
    flat = " ".join(plain_tables(Page(TABLE, odd)).split())
    assert "\x1b" not in flat and "[red]x[/red] \\x1b[31m" in flat and "n w" in flat


def test_a_table_that_is_too_wide_is_parted_between_columns() -> None:
    columns = tuple(Column(f"a.generated.m{n}", f"generalization, way {n}", "higher", True) for n in range(9))
    values = {(name, c.key): Value(0.5, None, 1, best=True) for name in ("a", "b") for c in columns}
    text = plain_tables(Page(Table(("a", "b"), columns, values, {}, None, {}, 1)))
    heads = text[: text.index("* is the best")]
    assert heads.count("generalization,") == 9 and len(lines(text, "a ")) == 2
    assert "generated: greedy generation, ended by the model itself (continued)" in text
    assert max(map(len, text.split("\n"))) <= 110
    assert text.count("50.0*") == 18


def test_no_fact_differs() -> None:
    assert "No fact has another score in one result than in another." in plain_tables(Page(TABLE, []))


def test_noise_that_is_not_known_is_said() -> None:
    values = {**VALUES, ("a_1", FLUENCY.key): Value(6.0, None, 8, best=True)}
    table = Table(TABLE.names, COLUMNS, values, {}, None, {}, 40)
    assert "so that the noise is not known: fluency." in markdown(Page(table))
    assert "is not known" not in markdown(Page(TABLE))


def test_csv_keeps_units_and_marks() -> None:
    rows = list(csv.DictReader(io.StringIO(comma_separated(Page(TABLE, None, DIFFERS)))))
    assert [(row["result"], row["metric"]) for row in rows] == [
        ("a_1", SUCCESS.key), ("a_1", PERPLEXITY.key), ("a_1", TASK.key),
        *(("b & c", column.key) for column in COLUMNS),
    ]  # fmt: skip
    first, second = rows[0], rows[3]
    assert (first["mean"], first["half_width_95"], first["facts"]) == ("0.98765", "0.01", "40")
    assert (first["best"], first["inside_noise"], first["original"]) == ("true", "", "0.2")
    assert (second["best"], second["inside_noise"], second["baseline"]) == ("false", "true", "a_1")
    assert (second["difference"], second["difference_low_95"], second["difference_high_95"]) == (
        "-0.01765", "-0.0353", "0.0",
    )  # fmt: skip
    assert (rows[2]["protocol"], rows[2]["better"]) == ("general", "higher")
    assert second["not_the_same"] == "scorer (teacher_forced): batched (a_1); easyedit (b & c)"


def test_csv_of_facts_is_a_table_of_its_own() -> None:
    [row] = csv.DictReader(io.StringIO(comma_separated(Page(TABLE, SPREADS))))
    assert row["id"] == "f1" and row["a_1"] == "1.0" and row["b & c"] == "0.25" and row["metric"] == SUCCESS.key


def test_no_text_of_a_csv_is_a_formula() -> None:
    names = ("=a", "@b")
    columns = (Column("edit_success.teacher_forced.token_accuracy", "+title", "higher", True),)
    values = {(name, columns[0].key): Value(-0.5, None, 1) for name in names}
    differs = [Differs("-x", (("batched", ("=a",)), ("easyedit", ("@b",))))]
    table = Table(names, columns, values, {}, "=a", {}, 1)
    first = next(csv.DictReader(io.StringIO(comma_separated(Page(table, None, differs)))))
    assert (first["result"], first["title"], first["baseline"], first["mean"]) == ("'=a", "'+title", "'=a", "-0.5")
    assert first["not_the_same"].startswith("'-x")
    spreads = [Spread(("-1", "=1+1", "\tnew"), columns[0], (-1.0, None), -0.75)]
    head, row = csv.reader(io.StringIO(comma_separated(Page(table, spreads))))
    assert head[5:7] == ["'=a", "'@b"]
    assert row == ["'-1", "'=1+1", "'\tnew", columns[0].key, "-0.75", "-1.0", "", ""]


def test_latex() -> None:
    text = latex(Page(TABLE, SPREADS, DIFFERS))
    assert "% needs \\usepackage{booktabs,graphicx,longtable}" in text
    assert text.count("\\begin{table}") == text.count("\\end{tabular}") == text.count("\\toprule") == 3
    assert lines(text, "&")[:2] == [
        "& \\multicolumn{2}{c}{teacher-forced} & \\multicolumn{1}{c}{sampled} & "
        "\\multicolumn{1}{c}{general ability (lm-eval)} \\\\",
        "& \\shortstack{edit success \\\\ $\\uparrow$} & perplexity $\\downarrow$ & "
        "\\shortstack{fluency $\\approx$ (8 \\\\ facts)} & "
        "\\shortstack{arc\\_easy, \\\\ acc $\\uparrow$ (120 \\\\ items)} \\\\",
    ]
    assert "\\cmidrule(lr){2-3} \\cmidrule(lr){4-4} \\cmidrule(lr){5-5}" in text
    assert "a\\_1 & \\textbf{98.8} & 3.46 & - & \\textbf{50.0} \\\\" in text
    assert "b \\& c & 97.0$^{\\dagger}$ & \\textbf{1.50} & 5.50 & 25.0 \\\\" in text
    assert "f1 & What \\textbar{} is\\_it & new & edit success (teacher-forced) & 100.0 & 25.0 \\\\" in text
    caption = next(line for line in text.splitlines() if "\\caption" in line)
    assert "edit\\_success.teacher\\_forced.token\\_accuracy" in caption and "NOT THE SAME" in caption


def test_latex_names_the_protocol_above_each_column() -> None:
    generated = Column("edit_success.generated.exact_match", "edit success, exact", "higher", True)
    top, rules, _ = grouped_head([SUCCESS, generated, PERPLEXITY, TASK], ["a", "b", "c", "d"])
    assert top == (
        " & \\multicolumn{1}{c}{teacher-forced} & \\multicolumn{1}{c}{generated} & "
        "\\multicolumn{1}{c}{teacher-forced} & \\multicolumn{1}{c}{general ability (lm-eval)} \\\\"
    )
    assert rules == "\\cmidrule(lr){2-2} \\cmidrule(lr){3-3} \\cmidrule(lr){4-4} \\cmidrule(lr){5-5}"


@pytest.mark.parametrize(
    ("head", "printed"),
    [
        ("short", "short"),
        ("one & two three", r"\shortstack{one \& two \\ three}"),
        ("less vs. before", r"\shortstack{less vs. \\ before}"),
        ("all.generated.ended", r"\shortstack{all. \\ generated. \\ ended}"),
        ("", ""),
    ],
)
def test_long_heads_are_stacked(head: str, printed: str) -> None:
    assert stacked(head) == printed


def test_latex_has_as_many_cells_as_columns_and_closes_every_brace() -> None:
    text = latex(Page(TABLE, SPREADS, DIFFERS))
    bare = text.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    for table in re.findall(r"\\begin\{tabular\}\{(.*?)\}\n(.*?)\\end", text, re.S):
        form = re.sub(r"\{.*?\}", "", table[0])
        width = len(re.findall(r"[lrp]", form))
        for row in re.findall(r"^.*\\\\$", table[1], re.M):
            if "multicolumn" not in row:
                assert len(re.findall(r"(?<!\\)&", row)) == width - 1, row


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("50 % of $x_1$ & {y}", r"50 \% of \$x\_1\$ \& \{y\}"),
        (r"a\b^c~d#e", r"a\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\#e"),
        ('<a|"b">', r"\textless{}a\textbar{}\textquotedbl{}b\textquotedbl{}\textgreater{}"),
        ("two\nlines\t.", "two lines ."),
        ("[draft]", "{[}draft]"),
        ("*", "{*}"),
        ("Łódź …", r"Łódź \dots{}"),
        ("", ""),
    ],
)
def test_latex_prints_text_as_it_stands(text: str, printed: str) -> None:
    assert escaped(text) == printed
