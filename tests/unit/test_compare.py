"""Several results side by side: means, the best, the noise - computed by hand - and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from kedit_glue.compare_facts import most_different
from kedit_glue.compare_same import differences
from kedit_glue.compare_table import Table, chosen, columns_of
from kedit_glue.compare_table import compare as table_of
from kedit_glue.compare_values import S_PARTS, Entry, linearized
from kedit_glue.metrics import (
    AGREEMENT,
    COUNTERFACT_S,
    EFFICACY_SCORE,
    ENDED,
    FLUENCY,
    LOCALITY,
    PERPLEXITY,
    SUCCESS,
    described,
)  # fmt: skip
from kedit_glue.problems import CannotStart
from kedit_glue.result_fields import Result

SCORER = {"teacher_forced": {"scorer": "batched"}}
ACC = {"metric": "acc", "better": "higher", "before": 0.5, "items": 40}
WORDS = {"metric": "word_perplexity", "better": "lower", "before": 10.0, "items": 20, "change_is": "ratio minus 1"}
Values = dict[str, list[Any]]


def document(
    name: str, after: Values, before: Values | None = None, general: Any = None, **more: Any
) -> dict[str, Any]:
    """A result over facts f0, f1 …; ``after`` and ``before``: metric -> a value (None: none) for each fact."""
    count = max(map(len, after.values()))
    sides = {"before": before or {m: [0.0] * count for m in after}, "after": after}

    def scored(side: str, place: int) -> dict[str, Any]:
        return {m: values[place] for m, values in sides[side].items() if place < len(values)}

    def mean(values: list[Any]) -> dict[str, Any]:
        known = [sum(v.values()) / len(v) if isinstance(v, dict) else v for v in values if v is not None]
        return {"mean": sum(known) / len(known), "facts": len(known)}

    edits = {side: {m: mean(values) for m, values in found.items()} for side, found in sides.items()}
    return {
        "schema": 2, "kind": "run", "name": name, "base": {"model": "m", "weights": "0123"},
        "edited": {"model": name, "weights": None}, "protocol": SCORER, "metrics": described(after),
        "before": {"edits": edits["before"], "general": None},
        "after": {"edits": edits["after"], "general": None, "general_change": general or {}},
        "batches": [], "answers": [], "seconds": {},
        "facts": [
            {"id": f"f{n}", "batch": 1, "prompt": f"p{n}", "target_new": "t",
             "before": scored("before", n), "after": scored("after", n)}
            for n in range(count)
        ],
        **more,
    }  # fmt: skip


def entries_of(*documents: dict[str, Any]) -> list[Entry]:
    return [Entry(one["name"], Result.model_validate(one)) for one in documents]


def compared(*documents: dict[str, Any], baseline: str | None = None) -> Table:
    entries = entries_of(*documents)
    return table_of(entries, columns_of(entries), baseline)


def marks(table: Table, metric: str) -> dict[str, str | None]:
    """Each result's mark in a column: best, noise, worse, or None where it cannot be told."""
    found = {}
    for name in table.names:
        value = table.values[name, metric]
        found[name] = "best" if value.best else {True: "noise", False: "worse", None: None}[value.noise]
    return found


def task(after: float, low: float, high: float, kind: dict[str, Any] = ACC, **more: Any) -> dict[str, Any]:
    return {**kind, "after": after, "change": (low + high) / 2, "change_95": [low, high], **more}


# -- numbers ------------------------------------------------------------------------------------


def test_means_and_their_intervals() -> None:
    table = compared(document("a", {SUCCESS: [1.0, 0.5, 0.0]}), document("b", {SUCCESS: [1.0, 1.0, 0.25]}))
    value = table.values["a", SUCCESS]
    assert (value.mean, value.half, value.facts) == (0.5, pytest.approx(1.96 * math.sqrt(0.25 / 3)), 3)
    assert table.facts == 3 and table.original == {SUCCESS: 0.0}


def test_a_difference_is_paired_over_the_same_facts() -> None:
    # by fact 0.1 each: far less than what the facts differ among themselves
    low = [0.0, 0.3, 0.6, 0.9, 0.1]
    a, b = (
        document("a", {SUCCESS: low}),
        document("b", {SUCCESS: [v + d for v, d in zip(low, (0.1, 0.1, 0.1, 0.09, 0.11), strict=True)]}),
    )
    table = compared(a, b, baseline="a")
    assert marks(table, SUCCESS) == {"a": "worse", "b": "best"}
    less = table.less["b", SUCCESS]
    half = 1.96 * math.sqrt(0.0002 / 4 / 5)
    assert less.mean == pytest.approx(0.1) and less.interval == pytest.approx((0.1 - half, 0.1 + half))
    assert less.facts == 5 and less.noise is False and ("a", SUCCESS) not in table.less


