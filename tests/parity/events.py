"""Events made for parity tests, and what the oracle says of them: from JSON lines to each feature's value."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from connectors.archive import Archive
from connectors.decode import Decoder
from lookback.definition import Definition, View
from lookback.events import EventBatch, key_texts
from lookback.windows.plan import Feature, Kind, pack_position
from lookback.windows.results import empty_word
from tests.oracle import OVERFLOW, Row, expected

ALL_TIES, NO_TIES = 2**63 - 1, -(2**63)
DAY = 86_400_000


def write_lines(path: Path, partitions: Sequence[Sequence[Mapping[str, Any] | str]]) -> None:
    """Write one file of JSON lines a partition; a text stands for itself, good or bad."""
    path.mkdir(parents=True)
    for number, events in enumerate(partitions):
        lines = []
        for offset, event in enumerate(events):
            if isinstance(event, str):
                lines.append(event)
            else:
                lines.append(json.dumps({**event, "_partition": number, "_offset": offset}))
        (path / f"part-{number}.jsonl").write_text("\n".join(lines) + "\n")


def accepted(definition: Definition, archive: Path, stream: str) -> list[EventBatch]:
    """Return each partition's events that are neither bad nor late, by a loop that says what late means."""
    kind = definition.streams[stream]
    found = []
    opened = Archive(archive, [kind])
    for info in opened.partitions():
        raw = opened.open(info.topic, info.partition).read(10**6, 10**9)
        assert raw is not None
        events = Decoder(kind).decode(raw).events
        watermark, keep = -(2**62), []
        for i, t in enumerate(events.event_time_ms.tolist()):
            watermark = max(watermark, t)
            if t >= watermark - kind.lateness_ms:
                keep.append(i)
        index = np.array(keep, np.int64)
        found.append(
            EventBatch(
                stream, info.topic, info.partition, events.offset[index], events.event_time_ms[index], None,
                events.fields.take(index),
            )
        )  # fmt: skip
    return found


@dataclass
class Logs:
    """One view's rows by entity key, as the oracle takes them, and where each event's row is."""

    view: View
    rows: dict[str, list[Row]]
    of_event: dict[tuple[int, int], tuple[str, Row]]  # (partition, offset): (key, row)


def logs_of(view: View, batches: Sequence[EventBatch]) -> Logs:
    """Return a view's rows: participation and columns by the definition, everything else by loops."""
    plan = view.plan
    logs = Logs(view, defaultdict(list), {})
    for batch in batches:
        rows = view.encode(batch)
        keys = key_texts(rows.keys)
        for i in range(len(batch)):
            if rows.key_code[i] < 0:
                continue
            words = rows.values[:, i].tolist()
            bits = sum((word & (2**64 - 1)) << 64 * n for n, word in enumerate(words[: plan.words]))
            values: list[Any] = []
            for column, word in zip(plan.columns, words[plan.words :], strict=True):
                if column.kind is Kind.TEXT:
                    values.append(rows.texts[word] if rows.texts else "")
                elif column.kind is Kind.FLOAT:
                    values.append(float(np.int64(word).view(np.float64)))
                else:
                    values.append(word)
            place = pack_position(batch.partition, int(batch.offset[i]))
            row = (int(rows.time_ms[i]), place, bits, tuple(values))
            key = keys[rows.key_code[i]]
            logs.rows[key].append(row)
            logs.of_event[batch.partition, int(batch.offset[i])] = key, row
    return logs


def plain(feature: Feature, value: Any) -> Any:
    """Return a value as the oracle has it: decimals unscaled, bools as numbers."""
    if isinstance(value, list):
        return [plain(feature, one) for one in value]
    if isinstance(value, Decimal):
        return int(value.scaleb(feature.scale))
    return int(value) if isinstance(value, bool) else value


def oracle_value(
    view: View, feature: Feature, rows: list[Row], t: int, position: int, own: Row | None, counted: bool
) -> Any:
    """Return what a feature must be: defaults in place, None for null."""
    value = expected(view.plan, feature, rows, t, position, own, counted)
    if value is OVERFLOW:
        return None
    if value is None:
        value = empty_word(feature)
    if isinstance(value, bool):
        return int(value)
    return value
