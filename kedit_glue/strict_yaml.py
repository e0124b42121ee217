"""YAML that says where every value stands, and refuses what YAML would quietly misread.

It reads the safe part of YAML only: mappings, lists, text, numbers, true/false and null. Against
PyYAML's habits, ``1e-5`` is a number, a date stays text, a key that is written twice is an error,
and so are numbers in base 8 or 60 (``010``, ``1:30``), which few people mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kedit_glue.problems import Problem, RecipeError, did_you_mean, dotted

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000
MAX_DEPTH = 50
TAG = "tag:yaml.org,2002:"
KINDS = {"null": "nothing", "bool": "true/false", "int": "a whole number", "float": "a number"}
OLD_NUMBER = re.compile(r"[-+]?0[0-7_]*[0-7]|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?
      |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
      |[-+]?\.(?:inf|Inf|INF)
      |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)
BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x00\x00\xfe\xff": "UTF-32"}
TOO_DEEP = ("values are nested too deeply", f"at most {MAX_DEPTH} levels")
PLAIN_YAML = "plain YAML: mappings, lists, text, numbers, true/false, null"


@dataclass(frozen=True)
class Position:
    """Where a key and its value stand (counted from 1), and the value as it was written."""

    file: str
    line: int | None
    column: int | None
    value_line: int | None
    value_column: int | None
    written: str | None = None
    """None for lists and mappings."""


Positions = Mapping[KeyPath, Position]


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with YAML 1.2's floats and without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in (f"{TAG}timestamp", f"{TAG}float", f"{TAG}value")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which also quotes text that only this module takes for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))


def load(path: Path) -> tuple[dict[str, Any], Positions]:
    """Read a YAML file whose top level is a mapping; RecipeError lists what is wrong with it."""
    return parse(_read(path), str(path))


def parse(text: str, file: str) -> tuple[dict[str, Any], Positions]:
    """As ``load``, from text; ``file`` is what problems call it."""
    node = _compose(text, file)
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        raise _error(file, None, "the file is empty or holds comments only", "a mapping of keys to values")
    builder = _Builder(text, file)
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        found = f"the top level is {kind}"
        raise _error(file, node.start_mark, found, "a mapping of keys to values, such as 'name: my-run'")
    data = builder.build(node, ())
    if builder.problems:
        raise RecipeError(builder.problems, file)
    return data, builder.positions


def parse_value(text: str, file: str) -> Any:
    """One value, such as the right side of ``--set train.epochs=3``; empty text is null."""
    node = _compose(text, file)
    if node is None:
        return None
    builder = _Builder(text, file)
    value = builder.build(node, ())
    if builder.problems:
        raise RecipeError(builder.problems, file)
    return value


def dump(data: Any, flow: bool = False) -> str:
    """YAML that this module and any YAML 1.1 reader take for the same data; flow style is one line."""
    text: str = yaml.dump(
        data, Dumper=_Dumper, default_flow_style=flow, sort_keys=False, allow_unicode=True, width=10**9
    )
    return text.removesuffix("\n").removesuffix("\n...") if flow else text


def _read(path: Path) -> str:
    file = str(path)
    try:
        if path.is_dir():
            raise _error(file, None, "this is a folder", "a YAML file")
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            found = f"{path.stat().st_size:,} bytes"
            raise _error(file, None, found, f"at most {MAX_BYTES:,} bytes", "is this the data file?")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise _error(file, None, "no such file", "an existing YAML file") from None
    except OSError as error:
        raise _error(file, None, f"cannot be read: {error.strerror}", "a readable YAML file") from None
    for mark, name in BYTE_ORDER_MARKS.items():
        if raw.startswith(mark):
            raise _error(file, None, f"the file is {name}", "UTF-8 text", "save it as UTF-8")
    if (nul := raw.find(b"\0")) >= 0:
        raise _at_byte(file, raw, nul, "a NUL byte: the file is binary", "UTF-8 text")
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = f"byte 0x{raw[error.start]:02x} is not UTF-8"
        raise _at_byte(file, raw, error.start, found, "UTF-8 text", "save it as UTF-8") from None


def _at_byte(file: str, raw: bytes, at: int, *text: str) -> RecipeError:
    before = raw[:at]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
    return RecipeError([Problem(file, line, column, "", *text)], file)


def _error(file: str, mark: yaml.Mark | None, found: str, allowed: str = "", hint: str = "") -> RecipeError:
    line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
    return RecipeError([Problem(file, line, column, "", found, allowed, hint)], file)


def _compose(text: str, file: str) -> yaml.Node | None:
    """The document's nodes; None when there is no document."""
    loader = None
    try:
        loader = _Loader(text)
        if not loader.check_node():
            return None
        node = loader.compose_document()
        if loader.check_node():
            second = loader.peek_event()
            mark = second.start_mark
            raise _error(file, mark, "a second document begins here ('---')", "one document per file")
        return node
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - before.rfind("\n")
        found = f"control character U+{ord(text[error.position]):04X}"
        raise RecipeError([Problem(file, line, column, "", found, "printable text")], file) from None
    except yaml.MarkedYAMLError as error:
        anchors = list(getattr(loader, "anchors", {}))
        mark = error.problem_mark or error.context_mark
        raise _error(file, *_plainly(error, mark, text, anchors)) from None
    except RecursionError:
        raise _error(file, None, *TOO_DEEP) from None
    finally:
        if loader is not None:
            loader.dispose()


