"""A scoring stage: one model is asked about facts, and its raw answers are written down. What they are worth is
computed later, from two models' answers (``kedit_glue.scores``).

The file it writes::

    facts    one entry a fact: {id, protocol: {aspect: value}}, for portability and locality {kind: [values]}
             teacher_forced  accuracy (0 to 1); for locality the most likely tokens
             likelihood      [loss of the new answer, loss of the true one], nats per token; responses: {group:
                             [[loss, tokens]]}
             generated       {text, ended}, and where there is a judge verdict and said; conditions: {prompt: text}
             perplexity      of the target behind the prompt
    fluency  {n_gram_entropy, facts}, where it was asked for
    answers  {fact: text}, a few greedy answers to read
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedit_glue import questions
from kedit_glue.questions import Fact, Question
from kedit_glue.tools import Emit, recall

EXAMPLE_TOKENS = 24
"""Of the few answers that a report shows."""


def preload() -> None:
    """The imports a scoring stage needs; paid once by the warm server."""
    from kedit_glue.tools import easyedit

    easyedit.preload()


def score(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Ask one model everything about the facts in ``job['facts']``.

    ``job``: ``model`` (folder), ``facts`` (facts.json), ``new``, ``upto`` and ``old`` (see ``questions.chosen``),
    ``metrics`` (aspects, and ``fluency``, ``perplexity``), ``protocols``, ``scorer`` (``batched`` or ``easyedit``),
    ``easyedit`` (a checkout, or None), ``generate`` ({template, most_tokens, ids}), ``judge`` (``tools/judge.py``; or
    None), ``fluency_ids``, ``example_ids``,
    ``output`` (JSON file), ``seed``, ``device``, ``trust_remote_code``.
    """
    from kedit_glue.tools import asking

    model, tokenizer = asking.load(job["model"], job["device"], job["trust_remote_code"])
    emit({"event": "loaded"})  # benchmarks/sequential.py counts what came before as ours
    facts = questions.chosen(json.loads(Path(job["facts"]).read_text(encoding="utf-8")), job)
    asker = recall.asker(job["model"], model, tokenizer, emit)
    result = answers(job, facts, asker, emit)
    Path(job["output"]).write_text(json.dumps(result, ensure_ascii=False), encoding="utf-8")
    return {"facts": len(facts), "prompts": asker.asked}


def answers(job: Mapping[str, Any], facts: Sequence[Fact], asker: Any, emit: Emit) -> dict[str, Any]:
    """Everything that ``job`` asks about ``facts``, as the file holds it; ``asker``: ``asking.Asker``."""
    from kedit_glue.tools import asking

    by_id = {fact["id"]: fact for fact in facts}
    referee = asker.referee(job["easyedit"])
    records: dict[str, dict[str, Any]] = {i: {"id": i} for i in by_id}
    asked = [question for fact in facts for question in questions.about(fact, job["metrics"])]
    if "teacher_forced" in job["protocols"]:
        put(records, "teacher_forced", forced(asked, referee if job["scorer"] == "easyedit" else asker))
    if "likelihood" in job["protocols"]:
        put(records, "likelihood", likelihood(facts, asker))
    if "generated" in job["protocols"]:
        how, wanted = job["generate"], set(job["generate"]["ids"])
        of = [question for question in asked if question.fact in wanted]
        conditions = list(dict.fromkeys(prompt for q in of for prompt, _ in q.conditions))
        texts = asker.generated([*(q.prompt for q in of), *conditions], how["template"], how["most_tokens"])
        answered = [asdict(text) for text in texts[: len(of)]]
        if job["judge"]:
            where = {name: job[name] for name in ("device", "trust_remote_code")}
            answered = judged(of, answered, {**job["judge"], **where}, emit)
        put(records, "generated", questions.placed(of, answered))
        said = dict(zip(conditions, (text.text for text in texts[len(of) :]), strict=True))
        for question in of:
            for prompt, _ in question.conditions:
                records[question.fact]["generated"].setdefault("conditions", {})[prompt] = said[prompt]
    if "perplexity" in job["metrics"]:
        found = referee.perplexity([(fact["prompt"], fact["target_new"]) for fact in facts])
        put(records, "perplexity", {i: {"edit_success": value} for i, value in zip(by_id, found, strict=True)})
    result: dict[str, Any] = {"facts": list(records.values())}
    if fluent := [by_id[i]["prompt"] for i in job["fluency_ids"] if i in by_id and "fluency" in job["metrics"]]:
        result["fluency"] = {"n_gram_entropy": referee.fluency(fluent, job["seed"]), "facts": len(fluent)}
    shown = [i for i in by_id if i in set(job["example_ids"])]
    texts = asker.generated([by_id[i]["prompt"] for i in shown], asking.BARE, EXAMPLE_TOKENS)
    result["answers"] = {i: text.text for i, text in zip(shown, texts, strict=True)}
    return result


def judged(
    asked: Sequence[Question], answers: Sequence[dict[str, Any]], judge: Mapping[str, Any], emit: Emit
) -> list[dict[str, Any]]:
    """The answers with the judge's verdicts, and what it said."""
    from kedit_glue.tools.judge import verdicts

    items = [(q.prompt, " or ".join(q.answers), answer["text"]) for q, answer in zip(asked, answers, strict=True)]
    return [{**answer, **verdict} for answer, verdict in zip(answers, verdicts(items, judge, emit), strict=True)]


def put(records: Mapping[str, dict[str, Any]], protocol: str, values: Mapping[str, Any]) -> None:
    """Values by fact under the protocol's name."""
    for i, value in values.items():
        records[i][protocol] = value


def forced(asked: Sequence[Question], model: Any) -> dict[str, dict[str, Any]]:
    """By fact: accuracies, and locality probes' most likely tokens; ``model``: an Asker, or EasyEdit's Referee."""
    from kedit_glue.tools.easyedit import Referee

    pairs = [(question.prompt, question.answers[0]) for question in asked]
    if not isinstance(model, Referee):
        answers = model.forced(pairs)
        values = [
            list(answer.most_likely) if question.aspect == "locality" else answer.accuracy
            for question, answer in zip(asked, answers, strict=True)
        ]
        return questions.placed(asked, values)
    apart = [i for i, question in enumerate(asked) if question.aspect == "locality"]
    rest = [i for i, question in enumerate(asked) if question.aspect != "locality"]
    found: dict[int, Any] = dict(zip(rest, model.accuracies([pairs[i] for i in rest]), strict=True))
    found |= dict(zip(apart, model.tokens([pairs[i] for i in apart]), strict=True))
    return questions.placed(asked, [found[i] for i in range(len(asked))])


def likelihood(facts: Sequence[Fact], asker: Any) -> dict[str, dict[str, Any]]:
    """By fact, of which the true answer is known: the losses of the new and of the true answer behind each prompt."""
    rivals = [rival for fact in facts for rival in questions.rivals(fact)]
    pairs = [(question.prompt, answer) for question, *answers in rivals for answer in answers]
    losses = [answer.loss for answer in asker.forced(pairs)]
    both = [list(two) for two in zip(losses[::2], losses[1::2], strict=True)]
    found = questions.placed([question for question, *_ in rivals], both)
    for fact in facts:
        for group, probes in fact.get("responses", {}).items():
            answers = asker.forced([(probe["prompt"], probe["answers"][0]) for probe in probes])
            of = found.setdefault(fact["id"], {}).setdefault("responses", {})
            of[group] = [[answer.loss, len(answer.answer)] for answer in answers]
    return found
