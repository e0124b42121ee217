"""``python -m kedit_glue.ask RUN 'question'``: what the original and the edited model say, side by side."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from kedit_glue import environment, models, result
from kedit_glue.pair import has_chat_template
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.report_notes import NO_MODEL
from kedit_glue.run import command
from kedit_glue.run_folder import open_run
from kedit_glue.stage import quiet_environment

EXAMPLES = """examples:
  python -m kedit_glue.ask runs/smollm2_seq 'YouTube is owned by'
  python -m kedit_glue.ask runs/smollm2_seq                          interactive; an empty line ends it
  python -m kedit_glue.ask scores/my_model 'Who owns YouTube?' --template chat
  python -m kedit_glue.ask --base base/ --edited edited/ 'The capital of France is'

Answers are greedy and end with the model's end-of-sequence token, or after --most-tokens. They are asked for as the
run's facts were trained (bare prompts, or the chat template) unless --template says otherwise.

exit codes: 0 done, 2 no such run or model, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.ask",
        description="Ask the original and the edited model, and see both answers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("words", nargs="*", metavar="RUN QUESTION", help="a run's or a score's folder, then questions")
    add("--base", metavar="MODEL", help="instead of a run: the folder of the model before the edits")
    add("--edited", metavar="MODEL", help="and the folder of the model after them")
    add("--template", choices=("bare", "chat"), help="how questions are put")
    add("--most-tokens", type=int, default=64, metavar="N", help="an answer that does not end is cut (64)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--trust-remote-code", action="store_true", help="let the models' own Python code run")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command("ask", parser().parse_intermixed_args, ask, arguments)


def ask(options: argparse.Namespace, display: Display) -> None:
    base, edited, trained, questions = which(options)
    template = options.template or trained or ("chat" if has_chat_template(base) else "bare")
    device = environment.device(options.device)
    os.environ.update(quiet_environment(offline=True))
    display.say(f"loading {base} and {edited} …")
    ask_base, ask_edited = (
        loaded(model, device, template, options.most_tokens, options.trust_remote_code) for model in (base, edited)
    )
    for question in questions or typed(display):
        answers = {"original": ask_base(question), "edited": ask_edited(question)}
        display.console.print(drawn(question, answers), markup=False, emoji=False)


def which(options: argparse.Namespace) -> tuple[Path, Path, str | None, list[str]]:
    """Folders of both models, the template that facts were trained in (None: not known), and the questions."""
    if bool(options.base) != bool(options.edited):
        raise CannotStart("--base and --edited go together")
    if options.base:
        return folder_of(options.base), folder_of(options.edited), None, options.words
    if not options.words:
        raise CannotStart("which models? Give a run's folder first, or --base and --edited")
    place, *questions = options.words
    folder = Path(place)
    if (folder / "setup" / "place.json").is_file():
        run = open_run(folder)
        if run.plan.final_model is None:
            raise CannotStart(f"{run.folder} {NO_MODEL}")
        edited = run.folder / "model"
        if not edited.is_dir():
            raise CannotStart(f"{run.folder} has no edited model yet: run the recipe to its end")
        return Path(run.model), edited, "bare" if run.recipe.train.template in ("bare", "empty") else "chat", questions
    if not folder.is_dir():
        raise CannotStart(f"there is no folder {place}: give a run's or a score's folder, or --base and --edited")
    found = result.load(folder)
    if found.edited is None:
        raise CannotStart(f"{folder} {NO_MODEL}")
    protocol = found.protocol.generated
    return (
        folder_of(found.base.model),
        folder_of(found.edited.model),
        protocol.template if protocol else None,
        questions,
    )


def folder_of(model: str) -> Path:
    """Where a model lies that is here already; raises CannotStart for one that is not."""
    kind = models.kind_of(model)
    if kind == "packaged" and models.is_unpacked(model):
        return models.packaged_folder(model)
    if kind != "folder":
        raise CannotStart(f"{model} is not on this machine as a folder: score or run it once, or give its folder")
    return Path(model).expanduser().resolve()


def loaded(
    model: Path, device: str, template: str, most_tokens: int, trust: bool
) -> Callable[[str], Mapping[str, Any]]:
    """A function from a question to ``{text, ended}``."""
    from kedit_glue.tools import asking, recall

    asker = recall.asker(str(model), *asking.load(str(model), device, trust), lambda event: None)

    def answer(question: str) -> Mapping[str, Any]:
        [found] = asker.generated([question], template, most_tokens)
        return {"text": found.text, "ended": found.ended}

    return answer


def typed(display: Display) -> Iterator[str]:
    """Questions from the keyboard, until an empty line or the end of the input."""
    display.say("a question a line; an empty line ends it")
    with contextlib.suppress(EOFError):
        while question := input("? ").strip():
            yield question


def drawn(question: str, answers: Mapping[str, Mapping[str, Any]]) -> Table:
    made = Table(title=Text(question), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in answers:
        made.add_column(name, overflow="fold", ratio=1)
    made.add_row(*(Text(a["text"] + ("" if a["ended"] else " … (not ended)") or "(nothing)") for a in answers.values()))
    return made


if __name__ == "__main__":
    sys.exit(main())
