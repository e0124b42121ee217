"""One run from recipe to report: recipe → facts → model → plan → render → run → score → report."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kedit_glue import (
    check,
    environment,
    facts,
    files,
    learned,
    methods,
    models,
    nodes,
    outside,
    own_folder,
    page,
    records,
    report,
    result,
    results,
    strict_yaml,
)
from kedit_glue.atomic import write_json, write_text
from kedit_glue.card import model_card
from kedit_glue.corpus import SUBJECTS, shipped
from kedit_glue.execute import again_from, execute, export, output_missing, show_plan
from kedit_glue.facts.loading import has_brace
from kedit_glue.keeping import Keeper
from kedit_glue.ledger import Ledger, digest
from kedit_glue.located import locate, make_model, run_job
from kedit_glue.locks import STAGE_LOCK, held
from kedit_glue.merging import MergeMethod
from kedit_glue.plan import Place, Plan, make_plan
from kedit_glue.problems import CannotStart, listed
from kedit_glue.progress import Display
from kedit_glue.recipe import Recipe, load_recipe, normalized
from kedit_glue.recipe_schema import BARE
from kedit_glue.report_notes import NO_MODEL
from kedit_glue.runner import Job, Runner
from kedit_glue.stage import quiet_environment
from kedit_glue.tools.lm_eval import local_tasks
from kedit_glue.tools.prepare import split_rephrasings

GARBAGE = (100_000, 50, 100)
"""The garbage collector looks less often than by default: a plan of 10,000 batches is millions of objects that stay."""


@dataclass(frozen=True)
class Options:
    """What the command line says besides the recipe."""

    recipe: Path
    overrides: Sequence[str] = ()
    dry_run: bool = False
    check: bool = False
    fresh: bool = False
    force: Sequence[str] = ()
    """Stages to run again, by name, kind or pattern."""
    from_batch: int | None = None
    """Run this batch and all after it again."""
    python: str = sys.executable
    """The interpreter that runs each stage by its command (``runner: command``)."""
    elsewhere: Sequence[Path] = ()
    """Folders of other runs: a stage that one of them did with the same inputs is taken over."""
    online: bool = False
    """The hub may be asked even if this recipe needs nothing of it: the warm server serves other runs as well."""


def run(options: Options, display: Display) -> dict[str, Any] | None:
    """Do what the command line asks; returns ``scores.json``'s content, None where nothing was to run."""
    gc.set_threshold(*GARBAGE)
    check.must_be_installed(environment.versions())
    known = merge_methods()
    recipe = load_recipe(
        options.recipe, options.overrides, {name: frozenset(m.parameters) for name, m in known.items()}
    )
    written = options.recipe.read_bytes()  # now: it may lie in the folder that --fresh empties
    folder = Path(recipe.output).resolve() / recipe.name
    own_folder.reads_from_outside(recipe, folder)
    machines = 1 if options.dry_run or options.check else recipe.launch.nodes
    with held(folder, display.say), nodes.together(folder, machines):
        if options.fresh:
            own_folder.clear(folder)
        display.log, display.events = folder / "log.txt", folder / "events.jsonl"
        display.say(f"kedit_glue: {options.recipe} -> {folder}")
        device = environment.device(recipe.device)
        runner = Runner(
            environment.runner_mode(recipe.runner, device),
            quiet_environment(offline=not (options.online or needs_hub(recipe))),
            recipe.threads,
            options.python,
            folder / STAGE_LOCK,
            device,
        )
        edits = load_facts(recipe, display)
        model = find_model(recipe, folder, runner, display, offline=options.dry_run or options.check)
        prepared = prepare(recipe, edits, folder, model, runner, display, dry=options.dry_run or options.check)
        check_subjects(recipe, prepared)
        learned.check(recipe, prepared)
        plan = planned(recipe, prepared, place(recipe, folder, model, known[recipe.merge.method], device))
        write_inputs(recipe, written, plan, folder, device, display)
        write_place(options, folder, model, device)
        look(recipe, plan, folder, model, device, display, loud=options.check)
        if options.dry_run:
            show_plan(plan, runner, display)
            return None
        if options.check:
            display.say("nothing stands in the way; run the same command without --check")
            return None
        ledger = Ledger(environment.versions(), folder, [other for other in options.elsewhere if other != folder])
        display.tell("run_started", recipe=str(options.recipe), batches=len(plan.batches), stages=len(plan.stages))
        keeper = Keeper(plan, ledger, recipe.keep, Path(model))
        execute(plan, ledger, runner, display, keeper, wanted_again(plan, options))
        return finish(recipe, plan, ledger, Path(model), folder, display)