def test_inside_the_noise() -> None:
    # differences 1, -1, 1: mean 1/3, half 1.96 * sqrt(4/3 / 3) = 1.31
    table = compared(document("a", {SUCCESS: [1.0, 0.0, 1.0]}), document("b", {SUCCESS: [0.0, 1.0, 0.0]}))
    assert marks(table, SUCCESS) == {"a": "best", "b": "noise"}


def test_equal_means_are_both_the_best_and_one_fact_says_nothing_of_noise() -> None:
    table = compared(document("a", {SUCCESS: [1.0, 0.5]}), document("b", {SUCCESS: [0.5, 1.0]}))
    assert marks(table, SUCCESS) == {"a": "best", "b": "best"}
    assert marks(compared(document("a", {SUCCESS: [1.0]}), document("b", {SUCCESS: [0.5]})), SUCCESS)["b"] is None


def test_inside_the_noise_of_one_of_the_best_is_inside() -> None:
    rows = {"a": [0.9, 0.1, 0.5, 0.5], "b": [0.1, 0.9, 0.5, 0.5], "c": [0.8, 0.0, 0.4, 0.4]}
    table = compared(*(document(name, {SUCCESS: values}) for name, values in rows.items()))
    # c is 0.1 below a on every fact, and now above, now below b
    assert marks(table, SUCCESS) == {"a": "best", "b": "best", "c": "noise"}


def test_a_column_without_common_facts_and_originals_that_differ() -> None:
    a = document("a", {SUCCESS: [1.0, 0.5], LOCALITY: [None, 0.5]})
    b = document("b", {SUCCESS: [1.0, 0.5], LOCALITY: [0.25, None]}, base={"model": "x", "weights": "9"})
    table = compared(a, b)
    assert set(table.values) == {("a", SUCCESS), ("b", SUCCESS)}
    assert table.original == {}


def test_lower_is_better_where_the_document_says_so() -> None:
    table = compared(document("a", {PERPLEXITY: [3.0, 3.1]}), document("b", {PERPLEXITY: [9.0, 9.1]}))
    assert marks(table, PERPLEXITY) == {"a": "best", "b": "worse"}
    assert [c.percent for c in table.columns] == [False]


def test_as_before_is_a_distance_whichever_way() -> None:
    before = {ENDED: [0.5, 0.5, 0.5]}
    rows = {"far": [1.0, 1.0, 0.95], "near": [0.3, 0.3, 0.35], "other": [0.7, 0.65, 0.7], "about": [0.72, 0.65, 0.7]}
    table = compared(*(document(name, {ENDED: values}, before) for name, values in rows.items()))
    # distances 0.483, 0.183, 0.183, 0.19; near lies on the other side of the original
    assert marks(table, ENDED) == {"far": "worse", "near": "best", "other": "best", "about": "noise"}
    only = compared(*(document(name, {ENDED: rows[name]}, before) for name in ("near", "about")))
    assert marks(only, ENDED) == {"near": "best", "about": "noise"}
    assert table.original[ENDED] == 0.5


def test_kinds_count_with_their_mean_and_locality_has_no_original() -> None:
    kinds = [{"near": 1.0, "far": 0.0}, {"near": 1.0}, {"near": None}, {}]
    table = compared(
        document("a", {AGREEMENT: kinds[:2], LOCALITY: kinds[:2]}),
        document("b", {AGREEMENT: kinds[:2], LOCALITY: kinds[:2]}),
    )
    assert table.values["a", LOCALITY].mean == 0.75 and table.original == {}
    entry = entries_of(document("a", {SUCCESS: [1.0] * 4, LOCALITY: [*kinds[:2], None]}))[0]
    assert [item[0] for item in entry.values(LOCALITY)] == ["f0", "f1"]


def test_what_has_no_values_by_fact_is_marked_only_with_intervals_of_its_own() -> None:
    def sampled(name: str, mean: float, half: float | None = None) -> dict[str, Any]:
        one = document(name, {SUCCESS: [1.0, 0.0]})
        one["metrics"] |= described([FLUENCY])
        one["before"]["edits"][FLUENCY] = {"mean": 6.0, "facts": 8}
        one["after"]["edits"][FLUENCY] = {"mean": mean, "facts": 8} | ({"half_width_95": half} if half else {})
        return one

    assert marks(compared(sampled("a", 5.5), sampled("b", 6.1)), FLUENCY) == {"a": None, "b": "best"}
    known = compared(sampled("a", 5.5, 0.3), sampled("b", 6.1, 0.2), sampled("c", 4.0, 0.2), baseline="a")
    assert marks(known, FLUENCY) == {"a": "noise", "b": "best", "c": "worse"}
    assert known.less["b", FLUENCY].interval == pytest.approx((0.1, 1.1))


