"""What the probes say: is the job alive, has it caught up.

Alive is a job whose epochs become durable, or that says what it waits for: starting it again mends no store and no
broker, and costs it its caches. Caught up is one whose readers get what they would get in a moment anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataflows.telemetry.observed import Observed

LIVE_MS = 300_000  # without a durable epoch: an epoch may have to write a whole state
READY_MS = 10_000  # without a durable epoch, or ten epochs where they are longer
READY_LAG_MS = 30_000  # by the broker's clock, of any partition


@dataclass(frozen=True)
class Health:
    """A probe's answer: whether all is well, and what is not (or what is waited for)."""

    well: bool
    why: list[str]


def live(observed: Observed | None) -> Health:
    """Say whether the job goes on, or knows why not."""
    if observed is None:
        return Health(True, ["the workers are about to start"])
    why = waits(observed)
    age_ms = observed.epoch_age_ms
    if age_ms <= LIVE_MS or why:
        return Health(True, why)
    return Health(False, [f"no epoch has become durable for {age_ms / 1000:,.0f} s, and no worker says why"])


def ready(observed: Observed | None) -> Health:
    """Say whether what is served is as of now: epochs become durable, and little waits to be read."""
    if observed is None:
        return Health(False, ["the workers are about to start"])
    why = waits(observed)
    age_ms = observed.epoch_age_ms
    if not observed.epochs:
        why.append("no epoch has become durable since the start")
    elif age_ms > max(READY_MS, 10 * observed.settings.epoch_ms):
        why.append(f"no epoch has become durable for {age_ms / 1000:,.0f} s")
    if observed.catching_up:
        why.append(f"{observed.catching_up} shards are catching up with what was served before the start")
    for row, part in observed.parts:
        lag, lag_ms = observed.lag_events(row), observed.lag_ms(row)
        if lag and (lag_ms is None or lag_ms > READY_LAG_MS):
            how_long = "" if lag_ms is None else f", {lag_ms / 1000:,.0f} s behind the broker's clock"
            why.append(f"{part.name} has {lag:,} events still to be read{how_long}")
    return Health(not why, why)


def waits(observed: Observed) -> list[str]:
    """Return a sentence for each outside thing that workers wait for."""
    names = {"store": "the online store", "disk": "room on the disk"}
    found = [f"workers wait for {names[what]}: {count}" for what, count in observed.waits.items() if count]
    if observed.log_holds_up:
        found.append("workers wait for the change log")
    if observed.registry_waits:
        found.append(f"partitions wait for the schema registry: {observed.registry_waits}")
    if observed.away_ms:
        found.append(f"the source has not answered for {observed.away_ms / 1000:,.0f} s")
    return found
