"""What one training row is made of: which events give rows, which views they ask, what they carry themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from connectors.arrow_messages import ROW_BITS
from connectors.training import TrainingWriter
from dataflows.ingest import Use
from dataflows.settings import Settings
from lookback.definition import Definition, OnDemand, Stream, View, evaluate_on_demand
from lookback.definition.compile import Layout
from lookback.definition.encode import ViewEncoder
from lookback.errors import UsageError
from lookback.events import I64, EventBatch, ViewRows
from lookback.windows.plan import MAX_OFFSET, OFFSET_BITS, ViewPlan
from lookback.windows.results import arrow_type

_PLACE = (
    pa.field("event_time_ms", pa.int64()),
    pa.field("_topic", pa.dictionary(pa.int8(), pa.string())),
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
)
_HIDDEN = "\0request."  # columns that on-demand features read, left out of the training rows


def row_stream(definition: Definition, name: str | None) -> Stream:
    """Return the stream whose events are the training rows. Raises UsageError where that is not clear."""
    streams = dict(definition.streams)
    if name is not None:
        if name not in streams:
            raise UsageError(f"there is no stream `{name}`: --stream takes one of {', '.join(streams)}")
        return streams[name]
    if len(streams) > 1:
        raise UsageError(
            f"the definition has several streams: name the one that gives the rows, --stream {next(iter(streams))}"
        )
    return next(iter(streams.values()))


def joined_views(definition: Definition, stream: Stream) -> tuple[list[View], list[View]]:
    """Return (views that this stream's events can ask, the row stream's own first; views left out)."""
    own = [view for view in definition.views.values() if view.stream.name == stream.name]
    others = [view for view in definition.views.values() if view.stream.name != stream.name]
    asked = [view for view in others if all(_carried(stream, view, name) for name in view.key_names)]
    return own + asked, [view for view in others if view not in asked]


def _carried(stream: Stream, view: View, name: str) -> bool:
    field = stream.fields.get(name)
    index = view.key_names.index(name)
    return field is not None and field.type.kind == view.key_types[index].kind


def rows_of(definition: Definition, settings: Settings) -> Rows:
    """Return what the rows of a replay are made of."""
    from dataflows.label_rows import LabelRows

    return Rows(definition, settings) if settings.labels is None else LabelRows(definition, settings)


class Rows:
    """The training rows of one replay, over one stream's events."""

    def __init__(self, definition: Definition, settings: Settings) -> None:
        """Work out the columns."""
        self._definition = definition
        self._settings = settings
        self._columns()

    def _columns(self) -> None:
        definition, settings = self._definition, self._settings
        self.stream = definition.streams[settings.stream]
        self.views, _ = joined_views(definition, self.stream)
        if not self.views:
            raise UsageError(f"no view can be asked as of the events of stream {self.stream.name}")
        self._on_demand = self._computable(set(self.stream.fields))
        hidden = {
            name for one in self._on_demand for name in one.request_fields if name in self.stream.fields
        }
        self._hidden = sorted(hidden)
        fields = self.stream.fields
        self._base = dict(self._carried_fields())
        carried = [pa.field(name, fields[field].type.arrow()) for name, field in self._base.items()]
        hidden_fields = [pa.field(_HIDDEN + name, fields[name].type.arrow()) for name in self._hidden]
        self.carried = pa.schema(carried + hidden_fields)
        self.schema = pa.schema([*carried, *_PLACE, *hidden_fields])

    def _computable(self, fields: set[str]) -> list[OnDemand]:
        """Return the on-demand features that these rows can have, in an order in which each can be computed."""
        known = {f"{view.name}.{one.name}" for view in self.views for one in view.features}
        found: list[OnDemand] = []
        for one in self._definition.on_demand.values():
            others = {other.name for other in found}
            if (
                set(one.stored) <= known
                and set(one.request_fields) <= fields
                and set(one.on_demand) <= others
            ):
                found.append(one)
        return found

    def _carried_fields(self) -> Iterator[tuple[str, str]]:
        """Yield (column, field) of what a row carries of its event: its id, and the entity keys by their names."""
        if self.stream.event_id is not None:
            yield self.stream.event_id, self.stream.event_id
        for view in self.views:
            own = view.stream.name == self.stream.name
            yield from zip(view.key_names, view.key_fields if own else view.key_names, strict=True)

    def base_of(self, events: EventBatch) -> pa.RecordBatch:
        """Return what the rows carry themselves, aligned with the events."""
        names = [*self._base.values(), *self._hidden]
        return pa.RecordBatch.from_arrays([events.fields.column(n) for n in names], schema=self.carried)

    def base_columns(self, carried: pa.RecordBatch, time_ms: I64, position: I64) -> list[pa.Array]:
        """Return the columns that come before the features: what the rows carry, and their place."""
        topic = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(time_ms), np.int8)), [self.stream.topic])
        partition = pa.array((position >> OFFSET_BITS).astype(np.int32))
        offset = (position & MAX_OFFSET) >> (ROW_BITS if self.stream.format == "arrow" else 0)
        place = [pa.array(time_ms), topic, partition, pa.array(offset)]
        columns = list(carried.columns)
        return columns[: len(self._base)] + place + columns[len(self._base) :]

    def uses(self, stream: str) -> list[Use]:
        """Return what a stream's events are for."""
        found = []
        for index, view in enumerate(self.views):
            if view.stream.name == stream:
                found.append(Use(index, view, view.encode, base=index == 0 and stream == self.stream.name))
            elif stream == self.stream.name:
                found.append(Use(index, view, _asks(view, self.stream), instants=True, base=index == 0))
        return found

    def gives_rows(self) -> list[bool]:
        """Return for each view whether its own events are the training rows."""
        return [view.stream.name == self.stream.name for view in self.views]

    def ties_seen(self) -> list[bool]:
        """Return for each view whether its rows of the same millisecond come before the row stream's events."""
        return [view.stream.name < self.stream.name for view in self.views]

    def writer(self) -> TrainingWriter:
        """Open the writer of the training rows."""
        assert self._settings.out is not None
        return TrainingWriter(
            Path(self._settings.out),
            self.schema,
            [_schema(view) for view in self.views],
            self._settings.shards,
            self.finish,
        )

    def finish(self, table: pa.Table) -> pa.Table:
        """Add the on-demand features and drop what only they needed."""
        if not (self._on_demand or self._hidden):
            return table
        columns = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            columns[name.removeprefix(_HIDDEN)] = (
                column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
            )
        columns["event_time"] = columns["event_time_ms"]
        found = evaluate_on_demand(self._definition, columns, [one.name for one in self._on_demand])
        table = table.drop_columns([_HIDDEN + name for name in self._hidden]) if self._hidden else table
        for one in self._on_demand:
            table = table.append_column(one.name, found[one.name])
        return table


def _asks(view: View, stream: Stream) -> Callable[[EventBatch], ViewRows]:
    """Return an encoder of instants: the view's keys as another stream's events carry them, and no values."""
    layout = Layout(ViewPlan((), 0, ()), (), ())  # an instant is not floored, as a read's is not
    encoder = ViewEncoder(stream, view.key_names, layout)
    return lambda events: encoder.encode(events.fields, events.event_time_ms, events.memo)


def _schema(view: View) -> pa.Schema:
    return pa.schema([pa.field(f"{view.name}.{one.name}", arrow_type(one)) for one in view.features])
