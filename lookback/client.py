"""Reading features as of now, as of any instant, or with the event being scored on top.

Owns: choosing the instant, one snapshot of all views, and the status of each value. Refuses: computing a
feature: rows go into a log of the same kernel that the job runs, and its evaluation is the only one there is.

    as of     at            where it is given
              event time    of the request event, where that carries one
              max(clock, newest event found)    else
    windows   t ----(t - D - W, t - D]----> complete where t - D - W >= covers_from_ms, else `trimmed`
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from lookback import reading
from lookback.definition.expression_tree import EVENT_TIME
from lookback.definition.loader import load
from lookback.definition.on_demand import evaluate_row_in_order
from lookback.definition.types import Stream
from lookback.definition.values import parse_iso
from lookback.definition.view import Definition, View, parse_request_value, request_value
from lookback.errors import StoreError, UsageError
from lookback.reading import Reading
from lookback.stores.base import NEVER, Lookup, OnlineStore, Record, open_store
from lookback.view_reader import ViewReader

Instant = int | str | datetime.datetime


class EntityError(UsageError):
    """An entity of a list can't be read as it is written; `index` is its place in the list."""

    def __init__(self, index: int, message: str) -> None:
        super().__init__(message)
        self.index = index


MAX_INSTANT_MS = 2**62
READ_AT_ONCE = 256  # entities a store is asked for in one snapshot by `get_many`


def wall_clock_ms() -> int:
    """Return the wall clock, UTC ms."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True)
class _Share:
    """One view's share of a selection."""

    reader: ViewReader
    names: tuple[str, ...]  # of the features wanted
    take: Callable[[list[Any]], Sequence[Any]] | None  # these out of all of the view's; None: they are all


@dataclass(frozen=True)
class _Selection:
    """What one list of features needs."""

    features: list[str]
    shares: tuple[_Share, ...]
    on_demand: list[str]
    in_order: bool  # the shares' names, then the on-demand ones, are the features as asked for


