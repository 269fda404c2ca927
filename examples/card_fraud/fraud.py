"""Fraud on top of honest payments: three patterns that a model should learn to see.

    card_testing          one card, dozens of tiny payments within minutes, half declined, then the haul
    lost_card             one card, a spree of big purchases within hours, often abroad
    merchant_compromise   the cards that paid at one merchant in some days are used elsewhere a week later

Owns: the patterns. Refuses: the honest part (see `payments`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from examples.card_fraud.payments import (
    COUNTRIES,
    DAY_MS,
    HOUR_MS,
    I64,
    MINUTE_MS,
    NO_DEVICE,
    Payments,
    Population,
    concat,
    prices,
)

PATTERNS = ("none", "card_testing", "lost_card", "merchant_compromise")
TESTING, LOST, COMPROMISE = 1, 2, 3
ABROAD = np.array([COUNTRIES.index(c) for c in ("US", "BR", "SG", "GB")])


@dataclass(frozen=True)
class Attack:
    """One card-testing attack: which card, when it starts, when its last payment is made."""

    card: int
    start_ms: int
    end_ms: int


def _payments(
    rng: np.random.Generator,
    pattern: int,
    ts: I64,
    card: I64,
    merchant: I64,
    device: I64,
    country: I64,
    cents: I64,
    declined_share: float,
) -> Payments:
    declined = rng.random(len(ts)) < declined_share
    return Payments(ts, card, merchant, device, country, cents, declined, np.full(len(ts), pattern))


def card_testing(
    rng: np.random.Generator, people: Population, card: int, start_ms: int, device: int
) -> tuple[Payments, Attack]:
    """Test one card with 40 to 70 tiny payments within ten minutes, then spend on it for an hour."""
    tests, haul = int(rng.integers(40, 70)), int(rng.integers(3, 6))
    n = tests + haul
    ts = start_ms + np.concatenate(
        [
            np.sort(rng.integers(0, 10 * MINUTE_MS, tests)),
            np.sort(10 * MINUTE_MS + rng.integers(0, 50 * MINUTE_MS, haul)),
        ]
    )
    merchant = np.concatenate(
        [np.full(tests, rng.integers(0, people.merchants)), rng.integers(0, people.merchants, haul)]
    )
    cents = np.concatenate([rng.integers(50, 200, tests), rng.integers(30_000, 90_000, haul)])
    country = np.full(n, rng.choice(ABROAD))
    made = _payments(
        rng, TESTING, ts, np.full(n, card), merchant, np.full(n, device), country, cents, declined_share=0.5
    )
    made.declined[tests:] = False
    return made, Attack(card, start_ms, int(ts[-1]))


def lost_card(rng: np.random.Generator, people: Population, card: int, start_ms: int) -> Payments:
    """Spend on a found card: 8 to 20 purchases within four hours, no device, prices four times the usual."""
    n = int(rng.integers(8, 20))
    merchant = rng.integers(0, people.merchants, n)
    country = people.card_home[card] if rng.random() < 0.4 else rng.choice(ABROAD)
    return _payments(
        rng,
        LOST,
        start_ms + np.sort(rng.integers(0, 4 * HOUR_MS, n)),
        np.full(n, card),
        merchant,
        np.full(n, NO_DEVICE),
        np.full(n, country),
        4 * prices(rng, people, merchant),
        declined_share=0.15,
    )


def merchant_compromise(
    rng: np.random.Generator, people: Population, honest: Payments, merchant: int, start_ms: int, end_ms: int
) -> Payments:
    """Use a third of the cards that paid at `merchant` in the 3 days from `start_ms` 5 to 9 days later."""
    seen = (honest.merchant == merchant) & (honest.ts >= start_ms) & (honest.ts < start_ms + 3 * DAY_MS)
    cards = np.unique(honest.card[seen])
    stolen = cards[(rng.random(len(cards)) < 0.33) & (cards >= people.hot)][:400]
    uses = rng.integers(2, 6, len(stolen))
    card = np.repeat(stolen, uses)
    n = len(card)
    first_use = start_ms + rng.integers(5 * DAY_MS, 9 * DAY_MS, len(stolen))
    ts = np.minimum(np.repeat(first_use, uses) + rng.integers(0, 6 * HOUR_MS, n), end_ms - 1)
    elsewhere = rng.integers(0, people.merchants, n)
    device = np.repeat(people.devices + 10_000 + rng.integers(0, 20, len(stolen)), uses)
    country = np.repeat(rng.choice(ABROAD, len(stolen)), uses)
    return _payments(
        rng,
        COMPROMISE,
        ts,
        card,
        elsewhere,
        device,
        country,
        2 * prices(rng, people, elsewhere),
        declined_share=0.2,
    )


def commit_fraud(
    rng: np.random.Generator, people: Population, honest: Payments, start_ms: int, days: int
) -> tuple[Payments, Attack]:
    """Return all fraud (about 0.5 % of the honest payments) and the attack that the demo looks at.

    The card of that attack is a busy one, none of the hot ones; it is tested 45 % into the time, at night.
    """
    span_ms, end_ms = days * DAY_MS, start_ms + days * DAY_MS
    counts = np.bincount(honest.card, minlength=people.cards)
    busy = np.argsort(-counts[people.hot :], kind="stable") + people.hot
    looked_at = int(busy[len(busy) // 50])
    night_ms = start_ms + (int(days * 0.45) * DAY_MS) + 3 * HOUR_MS
    first, attack = card_testing(rng, people, looked_at, night_ms, people.devices)
    parts = [first]
    n = len(honest)
    for i in range(n // 50_000):
        card = int(rng.integers(people.hot, people.cards))
        at = start_ms + int(rng.integers(0, span_ms - 2 * HOUR_MS))
        if card != looked_at:
            parts.append(card_testing(rng, people, card, at, people.devices + 1 + i)[0])
    for _ in range(max(1, n // 10_000)):
        card = int(rng.integers(people.hot, people.cards))
        if card != looked_at:
            parts.append(lost_card(rng, people, card, start_ms + int(rng.integers(0, span_ms - 5 * HOUR_MS))))
    for _ in range(2):
        merchant = int(rng.integers(people.merchants // 20, people.merchants // 4))
        begin = start_ms + int(rng.integers(0, max(1, span_ms - 12 * DAY_MS)))
        parts.append(merchant_compromise(rng, people, honest, merchant, begin, end_ms))
    return concat(parts), attack
