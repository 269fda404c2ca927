"""Bookings of half a year on some accounts, and applications for an overdraft limit.

Owns: salaries, rents, daily spending, debits returned for want of money, and the balance after each booking.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from examples.feature_sets.arrival import DAY_MS, HOUR_MS, START_MS, Event, arrive

ACCOUNTS = 36
DAYS = 180


@dataclass
class Account:
    """An account as it goes: cents, and its bookings so far."""

    name: str
    balance: int
    bookings: list[Event] = field(default_factory=list)

    def book(self, at: int, kind: str, cents: int) -> None:
        """Post one booking; balance and amount are written in whole cents, so the JSON numbers are exact."""
        self.balance += cents
        amounts = {"amount": cents / 100, "balance": self.balance / 100}
        self.bookings.append({"posted_at": at, "account": self.name, "kind": kind, **amounts})


def generate(seed: int = 7) -> dict[str, list[Event]]:
    """Return the events of both topics in the order of their arrival; the same for the same seed."""
    draw = random.Random(seed)
    bookings: list[Event] = []
    applications: list[Event] = []
    for number in range(ACCOUNTS):
        account = Account(f"a{number}", draw.randrange(20_000, 200_000))
        _live(draw, account, salary=draw.randrange(150_000, 400_000), opens=0 if number % 6 else 120)
        bookings += account.bookings
        for _ in range(draw.randrange(3, 10)):
            at = START_MS + draw.randrange(20, DAYS) * DAY_MS + draw.randrange(DAY_MS)
            applications.append(
                {"at": at, "account": account.name, "requested": draw.randrange(2, 30) * 100.0}
            )
    for application in applications[:3]:  # asked again within the day
        applications.append({**application, "at": application["at"] + 5 * HOUR_MS})
    bookings.sort(key=lambda one: int(one["posted_at"]))
    applications.sort(key=lambda one: int(one["at"]))
    booked = [{"booking_id": 1000 + number, **one} for number, one in enumerate(bookings)]
    applied = [{"application_id": 1 + number, **one} for number, one in enumerate(applications)]
    return {"bookings": arrive(draw, booked, "posted_at"), "credit_applications": arrive(draw, applied, "at")}


def _live(draw: random.Random, account: Account, salary: int, opens: int) -> None:
    """Book half a year: those who spend more than they earn dip below zero before each salary."""
    jobless = draw.random() < 0.15
    thrift = draw.uniform(0.75, 1.15)
    for day in range(opens, DAYS):
        noon = START_MS + day * DAY_MS + 12 * HOUR_MS
        if day % 30 == 27 and not (jobless and day > 60):
            account.book(noon - 6 * HOUR_MS, "salary", salary)
        if day % 30 == 1:
            account.book(noon - 5 * HOUR_MS, "direct_debit", -int(salary * 0.4))
            if account.balance < -60_000:
                account.book(noon - 4 * HOUR_MS, "returned_debit", int(salary * 0.4))
                account.book(noon - 4 * HOUR_MS, "fee", -500)  # the same millisecond: offsets tell them apart
        for minute in sorted(draw.sample(range(8 * 60), draw.choice((0, 0, 0, 1, 1, 2)))):
            spent = int(draw.expovariate(1 / (salary * 0.6 * thrift / 20))) + 100
            account.book(noon + minute * 60_000, "card", -spent)
        if draw.random() < 0.02:
            account.book(noon + 9 * HOUR_MS, "transfer", draw.randrange(1_000, 50_000))
