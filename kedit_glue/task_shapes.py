"""Records of general-ability data sets to items that an lm-eval task reads: one shape a data set, found by its keys.

An item is a flat mapping of text, whole numbers and lists of text: the columns that the task's templates name
(``task_yaml``). What a record lacks raises BadRecord with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kedit_glue.facts.errors import BadRecord, shown
from kedit_glue.facts.fields import BAD_RECORD, MISSING, clean, present, required
from kedit_glue.task_values import (
    BAD_LABEL,
    HIDDEN,
    LETTERS,
    Record,
    chosen,
    label_of,
    texts,
    verbatim,
    whole,
    yes_or_no,
)

Item = dict[str, Any]

LOOK_AT = 20
"""So many records vote on the shape."""
PROMPTS = ("query", "premise", "prompt", "context", "input", "question")
LISTS = ("choices", "options", "endings")
LABELS = ("label", "gold", "answer", "answer_index")
ANSWERS = ("answers", "answer", "target", "output")
ENTAILMENT = {"entailment": 0, "not_entailment": 1}
THREE_WAY = {"entailment": 0, "contradiction": 1, "neutral": 2}
"""SuperGLUE's numbers for CB; MNLI's are others."""


@dataclass(frozen=True)
class Shape:
    """One data set's form."""

    name: str
    needs: str
    """Its keys, for messages."""
    fits: Callable[[Record], bool]
    items: Callable[[Record], list[Item]]
    """Most records are one item; BadRecord where one cannot be."""


def shape_of(records: Sequence[Record]) -> Shape | None:
    """The shape that most of the first records have; None where none fits. BadRecord: two are as likely."""
    votes = Counter(s.name for record in records[:LOOK_AT] if (s := next((s for s in SHAPES if s.fits(record)), None)))
    if not votes:
        return None
    found = BY_NAME[votes.most_common(1)[0][0]]
    if found.name != "rte":
        return found
    labels = {record.get("label") for record in records if isinstance(record.get("label"), int | str)}
    if labels & {"contradiction", "neutral"}:
        return BY_NAME["cb"]
    if 2 in labels:
        raise BadRecord(
            BAD_LABEL,
            "premise and hypothesis with the labels 0, 1 and 2, which data sets number differently: give --as cb where "
            "1 is contradiction and 2 neutral (SuperGLUE's CB), else write the labels as words",
        )
    return found


# -- shapes -------------------------------------------------------------------------------------


def mmlu_pro(record: Record) -> list[Item]:
    question, options = verbatim(record, "question"), texts(record, "options")
    if len(options) > 10:
        raise BadRecord(BAD_RECORD, f"{len(options)} options, where MMLU-Pro has at most 10 (A to J)")
    right = chosen(record, options, "answer_index", "answer")
    if record.get("answer", right) not in (right, LETTERS[right], options[right]):
        raise BadRecord(
            BAD_LABEL, f"answer is {shown(str(record['answer']))}, but answer_index {right}, which is {LETTERS[right]}"
        )
    worked = record.get("cot_content")
    reasoning = worked.strip() if isinstance(worked, str) and worked.strip() else f"The answer is ({LETTERS[right]})."
    return [
        {
            "question": question,
            "options": options,
            "letters": list(LETTERS[: len(options)]),
            "answer": LETTERS[right],
            "answer_index": right,
            "category": str(record.get("category") or ""),
            # MMLU-Pro's own worked answers begin with the words that the prompt ends with
            "reasoning": reasoning.removeprefix("A: Let's think step by step.").strip(),
        }
    ]


def mmlu(record: Record) -> list[Item]:
    choices = texts(record, "choices")
    if len(choices) != 4:
        raise BadRecord(BAD_RECORD, f"{len(choices)} choices, where MMLU has 4 (--as choices takes any number)")
    return [
        {
            "question": verbatim(record, "question"),
            "choices": choices,
            "answer": chosen(record, choices, "answer"),
            "subject": str(record.get("subject") or "").replace("_", " "),
        }
    ]


def rte(record: Record) -> list[Item]:
    return [_premise(record) | {"label": label_of(record, ENTAILMENT, "label")}]


def cb(record: Record) -> list[Item]:
    return [_premise(record) | {"label": label_of(record, THREE_WAY, "label")}]


def _premise(record: Record) -> Item:
    """SuperGLUE's names, or GLUE's (sentence1, sentence2)."""
    return {
        "premise": verbatim(record, "premise", "sentence1"),
        "hypothesis": verbatim(record, "hypothesis", "sentence2"),
    }


