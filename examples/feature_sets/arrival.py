"""How sample events arrive: mostly at once, some minutes later, a few hours.

Owns: the delays, and the archive's files. Refuses: what an event is.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Topics = Mapping[str, list[Event]]

START_MS = 1_704_067_200_000  # 2024-01-01, UTC
SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 3_600_000
DAY_MS = 86_400_000


def arrive(draw: random.Random, events: Iterable[Event], time: str) -> list[Event]:
    """Return events in the order in which they come: one in ten some minutes late, one in a hundred some hours.

    time: the field that holds the event's time, ms.
    """
    placed = []
    for number, event in enumerate(events):
        kind = draw.random()
        if kind < 0.89:
            delay = draw.randrange(500)
        elif kind < 0.99:
            delay = draw.randrange(9 * MINUTE_MS)
        else:
            delay = draw.randrange(HOUR_MS, 6 * HOUR_MS)
        placed.append((event[time] + delay, number, event))
    return [event for _, _, event in sorted(placed, key=lambda one: one[:2])]


def write(folder: Path, topics: Topics) -> None:
    """Write an archive: a folder a topic, a line of JSON an event. Raises FileExistsError where one is there."""
    for topic, events in topics.items():
        (folder / topic).mkdir(parents=True)
        lines = "".join(json.dumps(event) + "\n" for event in events)
        (folder / topic / "part-0.jsonl").write_text(lines, "utf-8")
