"""What a reader of the online store saw, and whether it may have seen that.

A stored record is right when its values, and its rows, are those of a union of per-partition prefixes of the
accepted events; a series of reads is right when no partition's prefix ever gets shorter.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lookback.client import Client
from lookback.definition import Definition, load
from lookback.errors import LookbackError, StoreBusy
from lookback.stores.base import Lookup, Record, open_store
from lookback.windows.plan import MAX_OFFSET, OFFSET_BITS
from lookback.windows.results import RowReader
from tests.recovery.events import EVENTS_AT_MOST, WINDOWS_MS, Accepted, Archive


@dataclass
class Checker:
    """Judges sightings in the order they were made; `problems` says what is wrong."""

    definition: Definition
    archive: Archive
    problems: list[str] = field(default_factory=list)
    sightings: int = 0
    _last: dict[tuple[str, str], tuple[tuple[int, ...], int, int]] = field(default_factory=dict)

    def see(self, view: str, key: str, record: Record) -> None:
        """Judge one record."""
        self.sightings += 1
        where = f"{view} {key!r} at sequence {record.sequence}"
        parts = self.archive.accepted[view][key]
        values = self._integers(view, record)
        counts = tuple(self._digits(values))
        for problem in self._not_prefixes(record, parts, values, counts):
            self.problems.append(f"{where}: {problem}")
        before, sequence, as_of = self._last.get((view, key), ((0,) * len(counts), 0, record.as_of_ms))
        if any(now < then for now, then in zip(counts, before, strict=True)):
            self.problems.append(
                f"{where}: an earlier read counted {before} events by partition, now {counts}"
            )
        if record.sequence < sequence or record.as_of_ms < as_of:
            self.problems.append(f"{where}: sequence or as_of fell from {sequence}, {as_of}")
        self._last[view, key] = (counts, record.sequence, record.as_of_ms)

    def _integers(self, view: str, record: Record) -> dict[str, int]:
        plan = self.definition.views[view].plan
        return {
            feature.name: int(record.words[start])
            for feature, start in zip(plan.features, plan.out_starts, strict=False)
            if feature.name.partition("_")[0] in ("rows", "tally", "code")
        }

    def _digits(self, values: dict[str, int]) -> Iterator[int]:
        tally = next(value for name, value in values.items() if name.startswith("tally"))
        for _ in range(self.archive.partitions):
            tally, digit = divmod(tally, EVENTS_AT_MOST)
            yield digit

    def _not_prefixes(
        self, record: Record, parts: list[Accepted], values: dict[str, int], counts: tuple[int, ...]
    ) -> Iterator[str]:
        if any(n > len(part.code) for n, part in zip(counts, parts, strict=True)):
            yield f"it counts {counts} events by partition, there are {[len(p.code) for p in parts]}"
            return
        pairs = list(zip(counts, parts, strict=True))
        time_ms = np.concatenate([part.time_ms[:n] for n, part in pairs])
        code = np.concatenate([part.code[:n] for n, part in pairs])
        newest = int(time_ms.max())
        if record.event_time_ms != newest or record.as_of_ms < newest:
            yield f"it is as of {record.as_of_ms}, its newest event of {newest}"
        for name, value in values.items():
            feature, _, window = name.rpartition("_")
            inside = time_ms > record.as_of_ms - WINDOWS_MS[window]
            expected = {"rows": int(inside.sum()), "code": int(code[inside].sum())}.get(feature)
            if expected is not None and value != expected:
                yield f"{name} is {value}, the prefixes {counts} give {expected}"
        if not record.stale:
            places = [
                (int(t), p << OFFSET_BITS | int(o))
                for p, (n, part) in enumerate(pairs)
                for t, o in zip(part.time_ms[:n], part.offset[:n], strict=True)
                if t > record.covers_from_ms
            ]
            rows = list(zip(record.rows[0].tolist(), record.rows[1].tolist(), strict=True))
            if rows != sorted(places):
                odd = [(t, p >> OFFSET_BITS, p & MAX_OFFSET) for t, p in sorted(set(rows) ^ set(places))[:3]]
                yield f"its {len(rows)} rows are not the {len(places)} of prefixes {counts}, such as {odd}"

    def complete(self) -> list[str]:
        """Return which entities' last sighting lacks events."""
        missing = []
        for view, entities in self.archive.accepted.items():
            for key, parts in entities.items():
                last = self._last.get((view, key))
                every = tuple(len(part.code) for part in parts)
                if last is None or last[0] != every:
                    missing.append(f"{view} {key!r}: last seen {last and last[0]} of {every}")
        return missing


