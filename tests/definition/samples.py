"""Definition texts that tests start from, and batches for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookback.definition import Definition, Stream, loads
from lookback.events import EventBatch

ROOT = Path(__file__).parents[2]

GOOD = """\
streams:
  transactions:
    topic: transactions
    event_time: {field: ts, unit: ms}
    event_id: tx_id
    fields:
      tx_id: int64
      card: string
      merchant: string
      device: string?
      amount: decimal(12,2)
      score: float64?
      declined: bool
      at: timestamp?
entities:
  card: string
  merchant: string
  card_merchant: [card, merchant]
views:
  card_activity:
    entity: card
    stream: transactions
    features:
      tx_count: {agg: count, windows: [1m, 1h]}
      amount_max: {agg: max, of: amount, windows: [30d]}
      top: {agg: top_k, of: merchant, k: 3, windows: [30d]}
on_demand:
  ratio: amount / card_activity.amount_max_30d
services:
  fraud: [card_activity.tx_count_1m, ratio]
"""


def with_features(features: str, more: str = "") -> Definition:
    """Return the good definition with other features in its view and no on-demand ones or services."""
    head, _, rest = GOOD.partition("    features:\n")
    assert rest
    lines = "".join(f"      {line.strip()}\n" for line in features.strip().splitlines())
    return loads(f"{head}{more}    features:\n{lines}")


def stored(stream: Stream, rows: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Return stored values (decimals unscaled, times in ms) as a stream's fields."""
    arrays = [pa.array([row.get(f.name) for row in rows], f.type.arrow()) for f in stream.fields.values()]
    return pa.RecordBatch.from_arrays(arrays, schema=stream.schema())


def batch(
    stream: Stream, rows: Sequence[Mapping[str, Any]], times: Sequence[int] | None = None
) -> EventBatch:
    """Return stored values as a batch of partition 0."""
    count = len(rows)
    time_ms = np.array(times if times is not None else range(count), np.int64)
    return EventBatch(
        stream.name, stream.topic, 0, np.arange(count, dtype=np.int64), time_ms, None, stored(stream, rows)
    )
