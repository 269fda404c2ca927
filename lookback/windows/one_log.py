"""One log, filled, evaluated and forgotten in one call: what a reader of a store needs of the kernel.

Owns: the arrays that such calls work in, used again and again. Refuses: keeping rows, stores, clocks.
"""
# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, check-untyped-defs=False
# mypy: disallow-untyped-calls=False, disallow-untyped-decorators=False, no-warn-return-any

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookback.windows.cache import entry
from lookback.windows.evaluate import COUNTED, EVALUATE, REQUEST, forget_hot, run
from lookback.windows.layout import MAX_SPAN_MS, S_COLUMNS, Layout
from lookback.windows.log import META_WORDS, grown
from lookback.windows.numeric import INT64_MAX, INT64_MIN
from lookback.windows.plan import ROW_HEAD, ViewPlan
from lookback.windows.rows import C_FREE, C_NEED, M_COVERS, M_HOT, M_NEWEST, free_regions, load_rows
from lookback.windows.texts import TextTable

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]


@entry
def run_alone(
    heap, meta, life, ctl, hot, hot_ctl, shape, bounds, lanes, windows, groups, group_bounds, features,
    blob, ends, acc, flat, starts, slots, times, positions, values, flags, out, status,
):  # fmt: skip
    """Fill the only slot's empty log from `flat`, do the only item, empty the log; 0 where memory must grow."""
    starts[1] = len(flat)
    done = load_rows(heap, meta, ctl, shape[S_COLUMNS], slots, flat, starts, 0)
    if done == 1:
        done = run(
            heap, meta, life, ctl, hot, hot_ctl, shape, bounds, lanes, windows, groups, group_bounds,
            features, blob, ends, acc, slots, times, positions, values, flags, 0, out, status,
        )  # fmt: skip
    forget_hot(hot, hot_ctl, meta, shape, slots)
    free_regions(heap, meta, ctl, shape[S_COLUMNS], slots)
    return done


class OneLog:
    """Room for one log of a plan. Not thread safe.

    words: int64[n_out], status: uint8[n_out]: the latest result, as a column of `Values`; the next call
    overwrites it.
    """

    def __init__(self, plan: ViewPlan, layout: Layout) -> None:
        """Make room for a log of `plan`, whose tables are `layout`."""
        n_out = plan.out_starts[-1]
        self._words: I64 = np.zeros((n_out, 1), np.int64)
        self._status: U8 = np.zeros((n_out, 1), np.uint8)
        self.words, self.status = self._words[:, 0], self._status[:, 0]
        self._layout = layout
        self._heap: I64 = np.zeros(64 * (ROW_HEAD + plan.width), np.int64)
        self._meta: I64 = np.zeros((1, META_WORDS), np.int64)
        self._meta[0, [M_NEWEST, M_COVERS, M_HOT]] = INT64_MIN, INT64_MIN, -1
        self._ctl: I64 = np.zeros(C_FREE + 64, np.int64)
        self._ctl[C_FREE:] = -1
        self._hot: I64 = np.zeros(64, np.int64)
        self._hot_ctl = self._ctl.copy()
        self._acc: I64 = np.zeros(layout.scratch_words, np.int64)
        self._starts: I64 = np.zeros(2, np.int64)
        self._slot: I64 = np.zeros(1, np.int64)
        self._at: I64 = np.zeros(1, np.int64)
        self._position: I64 = np.full(1, INT64_MAX)
        self._no_values: I64 = np.zeros((0, 0), np.int64)
        self._instant: U8 = np.full(1, EVALUATE, np.uint8)
        self._request: U8 = np.full(1, EVALUATE | REQUEST | COUNTED, np.uint8)

    def evaluate(self, rows: I64, life: I64, texts: TextTable, at: int, request: I64 | None = None) -> None:
        """Evaluate a log as of `at`: its rows with time <= at count, and after them the request row.

        rows: int64[2 + width, m], sorted by (time, position). life: int64[life_words], its accumulators.
        texts: what ids in both and in `request` index. request: int64[width, 1], the own event, or None.
        Arrays must be writable and, but for `rows`, contiguous (kernels are compiled for such; none is written).

        Raises: ValueError for an instant that no event can have.
        """
        if not -MAX_SPAN_MS <= at <= MAX_SPAN_MS:
            raise ValueError(f"event times must lie within {MAX_SPAN_MS} ms of 1970")
        flat = rows.reshape(-1)
        self._at[0] = at
        values, flags = (self._no_values, self._instant) if request is None else (request, self._request)
        layout = self._layout
        while not run_alone(
            self._heap, self._meta, life, self._ctl, self._hot, self._hot_ctl,
            layout.shape, layout.bounds, layout.lanes, layout.windows, layout.groups, layout.group_bounds,
            layout.features, texts.blob, texts.ends, self._acc,
            flat, self._starts, self._slot, self._at, self._position, values, flags, self._words, self._status,
        ):  # fmt: skip
            if self._hot_ctl[C_NEED]:
                self._hot = grown(self._hot, self._hot_ctl)
            else:
                self._heap = grown(self._heap, self._ctl)
