"""The kernel against the oracle, bit by bit: every aggregate, every way to ask."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tests.oracle import Row
from tests.property.cases import FOLDING, INT64_MAX, check, make_plan, make_row, one_log, slots_of, to_arrays

ROWS = 24


def random_rows(rng: random.Random, n: int, spread: int, start: int = 0) -> list[Row]:
    rows = []
    for position in rng.sample(range(10 * n + 10), n):
        values = [
            rng.choice([None, rng.randint(-5, 5), rng.randint(-(2**62), 2**62)]),
            rng.choice([None, rng.randint(-500, 500)]),
            rng.choice([None, rng.choice([0.1, 1e16, -3.5, 1e-9]), rng.gauss(0, 1e3)]),
            rng.choice([None, "a", "b", "ab", "\u00e9", ""]),
        ]
        rows.append(make_row(start + rng.randint(0, spread), position, values, rng.random() < 0.6))
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_all_ways_to_ask_agree_with_the_oracle(seed: int) -> None:
    rng = random.Random(seed)
    spread = rng.choice([50, 5_000, 500_000, 400_000_000])
    windows = sorted({rng.randint(1, spread), spread // 7 + 1, 2 * spread})
    lifetime = seed % 3 == 0
    aggs = {"aggs": FOLDING} if lifetime else {}
    plan = make_plan([*windows, None] if lifetime else list(windows), [0, rng.randint(0, spread)], **aggs)
    rows = random_rows(rng, ROWS, spread, rng.choice([0, -(2**61), 2**61]))
    in_order = sorted(rows, key=lambda row: row[:2])
    for including in (False, True):
        log, slot = one_log(plan)
        time, position, values = to_arrays(log, in_order)
        got = log.apply_evaluate(slots_of(slot, ROWS), time, position, values, including=including)
        for i, row in enumerate(in_order):
            check(log, got, i, in_order[: i + 1], *row[:2], row, including)
    log, slot = one_log(plan)
    time, position, values = to_arrays(log, rows)
    log.apply(slots_of(slot, ROWS), time, position, values)
    newest = in_order[-1]
    check(log, log.evaluate_newest(slot), 0, rows, *newest[:2], newest, True)
    later = newest[0] + rng.choice([0, 1, spread // 3])
    check(log, log.evaluate(slot, np.array([later])), 0, rows, later, INT64_MAX, None, True)
    request = make_row(later, INT64_MAX, [1, None, 2.5, "b"], True)
    _, _, request_values = to_arrays(log, [request])
    got = log.evaluate_request(slot, np.array([later]), request_values)
    check(log, got, 0, [*rows, request], later, INT64_MAX, request, True)
    assert log.lengths(slot)[0] <= ROWS