def test_romes_score_is_compared_through_its_parts() -> None:
    def romes(name: str, efficacy: list[float], whole: float) -> dict[str, Any]:
        one = document(name, {EFFICACY_SCORE: efficacy, S_PARTS[1]: [1.0, 0.0, 1.0, 0.0], S_PARTS[2]: [0.5] * 4})
        one["metrics"] |= described([COUNTERFACT_S])
        one["after"]["edits"][COUNTERFACT_S] = {"mean": whole, "facts": 4}
        return one

    table = compared(romes("a", [1.0, 1.0, 1.0, 0.0], 9 / 16), romes("b", [0.0] * 4, 0.0))
    # 3 / (4/3 + 2 + 2) = 9/16; slopes (9/16)^2 / 3 / (9/16, 1/4, 1/4)
    assert table.values["a", COUNTERFACT_S].mean == pytest.approx(9 / 16)
    assert table.values["b", COUNTERFACT_S].mean == 0.0
    assert marks(table, COUNTERFACT_S) == {"a": "best", "b": "worse"}
    items = [(f"f{n}", "p", "t") for n in range(2)]
    shared = linearized([dict.fromkeys(items, 0.5), {items[0]: 1.0, items[1]: 0.5}, {items[0]: 0.5}])
    turn = 0.5625**2 / 3 / 0.75**2 * 0.25  # S is 3 / (2 + 4/3 + 2)
    assert shared == pytest.approx({items[0]: 0.5625 + turn, items[1]: 0.5625 - turn})
    assert linearized([{}, {}, {}]) == {} and linearized([{items[0]: 0.0}, {items[0]: 1.0}]) == {items[0]: 0.0}


def test_tasks_of_lm_eval() -> None:
    one = {SUCCESS: [1.0, 0.0]}
    a = document("a", one, general={"t": task(0.5, -0.02, 0.02), "w": task(10.2, 0.01, 0.03, WORDS)})
    b = document("b", one, general={"t": task(0.47, -0.05, -0.01), "w": task(12.0, 0.15, 0.25, WORDS)})
    c = document("c", one, general={"t": task(0.3, -0.22, -0.18)})
    table = compared(a, b, c, baseline="a")
    assert marks(table, "general.t") == {"a": "best", "b": "noise", "c": "worse"}
    less = table.less["b", "general.t"]
    assert less.mean == pytest.approx(-0.03) and less.interval == pytest.approx((-0.07, 0.01)) and less.facts == 40
    ratio = table.less["b", "general.w"]
    half = (math.log(1.25 / 1.15) + math.log(1.03 / 1.01)) / 2
    assert ratio.is_ratio and ratio.mean == pytest.approx(12 / 10.2 - 1)
    assert ratio.interval == pytest.approx((12 / 10.2 / math.exp(half) - 1, 12 / 10.2 * math.exp(half) - 1))
    assert table.original["general.t"] == 0.5 and ("c", "general.w") not in table.values
    assert [(col.title, col.percent) for col in table.columns[1:]] == [("t, acc", True), ("w, word_perplexity", False)]
    other = document("d", one, general={"t": task(0.3, -0.22, -0.18, before=0.6)})
    assert marks(compared(a, other), "general.t")["d"] is None  # other originals: the changes say nothing


def test_columns_stand_by_protocol_and_words_choose_them() -> None:
    unknown = "taste.eaten.bites"
    one = document(
        "a", {ENDED: [1.0], LOCALITY: [1.0], SUCCESS: [1.0], EFFICACY_SCORE: [1.0]}, general={"t": task(0.5, 0, 0)}
    )
    one["metrics"][unknown] = {**one["metrics"][SUCCESS], "title": "taste", "range": "0 to 100 bites"}
    one["after"]["edits"][unknown] = {"mean": 3.0, "facts": 1}
    columns = columns_of(entries_of(one))
    order = [SUCCESS, LOCALITY, ENDED, EFFICACY_SCORE, unknown, "general.t"]
    assert [c.key for c in columns] == order and [c.percent for c in columns] == [True] * 4 + [False, True]
    assert [c.key for c in chosen(columns, ["t", "teacher_forced", "ended by itself"])] == ["general.t", *order[:3]]
    assert [c.key for c in chosen(columns, ["l*.token*", EFFICACY_SCORE])] == [LOCALITY, EFFICACY_SCORE]
    with pytest.raises(CannotStart) as caught:
        chosen(columns, ["localty"])
    assert (
        str(caught.value) == f"no result has the metric localty: did you mean 'locality'?\n  known: {', '.join(order)}"
    )