class Client:
    """Reads the features of a definition from an online store; safe to share between threads."""

    def __init__(
        self,
        definition: str | Path | Definition,
        store: str | OnlineStore,
        *,
        now: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Open a store for reading.

        definition: a file, or one loaded before. store: its URI (`lmdb:PATH`, `redis://HOST:PORT`; see
        docs/commands.md). now: the clock, UTC ms.

        Raises: DefinitionError, UsageError for a wrong URI, StoreError where there is no store yet.
        """
        self.definition = definition if isinstance(definition, Definition) else load(definition)
        self._now = now
        self._lock = threading.Lock()  # of the two below; reading itself needs none
        self._readers: dict[str, ViewReader] = {}
        self._selections: dict[tuple[str | None, tuple[str, ...] | None], _Selection] = {}
        self.store = open_store(store) if isinstance(store, str) else store

    def __enter__(self) -> Self:
        """Return the client itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Let go of the store."""
        self.store.close()

    def get(
        self,
        entity: Mapping[str, Any],
        *,
        service: str | None = None,
        features: Sequence[str] | None = None,
        at: Instant | None = None,
        event: Mapping[str, Any] | None = None,
        stream: str | None = None,
    ) -> Reading:
        """Return features of one entity.

        entity: key parts by name, `{"card": "c1", "merchant": "m2"}`, as many as the views asked for need;
        those that `event` carries may be left out. service, features: what to return, all by default.
        at: the instant, as UTC ms, an ISO text, or an aware datetime. event: the request row, JSON values
        as `stream` declares them (to be named only where the definition has several streams); it counts in
        the views of its stream, after all that is stored at its instant, and nothing is written.

        Raises: UsageError for an unknown feature, a missing key part or a bad event; StoreError when the
        store fails or has never been written with these views.
        """
        selection = self._select(service, features)
        source = self._stream_of(stream) if event is not None else None
        lookups = self._lookups(selection, entity, event, source)
        instant = None if at is None else to_ms(at)
        records = self.store.read(lookups)
        return self._answer(selection, entity, lookups, records, instant, event, source)

    def get_many(
        self,
        entities: Sequence[Mapping[str, Any]],
        *,
        service: str | None = None,
        features: Sequence[str] | None = None,
        at: Instant | None = None,
    ) -> list[Reading]:
        """Return what `get` returns for each entity, in order, read some hundred at a time.

        Raises what `get` raises, EntityError for a missing or wrong key part.
        """
        selection = self._select(service, features)
        instant = None if at is None else to_ms(at)
        out: list[Reading] = []
        for start in range(0, len(entities), READ_AT_ONCE):
            part = entities[start : start + READ_AT_ONCE]
            lookups = []
            for index, entity in enumerate(part, start):
                try:
                    lookups.append(self._lookups(selection, entity, None, None))
                except UsageError as error:
                    raise EntityError(index, str(error)) from None
            records = self.store.read([lookup for own in lookups for lookup in own])
            at_record = 0
            for entity, own in zip(part, lookups, strict=True):
                found = records[at_record : at_record + len(own)]
                at_record += len(own)
                out.append(self._answer(selection, entity, own, found, instant, None, None))
        return out

    # ---- what to read

    def _select(self, service: str | None, features: Sequence[str] | None) -> _Selection:
        if isinstance(features, str):
            raise UsageError(f"features is the text {features!r}: give a list, such as [{features!r}]")
        key = (service, None if features is None else tuple(features))
        known = self._selections.get(key)
        if known is not None:
            return known
        if service is not None and features is not None:
            raise UsageError("give a service or a list of features, not both")
        if service is not None:
            names = self.definition.service(service)
        else:
            names = list(features) if features is not None else self.definition.all_features()
        views, on_demand = self.definition.needed(names)
        with self._lock:
            shares = tuple(self._shares(views))
            in_order = [name for share in shares for name in share.names] + on_demand == names
            if len(self._selections) > 1000:
                self._selections.clear()
            known = self._selections[key] = _Selection(names, shares, on_demand, in_order)
        return known

    def _shares(self, views: Mapping[str, list[int]]) -> Iterator[_Share]:
        """Yield what is wanted of each view; opens those not read before."""
        versions = self.store.versions() if any(view not in self._readers for view in views) else {}
        for name, wanted in views.items():
            if name not in self._readers:
                self._readers[name] = self._reader(self.definition.views[name], versions)
            reader = self._readers[name]
            names = tuple(reader.names[index] for index in wanted)
            yield _Share(reader, names, None if names == reader.names else _picker(wanted))

    def _reader(self, view: View, versions: Mapping[str, str]) -> ViewReader:
        """Return a view's reader; an absent version is no unknown entity, so it is refused."""
        if view.fingerprint not in versions:
            others = sorted(found[:12] for found, name in versions.items() if name == view.name)
            held = f"it holds {', '.join(others)}" if others else "it holds no other either"
            raise StoreError(
                f"the store holds no values of view {view.name} in this version ({view.short_fingerprint}; "
                f"{held}): run the job with this definition, or read with the one that it runs."
            )
        return ViewReader(view)

    def _stream_of(self, name: str | None) -> Stream:
        streams = self.definition.streams
        if name is None and len(streams) == 1:
            return next(iter(streams.values()))
        if name is None or name not in streams:
            what = "the definition has several streams" if name is None else f"there is no stream `{name}`"
            raise UsageError(f"{what}: say which one the event is of ({', '.join(streams)})")
        return streams[name]

    def _lookups(
        self,
        selection: _Selection,
        entity: Mapping[str, Any],
        event: Mapping[str, Any] | None,
        source: Stream | None,
    ) -> list[Lookup]:
        if not isinstance(entity, Mapping):
            raise UsageError(f'the entity {entity!r} is no mapping: give one such as {{"card": "c1"}}')
        if event is not None and not isinstance(event, Mapping):
            raise UsageError(f'the event {event!r} is no mapping: give its fields, such as {{"amount": 1}}')
        lookups = []
        for share in selection.shares:
            view = share.reader.view
            parts = (
                entity if event is None or view.stream is not source else _with_event_key(view, entity, event)
            )
            texts = share.reader.gives_texts or event is not None
            lookups.append(Lookup(view.fingerprint, view.key_text(parts), share.reader.plan, False, texts))
        return lookups

    # ---- what to answer

    def _answer(
        self,
        selection: _Selection,
        entity: Mapping[str, Any],
        lookups: list[Lookup],
        records: Sequence[Record | None],
        at: int | None,
        event: Mapping[str, Any] | None,
        source: Stream | None,
    ) -> Reading:
        if at is None and event is not None and source is not None:
            at = source.request_time_ms(event)
        if at is None:
            newest = max((record.event_time_ms for record in records if record is not None), default=NEVER)
            at = max(self._now(), newest)
        out = Reading(dict(entity), at, {}, {}, {}, {}, {})
        for share, lookup, record in zip(selection.shares, lookups, records, strict=True):
            reader, take = share.reader, share.take
            row = None
            if event is not None and reader.view.stream is source:
                row = {**reader.view.key_parts(lookup.key), **event}
            answer = reader.answer(record, at, row)
            name = reader.view.name
            out.age_ms[name] = answer.age_ms
            out.watermark_ms[name] = answer.watermark_ms
            out.covers_from_ms[name] = answer.covers_from_ms
            values, status = answer.values, answer.status
            out.values.update(zip(share.names, values if take is None else take(values), strict=True))
            out.status.update(zip(share.names, status if take is None else take(status), strict=True))
        if selection.on_demand:
            self._compute(selection, out, event, source)
        if not selection.in_order:
            _only(out.values, selection.features)
            _only(out.status, selection.features)
        return out

    def _compute(
        self, selection: _Selection, out: Reading, event: Mapping[str, Any] | None, source: Stream | None
    ) -> None:
        """Add the on-demand features, from the same expressions that a replay runs over columns."""
        known = dict(out.values)
        if event is not None and source is not None:
            known[EVENT_TIME] = out.as_of_ms
            for name in selection.on_demand:
                one = self.definition.on_demand[name]
                for field in one.request_fields if source.name in one.streams else ():
                    known[field] = parse_request_value(source, source.fields[field], event)
        computed = evaluate_row_in_order(self.definition, known, selection.on_demand)
        for name in selection.on_demand:
            one = self.definition.on_demand[name]
            out.values[name] = computed[name]
            out.status[name] = reading.worst(out.status, (*one.stored, *one.on_demand), computed[name])


def to_ms(at: Instant) -> int:
    """Return an instant as UTC ms.

    Raises: UsageError for a datetime without a time zone, or a text that is neither ms nor ISO 8601.

    >>> to_ms("1970-01-02"), to_ms("1500")
    (86400000, 1500)
    """
    if isinstance(at, datetime.datetime):
        if at.tzinfo is None:
            raise UsageError(f"{at!r} has no time zone: give one, such as datetime.UTC")
        at = at.isoformat()
    if isinstance(at, str):
        digits = at.strip().removeprefix("-")
        try:
            at = int(at) if digits.isascii() and digits.isdigit() else parse_iso(at)
        except ValueError as error:
            raise UsageError(f"the instant {at!r} {error}") from None
    if isinstance(at, bool) or not isinstance(at, int | np.integer) or abs(int(at)) > MAX_INSTANT_MS:
        raise UsageError(f"the instant {at!r} is out of range: give UTC ms, an ISO text or a datetime")
    return int(at)


def _with_event_key(view: View, entity: Mapping[str, Any], event: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key parts, those of the event where `entity` has none; both must agree."""
    parts = dict(entity)
    for field, outside in zip(view.key_fields, view.key_names, strict=True):
        given = request_value(view.stream.fields[field], event)
        if given is None:
            continue
        if parts.get(outside) is None:
            parts[outside] = given
        elif str(parts[outside]) != str(given):
            raise UsageError(
                f"the event is of {outside} {given!r}, asked for is {parts[outside]!r}: give the event of "
                "the entity that is read"
            )
    return parts


def _picker(wanted: list[int]) -> Callable[[list[Any]], Sequence[Any]]:
    """Return what takes these elements out of a list."""
    if len(wanted) == 1:
        only = wanted[0]
        return lambda found: (found[only],)
    return itemgetter(*wanted)


def _only(found: dict[str, Any], names: list[str]) -> None:
    """Keep what was asked for, in that order."""
    kept = {name: found[name] for name in names}
    found.clear()
    found.update(kept)
