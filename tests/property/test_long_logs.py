"""Long logs: cells and counters change no bit, whatever comes late, leaves, or is asked in between."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest

from lookback.windows.layout import SMALL
from lookback.windows.log import ViewLog
from lookback.windows.plan import Agg, Feature, ViewPlan
from tests.oracle import Row
from tests.property.cases import (
    COLUMNS,
    INT64_MAX,
    check,
    make_feature,
    make_row,
    one_log,
    slots_of,
    to_arrays,
)

HOUR = 3_600_000


def long_plan(windows: tuple[int | None, ...], delays: tuple[int, ...]) -> ViewPlan:
    """Return every block and counter family once or twice, over nested windows."""
    wanted = [
        (Agg.COUNT, -1, 8), (Agg.SUM, 0, 4), (Agg.SUM, 2, 2), (Agg.SUM, 2, 6), (Agg.MIN, 0, 0),
        (Agg.MAX, 2, 6), (Agg.MEAN, 1, -1), (Agg.MAX, 1, -1),
        (Agg.STDDEV, 2, 6), (Agg.VARIANCE, 1, 1), (Agg.DECAYED_SUM, 2, 2), (Agg.DECAYED_COUNT, -1, -1),
        (Agg.FIRST, 0, 4), (Agg.LAST, 3, 7), (Agg.MEAN_GAP, -1, 8), (Agg.TIME_SINCE_LAST, -1, 8),
        (Agg.DISTINCT, 3, 3), (Agg.TOP_K, 0, 4), (Agg.MODE, 3, 7), (Agg.ENTROPY, 0, 0), (Agg.TOP_K, 3, 3),
        (Agg.SEEN_BEFORE, 0, 0), (Agg.SEEN_BEFORE, 3, 7), (Agg.LAST_K, 0, 4),
    ]  # fmt: skip
    features: list[Feature] = [
        make_feature(agg, column, bit, window, delay, half_life=HOUR, k=3)
        for window in windows
        for delay in delays
        for agg, column, bit in wanted
    ]
    return ViewPlan(COLUMNS, 70, tuple(features))


def rows_of(rng: random.Random, n: int, spread: int) -> list[Row]:
    rows = []
    for position in rng.sample(range(10 * n), n):
        number = min(int(rng.expovariate(0.1)), 300)
        text = rng.choice([None, *"abcdefg", str(rng.randint(0, 200))])
        values = [rng.choice([None, number, number]), rng.randint(-900, 900), rng.gauss(0, 1e3), text]
        # bursts: several rows to a second
        time = rng.randint(0, spread) // 50_000 * 50_000 + rng.randint(0, 3_000)
        rows.append(make_row(time, position, values, rng.random() < 0.6))
    return rows


Words = tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]


def assert_same(log: ViewLog, one: Words, two: Words) -> None:
    starts = log.plan.out_starts
    for feature, start in zip(log.plan.features, starts, strict=False):
        assert (one[1][start] == two[1][start]).all(), feature
        assert (one[0][start] == two[0][start]).all(), (feature, one[0][start], two[0][start])


@pytest.mark.parametrize("delays", [(0,), (0, 70_000)])
@pytest.mark.parametrize("last", [9 * HOUR, None])
def test_every_event_of_a_long_log_equals_a_fresh_log(delays: tuple[int, ...], last: int | None) -> None:
    rng = random.Random(len(delays))
    plan = long_plan((60_000, HOUR, 5 * HOUR, last), delays)
    rows = sorted(rows_of(rng, 1500, 20 * HOUR), key=lambda row: row[:2])
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    got = log.apply_evaluate(slots_of(slot, len(rows)), time, position, values, including=True)
    for i in [*range(0, 1500, 149), 1499]:
        check(log, got, i, rows[: i + 1], rows[i][0], rows[i][1], rows[i], True)
    # every 7th event, by a log that has just been filled
    for i in range(SMALL, 1500, 7):
        fresh = log.new_slots(1)
        log.apply(slots_of(fresh, i), time[:i], position[:i], values[:, :i])
        again = log.apply_evaluate(
            fresh, time[i : i + 1], position[i : i + 1], values[:, i : i + 1], including=True
        )
        assert_same(log, (got.words[:, i : i + 1], got.status[:, i : i + 1]), (again.words, again.status))
        log.free_slots(fresh)


@pytest.mark.parametrize("delays", [(0,), (0, 90_000_000)])
def test_edges_that_rest_in_closed_days_change_no_bit(delays: tuple[int, ...]) -> None:
    rng = random.Random(len(delays))
    day = 24 * HOUR
    plan = long_plan((HOUR, day, 30 * HOUR, 4 * day), delays)
    rows = sorted(rows_of(rng, 1500, 8 * day), key=lambda row: row[:2])
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    # some rows come late, by up to 30 hours: into days whose tails are kept, too
    late = np.zeros(1500, dtype=bool)
    late[[i for i in range(700, 1490) if rng.random() < 0.03]] = True
    for part in np.array_split(np.flatnonzero(~late), 40):
        log.apply_evaluate(
            slots_of(slot, len(part)), time[part], position[part], values[:, part], including=True
        )
        ready = np.flatnonzero(late & (time < time[part[-1]] - rng.randint(0, 30 * HOUR)))
        log.apply(slots_of(slot, len(ready)), time[ready], position[ready], values[:, ready])
        late[ready] = False
        there = np.sort(np.setdiff1d(np.arange(part[-1] + 1), np.flatnonzero(late)))
        fresh = log.new_slots(1)
        log.apply(slots_of(fresh, len(there)), time[there], position[there], values[:, there])
        old, new = log.evaluate_newest(slot), log.evaluate_newest(fresh)
        assert_same(log, (old.words, old.status), (new.words, new.status))
        log.free_slots(fresh)
    newest = rows[int(there[-1])]
    check(log, old, 0, [rows[i] for i in there], newest[0], newest[1], newest, True)


@pytest.mark.parametrize("flat", [False, True])
def test_ranks_follow_values_that_come_and_go(flat: bool) -> None:
    # flat: each value is there once, the smallest ones leave first; else counts rise and fall in waves
    n = 3000
    values_of = range(n) if flat else [int(abs(np.sin(i / 90)) * 40) + i % 7 for i in range(n)]
    features = [make_feature(Agg.TOP_K, 0, 0, w, 0, k=k) for w in (200_000, 500_000) for k in (1, 5)]
    plan = ViewPlan(COLUMNS, 70, tuple(features))
    rows = [make_row(1000 * i, i, [v, v, 0.5, "a"], True) for i, v in enumerate(values_of)]
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    got = log.apply_evaluate(slots_of(slot, n), time, position, values, including=True)
    for i in range(0, n, 50):
        check(log, got, i, rows[max(0, i - 600) : i + 1], rows[i][0], rows[i][1], rows[i], True)


@pytest.mark.parametrize("trimmed", [False, True])
def test_lifetime_float_sums_follow_late_rows_and_folds(trimmed: bool) -> None:
    rng = random.Random(5)
    features = [
        make_feature(Agg.SUM, 2, bit, w, d) for bit in (2, 6) for w in (2 * HOUR, None) for d in (0, 70_000)
    ]
    log, slot = one_log(ViewPlan(COLUMNS, 70, tuple(features)))
    rows = rows_of(rng, 900, 10 * HOUR)
    rows.sort(key=lambda row: row[0] + rng.choice([0, 0, rng.randint(0, 4 * HOUR)]))
    time, position, values = to_arrays(log, rows)
    for i in range(len(rows)):
        log.apply(slot, time[i : i + 1], position[i : i + 1], values[:, i : i + 1])
        newest = max(rows[: i + 1], key=lambda row: row[:2])
        got = log.evaluate_newest(slot)
        if trimmed and i % 100 == 0:
            log.trim(slot, np.array([newest[0] - 2 * HOUR - 70_000]))
        if i % 20 == 0:
            check(log, got, 0, rows[: i + 1], *newest[:2], newest, True)


@pytest.mark.parametrize("seed", range(4))
def test_late_rows_instants_requests_and_trims_in_between(seed: int) -> None:
    rng = random.Random(seed)
    plan = long_plan((60_000, HOUR, 6 * HOUR), (0, 30_000) if seed % 2 else (0,))
    rows = rows_of(rng, 1200, 12 * HOUR)
    rows.sort(key=lambda row: row[0] + rng.choice([0, 0, 0, rng.randint(0, 2 * HOUR)]))
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    done = 0
    while done < len(rows):
        n = min(rng.choice([1, 1, 2, 5, 60]), len(rows) - done)
        part = slice(done, done + n)
        log.apply(slots_of(slot, n), time[part], position[part], values[:, part])
        done += n
        newest = int(time[:done].max())
        fresh = log.new_slots(1)
        log.apply(slots_of(fresh, done), time[:done], position[:done], values[:, :done])
        at = np.array([newest + rng.choice([0, 0, 1, 40_000, HOUR])])
        for old, new in (
            (log.evaluate(slot, at), log.evaluate(fresh, at)),
            (log.evaluate_newest(slot), log.evaluate_newest(fresh)),
            (
                log.evaluate_request(slot, at, values[:, :1].copy()),
                log.evaluate_request(fresh, at, values[:, :1].copy()),
            ),
        ):
            assert_same(log, (old.words, old.status), (new.words, new.status))
        if done % 10 == 0:
            check(log, log.evaluate(slot, at), 0, rows[:done], int(at[0]), INT64_MAX, None, True)
        log.free_slots(fresh)
