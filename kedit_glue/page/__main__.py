"""``python -m kedit_glue.page RUN_OR_STUDY``: writes ``report.html``, and with ``--figures`` the figures for papers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kedit_glue.page.write import page_of, put, write_figures
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.run import command

EXAMPLES = """examples:
  python -m kedit_glue.page runs/smollm2_seq                       runs/smollm2_seq/report.html again
  python -m kedit_glue.page runs/weights                           a study's folder: its cells side by side
  python -m kedit_glue.page scores/my_model --to report.html       of two models that were scored
  python -m kedit_glue.page runs/weights --figures paper/figures   and every figure as PDF, PNG and CSV, tables as LaTeX

exit codes: 0 done, 2 no result, or one that cannot be read
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.page",
        description="Write the report of a run, a scoring or a study: one HTML file that opens offline.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("result", type=Path, metavar="RUN_OR_STUDY", help="a folder that holds scores.json or study.json")
    made.add_argument(
        "--to", type=Path, metavar="FILE", help="write the report there; default: report.html in the folder"
    )
    made.add_argument(
        "--figures", type=Path, metavar="FOLDER", help="write every figure as PDF, PNG and CSV, and the tables as LaTeX"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""

    def work(options: argparse.Namespace, display: Display) -> None:
        page, own = page_of(options.result)
        to = options.to or own
        if to.is_dir():
            raise CannotStart(f"{to} is a folder: give --to a file in it")
        to.parent.mkdir(parents=True, exist_ok=True)
        display.say(f"report: {put(page, to)}")
        if options.figures:
            made = write_figures(page, options.figures)
            display.say(f"figures: {len(made)} files in {options.figures}")

    return command("page", parser().parse_args, work, arguments)


if __name__ == "__main__":
    sys.exit(main())
