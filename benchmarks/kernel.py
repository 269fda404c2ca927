"""Kernel speed alone, in events a second: even and hot entities, arithmetic and by-value aggregates.

    python benchmarks/kernel.py [--rows N] [--only NAME] [--json]

`even`: 50,000 entities, 50 of which take 5 % of the events. `hot`: 50 entities share all of them, so that
each has about N / 100 rows within the longest window. Time runs over 60 days; windows 1m 1h 1d 7d 30d.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lookback.windows.log import ViewLog
from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Term, ViewPlan, pack_position

I64 = npt.NDArray[np.int64]
WINDOWS_MS = {"1m": 60_000, "1h": 3_600_000, "1d": 86_400_000, "7d": 604_800_000, "30d": 2_592_000_000}
DAYS = 60
BATCH = 16_384


def features(aggs: list[tuple[Agg, Term, Result]], k: int = 3) -> tuple[Feature, ...]:
    """Return each aggregate over all five windows."""
    return tuple(
        Feature(f"{agg.name.lower()}_{suffix}", agg, term, ms, result, k=k, half_life_ms=86_400_000)
        for agg, term, result in aggs
        for suffix, ms in WINDOWS_MS.items()
    )


COLUMNS = (Column("amount", Kind.INT, 2), Column("merchant", Kind.INT), Column("score", Kind.FLOAT))
PLANS = {
    "count sum max": [
        (Agg.COUNT, Term(), Result.INT), (Agg.SUM, Term(0), Result.DECIMAL),
        (Agg.MAX, Term(0), Result.DECIMAL),
    ],
    "count sum max, where": [
        (Agg.COUNT, Term(-1, 0), Result.INT), (Agg.SUM, Term(0, 0), Result.DECIMAL),
        (Agg.MAX, Term(0, 0), Result.DECIMAL),
    ],
    "float sum": [(Agg.SUM, Term(2), Result.FLOAT)],
    "stddev": [(Agg.STDDEV, Term(2), Result.FLOAT)],
    "decayed_sum": [(Agg.DECAYED_SUM, Term(2), Result.FLOAT)],
    "distinct": [(Agg.DISTINCT, Term(1), Result.INT)],
    "top_k": [(Agg.TOP_K, Term(1), Result.INT)],
    "entropy": [(Agg.ENTROPY, Term(1), Result.FLOAT)],
    "last_k": [(Agg.LAST_K, Term(1), Result.INT)],
    "seen_before": [(Agg.SEEN_BEFORE, Term(1), Result.BOOL)],
}  # fmt: skip


def events(rows: int, hot: bool, seed: int = 1) -> tuple[I64, I64, I64, I64]:
    """Return (slot, time, position, values) in time order."""
    rng = np.random.default_rng(seed)
    time_ms = np.sort(rng.integers(0, DAYS * 86_400_000, rows)) + 1_700_000_000_000
    slot = rng.integers(0, 50, rows)
    if not hot:
        slot = np.where(rng.random(rows) < 0.05, slot, rng.integers(50, 50_000, rows))
    values = np.empty((4, rows), dtype=np.int64)
    values[0] = rng.random(rows) < 0.3
    values[1] = np.round(rng.gamma(2, 3000, rows))
    values[2] = rng.zipf(1.3, rows) % 5_000
    values[3] = rng.gamma(2, 30, rows).view(np.int64)
    return slot, time_ms, pack_position(0, 0) + np.arange(rows, dtype=np.int64), values


def rate(name: str, hot: bool, rows: int) -> float:
    """Return events a second through `apply_evaluate`, in batches as the job sends them."""
    columns = COLUMNS[:1] if "sum max" in name else COLUMNS
    plan = ViewPlan(columns, 1, features(PLANS[name]))
    log = ViewLog(plan)
    log.new_slots(50 if hot else 50_000)
    slot, time_ms, position, values = events(rows, hot)
    values = np.ascontiguousarray(values[: plan.width])
    batches = [slice(i, i + BATCH) for i in range(0, rows, BATCH)]
    parts = [(slot[b], time_ms[b], position[b], np.ascontiguousarray(values[:, b])) for b in batches]
    start = time.process_time()
    for part in parts:
        log.apply_evaluate(*part, including=True)
    return rows / (time.process_time() - start)


def one_evaluate() -> float:
    """Return microseconds for one `evaluate` of one slot with 30 features and 60 rows."""
    aggs = [*PLANS["count sum max"], *PLANS["count sum max, where"]]
    plan = ViewPlan(COLUMNS, 1, features(aggs))
    log = ViewLog(plan)
    slot = log.new_slots(1)
    _, time_ms, position, values = events(60, hot=True)
    log.apply(np.repeat(slot, 60), time_ms, position, values)
    at = time_ms[-1:].copy()
    return timed(lambda: log.evaluate(slot, at)) * 1e6


def timed(call: Callable[[], object], times: int = 5_000) -> float:
    """Return seconds a call."""
    call()
    start = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - start) / times


def main() -> None:
    """Run all cases, a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--only", help="run the cases whose name contains this")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rate("count sum max", True, 10_000)
    results: dict[str, float] = {}
    for name in PLANS:
        if options.only and options.only not in name:
            continue
        for hot in (False, True):
            case = f"{name}, {'hot' if hot else 'even'}"
            results[case] = rate(name, hot, options.rows)
            if not options.json:
                print(f"{case:32} {results[case]:12,.0f} events/s", flush=True)
    results["one evaluate, 30 features (us)"] = one_evaluate()
    if options.json:
        print(json.dumps({case: round(figure, 1) for case, figure in results.items()}))
    else:
        print(f"one evaluate, 30 features        {results['one evaluate, 30 features (us)']:12.1f} us")


if __name__ == "__main__":
    main()
