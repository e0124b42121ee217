"""``python -m kedit_glue.run RECIPE``: arguments, error boundary, exit code; nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kedit_glue.execute import DISK_FULL, OutputMissing
from kedit_glue.facts import FactsError
from kedit_glue.files import EditedTwice
from kedit_glue.job import CannotStart, Options, run
from kedit_glue.merging import MergeRefused
from kedit_glue.models import ModelError
from kedit_glue.problems import RecipeError
from kedit_glue.progress import Display
from kedit_glue.recipe import describe
from kedit_glue.render import RenderError
from kedit_glue.runner import StageFailed

EXAMPLES = """examples:
  python -m kedit_glue.run recipes/smollm2_seq.yaml                      the demo: 40 facts, 4 batches
  python -m kedit_glue.run recipes/llama2_seq.yaml --dry-run             every YAML and command, nothing started
  python -m kedit_glue.run my.yaml --check                               versions, model, data, disk, memory
  python -m kedit_glue.run my.yaml --set train.epochs=5 --set name=try   one value otherwise
  python -m kedit_glue.run --explain > my.yaml                           every key, its meaning and default

exit codes: 0 done, 1 a stage failed (run again to go on), 2 the recipe, data or model cannot be used,
130 interrupted (run again to go on)
"""

USER_ERRORS = (RecipeError, FactsError, ModelError, MergeRefused, RenderError, EditedTwice, CannotStart)


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
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a recipe value, e.g. train.epochs=5; repeatable",
    )
    made.add_argument(
        "--explain", action="store_true", help="print every recipe key with its meaning, range and default"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    options = parser().parse_args(arguments)
    if options.explain:
        print(describe(), end="")
        return 0
    if options.recipe is None:
        parser().error("a recipe is needed (or --explain)")
    display = Display(None)
    again = f"run the same command again to go on: python -m kedit_glue.run {options.recipe}"
    try:
        run(Options(options.recipe, options.set, options.dry_run, options.check, options.fresh), display)
    except USER_ERRORS as error:
        print(error, file=sys.stderr)
        return 2
    except (StageFailed, OutputMissing) as error:
        display.say(f"\n{error}\n  what was finished stays; {again}")
        return 1
    except OSError as error:
        if error.errno != DISK_FULL:
            raise
        display.console.print(f"\nno space left on the disk ({error.filename}); make room, then {again}")
        return 1
    except KeyboardInterrupt:
        display.end()
        display.say(f"\ninterrupted; what was finished stays; {again}")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