def copa(record: Record) -> list[Item]:
    asked = required(record, "question")
    if asked not in ("cause", "effect"):
        raise BadRecord(BAD_RECORD, f"question is {shown(asked)}, neither cause nor effect")
    choices = [verbatim(record, "choice1"), verbatim(record, "choice2")]
    return [
        {
            "premise": verbatim(record, "premise"),
            "question": asked,
            "choices": [f" {choice[0].lower()}{choice[1:]}" for choice in choices],
            "label": label_of(record, {"choice1": 0, "choice2": 1}, "label"),
        }
    ]


def boolq(record: Record) -> list[Item]:
    return [
        {
            "passage": verbatim(record, "passage"),
            "question": verbatim(record, "question"),
            "label": yes_or_no(record, "label", "answer"),
        }
    ]


def wic(record: Record) -> list[Item]:
    first, start, end = verbatim(record, "sentence1"), whole(record, "start1"), whole(record, "end1")
    phrase = first[start:end]
    if not 0 <= start < end <= len(first) or not phrase.strip():
        raise BadRecord(BAD_RECORD, f"start1 {start} and end1 {end} mark no word of sentence1")
    return [
        {
            "sentence1": first,
            "sentence2": verbatim(record, "sentence2"),
            "phrase": phrase,
            "label": yes_or_no(record, "label"),
        }
    ]


def wsc(record: Record) -> list[Item]:
    """The passage with its pronoun between asterisks; spans count words, as in SuperGLUE."""
    inner = record.get("target")
    spans: Record = inner if isinstance(inner, Mapping) else record
    text, at = verbatim(record, "text"), whole(spans, "span2_index")
    noun, pronoun = required(spans, "span1_text"), required(spans, "span2_text")
    before = " ".join(text.split()[:at])
    begin = len(before) + (1 if before else 0)
    if text[begin : begin + len(pronoun)].lower() != pronoun.lower():
        raise BadRecord(BAD_RECORD, f"span2_text {shown(pronoun)} is not word {at} (from 0) of the text")
    passage = f"{before} *{pronoun}*{text[begin + len(pronoun) :]}"
    return [
        {
            "passage": joined_again(passage),
            "noun": noun,
            "pronoun": pronoun,
            "label": yes_or_no(record, "label"),
        }
    ]


def joined_again(text: str) -> str:
    """Blanks that a tokenizer put around punctuation taken out, in the order in which lm-eval does it."""
    for split, whole_again in ((" n't", "n't"), (" )", ")"), ("( ", "("), ('" ', '"'), (' "', '"')):
        text = text.replace(split, whole_again)
    return re.sub(r" (?=['.,])", "", text)


def multirc(record: Record) -> list[Item]:
    """The hub's form, one answer a record, or SuperGLUE's own, one passage with all its questions."""
    passage = record.get("passage")
    if not isinstance(passage, Mapping):
        return [_judged(verbatim(record, "paragraph"), verbatim(record, "question"), record)]
    paragraph = verbatim(passage, "text")
    asked = [q for q in passage.get("questions") or [] if isinstance(q, Mapping)]
    found = [
        _judged(paragraph, verbatim(question, "question"), answer)
        for question in asked
        for answer in question.get("answers") or []
        if isinstance(answer, Mapping)
    ]
    if not found:
        raise BadRecord(MISSING, "a passage without questions and answers")
    return found


def _judged(paragraph: str, question: str, answer: Record) -> Item:
    text = verbatim(answer, "answer", "text")
    return {
        "paragraph": paragraph,
        "question": question,
        "choices": [f"{text}\nIs the answer correct? {word}" for word in ("no", "yes")],
        "label": yes_or_no(answer, "label"),
    }


def record_(record: Record) -> list[Item]:
    """ReCoRD in the hub's form, or SuperGLUE's own, whose entities are spans of the passage (ends included)."""
    passage = record.get("passage")
    if not isinstance(passage, Mapping):
        answers = record.get("answers")
        return [_cloze(verbatim(record, "passage"), texts(record, "entities"), verbatim(record, "query"), answers)]
    text = verbatim(passage, "text")
    spans = [s for s in passage.get("entities") or [] if isinstance(s, Mapping)]
    entities = [text[whole(span, "start") : whole(span, "end") + 1] for span in spans]
    asked = [q for q in record.get("qas") or [] if isinstance(q, Mapping)]
    if not asked:
        raise BadRecord(MISSING, "a passage without queries (qas)")
    return [
        _cloze(text, entities, verbatim(q, "query"), [a.get("text") for a in q.get("answers") or []]) for q in asked
    ]


