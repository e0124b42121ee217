"""The recipe's values that are more than a number or a word: layers, modules, merge parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from kedit_glue.problems import UNKNOWN_KEY, did_you_mean

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LAYER_RANGE = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
LAYER_SIDE = re.compile(r"(first|last) ([0-9]{1,6})")

NUMBERS = frozenset({"weight", "density", "lambda", "gamma", "epsilon", "t", "select_topk"})
SWITCHES = frozenset({"normalize", "rescale", "int8_mask"})
"""mergekit's parameters that are known to be numbers or true/false; it reads them after training."""


class ValueProblem(ValueError):
    """What is wrong with one value; ``at`` leads from the field to it. Empty text: the field's own."""

    def __init__(self, at: tuple[str | int, ...] = (), found: str = "", allowed: str = "", hint: str = ""):
        super().__init__(found or hint or "not allowed")
        self.at, self.found, self.allowed, self.hint = at, found, allowed, hint


class ValueProblems(ValueError):
    """Everything that is wrong with one field's value."""

    def __init__(self, problems: Sequence[ValueProblem]):
        super().__init__("; ".join(map(str, problems)))
        self.problems = tuple(problems)


def collect(check: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    """Call ``check`` with each tuple of arguments, and raise all of its complaints together."""
    problems = []
    for each in arguments:
        try:
            check(*each)
        except ValueProblem as problem:
            problems.append(problem)
    if problems:
        raise ValueProblems(problems)


# -- layers -------------------------------------------------------------------------------------


def check_layers(value: Any) -> str | tuple[int | str, ...]:
    if isinstance(value, list | tuple) and value:
        collect(_check_layer, ((item, (at,)) for at, item in enumerate(value)))
        return tuple(value)
    collect(_check_layers_alone, [(value,)])
    return str(value)


def _check_layers_alone(value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueProblem(hint=f"a single layer is written [{value}]")
    if isinstance(value, list | tuple):
        raise ValueProblem(found="an empty list")
    if not isinstance(value, str):
        raise ValueProblem()
    _check_layer_text(value, ())


def _check_layer(item: Any, at: tuple[int, ...]) -> None:
    if isinstance(item, str):
        _check_layer_text(item, at)
    elif not isinstance(item, int) or isinstance(item, bool):
        raise ValueProblem(at)
    elif item < 0:
        raise ValueProblem(at, hint="layers count from 0")


def _check_layer_text(text: str, at: tuple[int, ...]) -> None:
    if match := LAYER_RANGE.fullmatch(text):
        if int(match[1]) > int(match[2]):
            raise ValueProblem(at, hint=f"did you mean '{match[2]}-{match[1]}'?")
    elif match := LAYER_SIDE.fullmatch(text):
        if int(match[2]) == 0:
            raise ValueProblem(at, hint="at least one layer must be trained")
    elif text.isascii() and text.isdecimal():
        raise ValueProblem(at, hint=f"write the number without quotes: {'[' + text + ']' if not at else text}")
    elif text != "all":
        raise ValueProblem(at)


def resolve_layers(expr: str | Sequence[int | str], n_layers: int) -> tuple[int, ...]:
    """The layers that ``train.layers`` means in a model of ``n_layers``, in order, each once.

    Raises ValueError for a layer that the model does not have.
    """
    chosen: set[int] = set()
    has = f"the model has layers 0 to {n_layers - 1}"
    for part in [expr] if isinstance(expr, str) else expr:
        if isinstance(part, int):
            wanted = range(part, part + 1)
        elif part == "all":
            wanted = range(n_layers)
        elif match := LAYER_RANGE.fullmatch(part):
            wanted = range(int(match[1]), int(match[2]) + 1)
        elif match := LAYER_SIDE.fullmatch(part):
            count = int(match[2])
            if not 1 <= count <= n_layers:
                raise ValueError(f"'{part}' layers asked for, {has}")
            wanted = range(count) if match[1] == "first" else range(n_layers - count, n_layers)
        else:
            raise ValueError(f"'{part}' is no layer expression: 'all', '4-8', 'first 4', 'last 4' or numbers")
        if not wanted:
            raise ValueError(f"'{part}' holds no layer")
        for outside in (wanted[0], wanted[-1]):
            if not 0 <= outside < n_layers:
                raise ValueError(f"layer {outside} asked for, {has}")
        chosen.update(wanted)
    if not chosen:
        raise ValueError(f"no layer asked for, {has}")
    return tuple(sorted(chosen))


# -- lists of names -----------------------------------------------------------------------------


def check_modules(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple) and value:
        collect(_check_module, ((name, (at,)) for at, name in enumerate(value)))
        return tuple(no_repeats(value))
    collect(_check_module, [(value, ())])
    return (str(value),)


def _check_module(name: Any, at: tuple[int, ...]) -> None:
    if isinstance(name, list | tuple):
        raise ValueProblem(at, found="" if name else "an empty list")
    if not isinstance(name, str):
        raise ValueProblem(at)
    if not IDENTIFIER.fullmatch(name):
        several = IDENTIFIER.findall(name) if "," in name else []
        raise ValueProblem(at, hint=f"write a list: [{', '.join(several)}]" if several else "")


def check_pattern(value: Any) -> Any:
    """A regular expression that compiles; what is no text is left to the field's own type."""
    if isinstance(value, str):
        collect(_check_pattern, [(value,)])
    return value


def _check_pattern(value: str) -> None:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueProblem(hint=f"it does not compile: {error}") from None


def no_repeats(value: Any) -> Any:
    """Refuse a list that names something twice; leave everything else to the field's own type."""
    if isinstance(value, list | tuple):
        collect(_check_not_before, ((value, at) for at in range(len(value))))
    return value


def _check_not_before(names: Sequence[Any], at: int) -> None:
    if isinstance(names[at], str) and names[at] in names[:at]:
        raise ValueProblem((at,), found=f"'{names[at]}' is listed twice")


# -- mergekit's parameters ----------------------------------------------------------------------


def check_parameters(value: Any) -> Any:
    """mergekit's three forms: a scalar, a list of scalars (a gradient), a list of {filter, value}."""
    if not isinstance(value, dict):
        raise ValueProblems([ValueProblem()])
    collect(_check_setting, value.items())
    return value


def _check_setting(name: str, setting: Any) -> None:
    if isinstance(setting, list) and any(isinstance(item, dict) for item in setting):
        for at, item in enumerate(setting):
            _check_conditional(name, item, (name, at))
    elif isinstance(setting, dict):
        _check_conditional(name, setting, (name,))
    else:
        _check_scalar_or_gradient(name, setting, (name,))


def _check_conditional(name: str, item: Any, at: tuple[str | int, ...]) -> None:
    allowed = "a mapping of filter (text in a tensor's name) and value"
    if not isinstance(item, dict):
        raise ValueProblem(at, allowed=allowed)
    for key in item:
        if key not in ("filter", "value"):
            hint = did_you_mean(key, ("filter", "value"))
            raise ValueProblem((*at, key), found=UNKNOWN_KEY, allowed="filter, value", hint=hint)
    if "value" not in item:
        raise ValueProblem(at, found="'value' is missing", allowed=allowed)
    if not isinstance(item.get("filter", ""), str | None):
        raise ValueProblem((*at, "filter"), allowed="text in a tensor's name")
    _check_scalar_or_gradient(name, item["value"], (*at, "value"))


def _check_scalar_or_gradient(name: str, value: Any, at: tuple[str | int, ...]) -> None:
    if isinstance(value, list):
        if not value:
            raise ValueProblem(at, found="an empty list", allowed="at least one value")
        for index, item in enumerate(value):
            _check_scalar(name, item, (*at, index))
    else:
        _check_scalar(name, value, at)


def _check_scalar(name: str, value: Any, at: tuple[str | int, ...]) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in NUMBERS and not is_number:
        raise ValueProblem(at, allowed="a number")
    if name in SWITCHES and not isinstance(value, bool):
        raise ValueProblem(at, allowed="true or false")
    if not isinstance(value, str | int | float):
        raise ValueProblem(at, allowed="a number, true/false or text")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueProblem(at, allowed="a finite number")


def leaves(setting: Any) -> Iterator[Any]:
    """Every scalar of one parameter's setting, whatever its form."""
    if isinstance(setting, dict):
        yield from leaves(setting.get("value"))
    elif isinstance(setting, list):
        for item in setting:
            yield from leaves(item)
    else:
        yield setting
