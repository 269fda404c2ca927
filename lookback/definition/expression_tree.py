"""The typed tree of an expression: what the parser builds, the evaluator walks and the fingerprint hashes.

Owns: value types, nodes, their canonical form. Refuses: text (see `expression_parse`), columns
(see `expression_evaluate`).

    node := op(type, value, args*)
    op   := name | literal | add sub mul div floordiv mod neg | eq ne lt le gt ge | and or not
          | isnull | in | if | coalesce abs min max log sqrt | hour day_of_week year month day minute second
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from lookback.definition.types import FieldType

ValueKind = Literal["int64", "float64", "decimal", "bool", "string", "timestamp", "null", "number"]

EVENT_TIME = "event_time"
MAX_RESULT_DIGITS = 19  # every int64 fits a decimal of 19 digits


@dataclass(frozen=True)
class ValueType:
    """Type of an expression's value: a field's kind, or one of two that only stand inside expressions.

    `null` is the bare None; `number` a literal with a point, before its neighbour decides what it is.
    """

    kind: ValueKind
    scale: int = 0

    def __str__(self) -> str:
        return f"decimal with {self.scale} decimals" if self.kind == "decimal" else self.kind

    @property
    def is_numeric(self) -> bool:
        """Whether arithmetic takes it."""
        return self.kind in ("int64", "float64", "decimal", "number")


INT = ValueType("int64")
FLOAT = ValueType("float64")
BOOL = ValueType("bool")
STRING = ValueType("string")
TIMESTAMP = ValueType("timestamp")
NULL = ValueType("null")
NUMBER = ValueType("number")


def value_type(field: FieldType) -> ValueType:
    """Return the type that a field has inside expressions."""
    return ValueType(field.kind, field.scale)


@dataclass(frozen=True)
class Node:
    """One operation. value: a name, a literal's value, or what the op needs beside its arguments."""

    op: str
    type: ValueType
    args: tuple[Node, ...] = ()
    value: Any = None

    def canonical(self) -> list[Any]:
        """Return the node as JSON data that is equal for texts of equal meaning (spaces, brackets)."""
        head: list[Any] = [self.op, f"{self.type.kind}:{self.type.scale}"]
        if self.value is not None:
            head.append(list(self.value) if isinstance(self.value, tuple) else self.value)
        return head + [arg.canonical() for arg in self.args]

    def names(self) -> set[str]:
        """Return every name that the expression reads."""
        return {str(node.value) for node in self.walk() if node.op == "name"}

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.walk()
