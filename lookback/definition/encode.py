r"""From events to a view's rows: key texts, floored times, participation words, value words.

Owns: the text of an entity key, and the one way from a field to its word in a row. Refuses: state, text ids
beyond a batch, anything per row in Python.

    key text     := text of the key field                        (int64 as decimal digits)
                  | part "|" part ...  with "\\" for "\" and "\|" for "|"    (composite)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookback.definition.compile import Layout
from lookback.definition.expression_evaluate import ColumnValues, evaluate
from lookback.definition.expression_tree import EVENT_TIME
from lookback.definition.types import Stream
from lookback.events import I64, Keys, ViewRows
from lookback.windows.plan import Kind

I32 = npt.NDArray[np.int32]


def escape_part(text: str) -> str:
    """Return one part of a composite key, so that joined parts can be told apart."""
    return text.replace("\\", "\\\\").replace("|", "\\|")


def join_parts(parts: Sequence[str]) -> str:
    r"""Return the key text of a composite key.

    >>> print(join_parts(["a|b", "c"]))
    a\|b|c
    """
    return "|".join(escape_part(part) for part in parts)


def split_parts(text: str) -> list[str]:
    """Return the parts of a composite key's text: the inverse of `join_parts`."""
    parts = [""]
    escaped = False
    for character in text:
        if escaped or character not in "\\|":
            parts[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            parts.append("")
    return parts


def array_values(array: pa.Array, kind: str) -> ColumnValues:
    """Return an `EventBatch` field as expression values; null ints and floats read 0."""
    valid = None
    if array.null_count:
        valid = np.asarray(array.is_valid().to_numpy(zero_copy_only=False), np.bool_)
        if kind == "string":
            return ColumnValues(array, valid)
        array = array.fill_null(False if kind == "bool" else 0)
    if kind == "string":
        return ColumnValues(array)
    return ColumnValues(array.to_numpy(zero_copy_only=kind != "bool"), valid)


Distinct: TypeAlias = list[Any] | pa.Array  # values that codes index


class _Fields(Protocol):
    """The fields of some events: values for expressions, codes (-1 for null) and what they index."""

    def __len__(self) -> int: ...

    def values(self, name: str) -> ColumnValues: ...

    def codes(self, name: str) -> tuple[I32, Distinct]: ...


class _BatchFields:
    """The fields of one batch, each read and dictionary-encoded at most once."""

    def __init__(self, stream: Stream, fields: pa.RecordBatch, time_ms: I64) -> None:
        self.stream = stream
        self.fields = fields
        self._rows = len(time_ms)
        self._values: dict[str, ColumnValues] = {EVENT_TIME: ColumnValues(time_ms)}
        self._codes: dict[str, tuple[I32, pa.Array]] = {}

    def __len__(self) -> int:
        return self._rows

    def values(self, name: str) -> ColumnValues:
        if name not in self._values:
            kind = self.stream.fields[name].type.kind
            self._values[name] = array_values(self.fields.column(name), kind)
        return self._values[name]

    def codes(self, name: str) -> tuple[I32, pa.Array]:
        if name not in self._codes:
            encoded = self.fields.column(name).dictionary_encode()
            indices = encoded.indices.fill_null(-1) if encoded.null_count else encoded.indices
            codes = np.asarray(indices.to_numpy(), np.int32)
            self._codes[name] = (codes, encoded.dictionary)
        return self._codes[name]


class _RowFields:
    """The fields of one event, as stored."""

    def __init__(self, stream: Stream, event: Mapping[str, Any], time_ms: I64) -> None:
        self.stream = stream
        self.event = event
        self.time_ms = time_ms

    def __len__(self) -> int:
        return 1

    def values(self, name: str) -> ColumnValues:
        if name == EVENT_TIME:
            return ColumnValues(self.time_ms)
        return one_value(self.event.get(name), self.stream.fields[name].type.kind)

    def codes(self, name: str) -> tuple[I32, list[Any]]:
        value = self.event.get(name)
        return np.array([-1 if value is None else 0], np.int32), [] if value is None else [value]


_NUMPY: dict[str, Any] = {"float64": np.float64, "bool": np.bool_}


def one_value(value: Any, kind: str) -> ColumnValues:
    """Return a stored value as a column of one; null reads 0."""
    valid = None if value is not None else np.zeros(1, np.bool_)
    if kind == "string":
        return ColumnValues(pa.array([value], pa.string()), valid)
    return ColumnValues(np.array([value if value is not None else 0], _NUMPY.get(kind, np.int64)), valid)


def _composite_keys(parts: Sequence[tuple[I32, pa.Array]]) -> tuple[pa.StringArray, I32]:
    """Return the distinct keys of a batch, and each row's; parts: each key field's codes and distinct values."""
    null = np.logical_or.reduce([codes < 0 for codes, _ in parts])
    live = np.flatnonzero(~null)
    mixed = parts[0][0][live]
    which: list[npt.NDArray[np.int64]] = [np.arange(len(parts[0][1]))]  # each mixed code's part indexes
    for codes, distinct in parts[1:]:
        base = max(len(distinct), 1)
        # Re-coded after each part: mixed codes stay below rows * distinct values, well inside int64.
        pairs = pa.array(mixed.astype(np.int64) * base + codes[live]).dictionary_encode()
        mixed = pairs.indices.to_numpy()
        found = pairs.dictionary.to_numpy()
        which = [part[found // base] for part in which] + [found % base]
    texts = [
        _escaped(distinct).take(pa.array(index)) for (_, distinct), index in zip(parts, which, strict=True)
    ]
    key_code = np.full(len(null), -1, np.int32)
    key_code[live] = mixed
    return pc.binary_join_element_wise(*texts, "|"), key_code


def _escaped(values: pa.Array) -> pa.StringArray:
    """Return values as parts of composite keys: `escape_part` of each one's text."""
    texts = values.cast(pa.string())
    return pc.replace_substring(pc.replace_substring(texts, "\\", "\\\\"), "|", "\\|")


class ViewEncoder:
    """Makes rows of one view (see `View.encode`)."""

    def __init__(self, stream: Stream, key_fields: tuple[str, ...], layout: Layout) -> None:
        self.stream = stream
        self.key_fields = key_fields
        self.layout = layout
        self.plan = layout.plan
        self.rule_names = tuple(rule.where.names() if rule.where else set() for rule in layout.rules)
        checked = {rule.field for rule in layout.rules if rule.field is not None}
        read = checked.union(key_fields, layout.column_fields, *self.rule_names)
        self.reads = tuple(sorted(read & set(stream.fields)))

    def encode(self, fields: pa.RecordBatch, event_time_ms: I64, memo: dict[str, Any]) -> ViewRows:
        """Return the rows of a batch's events, in the same order. memo: the batch's own (`EventBatch.memo`)."""
        batch = memo.get("fields")
        if batch is None:
            batch = memo["fields"] = _BatchFields(self.stream, fields, event_time_ms)
        return self._rows(batch, event_time_ms)

    def encode_one(self, values: Mapping[str, Any], event_time_ms: int) -> ViewRows:
        """Return one event's row: the same steps over columns of one. values: as stored; absent is null."""
        time_ms = np.array([event_time_ms], np.int64)
        return self._rows(_RowFields(self.stream, values, time_ms), time_ms)

    def _rows(self, batch: _Fields, event_time_ms: I64) -> ViewRows:
        keys, key_code = self._keys(batch)
        values = np.empty((self.plan.width, len(batch)), np.int64)
        self._words(batch, values)
        texts: list[str] = []
        for position, name in enumerate(self.layout.column_fields):
            self._column(
                batch, name, self.plan.columns[position].kind, values[self.plan.words + position], texts
            )
        return ViewRows(keys, key_code, self._floor(event_time_ms), values, texts)

    def _floor(self, time_ms: I64) -> I64:
        step = self.plan.resolution_ms
        return time_ms if step == 1 else np.floor_divide(time_ms, step) * step

    def _keys(self, batch: _Fields) -> tuple[Keys, I32]:
        if isinstance(batch, _BatchFields):
            columns = [batch.codes(name) for name in self.key_fields]
            if len(columns) > 1:
                return _composite_keys(columns)
            codes, distinct = columns[0]
            return distinct.cast(pa.string()), codes
        parts = [batch.codes(name)[1] for name in self.key_fields]
        if not all(parts):
            return [], np.array([-1], np.int32)
        texts = [str(distinct[0]) for distinct in parts]
        return [join_parts(texts) if len(texts) > 1 else texts[0]], np.array([0], np.int32)

    def _words(self, batch: _Fields, values: npt.NDArray[np.int64]) -> None:
        words = values[: self.plan.words].view(np.uint64)
        words[:] = 0
        conditions: dict[int, ColumnValues] = {}
        for bit, rule in enumerate(self.layout.rules):
            takes_part: Any = np.True_
            if rule.where is not None:
                key = id(rule.where)
                if key not in conditions:
                    columns = {name: batch.values(name) for name in self.rule_names[bit]}
                    conditions[key] = evaluate(rule.where, columns, len(batch))
                found = conditions[key]
                takes_part = found.values if found.valid is None else found.values & found.valid
            if rule.field is not None:
                present = batch.values(rule.field).valid
                takes_part = takes_part if present is None else takes_part & present
            words[bit // 64] |= np.asarray(takes_part).astype(np.uint64) << np.uint64(bit % 64)

    def _column(
        self, batch: _Fields, name: str, kind: Kind, out: npt.NDArray[np.int64], texts: list[str]
    ) -> None:
        if kind is Kind.TEXT:
            codes, distinct = batch.codes(name)
            np.add(codes, len(texts), out=out, casting="unsafe")
            out[codes < 0] = 0
            texts.extend(distinct if isinstance(distinct, list) else distinct.to_pylist())
            return
        values = batch.values(name).values
        if kind is Kind.FLOAT:
            np.add(values, 0.0, out=out.view(np.float64))  # + 0.0: a negative zero is stored as zero
        else:
            out[:] = values