def test_facts_that_differ_most() -> None:
    a = document("a", {SUCCESS: [1.0, 0.5, 1.0, 0.0], ENDED: [1.0, 1.0, 0.0, None], PERPLEXITY: [1.0, 900.0, 1.0, 1.0]})
    b = document("b", {SUCCESS: [1.0, 0.25, 0.0, 0.0], ENDED: [1.0, 1.0, 1.0, 1.0], PERPLEXITY: [1.0, 1.0, 1.0, 1.0]})
    entries = entries_of(a, b)
    found = most_different(entries, columns_of(entries))
    assert [(one.item[0], one.column.key, one.values, one.mean) for one in found] == [
        ("f2", SUCCESS, (1.0, 0.0), 1.0), ("f1", SUCCESS, (0.5, 0.25), 0.125),
    ]  # fmt: skip
    assert len(most_different(entries, columns_of(entries), most=1)) == 1


# -- what may be compared -----------------------------------------------------------------------

A = document("a", {SUCCESS: [1.0, 0.5]}, general={"t": task(0.5, 0, 0)})
F0, F1 = A["facts"]
EASYEDIT = {"teacher_forced": {"scorer": "easyedit"}}
CHAT = {"generated": {"template": "chat", "most_tokens": 50, "facts": None}}
BARE = {"generated": {"template": "bare", "most_tokens": 20, "facts": 5}}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, []),
        ({"base": {"model": "x", "weights": "0123"}}, []),
        ({"base": {"model": "m", "weights": "9"}}, ["base model: m, weights 0123 (a); m, weights 9 (b)"]),
        ({"base": {"model": "m", "weights": None}}, []),
        ({"base": {"model": "x", "weights": None}}, ["base model: m (a); x (b)"]),
        ({"mode": "independent", "edited": None}, ["edits.mode: sequential (a); independent (b)"]),
        ({"mode": "sequential"}, []),
        ({"protocol": EASYEDIT}, ["scorer (teacher_forced): batched (a); easyedit (b)"]),
        ({"protocol": {}}, []),
        ({"facts": [F0]}, ["items: 2 facts (a); 1 fact (b); 1 in common"]),
        ({"facts": [F0, {**F1, "target_new": "u"}]}, ["items: 2 facts (a); 2 facts (b); 1 in common"]),
        ({"facts": [F1, F0]}, []),
        ({"facts_source": {"name": "f.json", "facts": 2, "hash": "9"}}, []),
        (
            {"facts": [F0, {**F1, "after": {}}]},
            [f"facts with a value of {SUCCESS}: 2 (a); 1 (b)"],
        ),
        (
            {"metrics": {SUCCESS: {**A["metrics"][SUCCESS], "better": "lower"}}},
            [f"better values of {SUCCESS}: higher (a); lower (b)"],
        ),
        (
            {"after": {**A["after"], "general_change": {"t": task(0.5, 0, 0, items=9, metric="f1")}}},
            ["metric of the task t: acc (a); f1 (b)", "items of the task t: 40 (a); 9 (b)"],
        ),
    ],
)  # fmt: skip
def test_what_differs_is_named(other: dict[str, Any], said: list[str]) -> None:
    entries = entries_of(A, {**A, "name": "b", **other})
    assert [str(one) for one in differences(entries, [SUCCESS, "general.t"])] == said


def test_probes_of_the_same_facts_and_settings_of_chosen_protocols() -> None:
    source = {"name": "f.json", "facts": 2}
    with_values = {AGREEMENT: [1.0, 1.0], SUCCESS: [1.0, 0.5]}
    one = document("a", with_values, protocol={**SCORER, **CHAT, "sampled": {"facts": 8, "seed": 1}})
    two = document("b", with_values, protocol={**SCORER, **BARE, "sampled": {"facts": 8, "seed": 2}})
    entries = entries_of(
        {**one, "facts_source": {**source, "hash": "1"}}, {**two, "facts_source": {**source, "hash": "2"}}
    )
    probes = "items: probes of the same facts: f.json, hash 1 (a); f.json, hash 2 (b)"
    assert [str(d) for d in differences(entries, [SUCCESS, FLUENCY])] == [probes]  # seeds may differ
    assert [str(d) for d in differences(entries, [AGREEMENT])] == [
        probes,
        "template (generated): chat (a); bare (b)",
        "most_tokens (generated): 50 (a); 20 (b)",
    ]