class Poller:
    """Reads the stored records of all entities over and over, in a thread, until the block is left."""

    def __init__(self, store: str, definition: Path, archive: Archive) -> None:
        self.checker = Checker(load(definition), archive)
        self.polls = 0
        self._store = store
        self._lookups = [
            (view.name, Lookup(view.fingerprint, key, view.plan))
            for view in self.checker.definition.views.values()
            for key in archive.keys(view.name)
        ]
        self._kept: list[tuple[str, str, Record]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poller")
        self._failed: BaseException | None = None

    def __enter__(self) -> Poller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed
        for view, key, record in self._kept:
            self.checker.see(view, key, record)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    store = open_store(self._store)
                    store.read([lookup for _, lookup in self._lookups])
                    break
                except LookbackError:  # not made yet
                    time.sleep(0.02)
            else:
                return
            seen: dict[tuple[str, str], tuple[Any, ...]] = {}
            last = False
            while not last:
                last = self._stop.is_set()  # one more look after the end
                try:
                    records = store.read([lookup for _, lookup in self._lookups])
                except StoreBusy:  # a server that the test has stopped
                    time.sleep(0.02)
                    continue
                for (view, lookup), record in zip(self._lookups, records, strict=True):
                    if record is None:
                        continue
                    what = (
                        record.sequence,
                        record.as_of_ms,
                        record.words.tobytes(),
                        record.rows.shape,
                        record.stale,
                    )
                    if seen.get((view, lookup.key)) != what:
                        seen[view, lookup.key] = what
                        self._kept.append((view, lookup.key, record))
                self.polls += 1
                time.sleep(0.005)
            store.close()
        except BaseException as error:  # a reader must never fail: the test does, with its words
            self._failed = error


@dataclass(frozen=True)
class Seen:
    """All that a reader can get of an entity: what is stored, and (values, status) as of two instants.

    Not when its values were refreshed last, which depends on the job's pace: of a stale one nothing else tells.
    """

    event_time_ms: int
    stale: bool
    reads: list[tuple[dict[str, Any], dict[str, str]]]


def picture(definition: Path, store: str, archive: Archive) -> dict[tuple[str, str], Seen]:
    """Return what a reader gets of every entity, by view and key; what is stored is what a read as of then gives."""
    loaded = load(definition)
    found: dict[tuple[str, str], Seen] = {}
    with Client(loaded, store) as client:
        for view in loaded.views.values():
            keys = archive.keys(view.name)
            names = [f"{view.name}.{feature.name}" for feature in view.plan.features]
            records = client.store.read([Lookup(view.fingerprint, key, view.plan) for key in keys])
            for key, record in zip(keys, records, strict=True):
                assert record is not None, f"{view.name} {key!r} is not in the store"
                entity = {view.key_names[0]: key}
                newest = record.event_time_ms
                instants = () if record.stale else (newest, newest + 45_000)
                reads = [client.get(entity, features=names, at=at) for at in instants]
                if not record.stale:
                    now = client.get(entity, features=names, at=record.as_of_ms).values
                    values, _ = RowReader(view.plan).read(record.words, record.status, record.texts)
                    assert list(now.values()) == values, f"{view.name} {key!r} as of {record.as_of_ms}"
                found[view.name, key] = Seen(
                    newest,
                    record.stale,
                    [(read.values, read.status) for read in reads],
                )
    return found
