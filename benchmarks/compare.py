"""Compare training rows with another tool's, value by value: a benchmark of wrong values measures nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookback.training import load_training


def differing(training: Path, other: Path, cents: bool = False) -> tuple[int, int]:
    """Return (values compared, values that differ). cents: `other` has whole cents, ours are decimals."""
    ours = load_training(training).arrow().sort_by("tx_id")
    theirs = pq.read_table(other).sort_by("tx_id")
    if len(ours) != len(theirs):
        raise ValueError(f"{training} has {len(ours)} rows, {other} {len(theirs)}")
    names = ["tx_id", *(name for name in ours.column_names if name.startswith("card_activity."))]
    wrong = 0
    for name in names:
        mine, found = ours[name], theirs[name]
        if cents and pa.types.is_decimal(mine.type) and pa.types.is_integer(found.type):
            mine = pc.multiply(mine.cast(pa.decimal128(28, 2)), pa.scalar(100, pa.decimal128(3, 0)))
            mine = mine.cast(pa.int64())
        equal = pc.equal(mine.cast(found.type), found)
        wrong += len(equal) - pc.sum(equal).as_py()
    return len(ours) * len(names), wrong
