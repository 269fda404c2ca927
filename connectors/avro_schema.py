"""A writer's Avro schema as a table that a kernel can walk, and what each of its fields holds.

Owns: what is read of a schema. Refuses: the grammar of schemas (fastavro's), asking for them, values.

    node := kind a b          int64 each; a and b by kind:
      RECORD, UNION           its children are kids[a : a + b], nodes each
      ARRAY, MAP              a is the node of its items
      FIXED                   a is its size in bytes
      ENUM                    a is the number of its symbols
Node 0 is the record that a message holds. A type that is named again is one node, so a recursive one is a circle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import fastavro
import numpy as np
from fastavro.schema import SchemaParseException, UnknownType

from lookback.events import I64

(NULL, BOOL, INT, LONG, FLOAT, DOUBLE, BYTES, STRING, FIXED, ENUM, RECORD, UNION, ARRAY, MAP) = range(14)
KINDS: Final = {
    "null": NULL, "boolean": BOOL, "int": INT, "long": LONG, "float": FLOAT, "double": DOUBLE, "bytes": BYTES,
    "string": STRING, "fixed": FIXED, "enum": ENUM, "record": RECORD, "error": RECORD, "array": ARRAY, "map": MAP,
}  # fmt: skip
MAX_DIGITS = 38  # of a decimal, as Arrow holds it in 128 bits


class BadSchema(Exception):
    """A schema that no event can be read with; the text says why."""


@dataclass(frozen=True)
class Branch:
    """One type that a field may hold. scale: of a decimal; symbols: of an enum."""

    kind: int
    name: str  # as a person calls it
    logical: str = ""
    scale: int = 0
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class WriterSchema:
    """nodes: int64[n, 3], kids: int64[m]. fields: number and branches of the record's fields, by name: those of a
    union in its order, one of any other type.
    """

    nodes: I64
    kids: I64
    fields: Mapping[str, tuple[int, tuple[Branch, ...]]]


def writer_schema(text: str, references: Sequence[str] = ()) -> WriterSchema:
    """Read a schema. references: the schemas that it names, each after those that it names itself.

    Raises BadSchema.
    """
    named: dict[str, Any] = {}
    try:
        for reference in references:
            fastavro.parse_schema(json.loads(reference), named)
        parsed: Any = fastavro.parse_schema(json.loads(text), named)
    except (ValueError, TypeError, KeyError, AttributeError, SchemaParseException, UnknownType) as error:
        raise BadSchema(f"is no Avro schema ({type(error).__name__}: {error})") from None
    return _Table(named).read(parsed)


class _Table:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._nodes: list[list[int]] = []
        self._kids: list[int] = []
        self._of_name: dict[str, int] = {}

    def read(self, schema: Any) -> WriterSchema:
        root = self._whole(schema)
        if not isinstance(root, dict) or KINDS.get(root["type"]) != RECORD:
            raise BadSchema("is not that of a record")
        self._add(root)
        fields = {
            field["name"]: (number, self._branches(field["type"]))
            for number, field in enumerate(root["fields"])
        }
        return WriterSchema(np.array(self._nodes, np.int64), np.array(self._kids or [0], np.int64), fields)

    def _whole(self, schema: Any) -> Any:
        """Return what a name stands for, and anything else as it is."""
        while isinstance(schema, str) and schema not in KINDS:
            schema = self._named[schema]
        while isinstance(schema, dict) and isinstance(schema["type"], (dict, list)):
            schema = schema["type"]
        return schema

    def _add(self, schema: Any) -> int:
        """Add a type's nodes; return its own."""
        schema = self._whole(schema)
        name = schema.get("name") if isinstance(schema, dict) else None
        if name in self._of_name:
            return self._of_name[name]
        node = [NULL, 0, 0]
        self._nodes.append(node)
        number = len(self._nodes) - 1
        if name is not None:
            self._of_name[name] = number
        if isinstance(schema, list):
            node[:] = UNION, *self._children(schema)
            return number
        kind = KINDS[schema["type"] if isinstance(schema, dict) else schema]
        node[0] = kind
        if kind == RECORD:
            node[1:] = self._children([field["type"] for field in schema["fields"]])
        elif kind in (ARRAY, MAP):
            node[1] = self._add(schema["items" if kind == ARRAY else "values"])
        elif kind == FIXED:
            node[1] = schema["size"]
        elif kind == ENUM:
            node[1] = len(schema["symbols"])
        return number

    def _children(self, schemas: Sequence[Any]) -> tuple[int, int]:
        first = len(self._kids)
        self._kids += [0] * len(schemas)
        for at, schema in enumerate(schemas, first):
            self._kids[at] = self._add(schema)
        return first, len(schemas)

    def _branches(self, schema: Any) -> tuple[Branch, ...]:
        schema = self._whole(schema)
        return tuple(map(self._branch, schema)) if isinstance(schema, list) else (self._branch(schema),)

    def _branch(self, schema: Any) -> Branch:
        schema = self._whole(schema)
        if not isinstance(schema, dict):
            return Branch(KINDS[schema], schema)
        kind, logical = KINDS[schema["type"]], schema.get("logicalType", "")
        scale = schema.get("scale", 0)
        if logical == "decimal" and not (
            kind in (BYTES, FIXED) and isinstance(scale, int) and 0 <= scale <= MAX_DIGITS
        ):
            logical = ""  # Avro: a logical type that is not right is none
        name = logical or schema["type"]
        return Branch(kind, name, logical, scale if logical else 0, tuple(schema.get("symbols", ())))
