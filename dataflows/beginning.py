"""Where reading must begin for the features to be exact from an instant on."""

from __future__ import annotations

from connectors.batches import PartitionInfo
from dataflows.progress import instant
from lookback.definition import Definition, Stream, View
from lookback.errors import RefusedError
from lookback.windows.layout import REACH_INFINITE, reach_ms


def beginning(
    definition: Definition, views: list[View], infos: list[PartitionInfo], from_ms: int
) -> int | None:
    """Return the broker time to read from so as to be exact at FROM; None: from the beginning.

    An event's broker time is never below its event time minus `max_ahead`, so no event that counts, nor one that
    makes it a repeat, lies before FROM - longest reach - drop_repeats - max_ahead. Raises RefusedError where the
    source begins later than that.
    """
    reach = max(reach_ms(view.plan) for view in views)
    if reach == REACH_INFINITE or any(f.window_ms is None for view in views for f in view.features):
        return None
    streams: dict[str, Stream] = {s.topic: s for s in definition.streams.values()}
    ahead = max(s.max_ahead_ms + (s.drop_repeats_ms or 0) for s in (streams[info.topic] for info in infos))
    if any(info.first_broker_time_ms is None for info in infos if info.rows):
        return None
    start = from_ms - reach - ahead
    for info in infos:
        first = info.first_broker_time_ms
        if info.first_offset > 0 and first is not None and first > start:
            raise RefusedError(
                f"{info.topic}/{info.partition} begins at offset {info.first_offset}, {instant(first)}: events "
                f"before that are gone, and features as of {instant(from_ms)} need them; the earliest exact --from is "
                f"{instant(first + reach + ahead)}"
            )
    return start