def _plainly(
    error: yaml.MarkedYAMLError, mark: yaml.Mark | None, text: str, anchors: list[str]
) -> tuple[yaml.Mark | None, str, str, str]:
    """PyYAML's parser errors in plain words: mark, found, allowed, hint."""
    problem, context = error.problem or "not YAML", error.context or ""
    opened = error.context_mark or mark
    if "'\\t'" in problem and mark:
        line = text.splitlines()[mark.line] if mark.line < len(text.splitlines()) else ""
        if line[: mark.column].strip(" \t"):
            return mark, "a tab between words", "spaces", "replace the tab by a space"
        return mark, "a tab in the indentation", "spaces", "indent with spaces"
    if match := re.match(r"found undefined alias '?([^']*)'?", problem):
        known = ", ".join(f"*{anchor}" for anchor in anchors)
        name = match[1]
        hint = did_you_mean(name, anchors) or f"write &{name} before the value it repeats, or put text in quotes"
        return mark, f"alias *{name} has no anchor &{name} above it", known, hint
    if match := re.match(r"found duplicate anchor '?([^';]*)", context):
        first = f"(first in line {opened.line + 1})" if opened else ""
        return mark, f"the anchor &{match[1]} is there twice {first}", "each anchor name once", ""
    if "scanning an alias" in context:
        return (
            opened,
            "'*' begins an alias here",
            "*name, for an anchor &name above",
            "put text with '*' in quotes",
        )
    if "scanning an anchor" in context:
        return opened, "'&' begins an anchor here", "&name", "put text with '&' in quotes"
    if "quoted scalar" in context:
        return opened, "a quote that is not closed or not closed well", "the same quote at the end", problem
    if "mapping values are not allowed" in problem:
        hint = "put text that holds ': ' in quotes, or check the indentation and the line above"
        return mark, "a ':' that cannot stand here", "one 'key: value' per line", hint
    if "could not find expected ':'" in problem:
        return opened, "a line that is no 'key: value'", "key: value", "is a ':' missing?"
    if "flow sequence" in context:
        return opened, "'[' is not closed", "[one, two]", ""
    if "flow mapping" in context:
        return opened, "'{' is not closed", "{key: value, other: value}", ""
    if "flow node" in context:
        return mark, "a value is missing here", "a value", "is a '[' or '{' not closed?"
    if "<block end>" in problem:
        return (
            mark,
            "the indentation fits no line above",
            "the same indentation for all keys of a section",
            "",
        )
    if match := re.match(r"found character '(.)' that cannot start", problem):
        hint = f"put text that begins with '{match[1]}' in quotes"
        return mark, f"'{match[1]}' cannot begin a value", PLAIN_YAML, hint
    return mark, f"not YAML: {problem}", PLAIN_YAML, ""


