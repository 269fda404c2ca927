"""What readers of the store may see: a poller that any Redis client could be, and the judgement of what it saw.

A value is right when it is that of a union of per-partition prefixes of the accepted events; a series of reads is
right when no partition's prefix ever gets shorter.
"""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import redis

from lookback.client import Client
from lookback.definition import Definition, load
from tests.matrix import count
from tests.matrix.events import PARTITIONS, RADIX, VIEWS, Events, Rows
from tests.services.valkey import Valkey

PAUSE_SECONDS = 0.05  # between polls, so that the job gets the cores
LATER_MS = (0, 20_000, 45 * 60_000)  # instants after the newest event that the client is asked for
BUSY = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError)
SHOWN = 3  # problems named of each kind

Hash = dict[bytes, bytes]
Key = tuple[str, str]  # view, entity key


class Poller:
    """Reads the record of every entity over and over, in a thread, as a plain client does: HGETALL."""

    def __init__(self, valkey: Valkey, definition: Definition, events: Events) -> None:
        self.polls = 0
        self.seen: dict[Key, list[Hash]] = {(view, key): [] for view in VIEWS for key in events.rows[view]}
        self.problems: list[str] = []
        self._keys = {at: record_key(definition, *at) for at in self.seen}
        self._port = valkey.port
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

    def _run(self) -> None:
        try:
            last = False
            while not last:
                last = self._stop.is_set()  # one more look after the end
                try:
                    self._poll()
                except BUSY:
                    time.sleep(PAUSE_SECONDS)
                time.sleep(PAUSE_SECONDS)
        except BaseException as error:  # a reader must never fail: the cell does, with its words
            self._failed = error

    def _poll(self) -> None:
        with redis.Redis(port=self._port, socket_timeout=2) as client:
            while True:
                last = self._stop.is_set()
                pipe = client.pipeline(transaction=False)
                for name in self._keys.values():
                    pipe.hgetall(name)
                for at, found in zip(self._keys, pipe.execute(), strict=True):
                    had = self.seen[at]
                    if not found:
                        if had:
                            self.problems.append(f"{at}: a record that was there is gone")
                    elif not had or had[-1] != found:
                        had.append(found)
                self.polls += 1
                if last:
                    return
                time.sleep(PAUSE_SECONDS)


def record_key(definition: Definition, view: str, key: str) -> str:
    """Return where a record lies, by the documented layout."""
    return f"lookback:{view}:{definition.views[view].fingerprint[:12]}:{{{key}}}"


def judge(poller: Poller, events: Events, dice: np.random.Generator, *, floats: int = 400) -> list[str]:
    """Return what a reader should never have seen. floats: of how many sightings every feature is recomputed."""
    problems = poller.problems[:SHOWN]
    sightings = sum(map(len, poller.seen.values()))
    share = floats / max(sightings, 1)
    for (view, key), hashes in poller.seen.items():
        if hashes:
            found = judge_entity(view, events.rows[view][key], hashes, dice.random(len(hashes)) < share)
            problems += [f"{view} {key}: {what}" for what in found]
    return problems


