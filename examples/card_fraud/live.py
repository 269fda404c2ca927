"""Read what a job wrote to the online store, as tables to compare and as marks of how far it got.

Owns: bulk reads of stored values as of each entity's last event. Refuses: computing a value (the words are
the job's, their types come from `lookback.windows.results`). A model reads through `lookback.Client` instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from examples.card_fraud.compare import KEY
from lookback.definition import View
from lookback.errors import StoreError
from lookback.stores.base import Lookup, OnlineStore, Record, open_store
from lookback.windows.log import Values
from lookback.windows.plan import Agg, Result, ViewPlan
from lookback.windows.results import to_arrow

READ_KEYS = 5_000


def stored_values(
    store: OnlineStore,
    view: View,
    keys: Sequence[str],
    progress: Callable[[float], None] = lambda share: None,
) -> pa.Table:
    """Return KEY and one column a feature: what the store holds for these keys, as of each one's last event.

    Keys the store doesn't know are left out. progress: told the share of the keys read so far.
    """
    batches = []
    for start in range(0, len(keys), READ_KEYS):
        some = keys[start : start + READ_KEYS]
        records = store.read([Lookup(view.fingerprint, key, view.plan) for key in some])
        known = [(key, record) for key, record in zip(some, records, strict=True) if record is not None]
        if known:
            batches.append(_table(view, [key for key, _ in known], [record for _, record in known]))
        progress((start + len(some)) / len(keys))
    names = [KEY, *(feature.name for feature in view.features)]
    return pa.concat_tables(batches) if batches else pa.table({name: [] for name in names})


def _table(view: View, keys: list[str], records: list[Record]) -> pa.Table:
    for key, record in zip(keys, records, strict=True):
        if record.as_of_ms != record.event_time_ms:
            raise ValueError(
                f"{view.name} of {key} was refreshed after its last event; nothing to compare with"
            )
    words = np.stack([record.words for record in records], axis=1)
    status = np.stack([record.status for record in records], axis=1)
    texts: dict[str, int] = {}
    outputs = text_outputs(view.plan)
    if outputs:
        # Each record numbers its own texts; here all share one table.
        for i, record in enumerate(records):
            if record.texts:
                own = np.array([texts.setdefault(text, len(texts)) for text in record.texts])
                words[outputs, i] = own[words[outputs, i]]
    columns = to_arrow(view.plan, Values(words, status), list(texts))
    names = [feature.name for feature in view.features]
    return pa.table([pa.array(keys, pa.string()), *columns], names=[KEY, *names])


def text_outputs(plan: ViewPlan) -> list[int]:
    """Return the output columns that hold text ids."""
    found: list[int] = []
    for feature, start in zip(plan.features, plan.out_starts, strict=False):
        if feature.result is Result.TEXT:
            found.extend(range(start + 1, start + 1 + feature.k) if feature.is_list else [start])
    return found


class Watch:
    """Follow a running job through the records of a few entities of one view, as any reader could.

    While the job runs, the event time and the counted rows of an entity may only rise, also over a crash.
    """

    def __init__(self, uri: str, view: View, keys: Sequence[str]) -> None:
        self._uri = uri
        self._lookups = [Lookup(view.fingerprint, key, view.plan) for key in keys]
        self._store: OnlineStore | None = None
        self._count = _widest_count(view.plan)
        self._highest = [(-1, -1)] * len(keys)
        self.reads = 0
        self.went_back = 0

    def look(self) -> list[int | None]:
        """Read once; return each entity's newest event time, None where nothing is known of it yet."""
        try:
            if self._store is None:
                self._store = open_store(self._uri)
            records = self._store.read(self._lookups)
        except StoreError:
            return [None] * len(self._lookups)  # the job has not made its store, or its views, yet
        for i, record in enumerate(records):
            if record is None:
                self.went_back += self._highest[i] != (-1, -1)
                continue
            seen = (record.event_time_ms, int(record.words[self._count]))
            self.reads += 1
            self.went_back += seen[0] < self._highest[i][0] or seen[1] < self._highest[i][1]
            self._highest[i] = (max(seen[0], self._highest[i][0]), max(seen[1], self._highest[i][1]))
        return [None if record is None else record.event_time_ms for record in records]

    def counted(self) -> int:
        """Return how many rows of these entities the last reads counted, taken together."""
        return sum(max(0, count) for _, count in self._highest)

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()


def _widest_count(plan: ViewPlan) -> int:
    """Return the output of the plain count with the longest window: no row leaves it during the demo."""
    counts = [
        (feature.window_ms or 2**62, start)
        for feature, start in zip(plan.features, plan.out_starts, strict=False)
        if feature.agg is Agg.COUNT and feature.term.bit < 0 and not feature.delay_ms
    ]
    if not counts:
        raise ValueError("the view counts no rows")
    return max(counts)[1]
