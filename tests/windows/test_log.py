"""What a log keeps, gives away and takes back, and what must not change its bits."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookback.windows.layout import complete_from_ms
from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import Agg, Status, ViewPlan
from tests.oracle import OVERFLOW, Row
from tests.property.cases import (
    COLUMNS,
    FOLDING,
    INT64_MAX,
    check,
    make_feature,
    make_plan,
    make_row,
    one_log,
    slots_of,
    to_arrays,
    values_at,
)

INT64_MIN = -(2**63)
I64 = npt.NDArray[np.int64]
cell = st.one_of(st.none(), st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
decimal = st.one_of(st.none(), st.integers(-(10**18) + 1, 10**18 - 1), st.integers(0, 9))
number = st.one_of(
    st.none(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.1, 1e16, -1.0])
)
text = st.one_of(st.none(), st.sampled_from(["", "a", "ab", "b", "é", "\U0001f600"]))
times = st.one_of(st.integers(-5, 20), st.integers(-3000, 3000), st.sampled_from([-(2**62), 2**62]))


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    rows = draw(
        st.lists(st.tuples(times, cell, decimal, number, text, st.booleans()), min_size=1, max_size=12)
    )
    positions = draw(st.permutations(range(len(rows))))
    return [make_row(t, p, values, where) for (t, *values, where), p in zip(rows, positions, strict=True)]


def same(one: Values, two: Values) -> None:
    assert (one.status == two.status).all()
    assert (one.words == two.words).all()


@settings(max_examples=60)
@given(logs(), st.sampled_from([1, 7, 1000, 2**62]), st.sampled_from([0, 3, 2000]), st.booleans())
def test_any_log_agrees_with_the_oracle(rows: list[Row], window: int, delay: int, including: bool) -> None:
    plan = make_plan([min(window, 2**62 - delay)], [delay])
    in_order = sorted(rows, key=lambda row: row[:2])
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, in_order)
    got = log.apply_evaluate(slots_of(slot, len(rows)), time, position, values, including=including)
    for i, row in enumerate(in_order):
        check(log, got, i, in_order[: i + 1], row[0], row[1], row, including)


@settings(max_examples=40)
@given(logs(), st.randoms(use_true_random=False), st.booleans())
def test_order_of_arrival_and_cuts_of_batches_change_no_bit(
    rows: list[Row], rng: random.Random, lifetime: bool
) -> None:
    plan = make_plan([5, 900, None], [0, 4], FOLDING) if lifetime else make_plan([5, 900, 2**61], [0, 4])
    log, one = one_log(plan)
    time, position, values = to_arrays(log, rows)
    log.apply(slots_of(one, len(rows)), time, position, values)
    shuffled = rng.sample(range(len(rows)), len(rows))
    two = log.new_slots(1)
    while shuffled:
        cut = shuffled[: rng.randint(1, 3)]
        shuffled = shuffled[len(cut) :]
        log.apply(slots_of(two, len(cut)), time[cut], position[cut], values[:, cut])
    newest = time.max(keepdims=True)
    same(log.evaluate_newest(one), log.evaluate_newest(two))
    same(log.evaluate(one, newest), log.evaluate(two, newest))
    for part, again in zip(log.export(one), log.export(two), strict=True):
        assert (part == again).all()


@settings(max_examples=40)
@given(logs())
def test_instant_event_and_request_agree(rows: list[Row]) -> None:
    plan = make_plan([5, 900, 2**60], [0, 4])
    rows.sort(key=lambda row: row[:2])
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    log.apply(slots_of(slot, len(rows) - 1), time[:-1], position[:-1], values[:, :-1])
    before = log.export(slot)
    request = log.evaluate_request(slot, time[-1:], values[:, -1:])
    for part, again in zip(before, log.export(slot), strict=True):
        assert (part == again).all(), "a request row left a trace"
    other = log.new_slots(1)
    log.apply(slots_of(other, len(rows) - 1), time[:-1], position[:-1], values[:, :-1])
    event = log.apply_evaluate(other, time[-1:], position[-1:], values[:, -1:], including=True)
    same(request, event)
    same(event, log.evaluate_newest(other))
    instant = log.evaluate(other, time[-1:])
    for feature, start in zip(plan.features, plan.out_starts, strict=False):
        if feature.agg not in (Agg.SEEN_BEFORE, Agg.TIME_SINCE_LAST):
            assert instant.words[start, 0] == event.words[start, 0], feature


def random_rows(rng: random.Random, n: int, spread: int) -> list[Row]:
    return [
        make_row(
            rng.randint(0, spread), p, [rng.randint(-9, 9), p, rng.gauss(0, 1), rng.choice("abc")], p % 3 > 0
        )
        for p in rng.sample(range(10 * n), n)
    ]


def test_a_lifetime_window_folds_what_its_reach_lets_go() -> None:
    rng = random.Random(3)
    plan = make_plan([50, None], [0, 20], FOLDING)
    rows = random_rows(rng, 200, 2000)
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    for cut in (slice(0, 70), slice(70, 71), slice(71, 200)):
        log.apply(slots_of(slot, len(time[cut])), time[cut], position[cut], values[:, cut])
    assert log.lengths(slot)[0] < 20
    last = max(rows, key=lambda row: row[:2])
    check(log, log.evaluate_newest(slot), 0, rows, last[0], last[1], last, True)
    check(log, log.evaluate(slot, np.array([last[0] + 9])), 0, rows, last[0] + 9, INT64_MAX, None, True)
    assert log.covers_from_ms(slot)[0] == last[0] - log.reach_ms


def test_a_lifetime_sum_of_floats_leaves_the_lanes_after_it_alone() -> None:
    features = [
        make_feature(Agg.SUM, 2, 2, None, 0), make_feature(Agg.SUM, 2, 6, None, 0), make_feature(Agg.SUM, 2, 2, 500, 0),
        make_feature(Agg.STDDEV, 2, 2, 900, 0), make_feature(Agg.COUNT, -1, 8, 900, 0),
    ]  # fmt: skip
    log, slot = one_log(ViewPlan(COLUMNS, 70, tuple(features)))
    rows = sorted(random_rows(random.Random(9), 150, 3000), key=lambda row: row[:2])
    time, position, values = to_arrays(log, rows)
    got = log.apply_evaluate(slots_of(slot, 150), time, position, values, including=True)
    for i, row in enumerate(rows):
        check(log, got, i, rows[: i + 1], row[0], row[1], row, True)


def both_ways(log: ViewLog, slot: I64) -> I64:
    copy = log.new_slots(1)
    log.load(copy, *log.export(slot))
    return copy


def compacted(log: ViewLog, slot: I64) -> I64:
    log.compact()
    return slot


def with_fewer_texts(log: ViewLog, slot: I64) -> I64:
    log.texts.intern(["never used", "nor this"])
    log.compact_texts()
    assert len(log.texts) <= 3
    return slot


@pytest.mark.parametrize("change", [both_ways, compacted, with_fewer_texts])
@pytest.mark.parametrize("n", [1, 3, 300])
def test_moving_a_log_changes_no_value(change: Callable[[ViewLog, I64], I64], n: int) -> None:
    plan = make_plan([50, None], [0], FOLDING) if n == 3 else make_plan([50, 5000], [0])
    rows = random_rows(random.Random(n), n, 2000)
    log = ViewLog(plan)
    log.texts.intern(["unused"])
    slot = log.new_slots(2)[1:]
    time, position, values = to_arrays(log, rows)
    log.apply(slots_of(slot, n), time, position, values)
    before = values_at(log, log.evaluate_newest(slot), 0)
    covers, newest = log.covers_from_ms(slot), log.newest_ms(slot)
    moved = change(log, slot)
    assert values_at(log, log.evaluate_newest(moved), 0) == before
    assert log.covers_from_ms(moved) == covers and log.newest_ms(moved) == newest


def test_slots_are_empty_when_new_and_when_given_out_again() -> None:
    plan = make_plan([50, None], [0], FOLDING)
    log, slot = one_log(plan)
    empty = log.evaluate_newest(slot)
    time, position, values = to_arrays(log, random_rows(random.Random(1), 100, 9000))
    log.apply(slots_of(slot, 100), time, position, values)
    log.free_slots(slot)
    again = log.new_slots(1)
    assert again == slot
    same(log.evaluate_newest(again), empty)
    assert log.newest_ms(again) == INT64_MIN and log.covers_from_ms(again) == INT64_MIN
    assert set(np.unique(empty.status)) == {Status.DEFAULT}


def test_a_batch_done_log_by_log_equals_item_by_item() -> None:
    rng = np.random.default_rng(8)
    plan = make_plan([50, 5000], [0, 20])
    n = 900
    rows = sorted(random_rows(random.Random(8), n, 9000), key=lambda row: row[:2])
    together, apart = ViewLog(plan), ViewLog(plan)
    slots = rng.integers(0, 7, n)
    for log in (together, apart):
        log.new_slots(7)
    time, position, values = to_arrays(together, rows)
    to_arrays(apart, rows)
    insert, wanted = rng.random(n) < 0.8, rng.random(n) < 0.9
    got = together.apply_evaluate(slots, time, position, values, including=False, insert=insert, row=wanted)
    for i in range(n):
        one = slice(i, i + 1)
        same(
            Values(got.words[:, one], got.status[:, one]),
            apart.apply_evaluate(
                slots[one], time[one], position[one], values[:, one],
                including=False, insert=insert[one], row=wanted[one],
            ),
        )  # fmt: skip


def test_logs_that_grow_and_go_leave_little_memory_idle() -> None:
    plan = make_plan([10**9], [0], (Agg.SUM,))
    log = ViewLog(plan)
    slots = log.new_slots(300)
    rng = random.Random(4)
    for part in range(20):
        rows = random_rows(rng, 300 * 20, 5000)
        time, position, values = to_arrays(log, rows)
        log.apply(np.repeat(slots, 20), time, position, values)
        if part == 9:  # a third comes back empty
            log.free_slots(slots[::3])
            slots[::3] = log.new_slots(100)
    assert log.lengths(slots).tolist() == [200 if i % 3 == 0 else 400 for i in range(300)]
    held = int(log.lengths(slots).sum()) * 8 * (2 + plan.width)
    assert log.nbytes < 2 * held, (log.nbytes, held)
    fresh = ViewLog(plan)
    fresh.texts.intern(log.texts.get(np.arange(len(log.texts))))
    fresh.load(fresh.new_slots(300), *log.export(slots))
    same(log.evaluate_newest(slots), fresh.evaluate_newest(np.arange(300)))


def test_trim_folds_drops_and_raises_covers() -> None:
    plan = make_plan([1000, None], [0], FOLDING)
    log, slot = one_log(plan)
    rows = [make_row(t, t, [t, t, 0.5, "a"], True) for t in (10, 20, 30)]
    time, position, values = to_arrays(log, rows)
    log.apply(slots_of(slot, 3), time, position, values)
    log.trim(slot, np.array([20]))
    assert log.lengths(slot) == 1 and log.covers_from_ms(slot) == 20
    at = complete_from_ms(plan, 20)
    assert set(at) == {20, 1020}
    late = to_arrays(log, [make_row(15, 99, [15, 15, 0.5, "a"], True)])
    log.apply(slot, *late)
    assert log.lengths(slot) == 1, "a row from before covers must not come back"
    got = values_at(log, log.evaluate(slot, np.array([30])), 0)
    lifetime = [i for i, f in enumerate(plan.features) if f.window_ms is None and f.agg is Agg.COUNT]
    assert got[lifetime[0]] == 4
    endless = ViewLog(make_plan([None], [0], (Agg.DISTINCT,)))
    with pytest.raises(ValueError, match="every row"):
        endless.trim(endless.new_slots(1), np.array([0]))


def test_an_instant_among_events_sees_what_is_before_it() -> None:
    plan = ViewPlan(COLUMNS, 70, (make_feature(Agg.COUNT, -1, -1, 100, 0),))
    log, slot = one_log(plan)
    rows = [make_row(5, 1, [1, 1, 1.0, "a"], True), make_row(5, 3, [1, 1, 1.0, "a"], True)]
    time, position, values = to_arrays(log, [rows[0], *[rows[0]] * 3, rows[1], rows[1]])
    position = np.array([1, INT64_MIN, 1, 2, 3, INT64_MAX])
    insert = np.array([True, False, False, False, True, False])
    wanted = np.array([True, True, True, True, False, True])
    got = log.apply_evaluate(
        slots_of(slot, 6), time, position, values, including=True, insert=insert, row=wanted
    )
    assert got.words[0].tolist() == [1, 0, 1, 1, 0, 2]
    assert got.status[0].tolist() == [0, 1, 0, 0, 1, 0]


def test_sums_that_do_not_fit_are_overflow_and_never_wrap() -> None:
    plan = make_plan([100], [0], (Agg.SUM, Agg.MEAN))
    log, slot = one_log(plan)
    top = 2**63 - 1
    time, position, values = to_arrays(log, [make_row(1, p, [top, 1, 1.7e308, "a"], True) for p in range(2)])
    log.apply(slots_of(slot, 2), time, position, values)
    got = dict(
        zip([f.name for f in plan.features], values_at(log, log.evaluate_newest(slot), 0), strict=True)
    )
    assert got["sum_0_0_0_100"] is OVERFLOW and got["mean_0_0_0_100"] == float(top)
    assert got["sum_2_2_0_100"] is OVERFLOW and got["mean_2_2_0_100"] is OVERFLOW


def test_a_log_of_100_000_rows_counts_sums_and_ranks_exactly() -> None:
    n = 100_000
    rng = np.random.default_rng(5)
    aggs = (
        (Agg.COUNT, -1),
        (Agg.SUM, 0),
        (Agg.MAX, 0),
        (Agg.DISTINCT, 0),
        (Agg.TOP_K, 0),
        (Agg.SEEN_BEFORE, 0),
    )
    plan = ViewPlan(
        COLUMNS, 70, tuple(make_feature(agg, c, -1, w, 0) for agg, c in aggs for w in (500, 10**9))
    )
    log, slot = one_log(plan)
    value = rng.integers(0, 20_000, n)
    values = np.zeros((plan.width, n), dtype=np.int64)
    values[0] = 1
    values[plan.words] = value
    time = np.sort(rng.integers(0, 10**7, n))
    got = log.apply_evaluate(slots_of(slot, n), time, np.arange(n), values, including=True)
    kinds, counts = np.unique(value, return_counts=True)
    order = np.lexsort((kinds, -counts))
    last = values_at(log, Values(got.words[:, -1:], got.status[:, -1:]), 0)
    recent = value[time > time[-1] - 500]
    assert last[0::2] == [
        len(recent), int(recent.sum()), int(recent.max()), len(np.unique(recent)), last[8],
        bool((recent[:-1] == value[-1]).any()),
    ]  # fmt: skip
    assert last[1::2] == [
        n, int(value.sum()), int(value.max()), len(kinds), kinds[order[:2]].tolist(),
        bool((value[:-1] == value[-1]).any()),
    ]  # fmt: skip


@pytest.mark.parametrize(("window", "delay"), [(0, 0), (-5, 0), (5, -1), (2**62, 1)])
def test_windows_no_definition_gives_are_refused(window: int, delay: int) -> None:
    with pytest.raises(ValueError, match="window"):
        ViewLog(ViewPlan(COLUMNS, 70, (make_feature(Agg.COUNT, -1, -1, window, delay),)))


def test_event_times_out_of_range_are_refused() -> None:
    log, slot = one_log(make_plan([5], [0], (Agg.COUNT,)))
    with pytest.raises(ValueError, match="event times"):
        log.evaluate(slot, np.array([2**62 + 1]))
