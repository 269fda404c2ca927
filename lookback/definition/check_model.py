"""From a YAML tree to pydantic models, item by item, with every structural problem in plain words.

Owns: turning pydantic's errors into sentences that say what to write, and setting aside what is broken so
that the rest can still be checked for meaning. Refuses: meaning (see `resolve`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lookback.definition.expression_read import suggestion
from lookback.definition.model import (
    AggName,
    EntityModel,
    EventTimeModel,
    FeatureModel,
    FieldModel,
    FileModel,
    OnDemandModel,
    RatioPartModel,
    ServiceModel,
    StreamModel,
    ViewModel,
)
from lookback.definition.source import Node, Path
from lookback.definition.types import DURATION_HINT
from lookback.errors import Problem

NAME_RULE = "a name has lower-case letters, digits and _, starts with a letter, and is at most 64 long"
SECTIONS: dict[str, type[BaseModel]] = {
    "streams": StreamModel,
    "entities": EntityModel,
    "views": ViewModel,
    "on_demand": OnDemandModel,
    "services": ServiceModel,
}
_ITEMS = {"streams": "fields", "views": "features"}
_AGGS = get_args(AggName)
_SHORT = {"type", "fields", "expression", "features"}
_WHOLE = {
    "streams": "must be a mapping of keys to values",
    "entities": "must be string, int64 or a list of fields",
    "views": "must be a mapping of keys to values",
    "on_demand": "must be an expression, as a text",
    "services": "must be a list of features",
}
_DURATIONS = {"lateness", "max_ahead", "delay", "half_life", "resolution", "drop_repeats"}
_UNIONS = {
    "key": "a field, a list of fields, or the key's parts mapped to fields",
    "default": "a number, a text, true, false or null",
    "event_time": "a mapping, such as {field: ts, unit: ms}",
}


@dataclass
class Parts:
    """What of a file has its right shape. broken: paths of items set aside, problems already reported."""

    root: Node
    models: dict[str, dict[str, Any]]
    header: FileModel | None
    problems: list[Problem]
    broken: set[Path] = field(default_factory=set)

    def report(self, path: Path, message: str, at_key: bool = False) -> None:
        """Note a problem at the nearest place in the file."""
        line, column = self.root.place(path, at_key)
        self.problems.append(Problem(line, column, message))

    def report_inside(self, path: Path, offset: int, message: str) -> None:
        """Note a problem at a character of a scalar, or at its start where folding hides the character."""
        node = self._scalar(path)
        line, column = self.root.place(path)
        if node is not None and node.exact:
            column += offset + (0 if node.style is None else 1)
        self.problems.append(Problem(line, column, message))

    def _scalar(self, path: Path) -> Node | None:
        for length in (len(path), len(path) - 1):  # the short form stands at the parent
            node = self.root.find(path[:length])
            if node is not None:
                return node if isinstance(node.value, str) else None
        return None

    def declared(self, *path: str) -> set[str]:
        """Return the keys written at a path, broken or not."""
        node = self.root.find(path)
        return set(node.value) if node is not None and isinstance(node.value, dict) else set()


def check_model(root: Node, problems: list[Problem]) -> Parts:
    """Return the parts of a file that have their right shape, with all problems of the others."""
    parts = Parts(root, {section: {} for section in SECTIONS}, None, problems)
    data = root.plain()
    if not isinstance(data, dict):
        parts.report((), "a definition is a mapping: start with `streams:`")
        return parts
    seen: set[Path] = set()
    for error in _errors(FileModel, data):
        path, at_key, message = _explain(root, error)
        branch = error["type"] != "missing" and not _real_path(root, tuple(error["loc"]))[1]  # each one fails
        if not (branch and path in seen):
            parts.report(path, message, at_key)
        if branch:
            seen.add(path)
        _set_aside(data, path, error, parts.broken)
    for section, model in SECTIONS.items():
        items = data.get(section)
        for name, item in items.items() if isinstance(items, dict) else ():
            try:
                parts.models[section][name] = model.model_validate(item)
            except ValidationError:
                parts.broken.add((section, name))
    return parts


def _errors(model: type[BaseModel], data: Any) -> list[ErrorDetails]:
    try:
        model.model_validate(data)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _set_aside(data: Any, path: Path, error: ErrorDetails, broken: set[Path]) -> None:
    """Drop what an error is about from `data`: only the key if it is unknown, else the item around it."""
    if error["type"] == "extra_forbidden":
        target = path
    elif len(path) >= 4 and _ITEMS.get(str(path[0])) == path[2]:
        target = path[:4]
    else:
        target = path[:2]
    broken.add(target)
    inside = data
    for step in target[:-1]:
        if not isinstance(inside, dict) or step not in inside:
            return
        inside = inside[step]
    if target and isinstance(inside, dict):
        inside.pop(target[-1], None)


def _model_at(path: Path) -> type[BaseModel]:
    """Return the model whose keys stand at a path."""
    if len(path) < 2:
        return FileModel
    if len(path) >= 4 and path[0] == "streams" and path[2] == "fields":
        return FieldModel
    if len(path) >= 3 and path[0] == "streams" and path[2] == "event_time":
        return EventTimeModel
    if len(path) >= 4 and path[0] == "views" and path[2] == "features":
        return RatioPartModel if len(path) >= 5 else FeatureModel
    return SECTIONS.get(str(path[0]), FileModel)


def _keys(model: type[BaseModel]) -> dict[str, str]:
    return {info.alias or name: info.description or "" for name, info in model.model_fields.items()}


def _explain(root: Node, error: ErrorDetails) -> tuple[Path, bool, str]:
    """Return where an error is (path, whether at its key) and what to write."""
    location = error["loc"]
    if location and location[-1] == "[key]":
        path = tuple(location[:-1])
        return path, True, f"`{path[-1]}` is not a name: {NAME_RULE}"
    path, whole = _real_path(root, tuple(location))
    kind = error["type"]
    if kind == "missing":
        name = str(location[-1])
        keys = _keys(_model_at(path))
        note = keys.get(name, "")
        return (
            path,
            False,
            f"`{name}` is missing" + (f": {note[0].lower()}{note[1:]}" if note else "; add it"),
        )
    if kind == "extra_forbidden":
        known = _keys(_model_at(path[:-1]))
        near = suggestion(str(path[-1]), known) or f"; the keys here are {', '.join(known)}"
        return path, True, f"unknown key `{path[-1]}`{near}"
    node = root.find(path)
    last = str(path[-1]) if path else ""
    if kind == "string_type" and (last in _DURATIONS or "windows" in path) and node is not None:
        return path, False, f"`{node.text}` is not a duration: {DURATION_HINT}"
    if last in _UNIONS or not whole:
        return path, False, f"`{last}` must be {_UNIONS.get(last, 'one of the forms in the docs')}"
    if kind == "model_type" and len(path) in (2, 4) and path[0] in _WHOLE:
        wanted = "must be a type, such as string" if path[2:3] == ("fields",) else _WHOLE[str(path[0])]
        return path, False, f"`{last}` {wanted}"
    where = f"`{last}` " if path and isinstance(path[-1], str) else ""
    return path, False, where + _sentence(kind, error, node)


def _sentence(kind: str, error: ErrorDetails, node: Node | None) -> str:
    value = error.get("input")
    context: Mapping[str, Any] = error.get("ctx") or {}
    if value is None and kind != "value_error":
        return "is empty; write a value or remove the key"
    if kind == "value_error":
        return f"is not right: {context.get('error', error['msg'])}"
    if kind == "literal_error":
        choices = _AGGS if "count" in str(context) and "entropy" in str(context) else None
        expected = str(context.get("expected", "")).replace("'", "")
        words = choices or expected.replace(" or ", ", ").split(", ")
        near = suggestion(str(value), words) or f": write {expected}"
        return f"cannot be `{value}`{near}"
    if kind in ("dict_type", "model_type", "model_attributes_type", "dataclass_type"):
        return "must be a mapping of keys to values"
    if kind == "list_type":
        shown = node.text if node is not None and node.text else "a, b"
        return f"must be a list: [{shown}]"
    if kind in ("too_short", "string_too_short"):
        least = context.get("min_length", 1)
        return "must not be empty" if least == 1 else f"needs at least {least} entries"
    if kind in ("int_type", "int_from_float", "greater_than_equal", "less_than_equal"):
        return "must be a whole number of 1 to 100"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f"must be a text; put {node.text if node is not None else value} in quotes"
    if kind == "string_type":
        return "must be a text"
    return f"is not right: {error['msg'].lower()}"


def _real_path(root: Node, location: Path) -> tuple[Path, bool]:
    """Return the part of an error's location that is in the file, and whether that is all of it.

    Short forms lack the key that the model gives them; what else is not in the file names a union's branch.
    """
    path: Path = ()
    node = root
    for step in location:
        inside = node.child(step)
        if inside is not None:
            path, node = (*path, step), inside
        elif step not in _SHORT or isinstance(node.value, dict):
            return path, False
    return path, True
