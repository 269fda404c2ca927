"""Honest card payments as columns: who pays where, when and how much.

Owns: the population (cards, merchants, devices, countries) and its everyday behaviour. Refuses: fraud (see
`fraud`), the order in which events arrive and how they are written (see `arrival`, `files`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
MINUTE_MS = 60_000
NO_DEVICE = -1
COUNTRIES = ("DE", "FR", "NL", "BE", "AT", "ES", "IT", "PL", "GB", "US", "BR", "SG")
HOME_SHARE = np.array([30, 16, 9, 6, 6, 9, 9, 6, 5, 2, 1, 1]) / 100
HOURLY = np.array(
    [2, 1, 1, 1, 1, 2, 5, 9, 12, 12, 13, 16, 18, 15, 13, 13, 15, 18, 19, 16, 12, 9, 6, 4], float
)
WEEKLY = np.array([10, 10, 10, 11, 13, 15, 9.0])  # Monday first
FAVOURITES = 6


@dataclass
class Payments:
    """Columns of n payments, in no particular order; strings as codes into the population."""

    ts: I64  # event time, ms UTC
    card: I64
    merchant: I64
    device: I64  # NO_DEVICE: the card was present
    country: I64
    cents: I64
    declined: npt.NDArray[np.bool_]
    pattern: I64  # index into `fraud.PATTERNS`; 0 is honest

    def __len__(self) -> int:
        return len(self.ts)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Payments:
        """Return the payments at these places, in this order."""
        return Payments(*(getattr(self, field.name)[index] for field in fields(self)))


def concat(parts: list[Payments]) -> Payments:
    """Return all payments of all parts, one after the other."""
    return Payments(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Payments)))


@dataclass
class Population:
    """Who takes part, with each one's habits; codes index the arrays."""

    card_weight: F64  # share of all payments
    card_home: I64  # country code
    card_devices: I64  # [cards, 2] device codes
    card_favourites: I64  # [cards, FAVOURITES] merchant codes
    merchant_weight: F64
    merchant_country: I64
    merchant_log_price: F64  # mean of the logarithm of the price in cents
    merchant_online: npt.NDArray[np.bool_]
    hot: int  # cards 0 … hot-1 are company cards that pay all day long
    devices: int

    @property
    def cards(self) -> int:
        """Return how many cards there are."""
        return len(self.card_home)

    @property
    def merchants(self) -> int:
        """Return how many merchants there are."""
        return len(self.merchant_country)


def populate(rng: np.random.Generator, cards: int, merchants: int) -> Population:
    """Make a population; a thousandth of the cards (at least two) are hot and take 4 % of all payments."""
    hot = max(2, cards // 1000)
    weight = rng.lognormal(0, 0.8, cards)
    weight[:hot] = 0
    weight *= 0.96 / weight.sum()
    weight[:hot] = 0.04 / hot
    popularity = 1 / np.arange(1, merchants + 1) ** 0.8
    popularity /= popularity.sum()
    home = rng.choice(len(COUNTRIES), cards, p=HOME_SHARE)
    country = rng.choice(len(COUNTRIES), merchants, p=HOME_SHARE)
    return Population(
        card_weight=weight,
        card_home=home,
        card_devices=np.stack([np.arange(cards), rng.integers(0, cards, cards)], axis=1),
        card_favourites=rng.choice(merchants, (cards, FAVOURITES), p=popularity),
        merchant_weight=popularity,
        merchant_country=country,
        merchant_log_price=rng.normal(8.0, 0.7, merchants),
        merchant_online=rng.random(merchants) < 0.35,
        hot=hot,
        devices=cards,
    )


def everyday_times(rng: np.random.Generator, n: int, start_ms: int, days: int) -> I64:
    """Return n event times over `days` days from `start_ms`, by the habits of the week and of the day."""
    day_share = WEEKLY[(start_ms // DAY_MS + 3 + np.arange(days)) % 7]  # day 0 of the epoch was a Thursday
    day = rng.choice(days, n, p=day_share / day_share.sum())
    hour = rng.choice(24, n, p=HOURLY / HOURLY.sum())
    return start_ms + day * DAY_MS + hour * HOUR_MS + rng.integers(0, HOUR_MS, n)


def prices(rng: np.random.Generator, people: Population, merchant: I64) -> I64:
    """Return a price in cents for a purchase at each of these merchants, at least 50 cents."""
    return np.maximum(50, np.exp(rng.normal(people.merchant_log_price[merchant], 0.6))).astype(np.int64)


def everyday(rng: np.random.Generator, people: Population, n: int, start_ms: int, days: int) -> Payments:
    """Make n honest payments."""
    card = rng.choice(people.cards, n, p=people.card_weight)
    usual = people.card_favourites[card, rng.integers(0, FAVOURITES, n)]
    other = rng.choice(people.merchants, n, p=people.merchant_weight)
    merchant = np.where(rng.random(n) < 0.75, usual, other)
    device = people.card_devices[card, (rng.random(n) < 0.25).astype(np.int64)]
    travelling = rng.random(n) < 0.02
    return Payments(
        ts=everyday_times(rng, n, start_ms, days),
        card=card,
        merchant=merchant,
        device=np.where(people.merchant_online[merchant], device, NO_DEVICE),
        country=np.where(travelling, people.merchant_country[merchant], people.card_home[card]),
        cents=prices(rng, people, merchant),
        declined=rng.random(n) < 0.025,
        pattern=np.zeros(n, np.int64),
    )
