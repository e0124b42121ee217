"""``python -m kedit_glue.score --base MODEL --edited MODEL --facts FILE``: score a model that anybody edited."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedit_glue import check, environment, page, report, result
from kedit_glue.atomic import write_json, write_text
from kedit_glue.facts import FORMATS
from kedit_glue.models import kind_of
from kedit_glue.pair import Asked, score_pair
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.recipe_schema import NAME
from kedit_glue.recipe_score import PROTOCOLS, Judge
from kedit_glue.run import command
from kedit_glue.runner import Runner
from kedit_glue.stage import quiet_environment

ASPECTS = ("edit_success", "generalization", "portability", "locality")
EXAMPLES = """examples:
  python -m kedit_glue.score --base smollm2-135m --edited runs/x/model --facts facts.json
  python -m kedit_glue.score --base meta-llama/Llama-2-7b-chat-hf --edited my_rome_model/ --facts counterfact.json \\
      --limit 200 --general arc_easy hellaswag --general-limit 200 --online
  python -m kedit_glue.score --base base/ --edited edited/ --facts zsre.json --protocols teacher_forced \\
      --referee easyedit

No recipe, no editing: both models are asked the same questions, and the result goes to scores/<name of the edited
model>/ (--to): scores.json, report.md, what each model answered. Answers are kept in the cache by the hash of the
weights: the base is asked once, for however many edited models. python -m kedit_glue.compare puts results side by side.

exit codes: 0 done, 1 a stage failed or the disk is full, 2 nothing was started, 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.score",
        description="Score an edited model beside the one it was made from.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--base", required=True, metavar="MODEL", help="the model before the edits: a folder, hub id or packaged model")
    add("--edited", required=True, metavar="MODEL", help="the model after them")
    add("--facts", required=True, type=Path, metavar="FILE", help="JSON, JSONL or CSV; any format that recipes take")
    add("--format", default="auto", choices=("auto", *FORMATS), help="of the facts (auto: found out)")
    add("--limit", type=whole, metavar="N", help="only the first N facts, of those that --skip leaves")
    add("--skip", type=whole, default=0, metavar="N", help="pass over the first N facts")
    add("--aspects", nargs="+", default=list(ASPECTS), choices=ASPECTS, help="what is asked (all)")
    add("--protocols", nargs="+", default=list(PROTOCOLS), choices=PROTOCOLS, help="how it is asked (all)")
    add("--template", choices=("bare", "chat"), help="for generated answers (chat where the base has a template)")
    add("--most-tokens", type=whole, default=64, metavar="N", help="a generated answer that does not end is cut (64)")
    add("--generated-facts", type=whole, metavar="N", help="generate answers for N facts, spread over all (all)")
    add("--fluency", type=whole, default=0, metavar="N", help="fluency of text sampled for N facts (not measured)")
    add("--perplexity", action="store_true", help="perplexity of the new answers, by EasyEdit's code")
    add("--general", nargs="+", default=[], metavar="TASK", help="lm-eval's tasks, before and after")
    add("--include-path", metavar="DIR", help="a folder with lm-eval tasks of your own")
    add("--general-limit", type=whole, metavar="N", help="only the first N items of each task")
    add("--judge", metavar="MODEL", help="a language model that judges generated answers: its name or folder")
    add("--judge-endpoint", metavar="URL", help="the OpenAI-compatible service that has it (none: a folder here)")
    add("--judge-key", default="OPENAI_API_KEY", metavar="VARIABLE", help="environment variable with the service's key")
    add("--referee", choices=("easyedit",), help="count by EasyEdit's own code as well, and compare item by item")
    add("--easyedit", metavar="DIR", help="a git checkout of EasyEdit to use instead of the package")
    add("--to", type=Path, metavar="DIR", help="folder for the result (scores/<edited model's name>)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--seed", type=int, default=0, help="for sampled text (0)")
    add("--trust-remote-code", action="store_true", help="let the models' own Python code run")
    add(
        "--online",
        action="store_true",
        help="let the tools ask the hub, for the data of tasks",
    )
    return made


def whole(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command("score", parser().parse_args, score, arguments)


def score(options: argparse.Namespace, display: Display) -> dict[str, Any]:
    """Ask both models, write the result, show it; returns it."""
    for name in ("include_path", "easyedit"):
        if (value := getattr(options, name)) is not None and not Path(value).is_dir():
            raise CannotStart(f"--{name.replace('_', '-')}: there is no folder {value}")
    if options.judge_endpoint and not options.judge:
        raise CannotStart("--judge-endpoint without --judge: name the model that judges")
    judge = judge_of(options)
    if judge and (found := check.check_judge(judge, os.environ)):
        raise CannotStart("\n".join(finding.detail for finding in found))
    kinds = [kind_of(model) for model in (options.base, options.edited)]
    folder = (options.to or Path("scores") / name_of(options.edited)).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    display.log, display.events = folder / "log.txt", folder / "events.jsonl"
    device = environment.device(options.device)
    online = options.online or "hub" in kinds
    runner = Runner(environment.runner_mode("auto", device), quiet_environment(offline=not online))
    asked = Asked(
        options.base,
        options.edited,
        options.facts,
        options.format,
        options.limit,
        options.skip,
        tuple(options.aspects),
        tuple(options.protocols),
        options.template,
        options.most_tokens,
        options.generated_facts,
        options.fluency,
        options.perplexity,
        tuple(options.general),
        str(Path(options.include_path).resolve()) if options.include_path else None,
        options.general_limit,
        judge,
        options.referee is not None,
        str(Path(options.easyedit).resolve()) if options.easyedit else None,
        options.seed,
        trust_remote_code=options.trust_remote_code,
    )
    document = score_pair(asked, folder, runner, device, display)
    result.check(document)
    write_json(folder / "scores.json", document)
    write_text(folder / "report.md", report.markdown(document))
    for part in report.terminal(document):
        display.console.print(part, markup=False, emoji=False)
    display.say(f"\n{report.headline(document)}", style="bold")
    display.say(f"report: {page.write_run(folder)} and report.md")
    return document


def judge_of(options: argparse.Namespace) -> dict[str, Any] | None:
    if options.judge is None:
        return None
    return Judge(model=options.judge, endpoint=options.judge_endpoint, key_variable=options.judge_key).model_dump()


def name_of(model: str) -> str:
    """A folder's name for a result: the model's, or its folder's where the model is called ``model`` as a run's is."""
    parts = [part for part in Path(model).parts if part not in ("/", "..", ".")]
    name = parts[-2] if len(parts) > 1 and parts[-1] == "model" else (parts or ["model"])[-1]
    return name if re.fullmatch(NAME, name) else "edited"


if __name__ == "__main__":
    sys.exit(main())
