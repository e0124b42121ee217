"""``python -m kedit_glue.compare A B …``: several runs or score files side by side."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from kedit_glue.atomic import write_text
from kedit_glue.compare_facts import most_different
from kedit_glue.compare_latex import latex
from kedit_glue.compare_same import differences
from kedit_glue.compare_table import chosen, columns_of, compare
from kedit_glue.compare_text import Page, comma_separated, markdown, terminal
from kedit_glue.compare_values import Entry, common
from kedit_glue.problems import CannotStart, did_you_mean, printable
from kedit_glue.progress import Display
from kedit_glue.result import find, load
from kedit_glue.result_fields import Result
from kedit_glue.run import command

FORMATS = ("terminal", "markdown", "csv", "latex")
SUFFIXES = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
WIDTH = 110
"""Of what is written for a terminal into a file, which has none."""
EXAMPLES = """examples:
  python -m kedit_glue.compare runs/a runs/b                       every metric that they have, the best marked
  python -m kedit_glue.compare runs/*/ --metrics generated locality --to table.tex
  python -m kedit_glue.compare a.json b.json --baseline a.json     and what b has more or less than a
  python -m kedit_glue.compare runs/a runs/b --facts               and the facts on which they differ most
  python -m kedit_glue.compare runs/a runs/b --format csv          one line a result and metric, for programs

A result is a run's folder, a folder that kedit_glue.score wrote, an edited model's folder, or a scores.json. Results
over other facts, asked in another way (protocol, scorer, template) or from another original are refused; --anyway
compares them over the facts that all have, and says so. Seeds may differ.

exit codes: 0 done, 2 a result that cannot be read, or results that are not comparable, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.compare",
        description="Put several results side by side: the best marked, and what is inside the noise.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="a run's folder, or a scores.json")
    made.add_argument(
        "--metrics",
        nargs="+",
        default=[],
        metavar="NAME",
        help="columns: metrics' names or parts of them (generated, locality), tasks of lm-eval, patterns; default: all",
    )
    made.add_argument(
        "--format", choices=FORMATS, help="default: by the ending of --to (.md, .csv, .tex), else terminal"
    )
    made.add_argument("--to", type=Path, metavar="FILE", help="write there, over what is there, instead of printing")
    made.add_argument(
        "--baseline", metavar="RESULT", help="one of the results, or its name: show what the others differ"
    )
    made.add_argument(
        "--facts", action="store_true", help="the facts on which they differ most; with csv instead of the metrics"
    )
    made.add_argument("--anyway", action="store_true", help="compare what is not comparable, over the common facts")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""

    def work(options: argparse.Namespace, display: Display) -> None:
        page = compared(options.results, options.metrics, options.baseline, options.facts, options.anyway)
        put(page, options.format or SUFFIXES.get(options.to.suffix if options.to else "", FORMATS[0]), options.to)

    return command("compare", parser().parse_args, work, arguments)


def compared(
    paths: Sequence[Path],
    metrics: Sequence[str] = (),
    baseline: str | None = None,
    facts: bool = False,
    anyway: bool = False,
) -> Page:
    """Reads the results and compares them; raises CannotStart where they cannot be read or are not comparable."""
    entries = named([(path, load(path)) for path in paths])
    base = the_baseline(baseline, paths, entries)
    if len(entries) < 2:
        raise CannotStart(f"there is one result, {entries[0].name}: give two or more to compare")
    columns = columns_of(entries)
    if metrics:
        columns = chosen(columns, metrics)
    if not columns:
        raise CannotStart("the results have no metric at all")
    found = differences(entries, [column.key for column in columns])
    shared = common(entries)
    if not shared:
        raise CannotStart("\n".join(["the results have no fact in common:", *(f"  {one}" for one in found)]))
    if found and not anyway:
        raise CannotStart(
            "\n".join(
                [
                    "these results are not comparable as they are:",
                    *(f"  {one}" for one in found),
                    f"--anyway compares them over the {len(shared)} facts that all have, and says so; --metrics leaves "
                    "columns out",
                ]
            )
        )
    spreads = most_different(entries, columns) if facts else None
    return Page(compare(entries, columns, base), spreads, found)


def named(loaded: Sequence[tuple[Path, Result]]) -> list[Entry]:
    """Results under their own names, those of the same name with as much of their folder as tells them apart."""
    real = [find(path).resolve() for path, _ in loaded]
    if twice := [str(path) for (path, _), at in zip(loaded, real, strict=True) if real.count(at) > 1]:
        raise CannotStart(f"the same result was given twice: {' and '.join(twice)}")
    names = [result.name for _, result in loaded]
    often = Counter(names)
    for name in [name for name, count in often.items() if count > 1]:
        places = [place for place, found in enumerate(names) if found == name]
        parts = [real[place].parts[1:] for place in places]
        ends = [part[:-1] if part[-1] == "scores.json" else part for part in parts]
        length = next(n for n in range(1, 1 + max(map(len, parts))) if len({end[-n:] for end in ends}) == len(ends))
        for place, end in zip(places, ends, strict=True):
            names[place] = f"{name} ({os.path.join(*end[-length:])})"
    return [Entry(printable(name), result) for name, (_, result) in zip(names, loaded, strict=True)]


def the_baseline(wanted: str | None, paths: Sequence[Path], entries: Sequence[Entry]) -> str | None:
    """The name of the result that ``--baseline`` means: by name, or as it was given."""
    if wanted is None:
        return None
    meant = [
        entry.name
        for entry, path in zip(entries, paths, strict=True)
        if wanted in (entry.name, str(path)) or Path(wanted) == path
    ]
    meant = meant or [entry.name for entry in entries if entry.result.name == wanted]
    if len(meant) != 1:
        names = [entry.name for entry in entries]
        hint = did_you_mean(wanted, names) if not meant else "several have that name"
        raise CannotStart(f"--baseline {wanted}: {hint or 'none of the results'}; they are: {', '.join(names)}")
    return meant[0]


def put(page: Page, form: str, to: Path | None) -> None:
    """Print the page, or write it."""
    if form == "terminal" and to is None:
        console = Console(highlight=False, emoji=False)
        if not console.is_terminal:
            console.width = WIDTH
        shown(page, console)
        return
    text = TEXTS[form](page)
    if to is None:
        sys.stdout.write(text)
        return
    if to.is_dir():
        raise CannotStart(f"{to} is a folder: give --to a file in it")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise CannotStart(f"{error.filename} is no folder: give --to another place") from None
    write_text(to, text)
    print(f"written: {to}", file=sys.stderr)


def shown(page: Page, console: Console) -> None:
    for part in terminal(page, console.width):
        console.print(part)


def plain_tables(page: Page) -> str:
    """The terminal's tables as text for a file."""
    console = Console(highlight=False, emoji=False, width=WIDTH, file=io.StringIO())
    with console.capture() as captured:
        shown(page, console)
    return captured.get()


TEXTS = {"terminal": plain_tables, "markdown": markdown, "csv": comma_separated, "latex": latex}


if __name__ == "__main__":
    sys.exit(main())
