"""Compile every kernel and keep the machine code: ``python -m lookback.windows.warm``.

Owns: one tiny call of each entry point. Refuses: results.
"""

from __future__ import annotations

import time

import numpy as np

from lookback.windows.cache import cache_dir
from lookback.windows.log import ViewLog
from lookback.windows.numeric import ln
from lookback.windows.one_log import OneLog
from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Term, ViewPlan


def warm() -> None:
    """Call each entry point once, so that all kernels are compiled or loaded."""
    plan = ViewPlan(
        columns=(Column("x", Kind.FLOAT),),
        bits=0,
        features=(Feature("x_sum_1s", Agg.SUM, Term(0), 1000, Result.FLOAT),),
    )
    log = ViewLog(plan)
    slots = log.new_slots(2)
    zeros = np.zeros(2, dtype=np.int64)
    many = np.zeros(60, dtype=np.int64)  # enough for the heap to be packed on the way
    log.apply(many, many, many, many.reshape(1, -1))
    log.evaluate(slots, zeros)
    log.next_changes(slots, zeros)
    flat, starts, life, covers = log.export(slots)
    log.trim(slots, zeros)
    log.free_slots(slots)
    log.load(log.new_slots(2), flat, starts, life, covers)
    OneLog(plan, log.layout).evaluate(flat[:3].reshape(3, 1), life[0], log.texts, 0)
    ln(np.ones(1))


def main() -> None:
    """Compile, and say where the code is kept."""
    start = time.perf_counter()
    warm()
    print(f"kernels ready in {time.perf_counter() - start:.1f} s, kept in {cache_dir()}")


if __name__ == "__main__":
    main()
