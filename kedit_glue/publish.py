"""``python -m kedit_glue.publish RUN --to TARGET``: a run's model, or what it changed, to the hub or a folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kedit_glue import environment, hub, models, publication, published, result, verdict
from kedit_glue.cleaned import Cleaning
from kedit_glue.ledger import NEW
from kedit_glue.problems import CannotStart, listed
from kedit_glue.progress import Display
from kedit_glue.public_base import Base, find_base
from kedit_glue.publication import TITLES, Finished, Publication
from kedit_glue.run import command
from kedit_glue.run_folder import OpenRun, holder, open_run

EXAMPLES = """examples:
  python -m kedit_glue.publish runs/x --to owner/name --dry-run           every file that would go, and what would not
  python -m kedit_glue.publish runs/x --to owner/name                     the model, to a private repository of the hub
  python -m kedit_glue.publish runs/x --to owner/name --only-task-vector  the changed tensors, and how to apply them
  python -m kedit_glue.publish runs/x --to ./out                          to a folder of this machine

Log in once with: hf auth login (or set HF_TOKEN). Local paths and secrets are taken out of cards, settings and scores.

exit codes: 0 done, 1 the disk is full, 2 the run cannot be published or the target cannot take it, 130 interrupted
"""
HUB = "hub:"
"""What a hub id can begin with where a folder has the same name."""
LOCAL = ("./", "../", "/", "~")


@dataclass(frozen=True)
class Target:
    """Where a publication goes: one of the two is given."""

    hub: str | None = None
    folder: Path | None = None


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.publish",
        description="Give away the model of a finished run, or only the tensors that it changed, with a card.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, help="the run's folder, as in runs/x")
    made.add_argument("--to", required=True, metavar="TARGET", help="owner/name on the hub, or a folder: ./out, /a/b")
    made.add_argument("--only-task-vector", action="store_true", help="only the changed tensors, to apply on the base")
    made.add_argument("--dry-run", action="store_true", help="show what would go; no network, nothing written")
    made.add_argument("--base-model", metavar="ID", help="the base's hub id, where the run began with a local folder")
    made.add_argument("--public", action="store_true", help="hub: for everybody to see (default: private)")
    made.add_argument("--revision", metavar="BRANCH", help="hub: this branch, made where there is none (default: main)")
    made.add_argument("--message", help="hub: the commit's message")
    made.add_argument(
        "--replace", action="store_true", help="hub: delete the repository's other files in the same commit"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command("publish", parser().parse_args, publish, arguments)


# -- where to -----------------------------------------------------------------------------------


def target_of(text: str) -> Target:
    """What ``--to`` means; raises CannotStart for what could mean two things, or nothing."""
    if text.startswith(HUB):
        return Target(hub=hub_id(text.removeprefix(HUB)))
    if text in (".", "..") or text.startswith(LOCAL):
        return Target(folder=local_folder(text))
    first, _, rest = text.partition("/")
    if "/" not in text or "/" in rest or not rest:
        if text and Path(text).is_dir():
            return Target(folder=local_folder(text))
        raise CannotStart(
            f"--to {text!r} is no hub id of the form owner/name, and no folder that is there: a new folder begins with "
            "./ ../ / or ~"
        )
    if Path(first).exists():
        raise CannotStart(
            f"--to {text} can be a hub id, and a place in the folder {first} that is here: write ./{text} for the "
            f"folder, {HUB}{text} for the hub"
        )
    return Target(hub=hub_id(text))


def local_folder(text: str) -> Path:
    if not text.isprintable():
        raise CannotStart(f"--to {text!r}: a folder's name holds a character that cannot be printed")
    try:
        return Path(text).expanduser().resolve()
    except RuntimeError:
        raise CannotStart(f"--to {text!r}: there is no such user's home") from None


def hub_id(text: str, option: str = "--to") -> str:
    """Raises CannotStart for a name that the hub does not take."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(text)
    except HFValidationError as error:
        raise CannotStart(f"{option} {text!r} is no hub id: {str(error).rstrip('.')}") from None
    if text.count("/") != 1:
        raise CannotStart(f"{option} {text!r} is no hub id: it has the form owner/name")
    return text


# -- the run ------------------------------------------------------------------------------------