class _Builder:
    """Turns nodes into data, notes the positions, and collects what it refuses."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.positions: dict[KeyPath, Position] = {}
        self.problems: list[Problem] = []
        self.loader = _Loader("")
        self.open: list[yaml.Node] = []
        self.count = 0

    def refuse(self, path: KeyPath, mark: yaml.Mark, found: str, allowed: str, hint: str = "") -> None:
        line, column = mark.line + 1, mark.column + 1
        self.problems.append(Problem(self.file, line, column, dotted(path), found, allowed, hint))

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            found = f"more than {MAX_VALUES:,} values once its aliases are expanded"
            raise _error(self.file, None, found, f"at most {MAX_VALUES:,} values")
        if len(self.open) > MAX_DEPTH:
            raise _error(self.file, node.start_mark, *TOO_DEEP)
        if node in self.open:
            found = "an alias inside its own anchor"
            self.refuse(path, node.start_mark, found, "a value that ends", "name an anchor of another value")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        wanted = f"{TAG}map" if isinstance(node, yaml.MappingNode) else f"{TAG}seq"
        if node.tag != wanted:
            self.bad_tag(node, path)
            return None
        with self.inside(node):
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            return [self.item(child, (*path, at)) for at, child in enumerate(node.value)]

    @contextmanager
    def inside(self, node: yaml.Node) -> Iterator[None]:
        self.open.append(node)
        try:
            yield
        finally:
            self.open.pop()

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.note(path, node.start_mark, node)
        return self.build(node, path)

    def note(self, path: KeyPath, mark: yaml.Mark, value: yaml.Node) -> None:
        written = None
        if isinstance(value, yaml.ScalarNode):
            written = self.text[value.start_mark.index : value.end_mark.index]
        at = value.start_mark
        self.positions[path] = Position(self.file, mark.line + 1, mark.column + 1, at.line + 1, at.column + 1, written)

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(TAG)
        if kind == "str":
            return node.value
        if kind not in KINDS:
            self.bad_tag(node, path)
            return None
        if kind in ("int", "float") and OLD_NUMBER.fullmatch(node.value):
            hint = "write it without leading zeros, or in quotes if it is text"
            self.refuse(path, node.start_mark, f"{node.value} (a number in base 8 or 60)", "a decimal number", hint)
            return None
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, IndexError):
            self.refuse(path, node.start_mark, f"{_short(node.value)} cannot be read", KINDS[kind])
            return None

    def bad_tag(self, node: yaml.Node, path: KeyPath) -> None:
        tag = node.tag.replace(TAG, "!!")
        what = "a Python object" if tag.startswith("!!python") else "a YAML tag"
        hint = f"remove {tag}" if not isinstance(node, yaml.ScalarNode) else f"remove {tag} or quote the text"
        self.refuse(path, node.start_mark, f"{what}: {tag}", PLAIN_YAML, hint)

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first: dict[str, yaml.Mark] = {}
        own: list[tuple[str, yaml.Node, yaml.Node]] = []
        merges: list[yaml.Node] = []
        for key_node, value in node.value:
            is_merge = key_node.tag == f"{TAG}merge"
            key = "<<" if is_merge else self.key(key_node, path)
            if key is None:
                continue
            if key in first:
                found = f"the key is there twice (first in line {first[key].line + 1})"
                self.refuse((*path, key), key_node.start_mark, found, "each key once")
                continue
            first[key] = key_node.start_mark
            if is_merge:
                merges = self.merge_sources(value, (*path, key), key_node.start_mark)
            else:
                own.append((key, key_node, value))
        for source in reversed(merges):
            merged = self.build(source, path)
            data.update(merged if isinstance(merged, dict) else {})
        for key, key_node, value in own:
            self.note((*path, key), key_node.start_mark, value)
            data[key] = self.build(value, (*path, key))
        return data

    def merge_sources(self, value: yaml.Node, path: KeyPath, mark: yaml.Mark) -> list[yaml.Node]:
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        if not sources or not all(isinstance(source, yaml.MappingNode) for source in sources):
            self.refuse(
                path,
                mark,
                "a merge key that names no mapping",
                "<<: *anchor, of a mapping, or a list of such",
            )
            return []
        return list(sources)

    def key(self, node: yaml.Node, path: KeyPath) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            kind = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
            hint = "put text that begins with '{' or '[' in quotes"
            self.refuse(path, node.start_mark, f"{kind} as a key", "text as a key", hint)
            return None
        if node.tag == f"{TAG}str":
            return str(node.value)
        kind = KINDS.get(node.tag.removeprefix(TAG), node.tag.replace(TAG, "!!"))
        hint = f'if you mean it, put it in quotes: "{node.value}"'
        self.refuse((*path, node.value), node.start_mark, f"YAML reads this key as {kind}", "text as a key", hint)
        return None


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
