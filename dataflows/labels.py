"""Labels: what the file may hold, and its batches of instants."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataflows.route import Chunk
from dataflows.settings import Part
from lookback.errors import UsageError

LABELS = Part(stream="", topic="_labels", partition=0)  # the source partition that labels are
TIME = "time"
BATCH_ROWS = 32_768


@dataclass(frozen=True)
class LabelBatch:
    """Labels next to one another in time: each shard's chunks, and the times they span."""

    chunks: list[list[Chunk]]
    first_ms: int
    last_ms: int
    rows: int


def read_labels(path: Path) -> pa.Table:
    """Return a label file's rows sorted by time: `time` as int64 ms, the other columns as they are.

    Raises UsageError where the file can't be read or has no `time` that says UTC ms or an instant.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UsageError(f"there is no file of labels {path}: give a Parquet file") from None
    except (OSError, pa.ArrowException):
        raise UsageError(f"can't read the labels {path}: give a whole Parquet file") from None
    if TIME not in table.column_names:
        raise UsageError(
            f"the labels {path} have no column `time`; they have {', '.join(table.column_names)}: "
            "give entity keys, `time` (ms or a timestamp) and the label"
        )
    column = table[TIME]
    if pa.types.is_timestamp(column.type):
        column = pc.cast(pc.cast(column, pa.timestamp("ms", column.type.tz), safe=False), pa.int64())
    elif pa.types.is_integer(column.type):
        column = pc.cast(column, pa.int64())
    else:
        raise UsageError(f"`time` in the labels {path} is {column.type}: give int64 ms or a timestamp")
    if column.null_count:
        raise UsageError(f"`time` is null in {column.null_count} labels of {path}: take those rows out")
    table = table.set_column(table.column_names.index(TIME), TIME, column)
    order = np.argsort(column.to_numpy(), kind="stable")
    return table.take(pa.array(order)).combine_chunks()
