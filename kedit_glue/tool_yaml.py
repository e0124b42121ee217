"""YAML as LLaMA-Factory and mergekit read it, at libyaml's speed; recipes are read by ``strict_yaml``."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from typing import Any

import yaml

MAX_DEPTH = 100
MAX_FAST = 10_000
"""Characters that libyaml's binding is given: it recurses in C, and from 20,000 levels on that ends the process."""
LINE_BREAK = re.compile("[\n\r\x85\u2028\u2029]")


def load(text: str) -> Any:
    """The one document's data; YAMLError for what is no YAML, a key that is there twice, an alias in its own anchor."""
    if yaml.__with_libyaml__ and len(text) <= MAX_FAST:
        # the tools' own loader has the last word, and the better ones
        with contextlib.suppress(yaml.YAMLError, UnicodeEncodeError):
            return _load(yaml.CSafeLoader(text))
    try:
        return _load(yaml.SafeLoader(text))
    except RecursionError:
        raise yaml.YAMLError(f"nested more than {MAX_DEPTH} levels deep") from None


def _load(loader: yaml.SafeLoader | yaml.CSafeLoader) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node)
        return loader.construct_document(node)
    except (ValueError, OverflowError) as error:  # a date in month 13, for one
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def _check(root: yaml.Node) -> None:
    """What PyYAML takes and no file here should hold: LLaMA-Factory, too, refuses a key that is there twice."""
    level: list[yaml.Node] = [root]
    for _ in range(MAX_DEPTH):
        below: dict[int, yaml.Node] = {}  # an anchor's node once, however many aliases it has
        for node in level:
            if isinstance(node, yaml.MappingNode):
                _no_key_twice(node)
                below |= {id(n): n for pair in node.value for n in pair}
            elif isinstance(node, yaml.SequenceNode):
                below |= {id(n): n for n in node.value}
        if not below:
            return
        level = list(below.values())
    mark = level[0].start_mark
    problem = f"nested more than {MAX_DEPTH} levels deep, or an alias inside its own anchor"
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _no_key_twice(node: yaml.MappingNode) -> None:
    first: dict[tuple[str, str], yaml.Node] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and first.setdefault((key.tag, key.value), key) is not key:
            line = first[key.tag, key.value].start_mark.line + 1
            problem = f"the key {key.value!r} is there twice (first in line {line})"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)


def flow(value: Any) -> str:
    """One value in YAML's flow style on one line; reads back as the same value of the same type."""
    if value is None or isinstance(value, int):
        return json.dumps(value)
    shown = repr(value)
    return _scalar(value, shown) if isinstance(value, str | float) else _on_one_line(value, shown)


@functools.lru_cache(maxsize=4096)
def _scalar(value: str | float, shown: str) -> str:
    """Most of a run's values stand in every batch. ``shown`` tells -0.0 from 0.0."""
    return _on_one_line(value, shown)


def _on_one_line(value: Any, shown: str) -> str:
    # libyaml writes an emoji as an escape, and takes no half of a surrogate pair (as in file names that are no UTF-8)
    fast = yaml.__with_libyaml__ and shown.isascii() and "\\u" not in shown
    plain = _dump(value, yaml.CSafeDumper if fast else yaml.SafeDumper, None)
    # text of several lines would go on at a column that knows nothing of the place it is put in
    return _dump(value, yaml.SafeDumper, '"') if LINE_BREAK.search(plain) else plain


def _dump(value: Any, dumper: Any, style: str | None) -> str:
    text: str = yaml.dump(
        value,
        Dumper=dumper,
        default_flow_style=True,
        default_style=style,
        allow_unicode=True,
        width=10**9,
        sort_keys=False,
    )
    return text.removesuffix("\n").removesuffix("\n...")
