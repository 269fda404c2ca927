"""Training rows made of labels: a row a label, with the features as of its time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataflows.ingest import Use
from dataflows.labels import BATCH_ROWS, TIME, LabelBatch, read_labels
from dataflows.route import Chunk, split
from dataflows.training_rows import Rows
from lookback.definition import Definition, Stream, View
from lookback.definition.compile import Layout
from lookback.definition.encode import ViewEncoder
from lookback.definition.types import EventTime, Field
from lookback.errors import UsageError
from lookback.events import I64
from lookback.windows.plan import ViewPlan

_EVENT_TIME = pa.field("event_time_ms", pa.int64())


def labelled_views(definition: Definition, columns: list[str]) -> tuple[list[View], list[View]]:
    """Return (views whose entity keys the labels carry, the others)."""
    views = list(definition.views.values())
    asked = [view for view in views if set(view.key_names) <= set(columns)]
    return asked, [view for view in views if view not in asked]


class LabelRows(Rows):
    """The training rows of one replay, over labels.

    A label's instant sees all events of its own millisecond, or with `--as-of before` none of them.
    """

    def _columns(self) -> None:
        assert self._settings.labels is not None
        self._labels = read_labels(Path(self._settings.labels))
        names = [name for name in self._labels.column_names if name != TIME]
        self.views, _ = labelled_views(self._definition, names)
        if not self.views:
            raise UsageError(
                f"the labels {self._settings.labels} carry no entity key: give columns such as "
                f"{', '.join(next(iter(self._definition.views.values())).key_names)}"
            )
        self._on_demand = self._computable(set())
        self._hidden = []
        keys = dict.fromkeys(name for view in self.views for name in view.key_names)
        self._names = [*keys, *(name for name in names if name not in keys)]
        schema = self._labels.schema
        fields = [schema.field(name) for name in self._names]
        self.carried = pa.schema(fields)
        self.schema = pa.schema([*fields[: len(keys)], _EVENT_TIME, *fields[len(keys) :]])
        self._key_count = len(keys)

    def base_columns(self, carried: pa.RecordBatch, time_ms: I64, position: I64) -> list[pa.Array]:
        """Return entity keys, time, and the labels' other columns."""
        columns = list(carried.columns)
        return [*columns[: self._key_count], pa.array(time_ms), *columns[self._key_count :]]

    def uses(self, stream: str) -> list[Use]:
        """Return what a stream's events are for: rows of the views, none of them a training row."""
        own = enumerate(self.views)
        return [Use(index, view, view.encode) for index, view in own if view.stream.name == stream]

    def gives_rows(self) -> list[bool]:
        """Return that no view's own events are training rows."""
        return [False] * len(self.views)

    def ties_seen(self) -> list[bool]:
        """Return whether a label sees the events of its own millisecond."""
        return [self._settings.including] * len(self.views)

    def batches(self) -> Iterator[LabelBatch]:
        """Yield the labels in the order of their times, split by shard for each view."""
        keys = [_KeyOf(view, self._labels.schema) for view in self.views]
        for start in range(0, len(self._labels), BATCH_ROWS):
            part = self._labels.slice(start, BATCH_ROWS)
            batch = part.select(self._names).combine_chunks().to_batches()[0]
            time_ms = part[TIME].to_numpy()
            position = np.arange(start, start + len(part))
            chunks: list[list[Chunk]] = [[] for _ in range(self._settings.shards)]
            for index, view in enumerate(self.views):
                rows = keys[index].encode(batch, time_ms)
                found = split(
                    index,
                    view,
                    rows,
                    position,
                    self._settings.shards,
                    event_time_ms=time_ms,
                    base=batch if index == 0 else None,
                    instants=True,
                )
                for shard, chunk in found.items():
                    chunks[shard].append(chunk)
            yield LabelBatch(chunks, int(time_ms[0]), int(time_ms[-1]), len(part))


class _KeyOf:
    """Reads a view's entity keys from label columns."""

    def __init__(self, view: View, schema: pa.Schema) -> None:
        kinds = dict(zip(view.key_names, view.key_types, strict=True))
        for name, kind in kinds.items():
            right = pa.types.is_integer if kind.kind == "int64" else _is_text
            if not right(schema.field(name).type):
                raise UsageError(
                    f"`{name}` of the labels is {schema.field(name).type}, the entity key is {kind.kind}"
                )
        fields = {name: Field(name, kind, name) for name, kind in kinds.items()}
        stream = Stream("labels", "_labels", "json", EventTime(TIME, "ms"), None, 0, 0, fields)
        self._names = view.key_names
        self._types = [kind.arrow() for kind in kinds.values()]
        self._encoder = ViewEncoder(stream, view.key_names, Layout(ViewPlan((), 0, ()), (), ()))

    def encode(self, batch: pa.RecordBatch, time_ms: I64):  # type: ignore[no-untyped-def]
        columns = [pc.cast(batch.column(n), t) for n, t in zip(self._names, self._types, strict=True)]
        return self._encoder.encode(pa.RecordBatch.from_arrays(columns, names=list(self._names)), time_ms, {})


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind))
