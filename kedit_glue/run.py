"""``python -m kedit_glue.run RECIPE``: arguments, error boundary, exit code; nothing else."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from kedit_glue import environment
from kedit_glue.changed import ChangedError
from kedit_glue.execute import DISK_FULL, NoRoom, OutputMissing
from kedit_glue.facts import FactsError
from kedit_glue.files import BrokenEdit, EditedTwice
from kedit_glue.job import Options, run
from kedit_glue.merging import MergeRefused
from kedit_glue.models import ModelError
from kedit_glue.nodes import NotTogether, join, node_rank
from kedit_glue.problems import CannotStart, RecipeError
from kedit_glue.progress import Display
from kedit_glue.recipe import describe
from kedit_glue.render import RenderError
from kedit_glue.results import SearchedOn
from kedit_glue.runner import StageFailed
from kedit_glue.weights import WeightsError

EXAMPLES = """examples:
  python -m kedit_glue.run recipes/smollm2_seq.yaml                      the demo: 40 facts, 4 batches
  python -m kedit_glue.run recipes/llama2_seq.yaml --dry-run             every YAML and command, nothing started
  python -m kedit_glue.run my.yaml --check                               versions, model, data, disk, memory
  python -m kedit_glue.run my.yaml --set train.epochs=5 --set name=try   one value otherwise
  python -m kedit_glue.run --explain > my.yaml                           every key, its meaning and default

exit codes: 0 done, 1 a stage failed (run again to go on), 2 the recipe, data or model cannot be used,
130 interrupted, 143 terminated (run again to go on)
"""

USER_ERRORS = (
    *(RecipeError, FactsError, ModelError, WeightsError, ChangedError, MergeRefused, RenderError),
    *(EditedTwice, BrokenEdit, CannotStart, NotTogether, SearchedOn),
)
Given = TypeVar("Given")
"""A program's options, as it reads them."""
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
TERMINATED = 128 + signal.SIGTERM


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.run",
        description="Edit facts in a language model, batch by batch, and score what was learned and what it cost.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("recipe", nargs="?", type=Path, help="the recipe, a YAML file")
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print each stage and its command, write all YAML, start nothing",
    )
    made.add_argument(
        "--check", action="store_true", help="look at versions, model, data, disk and memory, start nothing"
    )
    made.add_argument(
        "--fresh", action="store_true", help="forget what this run did before, edits made by hand included"
    )
    made.add_argument(
        "--force",
        action="append",
        default=[],
        metavar="STAGE",
        help="do a stage, and all that follows, again: batch_003/merge, merge (of every batch), 'batch_00*/train'",
    )
    made.add_argument(
        "--from", dest="from_batch", type=batch_number, metavar="BATCH", help="do this batch and all after it again"
    )
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a recipe value, e.g. train.epochs=5; repeatable",
    )
    made.add_argument(
        "--beside",
        action="append",
        default=[],
        type=Path,
        metavar="RUN",
        help="another run's folder: a stage that it did with the same inputs is taken over; repeatable",
    )
    made.add_argument(
        "--explain", action="store_true", help="print every recipe key with its meaning, range and default"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    any_terminal()
    options = parser().parse_args(arguments)
    if options.explain:
        print(describe(), end="")
        return 0
    if options.recipe is None:
        parser().error("a recipe is needed (or --explain)")
    if options.fresh and (options.dry_run or options.check):
        parser().error("--fresh deletes what the run did before; it does not go with --dry-run or --check")
    display = Display(None)

    def work() -> int:
        if node_rank() > 0 and not (options.dry_run or options.check):
            joined = join(options.recipe, options.set, display.say)
            if joined is not None:
                return joined
        run(
            Options(
                options.recipe,
                options.set,
                options.dry_run,
                options.check,
                options.fresh,
                options.force,
                options.from_batch,
                elsewhere=tuple(folder.resolve() for folder in options.beside),
            ),
            display,
        )
        return 0

    more = [word for stage in options.force for word in ("--force", stage)]
    more += ["--from", str(options.from_batch)] if options.from_batch is not None else []
    more += [word for folder in options.beside for word in ("--beside", str(folder))]
    return guarded(work, display, again("kedit_glue.run", options.recipe, options.set, more))


def batch_number(text: str) -> int:
    """``3`` or ``batch_003``."""
    try:
        return int(text.removeprefix("batch_"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no batch: give its number, as in 3 or batch_003") from None


def command(
    name: str,
    parse: Callable[[list[str]], Given],
    work: Callable[[Given, Display], object],
    arguments: Sequence[str] | None,
) -> int:
    """The exit code of ``python -m kedit_glue.NAME`` with ``arguments`` (None: the command line's).

    What ``work`` raises is said in words, with this very command where it goes on from there.
    """
    any_terminal()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, display = parse(words), Display(None)

    def done() -> int:
        work(options, display)
        return 0

    return guarded(done, display, shlex.join(["python", "-m", f"kedit_glue.{name}", *words]))


def any_terminal() -> None:
    """A terminal without Unicode shows a question mark, no traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def again(module: str, file: Path, values: Sequence[str], more: Sequence[str] = ()) -> str:
    """The command that goes on where this one stopped."""
    sets = [word for value in values for word in ("--set", value)]
    return shlex.join(["python", "-m", module, str(file), *sets, *more])


def guarded(work: Callable[[], int], display: Display, command: str) -> int:
    """The exit code of ``work``, or of what it raised, which is said in words; ``command`` goes on from there."""
    with terminated_as_interrupted():
        try:
            return work()
        except USER_ERRORS as error:
            print(error, file=sys.stderr)
            return 2
        except (StageFailed, OutputMissing, NoRoom) as error:
            return stopped(display, str(error), command, 1)
        except OSError as error:
            if error.errno not in (*DISK_FULL, *FORBIDDEN):
                raise
            where = f" ({error.filename})" if error.filename else ""
            if error.errno in FORBIDDEN:
                print(f"{error.strerror}{where}: check its rights, or set output: to another folder", file=sys.stderr)
                return 2
            free = environment.size(environment.disk_free(Path(error.filename or ".").resolve()))
            return stopped(display, f"no space left on the disk{where}, {free} are free: make room", command, 1)
        except KeyboardInterrupt as error:
            display.end()
            return stopped(display, "interrupted", command, TERMINATED if error.args == (TERMINATED,) else 130)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM is taken as Ctrl-C is: the stage's process is stopped, too."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(TERMINATED)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stopped(display: Display, what: str, command: str, code: int) -> int:
    """Say why a run ended before its end, and how it goes on."""
    with contextlib.suppress(OSError):  # the log may be on the disk that is full
        if code in (130, TERMINATED):
            display.tell("run_interrupted")
        display.say(f"\n{what}\n  what was finished stays; to go on: {command}")
    return code


if __name__ == "__main__":
    sys.exit(main())
