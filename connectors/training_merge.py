"""Bring the rows of shards and views into one order: (time, position).

Owns: sorting and joining row numbers. Refuses: columns, files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookback.events import I64


def sort_order(times: Sequence[I64], positions: Sequence[I64]) -> I64 | None:
    """Return the order that sorts chunks laid end to end by (time, position); None: they are in order.

    Each chunk is sorted in itself.
    """
    if _follow(times, positions):
        return None
    time, position = np.concatenate(times), np.concatenate(positions)
    order = np.argsort(time, kind="stable")
    ordered, places = time[order], position[order]
    tied = ordered[1:] == ordered[:-1]
    if (tied & (places[1:] < places[:-1])).any():
        order = np.lexsort((position, time))
    return order


def _follow(times: Sequence[I64], positions: Sequence[I64]) -> bool:
    """Whether each chunk begins after the one before it ends."""
    return all(
        (a_time[-1], a_place[-1]) < (b_time[0], b_place[0])
        for a_time, b_time, a_place, b_place in zip(
            times[:-1], times[1:], positions[:-1], positions[1:], strict=True
        )
    )


def match_rows(time: I64, position: I64, sub_time: I64, sub_position: I64) -> I64 | None:
    """Return for each row the number of the same row in a sorted subset, -1 where it isn't in it.

    None where the subset is all rows. Raises AssertionError where it holds a row that is not among them.
    """
    if len(time) == len(sub_time):
        assert np.array_equal(time, sub_time) and np.array_equal(position, sub_position), "not a subset"
        return None
    at = np.searchsorted(time, sub_time)  # the first row of that time
    late = np.flatnonzero(position[at] != sub_position) if len(at) else at
    while len(late):  # ties: step on, row by row
        at[late] += 1
        assert at[late].max() < len(time) and (time[at[late]] == sub_time[late]).all(), "not a subset"
        late = late[position[at[late]] != sub_position[late]]
    found = np.full(len(time), -1, np.int64)
    found[at] = np.arange(len(sub_time))
    return found
