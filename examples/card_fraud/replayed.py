"""Read the training output of a replay: the last row of every entity, and one card's history.

Owns: picking rows. Refuses: the files' layout (`lookback.load_training` reads them).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from examples.card_fraud.compare import KEY
from lookback.definition import View

I64 = npt.NDArray[np.int64]


def last_rows(training: pa.Table, view: View) -> pa.Table:
    """Return KEY and one column a feature: each entity's values as of its last row.

    training: rows in the order of the training output, with the view's key columns and its features under
    their full names. Rows with a null key are of no entity.
    """
    whole = np.ones(training.num_rows, np.bool_)
    for name in view.key_names:
        whole &= np.asarray(pc.is_valid(training[name]))
    rows = np.flatnonzero(whole)
    group = np.zeros(len(rows), np.int64)
    for name in view.key_names:
        codes = _codes(training[name])[rows]
        group = group * (int(codes.max(initial=0)) + 1) + codes
    _, from_the_end = np.unique(group[::-1], return_index=True)
    last = rows[len(rows) - 1 - from_the_end]
    names = [f"{view.name}.{feature.name}" for feature in view.features]
    found = training.select([*view.key_names, *names]).take(pa.array(last))
    parts = zip(*(found[name].to_pylist() for name in view.key_names), strict=True)
    keys = [view.key_text(dict(zip(view.key_names, part, strict=True))) for part in parts]
    columns = [found[name] for name in names]
    return pa.table([pa.array(keys, pa.string()), *columns], names=[KEY, *(f.name for f in view.features)])


def _codes(column: pa.ChunkedArray) -> I64:
    codes = column.combine_chunks().dictionary_encode().indices
    return np.asarray(pc.fill_null(codes, 0)).astype(np.int64)


def history(training: pa.Table, truth: pa.Table, card: str, features: Sequence[str]) -> dict[str, Any]:
    """Return one card's rows by time: `time_ms`, `is_fraud` and a float array a feature (null: NaN)."""
    mine = training.filter(pc.equal(training["card"], card))
    fraud_ids = truth.filter(truth["is_fraud"])["tx_id"]
    found: dict[str, Any] = {
        "time_ms": np.asarray(mine["event_time_ms"]),
        "is_fraud": np.asarray(pc.is_in(mine["tx_id"], fraud_ids)),
    }
    for feature in features:
        found[feature] = np.asarray(pc.fill_null(pc.cast(mine[feature], pa.float64()), float("nan")))
    return found
