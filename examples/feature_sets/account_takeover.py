"""Login attempts of a hundred days and how they ended: people at home, people who travel, and thieves.

Owns: who logs in from where, and three attacks: a list of stolen passwords tried from one device, the same from many
devices of one network, and one account taken by somebody who has its password.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.feature_sets.arrival import DAY_MS, HOUR_MS, MINUTE_MS, START_MS, Event, arrive

USERS = 60
DAYS = 100
HOMES = ("DE/Berlin", "DE/Hamburg", "FR/Lyon", "NL/Utrecht")
AWAY = ("ES/Palma", "IT/Roma", "US/Boston", "GR/Athens")


@dataclass(frozen=True)
class Try:
    """One attempt and how it ends: True or False, None if the user gives up before."""

    at: int
    user: str
    device: str
    place: str
    network: str
    success: bool | None


def generate(seed: int = 7) -> dict[str, list[Event]]:
    """Return the events of both topics in the order of their arrival; the same for the same seed."""
    draw = random.Random(seed)
    tries = [one for user in range(USERS) for one in _everyday(draw, user)]
    tries += _stolen_list(draw, START_MS + 80 * DAY_MS)
    tries += _taken(draw, START_MS + 90 * DAY_MS)
    tries += _bots(draw, START_MS + 95 * DAY_MS)
    tries.sort(key=lambda one: (one.at, one.user))
    attempts, logins = [], []
    for number, one in enumerate(tries):
        who = {"attempt_id": 1000 + number, "user": one.user}
        seen = {**who, "device": one.device, "place": one.place, "network": one.network}
        attempts.append({"at": one.at, **seen})
        if one.success is not None:
            # A code by text message takes a while; a password that the browser knows takes no time at all.
            ends = one.at + draw.choice((0, 900, 4_000, 15_000))
            logins.append({"at": ends, **seen, "success": one.success})
    return {"login_attempts": arrive(draw, attempts, "at"), "logins": arrive(draw, logins, "at")}


def _everyday(draw: random.Random, user: int) -> list[Try]:
    """Return a user's own attempts: one place, a device or two, a journey, a typing error now and then."""
    home = HOMES[user % len(HOMES)]
    devices = [f"d{user}-{i}" for i in range(draw.randint(1, 2))]
    first_day = 0 if draw.random() < 0.8 else draw.randrange(60)
    leaves = draw.randrange(DAYS)
    tries = []
    at = START_MS + first_day * DAY_MS + draw.randrange(DAY_MS)
    while at < START_MS + DAYS * DAY_MS:
        day = (at - START_MS) // DAY_MS
        if leaves <= day < leaves + 7 and user % 3 == 0:
            place, network = AWAY[user % len(AWAY)], "hotel-wifi"
        else:
            place, network = home, f"net-{user % 12}"
        if day == 50:  # a new telephone
            devices.append(f"d{user}-new")
        device = draw.choice(devices)
        for _ in range(draw.choice((0, 0, 0, 0, 1, 2))):  # the password mistyped
            tries.append(Try(at, f"u{user}", device, place, network, False))
            at += draw.randrange(5_000, 40_000)
        success = None if draw.random() < 0.03 else True
        tries.append(Try(at, f"u{user}", device, place, network, success))
        at += int(draw.expovariate(1 / (4 * DAY_MS))) + MINUTE_MS
    return tries


def _stolen_list(draw: random.Random, start_ms: int) -> list[Try]:
    """Return forty accounts tried within half an hour from one device; two of the passwords are right."""
    return [
        Try(
            start_ms + i * 45_000 + draw.randrange(20_000), f"u{i}", "dX", "RO/Iasi", "net-bad", i in (11, 23)
        )
        for i in range(40)
    ]


def _taken(draw: random.Random, start_ms: int) -> list[Try]:
    """Return user u5's account taken: two wrong passwords, then the right one, from far away."""
    where = ("dY", "BR/Recife", "net-far")
    return [
        Try(start_ms, "u5", *where, False),
        Try(start_ms + 30_000, "u5", *where, False),
        Try(start_ms + 70_000 + draw.randrange(1_000), "u5", *where, True),
        Try(start_ms + 3 * HOUR_MS, "u5", *where, True),
    ]


def _bots(draw: random.Random, start_ms: int) -> list[Try]:
    """Return fourteen accounts tried within half an hour, each from a device of its own, all from one network."""
    return [
        Try(
            start_ms + i * 120_000 + draw.randrange(9_000),
            f"u{20 + i}",
            f"dB{i}",
            "RO/Iasi",
            "net-bots",
            False,
        )
        for i in range(14)
    ]