def check_subjects(recipe: Recipe, edits: Sequence[Mapping[str, Any]]) -> None:
    """Raises CannotStart for a method that looks facts up at their subjects, and facts that have none it can find; for
    ``train.tokens: subject`` where no fact has one."""
    if recipe.train.tokens == "subject" and not any(e["subject"] for e in edits):
        raise CannotStart(
            f"train.tokens is subject, and no fact of {recipe.edits.source} names a subject that stands in its prompt\n"
            "  give them one, or set train.tokens to all; nothing was started"
        )
    if recipe.method not in methods.AT_SUBJECT:
        return
    without = [e["id"] for e in edits if not e["subject"]]
    braces = [e["id"] for e in edits if e["subject"] and has_brace(e["prompt"], e["target_new"])]
    title = methods.METHODS[recipe.method].title
    lacks = {"name no subject that stands in the prompt": without, "hold a brace in prompt or target": braces}
    for what, ids in lacks.items():
        if ids:
            raise CannotStart(
                f"{title} looks a fact up at its subject, and {report.counted(len(ids), 'fact', 'facts')} of "
                f"{recipe.edits.source} {what}: {listed(ids, 5)}\n"
                "  give them one, pass them over for every method (edits.with_subject: true), or choose another method "
                "(docs/methods.md); nothing was started"
            )


def planned(recipe: Recipe, prepared: Sequence[Mapping[str, Any]], where: Place) -> Plan:
    try:
        return make_plan(recipe, prepared, replace(where, left_out=learned.left_out(recipe, prepared)))
    except ValueError as error:  # layers that this model does not have
        raise CannotStart(f"{error}; nothing was started") from None


def wanted_again(plan: Plan, options: Options) -> dict[str, str]:
    try:
        return again_from(plan, options.force, options.from_batch)
    except ValueError as error:
        raise CannotStart(str(error)) from None


def needs_hub(recipe: Recipe) -> bool:
    """Whether something of the recipe comes from the hub: the model, or an lm-eval task that no local file defines."""
    if models.kind_of(recipe.model) == "hub":
        return True
    train, merge = recipe.train, recipe.merge
    asked: tuple[tuple[str | None, object], ...] = (
        (train.protect.corpus, train.protect.on or train.contexts),
        (merge.protect.corpus, merge.protect.on),
        (merge.regmean.corpus, merge.regmean.on),
    )
    corpora = [corpus for corpus, used in asked if used and corpus]
    if any(not Path(corpus).is_absolute() for corpus in corpora):
        return True
    general = recipe.score.general
    wanted = set(general.tasks) if general.when != "never" else set()
    return bool(wanted - local_tasks(general.include_path).keys())


def merge_methods() -> dict[str, MergeMethod]:
    from kedit_glue.tools import mergekit

    try:
        return mergekit.methods(models.cache_dir())
    except importlib.metadata.PackageNotFoundError:
        raise CannotStart("mergekit is not installed; install it with: uv sync") from None
    except mergekit.MergeError as error:
        raise CannotStart(str(error)) from None


def load_facts(recipe: Recipe, display: Display) -> list[dict[str, Any]]:
    """Facts as plain data, what was left out named."""
    said = recipe.edits
    loaded = facts.load(Path(said.source), said.format, said.limit, said.skip, said.with_subject)
    for line in facts.summary(loaded):
        display.say(line)
    return [asdict(edit) for edit in loaded.edits]


def find_model(recipe: Recipe, folder: Path, runner: Runner, display: Display, offline: bool) -> str:
    """The original model as an absolute folder; unpacked, downloaded or converted first where it has to be.

    With ``offline`` (dry runs) nothing is made: the hub id, or the folder that will be, is returned.
    """
    found = locate(recipe.model, folder / "setup", runner, display, offline)
    if found is None:
        return recipe.model
    wanted = models.FORMATS[recipe.train.precision]
    if not (found / "config.json").is_file() or models.stored_format(found) == wanted:
        return str(found)
    # LLaMA-Factory loads and saves in training's format (llamafactory 0.9.5, model/patcher.py:321): only an original
    # in that format can be compared with the result bit for bit
    target = models.converted_folder(found, wanted, json.dumps(records.fingerprint(found)))
    display.say(f"the model is stored as {models.stored_format(found)}, train.precision wants {wanted}")
    if not offline and not (target / "config.json").is_file():
        arguments = {"model": str(found), "output": str(target), "format": wanted}
        advice = "make room, or set train.precision to the model's own"
        make_model("convert", arguments, folder / "setup", runner, display, advice)
    return str(target)


