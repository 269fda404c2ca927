"""What a checked definition is: streams, entities, views, on-demand features and services.

Owns: the objects that the job, the stores and the client hold. Refuses: YAML and its positions
(see `loader`), computing a feature (see `lookback.windows`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lookback.definition.compile import FeatureSpec
from lookback.definition.encode import ViewEncoder, join_parts, split_parts
from lookback.definition.expression_read import suggestion
from lookback.definition.expression_tree import Node, ValueType
from lookback.definition.types import Entity, Field, FieldType, Notes, Stream
from lookback.definition.values import parse_int, parse_value
from lookback.errors import UsageError
from lookback.events import EventBatch, ViewRows
from lookback.windows.plan import ROW_HEAD, Feature, ViewPlan
from lookback.windows.text_words import text_words

SHORT_FINGERPRINT = 12


@dataclass(frozen=True, eq=False)
class View:
    """Features of one entity over one stream.

    key_fields: the stream's fields that hold the key, in order; key_names: what those parts are called
    outside (the entity's name, or a composite's parts), in the same order.
    """

    name: str
    entity: Entity
    stream: Stream
    key_fields: tuple[str, ...]
    key_names: tuple[str, ...]
    specs: tuple[FeatureSpec, ...]
    fingerprint: str
    encoder: ViewEncoder
    notes: Notes = field(default_factory=Notes)

    @property
    def plan(self) -> ViewPlan:
        """The layout of rows and results that the kernel works by."""
        return self.encoder.plan

    @property
    def features(self) -> tuple[Feature, ...]:
        """The materialized features, in plan order."""
        return self.plan.features

    @cached_property
    def text_columns(self) -> list[int]:
        """Which rows of `ViewRows.values` are text ids."""
        return [row - ROW_HEAD for row in text_words(self.plan).rows]

    @property
    def short_fingerprint(self) -> str:
        """The 12 hex digits that name this version in KV keys."""
        return self.fingerprint[:SHORT_FINGERPRINT]

    @property
    def key_types(self) -> tuple[FieldType, ...]:
        """The types of the key's parts."""
        return tuple(self.stream.fields[name].type for name in self.key_fields)

    def encode(self, batch: EventBatch) -> ViewRows:
        """Return this view's rows of a batch of its stream, one an event, in the same order.

        A row with a null key part has key code -1. Costs one pass a column; nothing is done per row.
        """
        return self.encoder.encode(batch.fields, batch.event_time_ms, batch.memo)

    def encode_request(self, event: Mapping[str, Any], time_ms: int | None = None) -> ViewRows:
        """Return a request event as one row.

        event: JSON values under the names that the source uses (or the field's own name); what is left out
        is null, and so takes no part (see `blind_features` for the exception). The view's key may stand
        under its own name instead of its field's. Only what the view reads is looked at. time_ms: the
        instant; None takes the event's own time.
        Raises UsageError for a value that is not as declared, or where there is no time.
        """
        if time_ms is None:
            time_ms = self.stream.request_time_ms(event)
        if time_ms is None:
            what = f"`{self.stream.event_time.field}`"
            raise UsageError(f"the request event has no event time; give {what}, or the instant it is for")
        return self.encoder.encode_one(self._request_values(event), time_ms)

    def blind_features(self, event: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the features (indexes in plan order) that a request event can add nothing to.

        They aggregate a required field that the event leaves out, and their rows carry no bit to say so:
        evaluate these at the same instant without the request row. Empty for a complete event.
        """
        given = {
            name
            for name, outside in zip(self.key_fields, self.key_names, strict=True)
            if event.get(outside) is not None
        }
        missing = {
            position
            for position, name in enumerate(self.encoder.layout.column_fields)
            if request_value(self.stream.fields[name], event) is None and name not in given
        }
        if not missing:
            return ()
        return tuple(
            index
            for index, feature in enumerate(self.features)
            if any(
                term is not None and term.bit < 0 and term.column in missing
                for term in (feature.term, feature.other)
            )
        )

    def _request_values(self, event: Mapping[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in self.encoder.reads:
            values[name] = parse_request_value(self.stream, self.stream.fields[name], event)
        for name, outside in zip(self.key_fields, self.key_names, strict=True):
            if values[name] is None and event.get(outside) is not None:
                values[name] = self._key_part(outside, self.stream.fields[name], event[outside])
        return values

    def _key_part(self, outside: str, one: Field, value: Any) -> int | str:
        try:
            if one.type.kind == "int64":
                return parse_int(int(value) if isinstance(value, str) else value)
            if not isinstance(value, str):
                raise ValueError("must be a text")
        except ValueError:
            raise UsageError(f"`{outside}` must be {one.type.kind}, not {value!r}") from None
        return value

    def key_text(self, parts: Mapping[str, Any]) -> str:
        """Return the text of the entity key that `parts` name, e.g. ``{"card": "c1"}``.

        An int64 part may be a text of digits. Further names are ignored, so one mapping serves views of
        several entities. Raises UsageError where a part is missing or not of its type.
        """
        missing = [name for name in self.key_names if parts.get(name) is None]
        if missing:
            wanted = " ".join(f"{name}=…" for name in self.key_names)
            raise UsageError(
                f"view {self.name} needs the entity key {wanted}; {', '.join(missing)} is missing"
            )
        texts = [
            str(self._key_part(outside, self.stream.fields[name], parts[outside]))
            for name, outside in zip(self.key_fields, self.key_names, strict=True)
        ]
        return texts[0] if len(texts) == 1 else join_parts(texts)

    def key_parts(self, text: str) -> dict[str, Any]:
        """Return the parts that a key text stands for: the inverse of `key_text`."""
        texts = [text] if len(self.key_names) == 1 else split_parts(text)
        return {
            name: int(part) if kind.kind == "int64" else part
            for name, part, kind in zip(self.key_names, texts, self.key_types, strict=True)
        }


def request_value(one: Field, event: Mapping[str, Any]) -> Any:
    """Return a field's raw value in a request event, under the source's name or its own."""
    value = event.get(one.from_name)
    return event.get(one.name) if value is None and one.name != one.from_name else value


def parse_request_value(stream: Stream, one: Field, event: Mapping[str, Any]) -> Any:
    """Return a field's stored value in a request event, None where left out; UsageError if it is bad."""
    raw = request_value(one, event)
    if raw is None:
        return None
    try:
        return parse_value(one.type, raw)
    except ValueError as error:
        raise UsageError(f"`{one.from_name}` of the {stream.name} event {error}: {raw!r}") from None


@dataclass(frozen=True, eq=False)
class OnDemand:
    """An expression over request fields and stored features, computed whenever it is asked for.

    requires: the names it reads: `view.feature_window`, fields of the request event, `event_time`, other
    on-demand features. streams: the streams whose events can give the request fields.
    """

    name: str
    expression: str
    tree: Node
    requires: tuple[str, ...]
    stored: tuple[str, ...]
    request_fields: tuple[str, ...]
    on_demand: tuple[str, ...]
    streams: tuple[str, ...]
    names: Mapping[str, ValueType]
    notes: Notes = field(default_factory=Notes)

    @property
    def type(self) -> ValueType:
        """The type of its value."""
        return self.tree.type


@dataclass(frozen=True, eq=False)
class Definition:
    """A checked definition file."""

    path: str
    text: str
    streams: Mapping[str, Stream]
    entities: Mapping[str, Entity]
    views: Mapping[str, View]
    on_demand: Mapping[str, OnDemand]  # in an order in which each can be computed after those before it
    services: Mapping[str, list[str]]
    fingerprint: str
    service_notes: Mapping[str, Notes] = field(default_factory=dict)
    notes: Notes = field(default_factory=Notes)

    def all_features(self) -> list[str]:
        """Return every feature: `view.feature_window` by view in file order, then on-demand names."""
        stored = [f"{view.name}.{one.name}" for view in self.views.values() for one in view.features]
        return stored + list(self.on_demand)

    def service(self, name: str) -> list[str]:
        """Return a service's features in its order; UsageError where there is no such service."""
        if name not in self.services:
            known = ", ".join(self.services) or "none"
            near = suggestion(name, self.services)
            raise UsageError(f"there is no service `{name}`{near or f'; the definition has {known}'}")
        return list(self.services[name])

    def feature(self, name: str) -> tuple[View, int] | OnDemand:
        """Return what a name means: a view and the feature's index in its plan, or an on-demand feature."""
        if name in self.on_demand:
            return self.on_demand[name]
        view, _, rest = name.partition(".")
        if view in self.views:
            for index, one in enumerate(self.views[view].features):
                if one.name == rest:
                    return self.views[view], index
        raise UsageError(f"there is no feature `{name}`{suggestion(name, self.all_features())}")

    def needed(self, names: Sequence[str]) -> tuple[dict[str, list[int]], list[str]]:
        """Return what to read and compute for some features.

        Returns (view name to indexes of the stored features in its plan, ascending; on-demand names, in the
        order to compute them), those that other on-demand features read included. Raises UsageError for an
        unknown name.
        """
        stored: dict[str, set[int]] = {}
        wanted: set[str] = set()
        todo = list(names)
        while todo:
            found = self.feature(todo.pop())
            if isinstance(found, OnDemand):
                if found.name not in wanted:
                    wanted.add(found.name)
                    todo.extend((*found.stored, *found.on_demand))
            else:
                stored.setdefault(found[0].name, set()).add(found[1])
        views = {name: sorted(stored[name]) for name in self.views if name in stored}
        return views, [name for name in self.on_demand if name in wanted]
