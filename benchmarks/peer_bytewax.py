"""Bytewax's own sliding windows, with recovery: five of them, each count, sum and max by card.

    python -m benchmarks.peer_bytewax SERVERS TOPIC STATE

A window slides by a twelfth of its length, so its values are as of such steps, not of every event.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.kafka import KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import run_main

SECONDS = (60, 3_600, 86_400, 604_800, 2_592_000)
STEPS = 12

Fold = tuple[int, float, float]


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class _Drop(DynamicSink[Any]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        return _Nothing()


def _parse(message: KafkaSourceMessage[Any, Any]) -> tuple[str, tuple[datetime, float]]:
    value = orjson.loads(message.value)
    return value["card"], (datetime.fromtimestamp(value["ts"] / 1000, UTC), value["amount"])


def _time(event: tuple[datetime, float]) -> datetime:
    return event[0]


def _fold(found: Fold, event: tuple[datetime, float]) -> Fold:
    return found[0] + 1, found[1] + event[1], max(found[2], event[1])


def _merge(one: Fold, other: Fold) -> Fold:
    return one[0] + other[0], one[1] + other[1], max(one[2], other[2])


def main() -> None:
    """Read the topic to its end."""
    servers, topic, state = sys.argv[1:]
    flow = Dataflow("peer")
    source = KafkaSource([servers], [topic], tail=False)
    events = op.map("parse", op.input("in", flow, source), _parse)  # type: ignore[arg-type]
    for seconds in SECONDS:
        clock: win.EventClock[tuple[datetime, float]] = win.EventClock(_time, timedelta(minutes=10))
        length = timedelta(seconds=seconds)
        windower = win.SlidingWindower(length, length / STEPS, datetime(2024, 1, 1, tzinfo=UTC))
        found = win.fold_window(
            f"w{seconds}", events, clock, windower, lambda: (0, 0.0, float("-inf")), _fold, _merge
        )
        op.output(f"out{seconds}", found.down, _Drop())
    folder = Path(state)
    folder.mkdir(parents=True)
    init_db_dir(folder, 1)
    run_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=RecoveryConfig(state))


if __name__ == "__main__":
    main()
