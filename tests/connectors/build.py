"""Streams and archives for the connectors' tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.batches import DeadLetter
from connectors.decode import Decoder
from lookback.definition.types import EventTime, Field, Stream, TimeUnit, parse_field_type

EVERY_TYPE = {
    "id": "int64",
    "note": "string?",
    "price": "decimal(12,2)",
    "rate": "float64?",
    "ok": "bool?",
    "when": "timestamp?",
    "count": "int64?",
    "fine": "decimal(18,6)?",
}
CARD = {"tx_id": "int64", "card": "string", "amount": "decimal(12,2)", "device": "string?"}


def stream_of(
    fields: Mapping[str, str],
    unit: TimeUnit = "ms",
    names: Mapping[str, str] | None = None,
    topic: str = "tx",
) -> Stream:
    """Return a stream named `tx` whose event time is `ts`."""
    found = {n: Field(n, parse_field_type(t), (names or {}).get(n, n)) for n, t in fields.items()}
    return Stream("tx", topic, "json", EventTime("ts", unit), None, 600_000, 3_600_000, found)


def card_event(number: int) -> dict[str, Any]:
    """Return one event of CARD, with its time."""
    return {
        "ts": 1_700_000_000_000 + 10 * number,
        "tx_id": number,
        "card": f"card-{number % 13}",
        "amount": number / 100,
        "device": None if number % 3 else f"dévice {number}",
    }


def write_lines(path: Path, lines: Sequence[str | bytes | Mapping[str, Any]], end: bytes = b"\n") -> Path:
    """Write JSON lines; mappings are written as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = [
        line
        if isinstance(line, bytes)
        else line.encode()
        if isinstance(line, str)
        else json.dumps(line).encode()
        for line in lines
    ]
    path.write_bytes(end.join(encoded) + end)
    return path


def write_parquet(path: Path, table: pa.Table, row_group_size: int | None = None) -> Path:
    """Write a Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def read_all(
    archive: Any, decoder: Decoder, partition: int, start: int | None = None, **limits: int
) -> tuple[list[tuple[Any, ...]], list[DeadLetter]]:
    """Return a partition's events as (offset, time, broker time, fields...) and its dead letters."""
    reader = archive.open(decoder.stream.topic, partition, start)
    events: list[tuple[Any, ...]] = []
    dead: list[DeadLetter] = []
    while (raw := reader.read(**limits)) is not None:
        found = decoder.decode(raw)
        batch = found.events
        times = [None] * len(batch) if batch.broker_time_ms is None else batch.broker_time_ms.tolist()
        columns = [column.to_pylist() for column in batch.fields.columns]
        events += zip(batch.offset.tolist(), batch.event_time_ms.tolist(), times, *columns, strict=True)
        dead += found.dead
        assert (len(batch), len(found.dead)) != (0, 0)
    return events, dead
