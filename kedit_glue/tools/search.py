"""The stage that searches a merge: candidates are chosen, merged in memory and judged; the best becomes merge.yaml."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedit_glue import records, strict_yaml
from kedit_glue.atomic import write_text
from kedit_glue.ledger import digest
from kedit_glue.merging import renamed
from kedit_glue.search import evolve, fitness, trace
from kedit_glue.search.genome import Gene, Genome
from kedit_glue.search.paths import Layout, NoPath
from kedit_glue.search.task import task_of
from kedit_glue.tools import Emit
from kedit_glue.tools.optimizers import Vector, optimizer, population
from kedit_glue.tools.probes import texts_of
from kedit_glue.tools.search_workers import Judge, Merge, workers

SHOWN = 200
"""A candidate of more numbers stands in the trace without them."""


class SearchFailed(RuntimeError):
    """No candidate could be judged."""


def search(job: Mapping[str, Any], emit: Emit) -> dict[str, Any]:
    """Write the best merge found as mergekit's YAML, and the trace.

    ``job``: ``space`` (``ps`` or ``dfs``), ``search`` (``merge.search``), ``original``, ``before`` (the model that is
    merged onto), ``tuned`` (as for ``mergekit.merge``), ``models`` (the folders a data flow goes through), ``start``
    (which of them is its first candidate), ``layers``, ``writers``, ``most_layers`` (see ``search.paths.Layout``),
    ``method`` (a MergeMethod's fields), ``settings`` (``merge.parameters``), ``formats`` (the YAML's further keys),
    ``trainable``, ``facts`` (facts.json), ``ids`` (of those that candidates are judged on), ``trace``, ``output``,
    ``reuse`` and ``evolve`` (YAML to write besides, or None), ``tasks`` (lm-eval's, for ``evolve``), ``roles`` (folder
    -> its name in ``reuse``); ``seed``, ``device``, ``trust_remote_code``.

    A trace that was begun under the same job is gone on from. Raises SearchFailed, and ValueError where nothing can be
    judged.
    """
    task = task_of(job)
    genes, asked = task.genes(), job["search"]
    weights = {part: asked["fitness"][part] for part in fitness.PARTS if asked["fitness"][part] > 0}
    begin, size = [gene.begin for gene in genes], population(len(genes), asked["population"])
    chooser = optimizer(asked["by"], begin, asked["sigma"], size, asked["evaluations"], job["seed"], len(weights))
    texts = texts_of(asked["fitness"])
    known = trace.begin(Path(job["trace"]), head(job, texts, len(genes), list(weights)))
    if known:
        emit({"event": "say", "text": f"{len(known)} candidates were judged before it was cut off, and stand"})
    vectors: list[Vector] = []
    entries: list[dict[str, Any]] = []
    with workers(job, texts) as judge:
        run = Run(job, task, genes, weights, judge, emit)
        while len(entries) < asked["evaluations"] and (new := chooser.ask(asked["evaluations"] - len(entries))):
            made = run.generation(new, entries, known)
            chooser.tell([objectives(entry, weights, asked["by"]) for entry in made])
            vectors += new
            entries += made
    return written(job, task, vectors, entries, weights) | {"texts": [fingerprint(text) for text in texts]}


class Run:
    """What stays the same from generation to generation."""

    def __init__(
        self, job: Mapping[str, Any], task: Genome | Layout, genes: Sequence[Gene], weights: Mapping[str, float],
        judge: Judge, emit: Emit,
    ):  # fmt: skip
        self.job, self.task, self.genes, self.weights, self.judge, self.emit = job, task, genes, weights, judge, emit
        self.number = 0

    def generation(
        self, vectors: Sequence[Vector], before: Sequence[Mapping[str, Any]], known: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The entries of these candidates: those that the trace holds, and the others judged and put into it.

        From the first other candidate on, ``known`` and the trace are of another search, and cut off.
        """
        self.number += 1
        there = zip(known[len(before) :], vectors, strict=False)
        made = [entry for entry, _ in itertools.takewhile(lambda pair: pair[0]["print"] == mark(pair[1]), there)]
        count = len(before) + len(made)
        if len(made) < len(vectors) and len(known) > count:
            del known[count:]
            trace.cut(Path(self.job["trace"]), count)
        merges = [merge_of(self.task, vector, self.job) for vector in vectors[len(made) :]]
        wanted = [merge for merge in merges if isinstance(merge, Merge)]
        judged = iter(self.judge(wanted))
        for vector, merge in zip(vectors[len(made) :], merges, strict=True):
            found = next(judged) if isinstance(merge, Merge) else {"cause": merge, "seconds": [0.0, 0.0]}
            entry = self.entry(len(before) + len(made) + 1, vector, found)
            trace.add(Path(self.job["trace"]), entry)
            made.append(entry)
            best = max((e["fitness"] for e in (*before, *made) if "fitness" in e), default=None)
            of = self.job["search"]["evaluations"]
            self.emit({"event": "candidate", "position": entry["number"], "of": of, "best": best})
        return made

    def entry(self, number: int, vector: Vector, found: Mapping[str, Any]) -> dict[str, Any]:
        """A candidate's line in the trace."""
        entry: dict[str, Any] = {"number": number, "generation": self.number, "print": mark(vector)}
        if len(vector) <= SHOWN:
            entry["values"] = [gene.value(share) for gene, share in zip(self.genes, vector, strict=True)]
        if "parts" in found:
            entry["fitness"] = fitness.fitness(found["parts"], self.weights)
        return {**entry, **found}


