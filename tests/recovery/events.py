"""Events whose sums give away which of them were counted, and the archive they lie in.

    tally    EVENTS_AT_MOST ** partition    the sum's digits: how many events of each partition are in it
    code     a random 40-bit number         the sum: they are the *first* so many, and no others

So one stored record is enough to tell whether its values are those of a union of per-partition prefixes.
Who is late, ahead or broken is decided here by the definition's letter, row by row, without the job's code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EVENTS_AT_MOST = 4096  # of one entity in one partition
START_MS = 1_700_000_000_000
LATENESS_MS = 60_000
MAX_AHEAD_MS = 3_600_000
REPEATS_MS = 120_000
MINUTE = 60_000
REASONS = ("bad", "late", "ahead", "repeat")
TOPIC = "payments"
LONG_MS = 30 * 86_400_000  # longer than any archive made here

DEFINITION = """\
streams:
  payments:
    topic: payments
    format: json
    event_time: {field: ts, unit: ms}
    event_id: id
    drop_repeats: 2m
    lateness: 60s
    max_ahead: 1h
    fields: {id: int64, card: string?, shop: string, tally: int64, code: int64, price: float64}
entities: {card: string, shop: string}
views:
  cards:
    entity: card
    stream: payments
    features:
      rows: {agg: count, windows: [1m, 30d]}
      tally: {agg: sum, of: tally, windows: [30d]}
      code: {agg: sum, of: code, windows: [1m, 10m, 30d]}
      price_sum: {agg: sum, of: price, windows: [10m]}
      price_mean: {agg: mean, of: price, windows: [1m]}
      shops: {agg: distinct, of: shop, windows: [10m]}
      last_shops: {agg: last_k, of: shop, k: 3, windows: [10m]}
  shops:
    entity: shop
    stream: payments
    features:
      rows: {agg: count, windows: [2m, lifetime]}
      tally: {agg: sum, of: tally, windows: [lifetime]}
      code: {agg: sum, of: code, windows: [2m, lifetime]}
      price_max: {agg: max, of: price, windows: [2m]}
      recent: {agg: decayed_sum, of: price, half_life: 30s, windows: [2m]}
      top_cards: {agg: top_k, of: card, k: 2, windows: [2m]}
"""
WINDOWS_MS = {"1m": MINUTE, "2m": 2 * MINUTE, "10m": 10 * MINUTE, "30d": LONG_MS, "lifetime": 2**62}


@dataclass(frozen=True)
class Accepted:
    """An entity's accepted events of one partition, in offset order; int64[n] each."""

    time_ms: np.ndarray[Any, np.dtype[np.int64]]
    code: np.ndarray[Any, np.dtype[np.int64]]
    offset: np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Archive:
    """An archive on disk and what is to come out of it."""

    path: Path
    partitions: int
    uri: str = ""  # as a source
    events: int = 0
    refused: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    # view -> entity key -> a partition's accepted events, partition by partition
    accepted: dict[str, dict[str, list[Accepted]]] = field(default_factory=dict)

    def keys(self, view: str) -> list[str]:
        """Return the keys of a view's entities, sorted."""
        return sorted(self.accepted[view])


def write_definition(folder: Path) -> Path:
    """Write the definition; return its path."""
    path = folder / "features.yaml"
    path.write_text(DEFINITION)
    return path


def make_archive(
    path: Path,
    *,
    seed: int,
    partitions: int = 4,
    events: int = 1500,
    cards: int = 40,
    shops: int = 12,
    gaps: bool = True,
) -> Archive:
    """Write `events` events a partition: ties, late, ahead, broken, sent again, without a card, a too hot shop.

    gaps: offsets that no event has, as compaction leaves them.
    """
    archive = Archive(path, partitions, f"archive:{path}")
    found: dict[str, dict[str, list[list[tuple[int, int, int]]]]] = {"cards": {}, "shops": {}}
    folder = path / TOPIC
    folder.mkdir(parents=True)
    for partition in range(partitions):
        rng = np.random.default_rng([seed, partition])
        offsets, times, values = [], [], []
        watermark, offset, now = -(2**62), -1, START_MS
        sent: list[dict[str, Any]] = []
        newest: dict[int, int] = {}  # of the events that had an id, the newest time
        for number in range(events):
            offset += 1 + int(rng.random() < 0.02 and gaps)
            burst = 0.45 < number / events < 0.72
            now += int(rng.choice([0, 0, 20, 50] if burst else [0, 100, 400, 3000]))
            event_ms, broker_ms = now, now
            kind = rng.random()
            if kind < 0.10:
                event_ms -= int(rng.integers(1, LATENESS_MS // 2))
            elif kind < 0.13:
                event_ms -= LATENESS_MS + int(rng.integers(1, 10 * LATENESS_MS))
            elif kind < 0.14:
                event_ms += MAX_AHEAD_MS + int(rng.integers(1, 10_000))
            shop = "hot" if burst and rng.random() < 0.9 else f"s{int(rng.integers(shops))}"
            card = None if rng.random() < 0.02 else f"c{min(int(rng.exponential(cards / 4)), cards - 1)}"
            code = int(rng.integers(1, 1 << 40))
            event = {
                "ts": event_ms, "id": partition * 1_000_000 + number, "card": card, "shop": shop,
                "tally": EVENTS_AT_MOST**partition, "code": code, "price": round(float(rng.gamma(2, 20)), 2),
            }  # fmt: skip
            if 0.16 <= kind < 0.22 and sent:  # as it was, or with another time
                event = dict(sent[-int(rng.integers(1, min(len(sent), 200) + 1))])
                event_ms = event["ts"] = event["ts"] if kind < 0.20 else event_ms
                shop, card, code = event["shop"], event["card"], event["code"]
            else:
                sent.append(event)
            broken = 0.14 <= kind < 0.16
            value = json.dumps(event).encode()
            offsets.append(offset)
            times.append(broker_ms)
            values.append(value[: int(rng.integers(0, len(value) - 1))] if broken else value)
            archive.events += 1
            if broken:
                archive.refused["bad"] += 1
                continue
            if event_ms > broker_ms + MAX_AHEAD_MS:
                archive.refused["ahead"] += 1
                continue
            watermark = max(watermark, event_ms)
            if event_ms < watermark - LATENESS_MS:
                archive.refused["late"] += 1
                continue
            again = newest.get(event["id"], -(2**62)) >= watermark - REPEATS_MS
            newest[event["id"]] = max(event_ms, newest.get(event["id"], event_ms))
            if again:
                archive.refused["repeat"] += 1
                continue
            for view, key in (("cards", card), ("shops", shop)):
                if key is not None:
                    mine = found[view].setdefault(key, [[] for _ in range(partitions)])
                    mine[partition].append((event_ms, code, offset))
        _write(folder / f"part-{partition}.parquet", partition, offsets, times, values)
    archive.accepted = {
        view: {key: [_accepted(part) for part in parts] for key, parts in entities.items()}
        for view, entities in found.items()
    }
    return archive


def _accepted(rows: list[tuple[int, int, int]]) -> Accepted:
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    assert columns.shape[1] < EVENTS_AT_MOST
    return Accepted(*columns)


def _write(path: Path, partition: int, offsets: list[int], times: list[int], values: list[bytes]) -> None:
    n = len(offsets)
    columns = {
        "partition": pa.array([partition] * n, pa.int32()),
        "offset": pa.array(offsets, pa.int64()),
        "timestamp_ms": pa.array(times, pa.int64()),
        "key": pa.nulls(n, pa.binary()),
        "value": pa.array(values, pa.binary()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=256)