def judge_entity(view: str, rows: Rows, hashes: list[Hash], whole: Any) -> Iterator[str]:
    """Yield what is wrong with a series of an entity's values. whole: bool[n], of which every feature is recomputed."""
    weight, code = (
        (b"weight_365d", b"code_365d") if view == "cards" else (b"weight_lifetime", b"code_lifetime")
    )
    weights = np.array([int(h[weight]) for h in hashes], np.int64)
    counts = np.stack([weights // RADIX**p % RADIX for p in range(PARTITIONS)])  # [partition, sighting]
    back = np.flatnonzero((np.diff(counts, axis=1) < 0).any(axis=0))
    for at in back[:SHOWN].tolist():
        yield (
            f"went back: an earlier read counted {counts[:, at].tolist()} events by partition, a later one "
            f"{counts[:, at + 1].tolist()}"
        )
    codes = np.zeros(len(hashes), np.int64)
    for p in range(PARTITIONS):
        mine = rows.partition == p
        order = np.argsort(rows.number[mine])
        sums = np.concatenate([[0], np.cumsum(rows.code[mine][order])])
        if (counts[p] >= len(sums)).any():
            yield f"counts {counts[p].max()} events of partition {p}, there are {len(sums) - 1}"
            return
        codes += sums[counts[p]]
    shown = 0
    for at, found in enumerate(hashes):
        wrong = ""
        if int(found[code]) != codes[at]:
            wrong = f"{code.decode()} is {int(found[code])}, the prefixes {counts[:, at].tolist()} give {codes[at]}"
        elif whole[at]:
            prefix = rows.prefixes(counts[:, at])
            wrong = difference(found, count.features(view, prefix, int(found[b"_as_of_ms"])))
            wrong = wrong and f"{wrong}, of the prefixes {counts[:, at].tolist()}"
        if wrong and shown < SHOWN:
            shown += 1
            yield f"a value that no union of prefixes gives: {wrong}"


def difference(found: Mapping[bytes, bytes], expected: Mapping[str, Any]) -> str:
    """Return where a record of plain texts differs from the count, "" where it doesn't."""
    for name, value in expected.items():
        text = found[name.encode()].decode()
        if not _same(_parsed(text, value), value):
            return f"{name} is {text!r}, the count gives {value!r} as of {found[b'_as_of_ms'].decode()}"
    return ""


def _parsed(text: str, like: Any) -> Any:
    if text == "":
        return None
    if isinstance(like, list):
        return json.loads(text)
    return int(text) if isinstance(like, int) else float(text)


def _same(found: Any, expected: Any) -> bool:
    """Return whether two values are equal, floats bit by bit."""
    if isinstance(expected, float) and isinstance(found, float):
        return struct.pack("<d", found) == struct.pack("<d", expected)
    return type(found) is type(expected) and bool(found == expected)


def final(valkey: Valkey, definition: Path, events: Events) -> list[str]:
    """Return how the store differs from the independent count, now that the job has come to its end."""
    loaded = load(definition)
    problems: list[str] = []
    newest = max(int(rows.time_ms[-1]) for entities in events.rows.values() for rows in entities.values())
    with redis.Redis(port=valkey.port) as plain, Client(loaded, valkey.uri) as client:
        for view, entity in VIEWS.items():
            keys = sorted(events.rows[view])
            pipe = plain.pipeline(transaction=False)
            for key in keys:
                pipe.hgetall(record_key(loaded, view, key))
            records = dict(zip(keys, pipe.execute(), strict=True))
            problems += _stored(view, records, events)
            names = [f"{view}.{feature.name}" for feature in loaded.views[view].plan.features]
            for later in LATER_MS:
                reads = client.get_many([{entity: key} for key in keys], features=names, at=newest + later)
                for key, read in zip(keys, reads, strict=True):
                    stale = "stale" in read.status.values()
                    at = int(records[key].get(b"_as_of_ms", 0)) if stale else newest + later
                    expected = count.features(view, events.rows[view][key], at)
                    for name, value in expected.items():
                        got = read.values[f"{view}.{name}"]
                        if not _same(got, value):
                            problems.append(
                                f"{view} {key}: the client gives {name} {got!r} as of {at}, the count {value!r}"
                            )
    return problems


def _stored(view: str, records: Mapping[str, Hash], events: Events) -> Iterator[str]:
    for key, rows in events.rows[view].items():
        record = records.get(key)
        if not record:
            yield f"{view} {key}: missing, though it has {len(rows.time_ms)} events"
            continue
        if int(record[b"_event_time_ms"]) != rows.time_ms[-1]:
            yield f"{view} {key}: newest event {record[b'_event_time_ms'].decode()}, not {rows.time_ms[-1]}"
        wrong = difference(record, count.features(view, rows, int(record[b"_as_of_ms"])))
        if wrong:
            yield f"{view} {key}: final {wrong}"
