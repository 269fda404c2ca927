"""Quix Streams' sliding windows, exactly once: five of them, each count, sum and max by card.

    python peer_quix.py SERVERS TOPIC EVENTS STATE

Run by its own interpreter (see `kafka_peers`): it wants other versions of packages that Lookback pins.
"""

import sys
from datetime import timedelta

from quixstreams import Application  # type: ignore[import-not-found]
from quixstreams.dataframe.windows import Count, Max, Sum  # type: ignore[import-not-found]

WINDOWS = {"1m": 60, "1h": 3_600, "1d": 86_400, "7d": 604_800, "30d": 2_592_000}


def main() -> None:
    """Read the topic's events from the beginning and stop behind the last."""
    servers, name, events, state = sys.argv[1:]
    app = Application(
        broker_address=servers,
        consumer_group=f"quix-{name}",
        auto_offset_reset="earliest",
        commit_interval=1.0,
        state_dir=state,
        processing_guarantee="exactly-once",
        loglevel="WARNING",
    )
    topic = app.topic(
        name,
        value_deserializer="json",
        timestamp_extractor=lambda value, headers, time_ms, kind: value["ts"],
    )
    out = app.topic(f"{name}-quix", value_serializer="json")
    rows = app.dataframe(topic)
    for suffix, seconds in WINDOWS.items():
        window = rows.sliding_window(timedelta(seconds=seconds), name=f"w{suffix}")
        window.agg(count=Count(), sum=Sum("amount"), max=Max("amount")).current().to_topic(out)
    app.run(count=int(events), timeout=20.0)


if __name__ == "__main__":
    main()
