"""A live job that has seen only the first events of a set's sample: the moment at which decisions are asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataflows.live_job import run
from dataflows.live_round import LiveOptions
from lookback import Client
from lookback.definition import Definition
from tests.features.pages import Event, Page


@dataclass
class Stopped:
    """What the job has counted, what comes next, and where it wrote.

    early, later: by topic, in the order of arrival; no event of `later` that is asked about is before `cut_ms`.
    """

    cut_ms: int
    early: dict[str, list[Event]]
    later: dict[str, list[Event]]
    client: Client


def stopped(
    page: Page, folder: Path, times: Mapping[str, str], share: float, definition: Definition | None = None
) -> Stopped:
    """Run the live job over what had come until the first event of `cut_ms`; times: each topic's time field.

    share: of the first topic's events, by their times, that lie before `cut_ms`. definition: another than the page's.
    """
    events = {topic: page.events(topic) for topic in times}
    first = next(iter(times))
    known = sorted(one[times[first]] for one in events[first] if times[first] in one)
    cut_ms = known[int(len(known) * share)]
    early, later = {}, {}
    for topic, all_of_it in events.items():
        end = next(
            (i for i, one in enumerate(all_of_it) if one.get(times[topic], 0) >= cut_ms), len(all_of_it)
        )
        early[topic], later[topic] = all_of_it[:end], all_of_it[end:]
        (folder / "events" / topic).mkdir(parents=True)
        path = page.file(topic)
        lines = path.read_text().splitlines(keepends=True)
        (folder / "events" / topic / path.name).write_text("".join(lines[:end]))
    store = f"lmdb:{folder / 'store'}"
    definition = definition or page.definition
    run(definition, LiveOptions(f"archive:{folder / 'events'}", store, folder / "state", quiet=True))
    return Stopped(cut_ms, early, later, Client(definition, store))


def waiting(event: Event, time: str) -> Event:
    """Return an event that is asked about before it is counted: after all that is stored at its time."""
    return {**event, "_order": (event[time], "~", 0)}
