"""A definition file's text as a tree whose every node knows its line and column.

Owns: reading YAML (the 1.2 core schema's scalars, one document), and refusing what could hurt: oversized
files, alias bombs, deep nesting, tags, duplicate keys. Refuses: knowing what a definition is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from lookback.errors import DefinitionError, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000
MAX_ALIASES = 100

Path = tuple[str | int, ...]

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+", re.ASCII)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", re.ASCII)
_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass
class Node:
    """One YAML node. value: dict of Nodes, list of Nodes, or a scalar; line and column from 1."""

    line: int
    column: int
    value: Any
    text: str = ""  # a scalar as written, quotes and folding undone
    style: str | None = None  # of a scalar: None when plain, else its quote or | or >
    exact: bool = False  # whether character n of `text` is n characters after its first in the file
    keys: dict[str, tuple[int, int]] = field(default_factory=dict)
    size: int = 1

    def plain(self) -> Any:
        """Return the value without positions."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def find(self, path: Sequence[str | int]) -> Node | None:
        """Return the node at a path of keys and indexes, None where there is none."""
        node: Node | None = self
        for step in path:
            node = node.child(step) if node is not None else None
        return node

    def child(self, step: str | int) -> Node | None:
        """Return the node under a key or at an index, None where there is none."""
        if isinstance(self.value, dict):
            return self.value.get(step)
        if isinstance(self.value, list) and isinstance(step, int) and 0 <= step < len(self.value):
            found: Node = self.value[step]
            return found
        return None

    def place(self, path: Sequence[str | int], at_key: bool = False) -> tuple[int, int]:
        """Return line and column of the nearest node on a path; of its key where `at_key`."""
        path = tuple(path)
        if at_key and path:
            parent = self.find(path[:-1])
            if parent is not None and path[-1] in parent.keys:
                return parent.keys[str(path[-1])]
        for length in range(len(path), -1, -1):
            node = self.find(path[:length])
            if node is not None:
                return node.line, node.column
        return 1, 1


def read_bytes_as_text(raw: bytes, path: str) -> str:
    """Return a definition file's text, or raise DefinitionError for what no definition can be."""
    if len(raw) > MAX_BYTES:
        message = f"the file has {len(raw):,} bytes; split it, a definition has at most {MAX_BYTES:,}"
        raise DefinitionError(path, [Problem(1, 1, message)])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        column = error.start - (before.rfind(b"\n") + 1) + 1
        problem = Problem(before.count(b"\n") + 1, column, "this byte is not UTF-8; save the file as UTF-8")
        raise DefinitionError(path, [problem]) from None


def parse_source(text: str, path: str) -> tuple[Node, list[Problem]]:
    """Return the tree of a definition's text and the problems that leave a tree to go on with.

    Raises DefinitionError where there is no tree: a syntax error, more than one document, a bomb.
    """
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        message = f"the text is too long; split it, a definition has at most {MAX_BYTES:,} bytes"
        raise DefinitionError(path, [Problem(1, 1, message)])
    try:
        return _Composer(path).compose(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        what = " ".join(part for part in (error.problem, error.context) if part)
        raise DefinitionError(path, [Problem(line, column, f"not YAML: {what}")]) from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        position = getattr(error, "position", 0) or 0
        before = text[:position]
        line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
        message = "a character that YAML does not allow; remove it"
        raise DefinitionError(path, [Problem(line, column, message)]) from None


class _Composer:
    """Builds the tree from YAML events, within the limits."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node] = {}
        self.aliases = 0
        self.nodes = 0

    def compose(self, events: Iterator[Any]) -> tuple[Node, list[Problem]]:
        root: Node | None = None
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self.stop(event, "a second document starts here; keep one document a file")
                root = self.node(next(events), events, 0)
        if root is None:
            raise DefinitionError(self.path, [Problem(1, 1, "the file is empty; start with `streams:`")])
        return root, self.problems

    def stop(self, event: Any, message: str) -> None:
        mark = event.start_mark
        raise DefinitionError(self.path, [*self.problems, Problem(mark.line + 1, mark.column + 1, message)])

    def note(self, event: Any, message: str) -> None:
        mark = event.start_mark
        self.problems.append(Problem(mark.line + 1, mark.column + 1, message))

    def node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        if depth > MAX_DEPTH:
            self.stop(event, f"nested more than {MAX_DEPTH} deep; a definition needs 6")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        self.count(event, 1)
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            self.note(event, f"the tag {tag} is not allowed; write the plain value")
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event, line, column)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self.sequence(events, depth, line, column)
        else:
            node = self.mapping(events, depth, line, column)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def alias(self, event: Any) -> Node:
        self.aliases += 1
        if self.aliases > MAX_ALIASES:
            self.stop(event, f"more than {MAX_ALIASES} aliases; write the values out")
        target = self.anchors.get(event.anchor)
        if target is None:
            self.stop(event, f"the alias *{event.anchor} names no anchor above it")
            raise AssertionError("stop raises")
        self.count(event, target.size)
        return target

    def count(self, event: Any, nodes: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self.stop(event, f"more than {MAX_NODES:,} values once aliases are followed; split the file")

    def sequence(self, events: Iterator[Any], depth: int, line: int, column: int) -> Node:
        items: list[Node] = []
        for event in events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self.node(event, events, depth + 1))
        return Node(line, column, items, size=1 + sum(item.size for item in items))

    def mapping(self, events: Iterator[Any], depth: int, line: int, column: int) -> Node:
        items: dict[str, Node] = {}
        places: dict[str, tuple[int, int]] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self.node(event, events, depth + 1)
            value = self.node(next(events), events, depth + 1)
            place = (event.start_mark.line + 1, event.start_mark.column + 1)
            if isinstance(key.value, dict | list):
                self.note(event, "a key must be a name")
            elif key.text == "<<" and key.style is None:
                self.note(event, "merge keys (<<) are not read; write the keys out")
            elif key.text in items:
                first = places[key.text][0]
                self.note(event, f"`{key.text}` is here twice (first in line {first}); remove one")
            else:
                items[key.text], places[key.text] = value, place
        size = 1 + len(items) + sum(item.size for item in items.values())
        return Node(line, column, items, keys=places, size=size)


def _scalar(event: Any, line: int, column: int) -> Node:
    """Return a scalar's node, typed by the YAML 1.2 core schema (`no` and `on` are texts)."""
    text: str = event.value
    value: Any = text
    style: str | None = event.style or None  # libyaml says "" for plain
    if style is None:
        if text in _NULLS:
            value = None
        elif text in _BOOLS:
            value = _BOOLS[text]
        elif _INT.fullmatch(text) and len(text) < 100:
            value = int(text)
        elif _FLOAT.fullmatch(text) and len(text) < 100:
            value = float(text)
    start, end = event.start_mark, event.end_mark
    quotes = 0 if style is None else 2
    exact = bool(start.line == end.line and end.column - start.column == len(text) + quotes)
    return Node(line, column, value, text, style, exact)
