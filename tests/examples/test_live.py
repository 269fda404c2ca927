"""The store's side of the demo's comparison, on a real LMDB store that holds the kernel's own values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from examples.card_fraud.compare import KEY, compare
from examples.card_fraud.generate import generate
from examples.card_fraud.live import Watch, stored_values
from lookback.definition import View, load
from lookback.events import EventBatch, key_texts
from lookback.stores.base import ViewWrite, open_store
from lookback.windows.log import ViewLog
from lookback.windows.results import to_arrow

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 3000


@pytest.fixture(scope="module")
def cards() -> View:
    return load(ROOT / "features" / "fraud.yaml").views["card_activity"]


@pytest.fixture(scope="module")
def batch(cards: View, tmp_path_factory: pytest.TempPathFactory) -> EventBatch:
    out = tmp_path_factory.mktemp("events")
    generate(out, events=EVENTS, fmt="typed", partitions=1)
    table = pq.read_table(out / "transactions").sort_by([("ts", "ascending"), ("_offset", "ascending")])
    unscaled = pa.array([int(amount * 100) for amount in table["amount"].to_pylist()])
    columns = {name: table[name].combine_chunks() for name in cards.stream.fields}
    return EventBatch(
        stream=cards.stream.name,
        topic="transactions",
        partition=0,
        offset=np.arange(table.num_rows),
        event_time_ms=np.asarray(table["ts"]),
        broker_time_ms=None,
        fields=pa.RecordBatch.from_pydict(columns | {"amount": unscaled}),
    )


def written(cards: View, batch: EventBatch, path: Path) -> tuple[str, pa.Table]:
    """Write the values of the first half, then of all, to a store; return it and each key's last row."""
    rows = cards.encode(batch)
    keys = key_texts(rows.keys)
    log = ViewLog(cards.plan)
    slots = log.new_slots(len(rows.keys))
    values = rows.values.copy()
    texts = log.texts.intern(rows.texts)
    for i, column in enumerate(cards.plan.columns):
        if column.kind.value == "text":
            values[cards.plan.words + i] = texts[values[cards.plan.words + i]]
    uri = f"lmdb:{path}"
    store = open_store(uri, write=True)
    fingerprint = cards.fingerprint
    generation = store.claim("test")
    writer = store.writer({fingerprint: cards.plan}, generation, {fingerprint: cards.name})
    writer.marks(fingerprint, 0)
    parts = []
    for half in np.array_split(np.arange(len(batch)), 2):
        codes = rows.key_code[half]
        found = log.apply_evaluate(
            slots[codes],
            rows.time_ms[half],
            batch.offset[half],
            np.ascontiguousarray(values[:, half]),
            including=True,
        )
        parts.append(
            pa.table([*to_arrow(cards.plan, found, log.texts)], names=[f.name for f in cards.features])
        )
        touched = np.unique(codes)
        newest = log.evaluate_newest(slots[touched])
        now = log.newest_ms(slots[touched])
        used = log.texts.get(np.arange(len(log.texts)))
        writer.write(
            [
                ViewWrite(
                    view=cards.name,
                    fingerprint=fingerprint,
                    shard=0,
                    keys=[keys[i] for i in touched],
                    event_time_ms=now,
                    as_of_ms=now,
                    sequence=int(half[-1]) + 1,
                    watermark_ms=int(now.max()),
                    words=newest.words,
                    status=newest.status,
                    row_starts=np.zeros(len(touched) + 1, np.int64),
                    rows=np.zeros((2 + cards.plan.width, 0), np.int64),
                    covers_from_ms=now - 1,
                    replace=np.ones(len(touched), np.bool_),
                    whole=np.ones(len(touched), np.bool_),
                    life=np.zeros((len(touched), log.life_words), np.int64),
                    texts=used,
                    marks={"transactions/0": int(half[-1])},
                )
            ]
        )
    writer.flush()
    writer.close()
    store.close()
    _, last = np.unique(rows.key_code[::-1], return_index=True)
    last = len(batch) - 1 - last
    replayed = pa.concat_tables(parts).take(pa.array(last))
    return uri, replayed.append_column(KEY, pa.array(keys))


def test_stored_values_are_the_replayed_ones_and_a_planted_one_is_found(
    cards: View, batch: EventBatch, tmp_path: Path
) -> None:
    uri, replayed = written(cards, batch, tmp_path / "store")
    names = [feature.name for feature in cards.features]
    keys = replayed[KEY].to_pylist()
    store = open_store(uri)
    shares: list[float] = []
    live = stored_values(store, cards, [*keys, "nobody"], shares.append)
    store.close()
    assert shares[-1] == 1.0
    assert live.num_rows == len(keys)
    found = compare(live, replayed, names)
    assert found.compared == len(keys) * len(names) > 1000
    assert found.examples == [] and found.differing == 0
    planted = pc.if_else(pc.equal(live[KEY], keys[3]), pc.add(live["tx_count_1d"], 1), live["tx_count_1d"])
    planted_table = live.set_column(live.schema.get_field_index("tx_count_1d"), "tx_count_1d", planted)
    found = compare(planted_table, replayed, names)
    assert (found.differing, found.examples[0].entity_key) == (1, keys[3])


def test_a_watch_sees_counts_rise_and_one_that_falls(cards: View, batch: EventBatch, tmp_path: Path) -> None:
    uri, replayed = written(cards, batch, tmp_path / "store")
    keys = replayed[KEY].to_pylist()[:3]
    watch = Watch(f"lmdb:{tmp_path / 'not-yet'}", cards, keys)
    assert watch.look() == [None] * 3 and watch.counted() == 0
    watch = Watch(uri, cards, keys)
    times = watch.look()
    assert all(time is not None for time in times)
    counts = dict(zip(replayed[KEY].to_pylist(), replayed["tx_count_30d"].to_pylist(), strict=True))
    assert watch.counted() == sum(counts[key] for key in keys)
    assert (watch.reads, watch.went_back) == (3, 0)
    # A store that lost its second half: what a reader saw is missing from what it sees next.
    half = replace(
        batch,
        offset=batch.offset[: EVENTS // 3],
        event_time_ms=batch.event_time_ms[: EVENTS // 3],
        fields=batch.fields.slice(0, EVENTS // 3),
    )
    older, _ = written(cards, half, tmp_path / "older")
    store = open_store(older)
    watch._store = store
    watch.look()
    assert watch.went_back == 3
    watch.close()
