"""A reader's one log gives the bits that the job's own log gives: any length, any instant, again and again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lookback.windows.log import ViewLog
from lookback.windows.one_log import OneLog
from tests.property.cases import FOLDING, INT64_MAX, make_plan, make_row, one_log, to_arrays
from tests.property.test_long_logs import long_plan, rows_of

LENGTHS = (0, 1, 3, 63, 64, 65, 200, 7, 900, 0, 40)  # in this order through one and the same `OneLog`


def alike(reader: OneLog, log: ViewLog, slot: int, at: int, request: np.ndarray | None) -> None:
    """Check that both evaluate the slot's log to the same words, with and without the request row."""
    slots = np.array([slot])
    flat, _, life, _ = log.export(slots)
    rows = flat.reshape(2 + log.plan.width, -1)
    want = log.evaluate(slots, np.array([at]))
    before = rows.copy(), life.copy()
    reader.evaluate(rows, life[0], log.texts, at)
    assert np.array_equal(reader.words, want.words[:, 0]) and np.array_equal(reader.status, want.status[:, 0])
    if request is not None:
        want = log.evaluate_request(slots, np.array([at]), request)
        reader.evaluate(rows, life[0], log.texts, at, request)
        assert np.array_equal(reader.words, want.words[:, 0])
        assert np.array_equal(reader.status, want.status[:, 0])
    assert np.array_equal(rows, before[0]) and np.array_equal(life, before[1]), "what was read is as before"


@pytest.mark.parametrize("lifetime", [False, True])
def test_it_gives_what_the_jobs_log_gives(lifetime: bool) -> None:
    rng = random.Random(5)
    hour = 3_600_000
    plan = (
        make_plan([hour, None], [0, 60_000], FOLDING) if lifetime else long_plan((hour, 24 * hour), (0, hour))
    )
    log = ViewLog(plan)
    reader = OneLog(plan, log.layout)
    for n in LENGTHS:
        slot = int(log.new_slots(1)[0])
        rows = rows_of(rng, n, 20 * hour) if n else []
        if rows:
            time, position, values = to_arrays(log, rows)
            log.apply(np.full(n, slot), time, position, values)
        request = make_row(0, INT64_MAX, [7, None, 2.5, "b"], True)
        for at in (21 * hour, rng.randint(0, 20 * hour), 60 * hour):
            alike(reader, log, slot, at, to_arrays(log, [request])[2])


def test_an_instant_that_no_event_can_have_is_refused() -> None:
    log, _ = one_log(make_plan([1000], [0], FOLDING))
    reader = OneLog(log.plan, log.layout)
    none = np.empty((2 + log.plan.width, 0), np.int64)
    for at in (2**62 + 1, -(2**62) - 1):
        with pytest.raises(ValueError, match="must lie within"):
            reader.evaluate(none, np.zeros(log.life_words, np.int64), log.texts, at)
