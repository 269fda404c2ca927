"""What the pages' words mean, in plain Python over a list of events: nothing of the engine's is used here.

An *order* of an event is (event time, stream, offset): all archives here have one partition.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

Event = dict[str, Any]
Where = Callable[[Event], bool]

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def accepted(events: Iterable[Event], stream: str, time: str, lateness_ms: int) -> list[Event]:
    """Return the events that are not late, each with its `_order`, in that order.

    Late is what is more than the lateness behind the newest event before it.
    """
    newest, kept = -math.inf, []
    for event in events:
        newest = max(newest, event[time])
        if event[time] >= newest - lateness_ms:
            kept.append({**event, "_order": (event[time], stream, event["_offset"])})
    return sorted(kept, key=lambda event: event["_order"])


def by(events: Iterable[Event], *fields: str) -> Mapping[tuple[Any, ...], list[Event]]:
    """Return the events of each entity, in order."""
    found: dict[tuple[Any, ...], list[Event]] = defaultdict(list)
    for event in events:
        found[tuple(event[name] for name in fields)].append(event)
    return found


class Past:
    """One entity's events up to a moment, and what may be asked of them."""

    def __init__(self, events: Sequence[Event], at: int, own: Event | None = None) -> None:
        """events: in order; own: the event that is looked at, the last of them, where it is one of theirs."""
        self.events, self.at, self.own = events, at, own

    def last(self, window: int | None, where: Where = lambda event: True) -> list[Event]:
        """Return the events of the last `window` ms (None: of all time) for which `where` holds."""
        return [
            one
            for one in self.events
            if (window is None or one["_order"][0] > self.at - window) and where(one)
        ]

    def count(self, window: int | None, where: Where = lambda event: True) -> int:
        """Return how many there are."""
        return len(self.last(window, where))

    def values(self, field: str, window: int | None, where: Where = lambda event: True) -> list[Any]:
        """Return a field of each of them, nulls left out, oldest first."""
        return [one[field] for one in self.last(window, where) if one.get(field) is not None]

    def total(self, field: str, window: int | None, where: Where = lambda event: True) -> Decimal:
        """Return the sum of a field, 0.00 of none."""
        return sum(self.values(field, window, where), Decimal("0.00"))

    def share(self, window: int | None, where: Where) -> float | None:
        """Return which part of the events `where` holds for; None of none."""
        return ratio(self.count(window, where), self.count(window))

    def kinds(self, field: str, window: int | None) -> int | None:
        """Return how many different values there are; None of none."""
        return len(set(self.values(field, window))) or None

    def usual(self, field: str, window: int | None, where: Where = lambda event: True) -> Any:
        """Return the most frequent value, the smaller of two; None of none."""
        counts = Counter(self.values(field, window, where))
        return min(counts, key=lambda value: (-counts[value], value.encode())) if counts else None

    def newest(self, field: str, window: int | None, where: Where = lambda event: True) -> Any:
        """Return the newest value; None of none."""
        return (self.values(field, window, where) or [None])[-1]

    def since_first(self, where: Where = lambda event: True) -> int | None:
        """Return the ms since the first of all time."""
        found = self.last(None, where)
        return self.at - found[0]["_order"][0] if found else None

    def since_last(self, window: int | None, where: Where = lambda event: True) -> int | None:
        """Return the ms since the newest before the event that is looked at."""
        found = [one for one in self.last(window, where) if one is not self.own]
        return self.at - found[-1]["_order"][0] if found else None

    def seen(self, field: str, window: int | None) -> bool | None:
        """Return whether the looked at event's value was there before; None where there is no such event."""
        if self.own is None or self.own.get(field) is None:
            return None
        return self.own[field] in [one.get(field) for one in self.last(window) if one is not self.own]


def mean(values: Sequence[Decimal]) -> float | None:
    """Return the mean; None of none."""
    return float(sum(values, Decimal()) / len(values)) if values else None


def stddev(values: Sequence[Decimal]) -> float | None:
    """Return the sample's standard deviation; None of fewer than two."""
    if len(values) < 2:
        return None
    middle = sum(values, Decimal()) / len(values)
    return math.sqrt(sum((value - middle) ** 2 for value in values) / (len(values) - 1))


def entropy(values: Sequence[Any]) -> float | None:
    """Return the entropy in nats; None of none."""
    shares = [count / len(values) for count in Counter(values).values()]
    return -math.fsum(share * math.log(share) for share in shares) if values else None


def ratio(above: Any, below: Any) -> float | None:
    """Return above / below as a float; None where either is null or below is 0."""
    if above is None or below is None or below == 0:
        return None
    return float(Fraction(above) / Fraction(below))


def same(found: Mapping[str, Any], want: Mapping[str, Any], about: Any) -> int:
    """Compare feature by feature; return how many. Floats may differ in their last digits, nothing else may."""
    for name, value in want.items():
        if isinstance(value, float) and isinstance(found[name], float):
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), (name, about)
        else:
            assert type(found[name]) is type(value) and found[name] == value, (
                name,
                found[name],
                value,
                about,
            )
    return len(want)