def finished(run: OpenRun) -> Finished:
    """Raises CannotStart for a run that has not come to its end, or whose model is not the one that was scored."""
    if run.recipe.edits.mode == "independent":
        raise CannotStart(
            f"{run.folder} edited each batch alone (edits.mode: independent): there is no one edited model to give away"
        )
    if process := holder(run.folder):
        raise CannotStart(f"{run.folder} is in use by process {process}: wait until it has ended")
    records = {stage.name: run.ledger.record(stage) for stage in run.plan.stages}
    todo = [name for name, record in records.items() if record is None]
    if todo:
        raise CannotStart(
            f"{run.folder} is not finished, {listed(todo, 3)} {NEW if len(todo) == 1 else 'are not done yet'}: run the "
            "recipe (again) to go on"
        )
    scored = result.load(run.folder)
    model = run.folder / "model"
    last = next(stage for stage in reversed(run.plan.stages) if stage.output == run.plan.final_model)
    record = records[last.name]
    if record is None or not model.is_dir():
        raise CannotStart(f"{model} is gone: {publication.AGAIN}")
    if scored.edited is None or scored.edited.weights != record["content"]:
        raise CannotStart(
            f"{run.folder}: scores.json tells of another model than {last.name} made: run the recipe again"
        )
    said = verdict.lines(scored.model_dump())
    return Finished(model, run.recipe, Path(run.model), record["output"], record["content"], said)


def check_place(target: Path, run: OpenRun) -> None:
    """Raises CannotStart for a folder that belongs to the run or its model."""
    for owner in (run.folder, Path(run.model)):
        if target.is_relative_to(owner.resolve()) or owner.resolve().is_relative_to(target):
            raise CannotStart(
                f"{target} holds, or lies in, {owner}, which must stay as it is: give --to another folder"
            )


def cleaning_of(run: OpenRun, base: Base, environ: Mapping[str, str]) -> Cleaning:
    """Knows the places that this run has to do with, and the user's secrets."""
    origin = run.origin
    places = [run.folder, origin["folder"], run.model, base.folder, models.cache_dir(), Path.cwd(), origin["cwd"]]
    places += [Path(origin["recipe"]).parent, sys.prefix, run.recipe.edits.source]
    tokens = {"HF_TOKEN_OF_LOGIN": token} if (token := hub.login()) else {}
    return Cleaning(map(str, places), {**environ, **tokens}, str(Path.home()))


def publish(options: argparse.Namespace, display: Display) -> None:
    """Raises CannotStart with what to do where run or target forbid it."""
    target = target_of(options.to)
    hub_only = {"--public": options.public, "--revision": options.revision, "--message": options.message}
    given = [name for name, value in {**hub_only, "--replace": options.replace}.items() if value]
    if target.folder and given:
        raise CannotStart(f"{listed(given, 4)}: for the hub only, and --to is the folder {target.folder}")
    run = open_run(options.run)
    if target.folder:
        check_place(target.folder, run)
    done = finished(run)
    base = find_base(run, hub_id(options.base_model, "--base-model") if options.base_model else None)
    cleaning = cleaning_of(run, base, os.environ)
    display.begin(f"{run.folder.name}: reading and hashing {TITLES[_what(options)]}", None)
    try:
        if options.only_task_vector:
            made = publication.task_vector(done, base, cleaning, target.hub, options.revision)
        else:
            made = publication.whole_model(done, base, cleaning)
    finally:
        display.end()
    goes_to = str(target.folder or f"{target.hub} on the hub, branch {options.revision or 'main'}, {seen_by(options)}")
    for line in [*table(made, goes_to), *done.verdict]:
        display.say(line)
    if target.folder:
        published.check(made, target.folder)
    if options.dry_run:
        display.say("nothing was sent or written; run the same command without --dry-run")
    elif target.folder:
        published.write_folder(made, target.folder)
        display.say(f"written: {target.folder}")
    else:
        assert target.hub is not None, "one of the two is given"
        where = hub.Repository(target.hub, options.public, options.revision, options.replace)
        message = options.message or f"kedit_glue: {TITLES[made.what]} of run {made.run}"
        display.say(f"sent: {hub.upload(made, where, message)}")


def _what(options: argparse.Namespace) -> str:
    return publication.VECTOR if options.only_task_vector else publication.MODEL


def seen_by(options: argparse.Namespace) -> str:
    return "public" if options.public else "private"


def table(made: Publication, goes_to: str) -> list[str]:
    """Every file with its size, the beginning of its SHA-256 and what was taken out of it; then what stays."""
    width = max(len(item.name) for item in made.items)
    lines = [f"{TITLES[made.what]} of run {made.run} -> {goes_to}"]
    for item in made.items:
        taken = f"  without {item.cleaned}" if item.cleaned else ""
        lines.append(f"  {item.name:{width}}  {environment.size(item.size):>11}  {item.sha256[:12]}{taken}")
    lines.append(f"  {len(made.items)} files, {environment.size(made.size)} ({made.size:,} bytes)")
    if telling := [item.name for item in made.items if item.name.endswith(("scores.json", "report.md"))]:
        lines.append(f"  with the edited facts and the models' answers to them: {', '.join(telling)}")
    lines.append("stays here:")
    wide = max(map(len, made.left_out))
    return [*lines, *(f"  {name:{wide}}  {why}" for name, why in made.left_out.items())]


if __name__ == "__main__":
    sys.exit(main())
