"""``python -m kedit_glue.status RUN``: how far a run is, what stands, what is to be done and why. Changes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kedit_glue import status_report
from kedit_glue.run import USER_ERRORS, any_terminal
from kedit_glue.status_document import status

EXAMPLES = """examples:
  python -m kedit_glue.status runs/smollm2_seq           batches, stages, times, sizes, and how to go on
  python -m kedit_glue.status runs/smollm2_seq --all     every batch and stage of a long run
  python -m kedit_glue.status runs/smollm2_seq --json    one JSON object; kedit_glue/status_document.py has its keys
  watch -n 5 python -m kedit_glue.status runs/smollm2_seq    beside a run that is at work

exit codes: 0 everything is done, 3 something is to be done (or is being done), 2 no run, or none that can be read
"""
TO_DO = 3


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.status",
        description="Show how far a run is: what is done, stale, edited by hand or to be done, with times and sizes.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("run", type=Path, help="the run's folder, such as runs/smollm2_seq")
    made.add_argument("--json", action="store_true", help="one JSON object for programs, nothing else")
    made.add_argument("--all", action="store_true", help="every batch and every stage, however many there are")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    any_terminal()
    options = parser().parse_args(arguments)
    try:
        document = status(options.run)
    except (*USER_ERRORS, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        console = Console(highlight=False, soft_wrap=True, emoji=False)
        if not console.is_terminal:
            console.width = 110  # a file has no width of its own; tables want one
        for part in status_report.terminal(document, options.all):
            console.print(part, markup=False, emoji=False)
    return TO_DO if document["to_do"] else 0


if __name__ == "__main__":
    sys.exit(main())
