"""Decoded events as columns: what a source hands on, and what a view makes of them.

Owns: the two shapes that cross from connectors to the graph. Refuses: decoding, I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

I64 = npt.NDArray[np.int64]


Keys: TypeAlias = list[str] | pa.StringArray  # entity key texts


def key_texts(keys: Keys) -> list[str]:
    """Return entity keys as Python's own texts."""
    return keys if isinstance(keys, list) else list(keys.to_pylist())


@dataclass(frozen=True)
class EventBatch:
    """Accepted or not yet judged events of one source partition, in offset order.

    fields: one Arrow array a declared field, under the field's name, nulls by validity. Types: int64,
    decimal and timestamp are ``pa.int64()`` (decimals unscaled: value * 10**scale, timestamps in ms),
    float64 ``pa.float64()``, bool ``pa.bool_()``, string ``pa.string()``.
    """

    stream: str
    topic: str
    partition: int
    offset: I64  # strictly increasing; where messages hold many rows, with the row's number in its low bits
    event_time_ms: I64
    broker_time_ms: I64 | None  # None where the source has none
    fields: pa.RecordBatch
    # What a view has worked out of these columns, for the next one: each is read and coded once a batch.
    memo: dict[str, Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True)
class ViewRows:
    """One batch's rows for one view: what `ViewLog` takes, before texts are interned.

    keys: the distinct entity key texts of the batch (a list where it is one event); key_code[i] indexes them, -1 for
    a null key.
    values: int64[plan.width, n], C-contiguous: participation words, then columns (see `windows.plan`);
    in TEXT columns an index into `texts` (0 where null).
    """

    keys: Keys
    key_code: npt.NDArray[np.int32]
    time_ms: I64  # floored to the view's resolution
    values: I64
    texts: list[str]
