"""Plain entities turned into a `ViewWrite`, and records back into plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lookback.stores.base import NEVER, Record, ViewWrite
from lookback.windows.plan import Agg, Column, Feature, Kind, Result, Status, Term, ViewPlan

HOUR = 3_600_000
FINGERPRINT = "ab" * 32
Row = tuple[int, int, int, str | None]  # time, position, amount, merchant


def plan_of(*, texts: bool = True) -> ViewPlan:
    """Return a view of amounts, and with `texts` of merchants (bit 0: merchant is not null)."""
    features = [
        Feature("amount_sum_1h", Agg.SUM, Term(0), HOUR, Result.INT),
        Feature("tx_count_1h", Agg.COUNT, Term(), HOUR, Result.INT),
    ]
    columns = [Column("amount", Kind.INT)]
    if texts:
        columns.append(Column("merchant", Kind.TEXT))
        features.append(Feature("last_merchant_1h", Agg.LAST, Term(1, 0), HOUR, Result.TEXT))
        features.append(Feature("merchants_1h", Agg.LAST_K, Term(1, 0), HOUR, Result.TEXT, k=3))
    return ViewPlan(tuple(columns), 1 if texts else 0, tuple(features))


@dataclass
class Entity:
    """One entity of a write, in plain values."""

    key: str
    rows: Sequence[Row] = ()
    as_of_ms: int = 0
    covers_from_ms: int = NEVER
    replace: bool = False
    whole: bool = True
    amount: int = 0
    count: int = 0
    last: str | None = None
    merchants: Sequence[str] = field(default_factory=list)


def write_of(
    plan: ViewPlan,
    entities: Sequence[Entity],
    *,
    sequence: int = 1,
    shard: int = 0,
    marks: Mapping[str, int] | None = None,
    fingerprint: str = FINGERPRINT,
    null_word: int = 0,
) -> ViewWrite:
    """Return the write; `null_word` is what a job happens to hold where a merchant is null."""
    texts: list[str] = []

    def text_id(text: str) -> int:
        if text not in texts:
            texts.append(text)
        return texts.index(text)

    has_texts = len(plan.columns) > 1
    n = len(entities)
    words = np.zeros((plan.out_starts[-1], n), np.int64)
    status = np.zeros(words.shape, np.uint8)
    rows: list[list[int]] = []
    for i, entity in enumerate(entities):
        words[:2, i] = entity.amount, entity.count
        if has_texts:
            words[2, i] = text_id(entity.last) if entity.last is not None else 0
            status[2, i] = Status.OK if entity.last is not None else Status.DEFAULT
            words[3, i] = len(entity.merchants)
            words[4 : 4 + len(entity.merchants), i] = [text_id(text) for text in entity.merchants]
        for time, position, amount, merchant in entity.rows:
            row = [time, position, amount]
            if has_texts:
                there = merchant is not None
                row = [time, position, int(there), amount, text_id(merchant) if merchant else null_word]
            rows.append(row)
    starts = np.cumsum([0, *(len(entity.rows) for entity in entities)])
    table = np.array(rows, np.int64).reshape(len(rows), 2 + plan.width).T
    return ViewWrite(
        view="cards", fingerprint=fingerprint, shard=shard, keys=[entity.key for entity in entities],
        event_time_ms=np.array([max((r[0] for r in e.rows), default=0) for e in entities], np.int64),
        as_of_ms=np.array([entity.as_of_ms for entity in entities], np.int64),
        sequence=sequence, watermark_ms=7, words=words, status=status,
        row_starts=starts.astype(np.int64), rows=np.ascontiguousarray(table),
        covers_from_ms=np.array([entity.covers_from_ms for entity in entities], np.int64),
        replace=np.array([entity.replace for entity in entities], np.bool_),
        whole=np.array([entity.whole for entity in entities], np.bool_),
        life=np.zeros((n, 0), np.int64), texts=texts or [""], marks=marks or {},
    )  # fmt: skip


def rows_of(plan: ViewPlan, record: Record) -> list[Row]:
    """Return a record's rows in plain values."""
    if len(plan.columns) == 1:
        return [(int(t), int(p), int(a), None) for t, p, a in record.rows.T]
    return [
        (int(t), int(p), int(amount), record.texts[text] if there else None)
        for t, p, there, amount, text in record.rows.T
    ]


def values_of(plan: ViewPlan, record: Record) -> tuple[int, int, str | None, list[str]]:
    """Return a record's values in plain values: amount, count, last merchant, merchants."""
    amount, count = int(record.words[0]), int(record.words[1])
    if len(plan.columns) == 1:
        return amount, count, None, []
    last = record.texts[record.words[2]] if record.status[2] == Status.OK else None
    length = int(record.words[3])
    return amount, count, last, [record.texts[word] for word in record.words[4 : 4 + length]]