def _cloze(passage: str, entities: Iterable[str], query: str, answers: object) -> Item:
    if "@placeholder" not in query:
        raise BadRecord(BAD_RECORD, f"the query {shown(query)} has no @placeholder")
    named = sorted(set(entities))
    right = [n for n, entity in enumerate(named) if isinstance(answers, list) and entity in answers]
    if not right:
        raise BadRecord(HIDDEN if not answers else BAD_LABEL, "none of the entities is among the answers")
    text, *highlights = passage.strip().split("\n@highlight\n")
    return {
        "passage": f"{text}\n\n" + "".join(f"  - {highlight}.\n" for highlight in highlights),
        "choices": [f"  - {query}".replace("@placeholder", entity) for entity in named],
        "label": right,
    }


def choices(record: Record) -> list[Item]:
    options = texts(record, *LISTS)
    return [
        {"query": required(record, *PROMPTS), "choices": options, "label": chosen(record, options, *LABELS)},
    ]


def generate(record: Record) -> list[Item]:
    """A question is asked as one; any other prompt stands as it is."""
    key = present(record, *PROMPTS)
    prompt = required(record, key)
    given = record.get(present(record, *ANSWERS))
    answers = given if isinstance(given, list) else [given]
    if not answers:
        raise BadRecord(MISSING, "an empty list of answers")
    return [
        {
            "prompt": f"Question: {prompt}\nAnswer:" if key == "question" else prompt,
            "answers": [clean(answer, "answer") for answer in answers],
        }
    ]


def text(record: Record) -> list[Item]:
    return [{"text": required(record, "text", "Text")}]


def _has(*keys: str) -> Callable[[Record], bool]:
    return lambda record: all(key in record for key in keys)


def _any(record: Record, keys: Iterable[str]) -> bool:
    return any(key in record for key in keys)


def _holds(record: Record, outer: str, inner: str) -> bool:
    value = record.get(outer)
    return isinstance(value, Mapping) and inner in value


def _is_list(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


def _is_nli(record: Record) -> bool:
    return _has("premise", "hypothesis", "label")(record) or _has("sentence1", "sentence2", "label")(record)


SHAPES = (
    Shape("mmlu_pro", "question, options, answer or answer_index", _has("question", "options"), mmlu_pro),
    Shape(
        "mmlu",
        "question, choices (4), answer",
        lambda r: (
            _has("question", "choices", "answer")(r) and isinstance(r["choices"], list) and len(r["choices"]) == 4
        ),
        mmlu,
    ),
    Shape("copa", "premise, choice1, choice2, question, label", _has("premise", "choice1", "choice2"), copa),
    Shape(
        "multirc",
        "paragraph, question, answer, label",
        lambda r: _has("paragraph", "question", "answer")(r) or _holds(r, "passage", "questions"),
        multirc,
    ),
    Shape("record", "passage, query, entities, answers", lambda r: _has("passage", "query")(r) or "qas" in r, record_),
    Shape("boolq", "passage, question, label or answer", _has("passage", "question"), boolq),
    Shape("wic", "sentence1, sentence2, start1, end1, label", _has("sentence1", "sentence2", "start1"), wic),
    Shape(
        "wsc",
        "text, span1_text, span2_text, span2_index, label",
        lambda r: _has("text", "span2_text")(r) or _holds(r, "target", "span2_text"),
        wsc,
    ),
    Shape("rte", "premise, hypothesis, label (or sentence1, sentence2)", _is_nli, rte),
    Shape("cb", "premise, hypothesis, label (three of them)", lambda record: False, cb),
    Shape(
        "choices",
        f"a prompt ({', '.join(PROMPTS)}), {' or '.join(LISTS)}, {' or '.join(LABELS)}",
        lambda r: any(isinstance(r.get(key), list) for key in LISTS) and _any(r, LABELS),
        choices,
    ),
    Shape(
        "generate",
        f"a prompt ({', '.join(PROMPTS)}), {' or '.join(ANSWERS)}",
        lambda r: _any(r, PROMPTS) and _any(r, ANSWERS),
        generate,
    ),
    Shape("text", "text", lambda r: _any(r, ("text", "Text")), text),
)
BY_NAME = {shape.name: shape for shape in SHAPES}
