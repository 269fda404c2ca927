"""The next instant at which values change though no event comes, against the oracle at every instant until then."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lookback.windows.plan import Agg
from tests.oracle import Row, expected
from tests.property.cases import INT64_MAX, make_plan, make_row, one_log, to_arrays

# What changes with every ms: an age, a decay.
DRIFTING = (Agg.TIME_SINCE_FIRST, Agg.TIME_SINCE_LAST, Agg.DECAYED_COUNT, Agg.DECAYED_SUM)
STEADY = tuple(agg for agg in Agg if agg not in DRIFTING)

spans = st.integers(1, 25)
times = st.lists(st.integers(0, 30), min_size=1, max_size=6)


def inside(rows: list[Row], t: int, window: int | None, delay: int) -> list[Row]:
    """Return the rows in a window, by the definition's letter."""
    return [row for row in rows if row[0] <= t - delay and (window is None or row[0] > t - delay - window)]


@given(
    times, st.lists(spans, min_size=1, max_size=2, unique=True), st.sampled_from([0, 7]), st.integers(0, 60)
)
def test_nothing_changes_before_and_a_row_passes_an_edge_then(
    at: list[int], windows: list[int], delay: int, later: int
) -> None:
    rows = [make_row(t, place, [t, place, 0.5 * t, "ab"[t % 2]], t % 3 > 0) for place, t in enumerate(at)]
    plan = make_plan(list(windows), sorted({0, delay}), STEADY)
    log, slot = one_log(plan)
    log.apply(np.repeat(slot, len(rows)), *to_arrays(log, rows))
    newest, reach = max(at), log.reach_ms
    rows = [row for row in rows if row[0] > newest - reach]  # those that any window may still hold
    now = newest + later
    found = int(log.next_changes(slot, np.array([now]))[0])
    kept = {(f.window_ms, f.delay_ms) for f in plan.features}

    def windows_at(t: int) -> list[list[Row]]:
        return [inside(rows, t, *one) for one in sorted(kept, key=str)]

    changes = [t for t in range(now + 1, newest + reach + 2) if windows_at(t) != windows_at(t - 1)]
    if not changes:
        assert found == INT64_MAX
        return
    assert found == changes[0]
    for feature in plan.features:
        values = [
            expected(plan, feature, rows, t, INT64_MAX, None, True)
            for t in {now, (now + found) // 2, found - 1}
        ]
        assert all(value == values[0] for value in values), f"{feature.name} changes before {found}"


def test_slack_joins_passings_and_the_last_row_ends_it() -> None:
    plan = make_plan([100], [0], (Agg.COUNT,))
    log, slot = one_log(plan)
    rows = [make_row(t, t, [1, 1, 1.0, "a"], True) for t in (0, 3, 50)]
    log.apply(np.repeat(slot, 3), *to_arrays(log, rows))
    slack = np.full_like(log.layout.bounds, 5)
    assert log.next_changes(slot, np.array([50]), slack).tolist() == [
        105
    ]  # both of the first have left by then
    assert log.next_changes(slot, np.array([105]), slack).tolist() == [155]
    assert log.next_changes(slot, np.array([155]), slack).tolist() == [INT64_MAX]
    empty = log.new_slots(1)
    assert log.next_changes(empty, np.array([0])).tolist() == [INT64_MAX]
    assert log.next_changes(slot, np.array([-(2**63)])).tolist() == [0]  # its first row is still to come
