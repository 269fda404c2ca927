"""Reading in process through the client: 30 features as of now from LMDB, p50 and p99.

    python benchmarks/get.py [--entities 2000] [--reads 20000]

Owns: filling a store the way a job does, and timing `Client.get`. Two shapes: one view of 30 features with 40
rows an entity, and the features of the card fraud definition spread over its three views.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from lookback.client import Client
from lookback.definition.loader import load, loads
from lookback.definition.view import Definition, View
from lookback.events import EventBatch, key_texts
from lookback.stores.base import ViewWrite, open_store
from lookback.windows.log import ViewLog
from lookback.windows.text_words import text_words

ROOT = Path(__file__).resolve().parent.parent
T0 = 1_700_000_000_000
DAY = 86_400_000
ROWS_AN_ENTITY = 40
MANY = 4096  # entities read in one `get_many`
WINDOWS = "[1m, 1h, 1d, 7d, 30d]"
ONE_VIEW = f"""
streams:
  payments:
    topic: payments
    event_time: {{field: ts, unit: ms}}
    fields: {{card: string, merchant: string, amount: 'decimal(12,2)', declined: bool}}
entities: {{card: string}}
views:
  cards:
    entity: card
    stream: payments
    features:
      n: {{agg: count, windows: {WINDOWS}}}
      paid: {{agg: sum, of: amount, windows: {WINDOWS}}}
      most: {{agg: max, of: amount, windows: {WINDOWS}}}
      mean: {{agg: mean, of: amount, windows: {WINDOWS}}}
      declines: {{agg: count, where: declined, windows: {WINDOWS}}}
      since: {{agg: time_since_last, windows: {WINDOWS}}}
"""


def events_of(definition: Definition, entities: int, rng: np.random.Generator) -> EventBatch:
    """Return `ROWS_AN_ENTITY` events a card over 25 days, on the definition's one stream."""
    (stream,) = definition.streams.values()
    n = entities * ROWS_AN_ENTITY
    columns = {}
    for field in stream.fields.values():
        kind = field.type.kind
        if kind == "string":
            values = pa.array([f"{field.name} {i}" for i in rng.integers(0, entities, n)])
        elif kind == "bool":
            values = pa.array(rng.random(n) < 0.1)
        else:
            values = pa.array(rng.integers(1, 100_000, n))
        columns[field.name] = values
    times = np.sort(rng.integers(T0, T0 + 25 * DAY, n))
    batch = pa.RecordBatch.from_pydict(columns)
    return EventBatch(stream.name, stream.topic, 0, np.arange(n), times, None, batch)


def write_of(view: View, batch: EventBatch) -> ViewWrite:
    """Return what a job would have written of a view by the end of the batch."""
    rows, log = view.encode(batch), ViewLog(view.plan)
    values = rows.values.copy()
    for word in text_words(view.plan).rows:
        values[word - 2] = log.texts.intern(rows.texts)[values[word - 2]]
    slots = log.new_slots(len(rows.keys))
    log.apply(slots[rows.key_code], rows.time_ms, batch.offset, values)
    found, newest = log.evaluate_newest(slots), log.newest_ms(slots)
    flat, starts, life, covers = log.export(slots)
    width = 2 + view.plan.width
    every = np.ones(len(slots), np.bool_)
    logs = [flat[a:b].reshape(width, -1) for a, b in pairwise(starts)]
    return ViewWrite(
        view.name, view.fingerprint, 0, key_texts(rows.keys), newest, newest, len(batch), int(newest.max()),
        found.words, found.status, starts // width, np.concatenate(logs, axis=1), covers, every,
        every, life, log.texts.get(range(len(log.texts))), {"payments/0": len(batch)},
    )  # fmt: skip


def measure(definition: Definition, features: list[str], entities: int, reads: int) -> dict[str, float]:
    """Return p50 and p99 in microseconds over random entities, the store's pages in memory.

    Beside the wall clock the thread's CPU time, which other processes on the same cores distort less, and how many
    entities `get_many` reads a CPU second.
    """
    rng = np.random.default_rng(1)
    batch = events_of(definition, entities, rng)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"lmdb:{folder}/online", write=True)
        views = definition.views.values()
        writer = store.writer(
            {view.fingerprint: view.plan for view in views},
            store.claim("benchmark"),
            {view.fingerprint: view.name for view in views},
        )
        for view in views:
            writer.write([write_of(view, batch)])
        writer.flush()
        store.close()
        cards, merchants = (rng.integers(0, entities, reads + 500) for _ in range(2))
        now = int(batch.event_time_ms[-1]) + 1000
        with Client(definition, f"lmdb:{folder}/online", now=lambda: now) as client:
            took, cpu = np.empty(reads + 500), np.empty(reads + 500)
            keys = [
                {"card": f"card {card}", "merchant": f"merchant {merchant}"}
                for card, merchant in zip(cards.tolist(), merchants.tolist(), strict=True)
            ]
            alone = undisturbed(True)
            for i, entity in enumerate(keys):
                start, start_cpu = time.perf_counter_ns(), time.thread_time_ns()
                client.get(entity, features=features)
                cpu[i] = time.thread_time_ns() - start_cpu
                took[i] = time.perf_counter_ns() - start
            start_cpu = time.thread_time_ns()
            client.get_many(keys[:MANY], features=features)
            many_s = (time.thread_time_ns() - start_cpu) / 1e9
            undisturbed(False)
    p50, p99 = np.percentile(took[500:] / 1000, [50, 99])
    cpu_p50, cpu_p99 = np.percentile(cpu[500:] / 1000, [50, 99])
    found = {"p50_us": p50, "p99_us": p99, "cpu_p50_us": cpu_p50, "cpu_p99_us": cpu_p99}
    many = {"many_keys_a_cpu_s": float(round(len(keys[:MANY]) / many_s))}
    rounded = {name: round(float(us), 1) for name, us in found.items()}
    return {"features": len(features), **rounded, **many, "undisturbed": float(alone)}


def undisturbed(on: bool) -> bool:
    """Run at real-time priority, where the system lets us: the tail is then the read's own, not its neighbours'."""
    try:
        policy = os.SCHED_FIFO if on else os.SCHED_OTHER
        os.sched_setscheduler(0, policy, os.sched_param(5 if on else 0))
    except (AttributeError, OSError):
        return False
    return on


def main() -> None:
    """Print one line of JSON a shape."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--entities", type=int, default=2000)
    parser.add_argument("--reads", type=int, default=20_000)
    args = parser.parse_args()
    one, fraud = loads(ONE_VIEW), load(ROOT / "features" / "fraud.yaml")
    stored = [name for name in fraud.all_features() if "." in name]
    shapes = [("one view", one, one.all_features()), ("three views", fraud, stored)]
    versions = {"machine": platform.machine(), "python": platform.python_version()}
    for name, definition, features in shapes:
        found = measure(definition, features, args.entities, args.reads)
        print(json.dumps({"get": name, **found, **versions}))


if __name__ == "__main__":
    main()
