"""``python -m kedit_glue.tasks FILE --to FOLDER``: a task for lm-eval from a local file of a known data set."""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kedit_glue import task_shapes
from kedit_glue.atomic import write_text
from kedit_glue.facts import Unusable, reading
from kedit_glue.facts.errors import BadRecord, names
from kedit_glue.facts.report import counted, reasons
from kedit_glue.problems import CannotStart
from kedit_glue.progress import Display
from kedit_glue.recipe_schema import NAME, NAMES
from kedit_glue.run import command
from kedit_glue.task_shapes import BY_NAME, SHAPES, Item, Shape
from kedit_glue.task_yaml import FEW_SHOT, Task, tasks_of

EXAMPLES = """examples:
  python -m kedit_glue.tasks copa_dev.json --to my_tasks                      every item, the shape found by its keys
  python -m kedit_glue.tasks mmlu_pro.json --to my_tasks --limit 300          300 items drawn at random, always the same
  python -m kedit_glue.tasks test.jsonl --to my_tasks --as mmlu_pro --examples validation.jsonl --name pro
  python -m kedit_glue.tasks my_questions.jsonl --to my_tasks --few-shot 3    3 items become examples for the others

FILE: a JSON list of objects, or one object a line (.jsonl). Shapes and their keys:
{shapes}

FOLDER gets NAME.yaml and NAME.jsonl, for score.general: {{tasks: [NAME], include_path: FOLDER}} in a recipe. MMLU-Pro
becomes two tasks: NAME generates and looks for 'answer is (X)', NAME_loglikelihood compares the letters' likelihoods.

exit codes: 0 done, 1 the disk is full, 2 the file cannot be used, or the task is there already, 130 interrupted
"""
SEED = 0
"""Of the draw that ``--limit`` makes: the same items for every model and on every machine."""
MOST_NAMED = 3


@dataclass(frozen=True)
class Options:
    """The command line."""

    file: Path
    to: Path
    shape: str | None = None
    name: str | None = None
    limit: int | None = None
    few_shot: int | None = None
    examples: Path | None = None
    max_tokens: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Read:
    """A file's sound items, and what was left out."""

    shape: Shape
    items: list[Item]
    unusable: list[Unusable]
    records: int


