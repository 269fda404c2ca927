"""A store that is a hundred times too slow makes lag, not memory: what waits, waits on the broker."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.backpressure import anonymous_bytes, rows_read
from tests.integration.events import T0, Live, payment, write_definition
from tests.services.kafka import Broker
from tests.services.slowed import slowed
from tests.services.valkey import Valkey

PARTITIONS = 2
EVENTS = 50_000  # of a partition
FILLER = "x" * 3_000  # of a field that nothing reads: 300 MB in all
AHEAD_ROWS = (
    PARTITIONS * 2 * (64 << 20) // len(FILLER)
)  # two epochs' budgets: one is committed while one is read
GROWTH_BYTES = 256 << 20  # the client's queues, an epoch's messages, and their rows
SLOW_SECONDS = 6.0


def test_a_slow_store_makes_lag(kafka: Broker, valkey: Valkey, tmp_path: Path) -> None:
    topic = "slow-store"
    kafka.create(topic, PARTITIONS)
    for p in range(PARTITIONS):
        events = (
            payment(n, T0 + n * 100, card=f"c{n % 5000}", filler=FILLER)
            for n in range(p * EVENTS, (p + 1) * EVENTS)
        )
        kafka.produce(topic, {p: events}, {"compression.type": "lz4"})
    definition = write_definition(tmp_path, topic)
    live = Live(tmp_path, definition, f"kafka://{kafka.address}", server=valkey.uri)
    try:
        live.start("--workers", "2", "--until-end")
        live.until(lambda: rows_read(live.state), "a first row")
        assert live.process is not None
        memory, most_ahead = [], 0
        with slowed(valkey.pid, 0.01):
            start = time.monotonic()
            while time.monotonic() - start < SLOW_SECONDS:
                memory.append(anonymous_bytes(live.process.pid))
                most_ahead = max(most_ahead, rows_read(live.state) - sum(live.offsets().values()))
                time.sleep(0.2)
        waiting = PARTITIONS * EVENTS - rows_read(live.state)
        assert waiting > PARTITIONS * EVENTS // 3, "the store was not slow: nothing is proved"
        assert most_ahead <= AHEAD_ROWS
        assert max(memory) - memory[0] < GROWTH_BYTES
        assert live.wait() == 0, live.said()
        assert sum(live.offsets().values()) == PARTITIONS * EVENTS
    finally:
        live.end()
        kafka.delete(topic)