def prepare(
    recipe: Recipe,
    edits: Sequence[Mapping[str, Any]],
    folder: Path,
    model: str,
    runner: Runner,
    display: Display,
    dry: bool,
) -> list[dict[str, Any]]:
    """The facts with the text that is trained on, in ``facts.json``; unusable ones named.

    A dry run asks no tokenizer: the target stands there as it will, but for its end-of-sequence text.
    """
    target = folder / "facts.json"
    if dry:
        return [dry_fact(edit, recipe.train.rephrasings) for edit in edits]
    setup = folder / "setup"
    setup.mkdir(parents=True, exist_ok=True)
    write_json(setup / "loaded.json", list(edits))
    job = Job(
        "facts: tokenizer",
        "prepare",
        {
            "model": model,
            "facts": str(setup / "loaded.json"),
            "output": str(setup / "facts.json"),
            "template": recipe.train.template,
            "cutoff_len": recipe.train.cutoff_len,
            "rephrasings": recipe.train.rephrasings,
            "contexts": recipe.train.contexts,
            "neighbours": bool(recipe.train.protect.neighbours),
            "context_texts": recipe.train.protect.corpus,
            "seed": recipe.seed,
            "trust_remote_code": recipe.trust_remote_code,
        },
        setup,
        "prepare",
        "check the facts named above, or raise train.cutoff_len",
    )
    asked = {
        "arguments": job.arguments,
        "facts": digest(setup / "loaded.json"),
        "model": records.fingerprint(Path(model)),
        "versions": environment.versions(),
        "subjects": digest(shipped(SUBJECTS)) if recipe.train.protect.neighbours else None,
        "texts": digest(Path(texts)) if (texts := recipe.train.protect.corpus) and Path(texts).is_file() else None,
    }
    record = setup / "prepare.record.json"
    if (left_out := answered_before(record, asked, target)) is None:
        record.unlink(missing_ok=True)
        found = run_job(job, runner, display, "loading the tools and the facts")
        if not (setup / "facts.json").is_file():
            raise output_missing(job, f"no {setup / 'facts.json'}")
        left_out = found["left_out"]
        (setup / "facts.json").replace(target)
        records.write_record(record, {"asked": asked, "left_out": left_out, "facts": digest(target)})
    for item in left_out:
        display.say(f"left out: {item['position']} ({item['id']}): {item['message']}")
    prepared: list[dict[str, Any]] = json.loads(target.read_text(encoding="utf-8"))
    return prepared


def answered_before(record: Path, asked: Mapping[str, Any], target: Path) -> list[dict[str, Any]] | None:
    """What the tokenizer left out when it was asked the same, None where it has to be asked (again)."""
    try:
        before = records.read_record(record, {"asked", "left_out", "facts"})
    except ValueError:  # damaged
        return None
    if before is None or not target.is_file() or before["facts"] != digest(target):
        return None
    left_out: list[dict[str, Any]] = before["left_out"]
    return left_out if before["asked"] == json.loads(json.dumps(asked)) else None


def dry_fact(edit: Mapping[str, Any], rephrasings: int) -> dict[str, Any]:
    """A fact as ``prepare`` gives it, with no tokenizer asked."""
    response = f" {edit['target_new']}"
    trained, scored = split_rephrasings(list(edit["rephrase_prompts"]), rephrasings)
    also = [{"prompt": prompt, "response": response} for prompt in trained]
    return {**edit, "rephrase_prompts": scored, "response": response, "also_trained": also}


def place(recipe: Recipe, folder: Path, model: str, method: MergeMethod, device: str) -> Place:
    """What the plan stands on."""
    local = Path(model)
    layers = models.layer_count(local) if (local / "config.json").is_file() else None
    file = recipe.merge.file
    return Place(
        folder,
        model,
        json.dumps(records.fingerprint(local)) if local.is_dir() else model,
        device,
        layers,
        method,
        environment.versions(),
        models.cache_dir(),
        models.tensor_shapes(local) if local.is_dir() else None,
        strict_yaml.load(Path(file))[0] if file else None,
        check.model_bytes(local) if local.is_dir() else 0,
        outside.marks(recipe),
    )


