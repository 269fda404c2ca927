"""What a topic's settings may do to a live job, said when it starts."""

from __future__ import annotations

from connectors.kafka import KafkaSource
from dataflows.show import duration
from lookback.definition import Definition, Stream
from lookback.windows.layout import REACH_INFINITE, reach_ms

AFTER = "message.timestamp.after.max.ms"
RETENTION = "retention.ms"


def topic_warnings(definition: Definition, source: KafkaSource) -> list[str]:
    """Return a sentence for each setting that can hurt; none where the cluster does not tell its settings."""
    found = []
    for stream in definition.streams.values():
        config = source.config(stream.topic)
        found += [text for text in (_clock(stream, config), _retention(definition, stream, config)) if text]
    return found


def _clock(stream: Stream, config: dict[str, str]) -> str | None:
    ahead_ms = int(config.get(AFTER, 0))
    if config.get("message.timestamp.type") != "CreateTime" or ahead_ms <= stream.max_ahead_ms:
        return None
    bound = "any time" if ahead_ms > 10**15 else f"times up to {duration(ahead_ms)} ahead"
    return (
        f"topic {stream.topic} takes {bound} from its producers, more than stream {stream.name}'s max_ahead "
        f"({duration(stream.max_ahead_ms)}): one wrong clock can raise a partition's watermark by that much, and the "
        f"other producers' events are then late; set {AFTER}={stream.max_ahead_ms} on the topic"
    )


def _retention(definition: Definition, stream: Stream, config: dict[str, str]) -> str | None:
    kept_ms = int(config.get(RETENTION, -1))
    views = [view for view in definition.views.values() if view.stream.name == stream.name]
    if kept_ms < 0 or not views or "delete" not in config.get("cleanup.policy", "delete"):
        return None
    reach = max(reach_ms(view.plan) for view in views)
    lifetime = reach == REACH_INFINITE or any(f.window_ms is None for view in views for f in view.features)
    needed_ms = reach + stream.max_ahead_ms + (stream.drop_repeats_ms or 0)
    if not lifetime and kept_ms >= needed_ms:
        return None
    longest = "all of time" if lifetime else duration(reach)
    wanted = "-1" if lifetime else str(needed_ms)
    return (
        f"topic {stream.topic} keeps {duration(kept_ms)}, less than the longest window over it reaches ({longest}): a "
        f"new state or a replay can't be exact from it alone; set {RETENTION}={wanted} on the topic, or keep an archive"
    )
