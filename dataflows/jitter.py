"""For tests: source partitions that go at a pace of their own, another one after each start.

Crash tests need partitions to interleave differently after each start, which an archive on a quiet machine
rarely does. `LOOKBACK_TEST_JITTER=SEED[:ROWS]` turns this on; without it no code of this module runs. It
decides when rows come and in what batches (about ROWS rows each), never which.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dataflows.draining import draining
from dataflows.route import Payload
from dataflows.source import SourcePart

SETTING = "LOOKBACK_TEST_JITTER"
ROWS = 40
FAST_SECONDS, SLOW_SECONDS = 0.004, 0.06  # between a partition's batches, on average


class JitteredPart(SourcePart):
    """A partition that waits between batches of random lengths."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        seed, _, rows = os.environ[SETTING].partition(":")
        self._random = random.Random(f"{seed} {self._part.id}")
        self._most_rows = 2 * int(rows or ROWS)
        self._mean = FAST_SECONDS * (SLOW_SECONDS / FAST_SECONDS) ** self._random.random()
        self._until: datetime | None = None

    def next_batch(self) -> Iterable[tuple[str, Payload]]:
        """Return a batch, or nothing until it is time for one."""
        now = datetime.now(UTC)
        if self._until is not None and now < self._until and not draining():
            self._awake = self._until
            return []
        self._settings = replace(self._settings, batch_rows=self._random.randint(1, self._most_rows))
        out = super().next_batch()
        self._until = now + timedelta(seconds=self._random.expovariate(1 / self._mean))
        return out


def part_class() -> type[SourcePart]:
    """Return the class of this process's partitions."""
    return JitteredPart if SETTING in os.environ else SourcePart
