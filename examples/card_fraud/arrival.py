"""How payments arrive: on which partition, in which order, and what is wrong with some of them.

Owns: partitions, delays, clocks that run ahead, which messages are broken. Refuses: file formats (`files`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from examples.card_fraud.payments import HOUR_MS, I64, MINUTE_MS, Payments

LATENESS_MS = 10 * MINUTE_MS  # as features/fraud.yaml declares for the stream
BREAKAGES = ("truncated", "not_an_object", "no_card", "text_for_bool", "three_decimals", "nan_amount")


@dataclass
class Arrived:
    """One partition's payments in offset order (offset = place)."""

    partition: int
    payments: Payments
    tx_id: I64
    broker_ms: I64
    broken: I64  # 0: whole; else 1 + index into BREAKAGES
    ahead: npt.NDArray[np.bool_]  # the sender's clock ran hours ahead

    def late(self) -> npt.NDArray[np.bool_]:
        """Return which events are older than the partition's watermark by more than the lateness."""
        return self._behind(LATENESS_MS)

    def out_of_order(self) -> npt.NDArray[np.bool_]:
        """Return which events are older than the partition's watermark at all, late or not."""
        return self._behind(0)

    def _behind(self, by_ms: int) -> npt.NDArray[np.bool_]:
        # Broken events and those ahead of the broker's time move no watermark and are judged apart.
        counts = (self.broken == 0) & ~self.ahead
        watermark = np.maximum.accumulate(np.where(counts, self.payments.ts, np.iinfo(np.int64).min + by_ms))
        behind: npt.NDArray[np.bool_] = counts & (self.payments.ts < watermark - by_ms)
        return behind


def delays(rng: np.random.Generator, n: int) -> I64:
    """Return ms from event to arrival: mostly a moment, some minutes, one in two thousand over an hour."""
    kind = rng.choice(4, n, p=[0.92, 0.07, 0.0095, 0.0005])
    moment = rng.exponential(150, n)
    seconds = rng.uniform(1_000, 60_000, n)
    minutes = rng.uniform(60_000, 9 * MINUTE_MS, n)
    hours = rng.uniform(HOUR_MS, 4 * HOUR_MS, n)
    return np.choose(kind, [moment, seconds, minutes, hours]).astype(np.int64)


def arrive(
    rng: np.random.Generator, payments: Payments, partitions: int, broken_share: float, ahead_share: float
) -> list[Arrived]:
    """Deal payments to partitions by card, as a producer keyed by card does, and order each by arrival."""
    n = len(payments)
    broker_ms = payments.ts + delays(rng, n)
    ahead = rng.random(n) < ahead_share
    payments.ts[ahead] = broker_ms[ahead] + rng.integers(2 * HOUR_MS, 9 * HOUR_MS, int(ahead.sum()))
    broken = np.where(rng.random(n) < broken_share, rng.integers(1, len(BREAKAGES) + 1, n), 0)
    broken[payments.pattern != 0] = 0  # the truth about fraud stays whole
    ahead &= broken == 0
    tx_id = np.empty(n, np.int64)
    tx_id[np.argsort(broker_ms, kind="stable")] = 1_000_000 + np.arange(n)
    partition = (payments.card * 2_654_435_761 >> 7) % partitions
    arrived = []
    for p in range(partitions):
        mine = np.flatnonzero(partition == p)
        mine = mine[np.argsort(broker_ms[mine], kind="stable")]
        arrived.append(
            Arrived(p, payments.take(mine), tx_id[mine], broker_ms[mine], broken[mine], ahead[mine])
        )
    return arrived
