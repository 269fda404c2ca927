"""Orders of five months by customers who come, shop by habit, fade, return; and some who are not what they seem.

Owns: the customers' habits and the orders made of them.
"""

from __future__ import annotations

import random

from examples.feature_sets.arrival import DAY_MS, HOUR_MS, START_MS, Event, arrive

CUSTOMERS = 70
DAYS = 150
EVERYDAY = ("fashion", "books", "garden", "toys", "groceries")
RISKY = ("electronics", "gift_cards", "jewellery")


def generate(seed: int = 7) -> dict[str, list[Event]]:
    """Return the orders in the order of their arrival; the same for the same seed."""
    draw = random.Random(seed)
    orders = [one for number in range(CUSTOMERS) for one in _habit(draw, number)]
    orders += _burst(draw, "k3", START_MS + 140 * DAY_MS)
    orders.sort(key=lambda one: (one["at"], one["customer"]))
    numbered = [{"order_id": 1000 + number, **one} for number, one in enumerate(orders)]
    return {"orders": arrive(draw, numbered, "at")}


def _habit(draw: random.Random, number: int) -> list[Event]:
    """Return one customer's orders: usual hours, categories, devices, and a pause of three months for some."""
    hours = [12, 13, 18, 19, 20, 21] if number % 5 else [0, 1, 2, 3, 23]
    categories = draw.sample(EVERYDAY, draw.randint(1, 4))
    devices = [f"p{number}", *([f"t{number}"] if number % 4 == 0 else [])]
    every = draw.choice((2, 4, 9)) * DAY_MS
    day = draw.randrange(100) if number % 3 else 0
    at = START_MS + day * DAY_MS
    orders = []
    while at < START_MS + DAYS * DAY_MS:
        when = at - at % DAY_MS + draw.choice(hours) * HOUR_MS + draw.randrange(HOUR_MS)
        risky = draw.random() < 0.08
        orders.append(
            {
                "at": when,
                "customer": f"k{number}",
                "device": draw.choice(devices),
                "category": draw.choice(RISKY if risky else categories),
                "amount": draw.randrange(500, 40_000 if risky else 9_000) / 100,
            }
        )
        if draw.random() < 0.05:  # the same basket once more, in the same millisecond
            orders.append(dict(orders[-1]))
        at += int(draw.expovariate(1 / every)) + HOUR_MS
        if number % 7 == 0 and len(orders) == 12:
            at += 92 * DAY_MS
    return orders


def _burst(draw: random.Random, customer: str, start_ms: int) -> list[Event]:
    """Return eight orders in two nights of what sells on well, from a device never seen."""
    return [
        {
            "at": start_ms + (i // 4) * DAY_MS + (1 + i % 4) * HOUR_MS + draw.randrange(HOUR_MS),
            "customer": customer,
            "device": "pX",
            "category": RISKY[i % 3],
            "amount": draw.randrange(20_000, 60_000) / 100,
        }
        for i in range(8)
    ]