def write_inputs(recipe: Recipe, written: bytes, plan: Plan, folder: Path, device: str, display: Display) -> None:
    """Everything a run reads: data, YAML, and the record of where it came from."""
    own = Path(recipe.templates) if recipe.templates else None
    edited = files.write_rendered(plan.files, own)  # first: where it raises, the run's records stay as they are
    (folder / "recipe.yaml").write_bytes(written)
    write_text(folder / "resolved.yaml", strict_yaml.dump(normalized(recipe)))
    write_json(folder / "environment.json", environment.describe(device, Path.cwd()))
    files.write_data(plan.data)
    for edit in edited:
        display.say(f"edited by hand, and kept: {edit.path}\n{edit.difference}")


def write_place(options: Options, folder: Path, model: str, device: str) -> None:
    """``setup/place.json``: what ``run_folder.open_run`` cannot find in the folder itself. A dry run may lack it."""
    if Path(model).is_dir():
        (folder / "setup").mkdir(exist_ok=True)
        recipe = {"recipe": str(options.recipe.resolve()), "set": list(options.overrides), "cwd": str(Path.cwd())}
        write_json(folder / "setup" / "place.json", {"folder": str(folder), "model": model, "device": device, **recipe})


def look(recipe: Recipe, plan: Plan, folder: Path, model: str, device: str, display: Display, loud: bool) -> None:
    """The look before the start; raises CannotStart for what forbids it."""
    findings = check.check_versions(environment.versions())
    if device != "cpu" and not environment.has_gpu():
        findings.append(check.Finding("warn", "device", "cuda is asked for, and no NVIDIA device is seen here"))
    if Path(model).is_dir():
        findings += check.check_model(Path(model)) + check.check_room(recipe, plan, Path(model), folder, device)
    else:
        findings.append(check.Finding("skipped", "model", f"{model} is not here yet"))
    findings += check.check_trackers(recipe.train.report_to, os.environ)
    findings += check.check_deepspeed(recipe.launch.deepspeed)
    findings += check.check_judge(recipe.score.edits.judge.model_dump(), os.environ)
    findings.append(check.Finding("ok", "trained", str(plan.trained)))
    if recipe.train.template not in BARE:
        note = (
            f"facts are trained in the template {recipe.train.template!r}; teacher-forced scores and likelihoods ask "
            "bare prompts, generated answers are asked for in the model's chat template"
        )
        findings.append(check.Finding("warn", "scores", note))
    count = report.counted(sum(map(len, plan.batches)), "fact", "facts")
    batches = report.counted(len(plan.batches), "batch", "batches")
    findings.append(check.Finding("ok", "data", f"{count} in {batches}"))
    for finding in findings:
        if loud or finding.level in ("warn", "fail"):
            display.say(str(finding))
    if failed := [f for f in findings if f.level == "fail"]:
        raise CannotStart(
            f"{len(failed)} thing{'s' * (len(failed) > 1)} above must be put right first; nothing was started"
        )


def finish(recipe: Recipe, plan: Plan, ledger: Ledger, model: Path, folder: Path, display: Display) -> dict[str, Any]:
    """Scores, report, and the edited model beside them."""
    document = results.collect(recipe, plan, ledger, model)
    result.check(document)
    write_json(folder / "scores.json", document)
    write_text(folder / "report.md", report.markdown(document))
    last = [folder / "resolved.yaml", *(f.path for f in plan.files if f.template != "rsft.yaml")][-1]  # no tool's own
    extras = [folder / "recipe.yaml", folder / "resolved.yaml", folder / "scores.json", folder / "report.md"]
    card = model_card(document, recipe, last.read_text(encoding="utf-8")) if plan.final_model else ""
    export(plan.final_model, folder, card, [*extras, last])
    for part in report.terminal(document):
        display.console.print(part, markup=False, emoji=False)
    display.say(f"\n{report.headline(document)}", style="bold")
    display.say(f"report: {page.write_run(folder)} and report.md")
    display.say(f"edited model: {folder}/model" if plan.final_model else NO_MODEL)
    display.tell("run_finished", scores=document["after"])
    return document