def head(job: Mapping[str, Any], texts: Sequence[str], numbers: int, parts: Sequence[str]) -> dict[str, Any]:
    """The trace's first line: what is searched, and a hash of all that a candidate's worth depends on."""
    folders = [job["before"], *(one["model"] for one in job["tuned"]), *job["models"]]
    places = ("output", "trace", "reuse", "evolve", "facts")
    include_path = job["search"]["fitness"]["include_path"]
    depends = {
        "job": {name: value for name, value in job.items() if name not in places},
        "facts": hashlib.sha256(Path(job["facts"]).read_bytes()).hexdigest(),
        "texts": [fingerprint(text) for text in texts],
        "tasks": digest(Path(include_path)) if include_path else None,
        "models": [records.fingerprint(Path(folder)) for folder in folders],
    }
    by = job["search"]["by"]
    return {
        "space": job["space"],
        "by": by,
        "numbers": numbers,
        "parts": list(parts),
        "inputs": records.hashed(depends),
    }


def fingerprint(text: str) -> str:
    """A hash by which a text is known again."""
    return hashlib.sha256(text.encode()).hexdigest()


def mark(vector: Vector) -> str:
    """A hash by which a candidate is known again."""
    return hashlib.sha256(json.dumps(vector).encode()).hexdigest()[:16]


def merge_of(task: Genome | Layout, vector: Vector, job: Mapping[str, Any]) -> Merge | str:
    """What these numbers mean; a text where they mean no merge."""
    try:
        config = {**task.config(vector), **job["formats"]}
        if isinstance(task, Genome):
            return Merge(config, ())
        return Merge(config, tuple((task.models[step.model], step) for step in task.path(vector)))
    except NoPath as error:
        return str(error)


def objectives(entry: Mapping[str, Any], weights: Mapping[str, float], by: str) -> tuple[float, ...] | None:
    """What the optimizer is told of a candidate."""
    if "fitness" not in entry:
        return None
    return tuple(entry["parts"][part] for part in weights) if by == "nsga2" else (entry["fitness"],)


def written(
    job: Mapping[str, Any],
    task: Genome | Layout,
    vectors: Sequence[Vector],
    entries: Sequence[Mapping[str, Any]],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """Write the best candidate's YAML; what is recorded of the search."""
    sound = [at for at, entry in enumerate(entries) if "fitness" in entry]
    if not sound:
        cause = entries[0]["cause"]
        raise SearchFailed(f"none of {len(entries)} candidates could be judged; the first one: {cause}")
    points = [[entries[at]["parts"][part] for part in weights] for at in sound]
    front = [sound[at] for at in fitness.front(points)]
    if job["search"]["by"] == "nsga2":
        chosen = front[fitness.knee([[entries[at]["parts"][part] for part in weights] for at in front])]
    else:
        chosen = max(sound, key=lambda at: (entries[at]["fitness"], -at))
    best = entries[chosen]
    config = {**task.config(vectors[chosen]), **job["formats"]}
    said = f"Candidate {best['number']} of {len(entries)} ({Path(job['trace']).name}), fitness {best['fitness']:.4f}."
    write_text(Path(job["output"]), yaml_of(config, f"{said} Yours to edit."))
    if job["reuse"]:
        write_text(Path(job["reuse"]), yaml_of(renamed(config, job["roles"]), f"{said} For merge.file in a recipe."))
    if job["evolve"] and isinstance(task, Genome):
        theirs = evolve.configuration(task, job["tasks"], job["search"]["fitness"]["limit"])
        assert theirs is not None, "the plan asks for it where there is one"
        write_text(
            Path(job["evolve"]), yaml_of(theirs, "The same search for mergekit-evolve, judged by lm-eval's tasks.")
        )
    seconds = [sum(entry["seconds"]) for entry in entries]
    brief = ("number", "fitness", "parts")
    return {
        "space": job["space"],
        "by": job["search"]["by"],
        "numbers": len(vectors[0]),
        "evaluations": len(entries),
        "failed": len(entries) - len(sound),
        "best": {key: best[key] for key in brief},
        "first": {key: entries[0].get(key) for key in brief},
        "front": [{key: entries[at][key] for key in brief} for at in front] if len(weights) > 1 else [],
        "seconds_a_candidate": round(sum(seconds) / len(seconds), 3),
        "facts": list(job["ids"]),
    }


def yaml_of(content: Mapping[str, Any], said: str) -> str:
    return f"# {said}\n{strict_yaml.dump(dict(content))}"
