"""Recipe and facts to files and stages. Pure: nothing is read, written or started here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedit_glue import after_merge, batch_files, independent, methods, once, plan_search, rivals
from kedit_glue.batch_files import batch_name
from kedit_glue.merging import Tuned, models_named
from kedit_glue.plan_scores import asked, marks
from kedit_glue.recipe_schema import Protect, Recipe
from kedit_glue.runner import Job
from kedit_glue.stages import Fact, Place, Plan, Prepared, Rendered, Stage, partial

__all__ = ["Place", "Plan", "Rendered", "Stage", "batch_name", "make_plan", "partial", "split"]

STATS = {"merged": "merge_stats", "best": "best_stats"}
"""What a merge leaves -> the file beside it with what the merge did."""


def split(facts: Sequence[Fact], size: int) -> tuple[tuple[Fact, ...], ...]:
    """Edit batches of ``size`` facts in their order; the last may be smaller."""
    return tuple(tuple(facts[i : i + size]) for i in range(0, len(facts), size))


def make_plan(recipe: Recipe, facts: Sequence[Fact], place: Place) -> Plan:
    """The files and stages of a run over ``facts`` (each with ``id``, ``prompt``, ``target_new``, ``response``,
    and ``also_trained``: rephrasings with their responses).
    """
    batches = split(facts, recipe.edits.batch_size)
    builder = _Builder(recipe, place, facts, batches)
    builder.base()
    if recipe.edits.mode == "independent":
        builder.independent()
    else:
        for number in range(1, len(batches) + 1):
            builder.batch(number)
        builder.end()
    model = Path(builder.current) if recipe.edits.mode == "sequential" else None
    return Plan(batches, tuple(builder.files), builder.data, tuple(builder.stages), model, builder.trained)


class _Builder:
    """Collects a plan; ``current`` is the model that the next batch is trained from."""

    def __init__(self, recipe: Recipe, place: Place, facts: Sequence[Fact], batches: Sequence[Sequence[Fact]]):
        ids = [f["id"] for f in facts]
        self.recipe = recipe
        self.place = place
        self.ids = ids
        self.batches = batches
        self.files: list[Rendered] = []
        self.data: dict[Path, Any] = {}
        self.stages: list[Stage] = []
        self.current = place.model
        self.made_by = ""
        self.tuned: list[tuple[Tuned, str]] = []
        """What training left and no merge has taken yet, with the stage that made it."""
        self.earlier: tuple[str, str] | None = None
        """The model that the last batch's change is counted from, and the stage that made it."""
        self.facts_file = place.folder / "facts.json"
        self.marks = marks(facts)
        self.judged_on = frozenset(plan_search.judged_on(recipe, batches))
        self.reported = [i for i in ids if i not in self.judged_on]
        self.trained = methods.changed(recipe, place.n_layers, place.tensors)
        self.moments: tuple[Path, str] | None = None
        """The file that says where second moments are, and the stage that makes it."""
        self.editor: tuple[Path, str] | None = None
        """The same of a learned editor."""
        self.directions: dict[Protect, tuple[Path, str]] = {}
        """What is protected how, the file that says so, and the stage that makes it."""

    def _common(self) -> dict[str, Any]:
        return {"device": self.place.device, "trust_remote_code": self.recipe.trust_remote_code}

    def _stage(self, name: str, batch: int | None, job: Job, reads: Sequence[Path], output: Path, **more: Any) -> None:
        settings = {"model": self.place.model_print, "seed": self.recipe.seed, **more.pop("settings", {})}
        after = more.pop("after", [self.made_by])
        self.stages.append(
            Stage(name, batch, job, tuple(reads), tuple(a for a in dict.fromkeys(after) if a), output, settings, **more)
        )

    def _share(self, model_bytes: int) -> int:
        """Of a model's bytes those that training touches."""
        count, of = self.trained.count, self.trained.of
        return model_bytes if count is None or not of else int(model_bytes * count / of)

    # -- before and after all batches -----------------------------------------------------------

    def base(self) -> None:
        self._score("base", None, len(self.ids), 0, last=True, title="original model: score edits")
        if self._general_at("ends"):
            self._general("base", None, title="original model: general ability")
        for protect in (self.recipe.train.protect.of_text, self.recipe.merge.protect):
            if protect.on and protect not in self.directions and self.recipe.method in methods.TRAINED:
                name = "protect" if not self.directions else "protect_merge"
                made = once.directions(self.place, self.recipe, protect, self.trained.pattern, name)
                self.directions[protect] = self._prepared(made, None, [])
        if methods.wants_moments(self.recipe):
            made = once.second_moments(self.place, self.recipe, self.trained.pattern)
            self.moments = self._prepared(made, None, [])
        if self.recipe.method in methods.LEARNED:
            self.editor = self._prepared(once.editor(self.place, self.recipe), None, [])

    def _prepared(self, made: Prepared, batch: int | None, after: Sequence[str], **more: Any) -> tuple[Path, str]:
        """Take its place in the plan; its output, and its stage's name."""
        name = f"{made.output.parent.name}/{made.job.name}"
        self.files += [made.file] if made.file else []
        more |= {"settings": made.settings, "after": after, "beside": made.beside}
        self._stage(name, batch, made.job, made.reads, made.output, **more)
        return made.output, name

    def end(self) -> None:
        if self._general_at("ends") and not self._general_at("each"):
            last = len(self.batches)
            self._general(batch_name(last), last, title="edited model: general ability")

    def _general_at(self, when: str) -> bool:
        general = self.recipe.score.general
        return bool(general.tasks) and general.when in ({"ends", "each"} if when == "ends" else {when})

    # -- one batch ------------------------------------------------------------------------------

    def independent(self) -> None:
        """Each batch from the original, scored at once; several in one stage."""
        once_made = [self.directions.get(self.recipe.train.protect.of_text), self.moments, self.editor]
        names = ("protect", "moments", "editor")
        files = {name: made[0] if made else None for name, made in zip(names, once_made, strict=True)}
        questions = asked(self.recipe, self.reported, last=True)
        shared = independent.shared(self.recipe, self.place, self.batches, self.trained, files["protect"])
        self.data |= shared.data
        self.files += shared.files
        for numbers in independent.chunks(len(self.batches)):
            made = independent.edited(self.recipe, self.place, self.batches, numbers, shared, files, questions)
            count = sum(len(self.batches[number - 1]) for number in numbers)
            after = [stage for _, stage in filter(None, once_made)]
            self._prepared(made, numbers[-1], after, size=count)

    def batch(self, number: int) -> None:
        recipe = self.recipe
        title = f"batch {number} of {len(self.batches)}"
        last = number == len(self.batches)
        start, original = (self.current, self.made_by), (self.place.model, "")
        if recipe.method in methods.TRAINED:
            self._train(number, title)
            if last and recipe.score.tuned:
                self._score_tuned(number, title)
        else:
            self._edit(number, title)
        if recipe.method != "rsft_merge":
            self.tuned = []
        elif recipe.merge.when == "each":
            onto = start if recipe.merge.onto == "previous" else original
            self._merge(number, title, start, onto)
            self.earlier = onto
        elif last:
            self._merge(number, title, original, original)
        if last or (recipe.score.edits.when == "each" and recipe.train.from_ == "previous"):
            size = self.recipe.edits.batch_size
            new, upto = (number - 1) * size, min(number * size, len(self.ids))
            self._score(batch_name(number), number, upto, 0 if last else new, last, title=f"{title}: score")
        if self._general_at("each"):
            self._general(batch_name(number), number, title=f"{title}: general ability")

    def _train(self, number: int, title: str) -> None:
        recipe, train = self.recipe, self.recipe.train
        folder = self.place.folder / batch_name(number)
        again = batch_files.rehearsed(self.batches, number, train.rehearse, recipe.seed)
        self.data[folder / "edits.json"] = batch_files.samples(self.batches[number - 1], again, train.tokens)
        self.data[folder / "dataset_info.json"] = batch_files.DATASET_INFO
        directions, made_by = self.directions.get(train.protect.of_text, (None, ""))
        train_yaml = batch_files.train_yaml(
            recipe, self.place, number, len(self.batches[number - 1]), self.current, self.trained
        )
        rsft_yaml = batch_files.rsft_yaml(recipe, self.place, number, self.trained, directions)
        self.files += [train_yaml, rsft_yaml]
        output = folder / "tuned"
        engine = [Path(recipe.launch.deepspeed)] if recipe.launch.deepspeed else []
        job = Job(
            f"{title}: train",
            "train",
            {
                "train_yaml": str(train_yaml.path),
                "rsft_yaml": str(rsft_yaml.path),
                "facts": str(folder / "edits.json"),
                "output": str(partial(output)),
                "trace": str(folder / "trace.jsonl"),
                "model": self.current,
                "tracker": {"folder": str(self.place.folder / "trackers"), "run": recipe.name, "batch": number},
            },
            folder,
            "train",
            "read the log; lower train.learning_rate if the loss is not finite, train.mini_batch if memory "
            "ran out; then run the same command again: finished stages are kept",
            processes=recipe.launch.processes,
            nodes=recipe.launch.nodes,
        )
        name = f"{batch_name(number)}/train"
        self._stage(
            name,
            number,
            job,
            [train_yaml.path, rsft_yaml.path, folder / "edits.json", *engine],
            output,
            after=[self.made_by, made_by],
            beside=(folder / "trace.jsonl",),
            size=len(self.batches[number - 1]),
            room=0 if train.lora.rank else self.place.model_bytes,
            stock_command=shlex.join(["llamafactory-cli", "train", str(train_yaml.path)]),
        )
        if train.lora.rank:
            self.tuned.append((Tuned(self.current, str(output)), name))
        elif train.from_ == "base":
            self.tuned.append((Tuned(str(output)), name))
        else:
            self.tuned = [(Tuned(str(output)), name)]
            self.current, self.made_by = str(output), name

    def _edit(self, number: int, title: str) -> None:
        """A rival edits the batch into the model that the batch before left."""
        facts, (statistics, made_by) = self.batches[number - 1], self.moments or (None, "")
        editor, trained_by = self.editor or (None, "")
        what, once_made = self.trained.pattern, {"moments": statistics, "editor": editor}
        self.data[self.place.folder / batch_name(number) / "edits.json"] = batch_files.requests(facts)
        made = rivals.edited(self.recipe, self.place, number, title, len(facts), self.current, what, once_made)
        after, room = [self.made_by, made_by, trained_by], self._share(self.place.model_bytes)
        output, self.made_by = self._prepared(made, number, after, size=len(facts), room=room)
        self.current = str(output)

    def _merge(self, number: int, title: str, start: tuple[str, str], onto: tuple[str, str]) -> None:
        """What training left since the last merge, with ``onto``; ``start`` is what that training began with.

        Both are a model and the stage that made it.
        """
        if spaces := plan_search.spaces(self.recipe, len(self.batches)):
            best: tuple[str, str] | None = None
            for space in spaces:
                name = "merge" if space == spaces[-1] else f"search_{space}"
                found = self._search(number, title, space, name, onto, best)
                best = self._merge_by(*found, number, title, start, onto, "merged" if name == "merge" else "best", best)
        else:
            tuned = [t for t, _ in self.tuned]
            merge_yaml = batch_files.merge_yaml(self.recipe, self.place, number, onto[0], start[0], tuned)
            self.files.append(merge_yaml)
            self._merge_by(merge_yaml.path, "", number, title, start, onto, "merged")
        self.tuned = []
        self._reshape(number, title, *onto)

    def _search(
        self, number: int, title: str, space: str, name: str, onto: tuple[str, str], best: tuple[str, str] | None
    ) -> tuple[Path, str]:
        """``merge.search``: the merge YAML that it writes, and the stage."""
        upto = min(number * self.recipe.edits.batch_size, len(self.ids))
        ids = tuple(i for i in self.ids[:upto] if i in self.judged_on)
        tuned, model = tuple(t for t, _ in self.tuned), best[0] if best else None
        asked = plan_search.Asked(number, title, space, name, onto[0], tuned, model, ids, self.marks[upto])
        made = plan_search.searched(self.recipe, self.place, asked, self.facts_file, self.trained)
        after = [*(stage for _, stage in self.tuned), onto[1], *([best[1]] if best else [])]
        return self._prepared(made, number, after, size=self.recipe.merge.search.evaluations, editable=True)

    def _merge_by(
        self, merge_yaml: Path, searched: str, number: int, title: str, start: tuple[str, str], onto: tuple[str, str],
        name: str, best: tuple[str, str] | None = None,
    ) -> tuple[str, str]:  # fmt: skip
        """mergekit by this YAML, which the stage ``searched`` wrote or the plan; the model, and the stage.

        ``best``: a model that the YAML may name beside the tuned ones.
        """
        recipe, tuned = self.recipe, [t for t, _ in self.tuned]
        onto_model, onto_stage = onto
        reads_start = any(t.adapter for t in tuned) or "previous" in models_named(self.place.merge_file)
        folder = self.place.folder / batch_name(number)
        output = folder / name
        job = Job(
            f"{title}: merge" + (" the best so far" if name == "best" else ""),
            "merge",
            {
                "merge_yaml": str(merge_yaml),
                "output": str(partial(output)),
                "original": self.place.model,
                "before": onto_model,
                "tuned": [{"model": t.model, "adapter": t.adapter} for t in tuned],
                "trainable": self.trained.pattern,
                "earlier": [self.earlier[0], start[0]] if self.earlier else None,
                "stats": str(folder / f"{STATS[name]}.json"),
                "cache": str(self.place.cache),
                "seed": recipe.seed,
                **self._common(),
            },
            folder,
            "merge" if name == "merged" else f"merge_{name}",
            f"read the log and {merge_yaml}; correct merge: in the recipe (or that file) and run the same "
            "command again: training is not repeated",
        )
        stage = f"{batch_name(number)}/{job.name}"
        after = [*(stage for _, stage in self.tuned), onto_stage, start[1] if reads_start else "", searched]
        self._stage(
            stage,
            number,
            job,
            [merge_yaml],
            output,
            after=[*after, *([best[1]] if best else [])],
            beside=(folder / f"{STATS[name]}.json",),
            looks_at=tuple(name for name in (self.earlier[1], start[1]) if name) if self.earlier else (),
            room=self._share(self.place.model_bytes),
            stock_command=f"mergekit-yaml {shlex.quote(str(merge_yaml))} OUT --copy-tokenizer "
            f"--no-write-model-card --random-seed {recipe.seed}",
        )
        self.current, self.made_by = str(output), stage
        return self.current, stage

    def _reshape(self, number: int, title: str, onto: str, onto_stage: str) -> None:
        """``merge.protect`` or ``merge.regmean``: another shape for the change that the merge left."""
        merge, change = self.recipe.merge, {"model": self.current, "before": onto, "trainable": self.trained.pattern}
        if merge.protect.on:
            directions, made_by = self.directions[merge.protect]
            made = after_merge.projected(self.place, number, title, change, directions)
        elif merge.regmean.on and self.moments:
            statistics, made_by = self.moments
            batches = range(1 if merge.when == "end" else number, number + 1)
            made = after_merge.regressed(self.recipe, self.place, batches, title, change, statistics)
        else:
            return
        room = self._share(self.place.model_bytes)
        output, self.made_by = self._prepared(made, number, [self.made_by, made_by, onto_stage], room=room)
        self.current = str(output)

    # -- scores ---------------------------------------------------------------------------------

    def _score_tuned(self, number: int, title: str) -> None:
        """The model before its last merge."""
        where, of = batch_name(number), "_tuned"
        self._score(where, number, len(self.ids), 0, last=True, title=f"{title}: score before the merge", of=of)
        if self._general_at("ends"):
            self._general(where, number, title=f"{title}: general ability before the merge", of=of)

    def _score(self, where: str, batch: int | None, upto: int, new: int, last: bool, title: str, of: str = "") -> None:
        """Ask about the facts from number ``new`` to before ``upto``, and about (a sample of) those before ``new``."""
        folder = self.place.folder / where
        output = folder / f"answers{of}.json"
        edits = self.recipe.score.edits
        settings = {**asked(self.recipe, self.reported, last), "new": new, "upto": upto, "old": edits.old_facts}
        job = Job(
            title,
            "score",
            {
                "model": self.current,
                "facts": str(self.facts_file),
                "output": str(partial(output)),
                **settings,
                **self._common(),
            },
            folder,
            f"score{of}",
            "read the log; then run the same command again: training and merging are not repeated",
        )
        old = new if edits.old_facts is None else min(new, edits.old_facts)
        settings = {**settings, "facts": self.marks[upto], **self.place.holding("score")}
        self._stage(f"{where}/edits{of}", batch, job, [], output, settings=settings, size=upto - new + old)

    def _general(self, where: str, batch: int | None, title: str, of: str = "") -> None:
        general = self.recipe.score.general
        folder = self.place.folder / where
        output = folder / f"general{of}.json"
        settings = {
            "tasks": list(general.tasks),
            "include_path": general.include_path,
            "limit": general.limit,
            "batch_size": general.batch_size,
            "seed": self.recipe.seed,
        }
        job = Job(
            title,
            "general",
            {"model": self.current, "output": str(partial(output)), **settings, **self._common()},
            folder,
            f"general{of}",
            "check score.general.tasks and include_path against `lm_eval --tasks list`; then run the same "
            "command again",
        )
        reads = [Path(general.include_path)] if general.include_path else []
        self._stage(f"{where}/general{of}", batch, job, reads, output, settings=settings)
