"""The independent count: every feature of an entity recomputed from its events, by the definition's letter.

Owns: what must come out, as the texts that a plain client finds in the store. Refuses: any code of the kernel but
what `tests/oracle.py` takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.matrix.events import MINUTE, PARTITIONS, RADIX, Rows, shop_name
from tests.oracle import decayed, float_sum

YEAR_MS = 365 * 24 * 60 * MINUTE
WEIGHTS = np.array([RADIX**p for p in range(PARTITIONS)], np.int64)
HALF_LIFE_MS = 30_000


def features(view: str, rows: Rows, at_ms: int) -> dict[str, Any]:
    """Return a view's features of an entity with these events, as of an instant."""
    return _card(rows, at_ms) if view == "cards" else _shop(rows, at_ms)


def _card(rows: Rows, at_ms: int) -> dict[str, Any]:
    year, ten, one = (_inside(rows, at_ms, window) for window in (YEAR_MS, 10 * MINUTE, MINUTE))
    newest_first = [shop_name(code) for code in rows.shop[ten][::-1].tolist()]
    last_minute = _pairs(rows, one)
    return {
        "weight_365d": int(WEIGHTS[rows.partition[year]].sum()),
        "code_365d": int(rows.code[year].sum()),
        "rows_1m": one.stop - one.start,
        "rows_10m": ten.stop - ten.start,
        "price_sum_10m": float_sum(_pairs(rows, ten)) if newest_first else 0.0,
        "price_mean_1m": float_sum(last_minute) / len(last_minute) if last_minute else None,
        "shops_10m": len(set(newest_first)) or None,
        "last_shops_10m": newest_first[:3] or None,
    }


def _shop(rows: Rows, at_ms: int) -> dict[str, Any]:
    ever = slice(0, int(np.searchsorted(rows.time_ms, at_ms, "right")))
    two = _inside(rows, at_ms, 2 * MINUTE)
    recent = _pairs(rows, two)
    return {
        "weight_lifetime": int(WEIGHTS[rows.partition[ever]].sum()),
        "code_lifetime": int(rows.code[ever].sum()),
        "rows_2m": two.stop - two.start,
        "rows_lifetime": ever.stop,
        "price_max_2m": max(price for _, price in recent) if recent else None,
        "recent_2m": decayed(recent, at_ms, HALF_LIFE_MS) if recent else 0.0,
    }


def _inside(rows: Rows, at_ms: int, window_ms: int) -> slice:
    """Return where the rows of a window lie: times in (at - window, at]."""
    start, stop = np.searchsorted(rows.time_ms, [at_ms - window_ms, at_ms], "right").tolist()
    return slice(start, stop)


def _pairs(rows: Rows, inside: slice) -> list[tuple[int, float]]:
    """Return (time, price), newest first."""
    return list(zip(rows.time_ms[inside].tolist(), rows.price[inside].tolist(), strict=True))[::-1]