def parser() -> argparse.ArgumentParser:
    shapes = "\n".join(f"  {shape.name:<9} {shape.needs}" for shape in SHAPES)
    made = argparse.ArgumentParser(
        prog="python -m kedit_glue.tasks",
        description="Turn a local file of a benchmark, or of questions of your own, into a task that lm-eval runs.",
        epilog=EXAMPLES.format(shapes=shapes),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("file", type=Path, metavar="FILE", help="the data, .json or .jsonl")
    made.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where the task is written")
    made.add_argument("--as", dest="shape", choices=list(BY_NAME), help="the file's shape (found by its keys)")
    made.add_argument("--name", type=task_name, help="the task's name (the file's)")
    made.add_argument("--limit", type=at_least(1), metavar="N", help="so many items, drawn at random (all)")
    made.add_argument(
        "--few-shot",
        type=at_least(0),
        metavar="K",
        help="examples in front of each item: the file's first K sound ones, which are not scored (mmlu_pro 5, else 0)",
    )
    made.add_argument("--examples", type=Path, metavar="FILE", help="take the examples from this file instead")
    made.add_argument(
        "--max-tokens",
        type=at_least(1),
        metavar="N",
        help="most tokens generated for one item (mmlu_pro 2048, else 32)",
    )
    made.add_argument("--overwrite", action="store_true", help="replace a task of that name in FOLDER")
    return made


def task_name(text: str) -> str:
    if re.fullmatch(NAME, text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is no name for a task: {NAMES}")


def at_least(low: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if text.isdecimal() and int(text) >= low:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number, {low} or more")

    return number


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return command("tasks", lambda words: Options(**vars(parser().parse_args(words))), write, arguments)


# -- reading ------------------------------------------------------------------------------------


def read(file: Path, shape: Shape | None) -> Read:
    """The items of a file; raises CannotStart or FactsError where it has none."""
    if not file.is_file():
        raise CannotStart(f"{file}: {'a folder' if file.is_dir() else 'no such file'}; give a .json or .jsonl file")
    if file.suffix.lower() in reading.TABLES:
        raise CannotStart(f"{file}: a table; a task is made from a .json or .jsonl file")
    text = reading.text_of(file)
    if file.suffix.lower() in reading.LISTS or text.lstrip().startswith("["):
        raws = reading.json_list(file, reading.json_value(file, text))
    else:
        raws = reading.json_lines(file, text)
    objects = [raw.value for raw in raws if isinstance(raw.value, dict)]
    try:
        found = shape or task_shapes.shape_of(objects)
    except BadRecord as bad:
        raise CannotStart(f"{file}: {bad.message}") from None
    if found is None:
        keys = names(dict.fromkeys(key for record in objects[: task_shapes.LOOK_AT] for key in record))
        known = "\n".join(f"  {s.name:<9} {s.needs}" for s in SHAPES)
        raise CannotStart(f"{file}: no known shape has these keys: {keys}; rename them, or give --as; known:\n{known}")
    items: list[Item] = []
    unusable = []
    for raw in raws:
        try:
            items += items_of(raw, found)
        except BadRecord as bad:
            unusable.append(Unusable(raw.position, bad.kind, bad.message))
    if not items:
        why = "; ".join(reasons(unusable, MOST_NAMED))
        raise CannotStart(f"{file}: read as {found.name}, none of its {len(raws)} records can be used: {why}")
    return Read(found, items, unusable, len(raws))


def items_of(raw: reading.Raw, shape: Shape) -> list[Item]:
    return shape.items(reading.record_of(raw))


# -- writing ------------------------------------------------------------------------------------


def write(options: Options, display: Display) -> list[Task]:
    """Write the task's files, say what they are; returns the tasks. Raises CannotStart, FactsError."""
    name = options.name or re.sub(r"[^A-Za-z0-9._-]+", "_", options.file.stem).lstrip("._-")[:64] or "task"
    found = read(options.file, BY_NAME[options.shape] if options.shape else None)
    shape = found.shape.name
    few_shot = FEW_SHOT.get(shape, 0) if options.few_shot is None else options.few_shot
    if few_shot and shape == "text":
        raise CannotStart("--few-shot: a text is scored by itself, it takes no examples")
    examples, items = held_out(found, few_shot, options)
    if options.limit and options.limit < len(items):
        drawn = random.Random(SEED).sample(range(len(items)), options.limit)
        items = [items[number] for number in sorted(drawn)]
    columns = {column: all(item.get(column) for item in [*items, *examples]) for column in ("category", "subject")}
    source = f"{counted(len(items), 'item')} of {options.file.name}"
    tasks = tasks_of(shape, name, columns, few_shot, options.max_tokens, source)
    files = {f"{name}.jsonl": lines(items)}
    if examples:
        files[f"{name}.examples.jsonl"] = lines(examples)
    files |= {f"{task.name}.yaml": task.text for task in tasks}
    if there := [file for file in files if (options.to / file).exists() and not options.overwrite]:
        raise CannotStart(f"{options.to / there[0]} is there already: give --name, another folder, or --overwrite")
    options.to.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        write_text(options.to / file, text)
    tell(options, found, (items, examples), tasks, display)
    return tasks


def held_out(found: Read, count: int, options: Options) -> tuple[list[Item], list[Item]]:
    """Few-shot examples, and the items that are left to be scored."""
    if not count:
        if options.examples:
            raise CannotStart("--examples without examples: give --few-shot and their number as well")
        return [], found.items
    if options.examples:
        other = read(options.examples, found.shape)
        if len(other.items) < count:
            raise CannotStart(
                f"{options.examples}: {counted(len(other.items), 'item')} where --few-shot asks for {count}"
            )
        return other.items[:count], found.items
    if len(found.items) <= count:
        raise CannotStart(
            f"{options.file}: {counted(len(found.items), 'item')}, of which {count} would become examples: give "
            "--few-shot 0, or --examples and another file"
        )
    return found.items[:count], found.items[count:]


def lines(items: Iterable[Item]) -> str:
    """JSONL. Written with escapes: some characters that JSON allows as they are break lines elsewhere."""
    return "".join(json.dumps(item) + "\n" for item in items)


def tell(
    options: Options, found: Read, split: tuple[list[Item], list[Item]], tasks: list[Task], display: Display
) -> None:
    """What was written, what was left out, and how a recipe uses it."""
    items, examples = split
    said = [f"{counted(len(items), 'item')} from {options.file} ({found.shape.name})"]
    if examples:
        said[0] += f", {counted(len(examples), 'example')} from {options.examples or 'its beginning'}"
    said[0] += f"; {counted(found.records, 'record')} read"
    said += [f"left out: {line}" for line in reasons(found.unusable, MOST_NAMED)]
    said += [f"{options.to / task.name}.yaml  {task.notes[1]}" for task in tasks]
    used = ", ".join(task.name for task in tasks)
    said += [
        "in a recipe" + (", one of them or both:" if len(tasks) > 1 else ":"),
        "  score:",
        "    general:",
        f"      tasks: [{used}]",
        f"      include_path: {json.dumps(str(options.to), ensure_ascii=False)}",
    ]
    display.say("\n".join(said))


if __name__ == "__main__":
    sys.exit(main())
