"""``python -m kedit_glue.protect``: protection as a step of its own, for a model that was tuned elsewhere."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kedit_glue import environment, models, modules
from kedit_glue.atomic import new_folder
from kedit_glue.located import run_job
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.recipe_schema import Train
from kedit_glue.run import command
from kedit_glue.runner import Job, Runner
from kedit_glue.stage import quiet_environment

EXAMPLE = """example:
  python -m kedit_glue.protect --before base/ --model tuned/ --output protected/ --layers 4-8 --directions 128

takes the change that tuned/ made to base/ out of the 128 input directions that general text uses most, matrix by
matrix (D becomes D - D V V^T), and writes the model to protected/. The same in a recipe: train.protect, merge.protect.
"""


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.protect",
        description="Keep what a tuned model changed out of the directions that general text uses.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--before", type=Path, required=True, help="folder of the model that was tuned")
    made.add_argument("--model", type=Path, required=True, help="folder of the tuned or merged model")
    made.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    made.add_argument("--modules", nargs="+", default=["mlp"], help="as train.modules (mlp)")
    made.add_argument("--layers", default="all", help="as train.layers (all): 4-8, 'last 4'")
    made.add_argument("--directions", type=int, help="how many directions of each matrix (128)")
    made.add_argument("--energy", type=float, help="instead, the share of the inputs' energy that they hold")
    made.add_argument("--strength", type=float, help="soft: shrink by strength / (strength + eigenvalue / mean)")
    made.add_argument("--corpus", help="a file or data set of general text (the one that is shipped)")
    made.add_argument("--texts", type=int, help="how many of its texts (all)")
    made.add_argument("--trust-remote-code", action="store_true", help="let the model's own Python code run")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command("protect", parser().parse_args, protect, arguments)


def protect(options: argparse.Namespace, display: Display) -> dict[str, Any]:
    """Directions of ``options.before``, then the projection; returns what ``tools.protect.project`` tells."""
    before, model, output = (Path(p).resolve() for p in (options.before, options.model, options.output))
    for folder in (before, model):
        models.read_config(folder)
    if output.exists():
        raise CannotStart(f"{output} is there already: give --output a new folder")
    try:  # pydantic's ValidationError is a ValueError, too
        train = Train.model_validate({"modules": options.modules, "layers": options.layers})
        what = modules.trained(train, models.layer_count(before), models.tensor_shapes(before))
    except ValueError as error:
        raise CannotStart(str(error)) from None
    display.say(f"protecting {what}")
    asked = options.directions or (None if options.energy or options.strength else 128)
    hub = options.corpus is not None and not Path(options.corpus).exists()
    runner = Runner("command", quiet_environment(offline=not hub))
    with new_folder(output) as aside:
        work = output.with_name(output.name + ".work")
        directions = work / "protect.safetensors"
        common = {"trainable": what.pattern, "device": environment.device("auto")}
        found = run_job(
            Job(
                "directions of general text",
                "protect",
                {
                    "model": str(before),
                    "corpus": str(Path(options.corpus).resolve()) if options.corpus and not hub else options.corpus,
                    "texts": options.texts,
                    "directions": asked,
                    "energy": options.energy,
                    "strength": options.strength,
                    "cache": str(models.cache_dir()),
                    "trust_remote_code": options.trust_remote_code,
                    "output": str(directions),
                    **common,
                },
                work,
                "protect",
            ),
            runner,
            display,
        )
        result = run_job(
            Job(
                "projection",
                "project",
                {
                    "model": str(model),
                    "before": str(before),
                    "directions": str(directions),
                    "output": str(aside),
                    **common,
                },
                work,
                "project",
            ),
            runner,
            display,
        )
    held, left = result["in_directions_before"], result["in_directions_after"]
    display.say(
        f"{result['matrices']} matrices; the change's norm {result['change_before']:.3f} -> "
        f"{result['change_after']:.3f}, in the {found['directions']:.0f} directions {held:.3f} -> {left:.2g}\n{output}"
    )
    return result


if __name__ == "__main__":
    sys.exit(main())
