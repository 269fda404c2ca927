"""One view's record evaluated as of an instant: the reader's half of the kernel.

Owns: putting a record's rows into a `ViewLog`, and the status of what comes out. Refuses: arithmetic on
features, choosing the instant, stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookback import reading
from lookback.definition.view import View
from lookback.stores.base import NEVER, Record
from lookback.stores.texts import StoredTexts
from lookback.windows.log import Values, ViewLog
from lookback.windows.plan import ROW_HEAD
from lookback.windows.results import to_python
from lookback.windows.text_words import text_words

STATUS = (reading.OK, reading.DEFAULT, reading.OVERFLOW)  # by the kernel's `Status`


@dataclass(slots=True)
class Answer:
    """All of a view's features, by index in its plan."""

    values: list[Any]
    status: list[str]
    age_ms: int | None = None
    watermark_ms: int | None = None
    covers_from_ms: int | None = None


class ViewReader:
    """Evaluates records of one view, one at a time; not thread safe."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.plan = view.plan
        self.names = tuple(f"{view.name}.{feature.name}" for feature in self.plan.features)
        # A feature is complete at t where t - back_ms >= covers_from_ms.
        self._back_ms = [feature.delay_ms + (feature.window_ms or 0) for feature in self.plan.features]
        self._longest_ms = max(self._back_ms, default=0)
        self._text_rows = text_words(self.plan).rows
        self._starts_out = self.plan.out_starts[:-1]
        self._starts = np.zeros(2, np.int64)
        self._at = np.zeros(1, np.int64)
        self._covers = np.zeros(1, np.int64)
        self._log = ViewLog(self.plan)
        self._slot = self._log.new_slots(1)

    def answer(self, record: Record | None, at: int, event: Mapping[str, Any] | None) -> Answer:
        """Return the view's features of a stored entity (None: of an unknown one) as of `at`, UTC ms.

        event: the request row, with the entity's key; None where there is none, or it is of another stream.
        """
        if record is None:
            self._log.texts = StoredTexts()
            values = self._evaluate(at, event)
            return Answer(values.values, [reading.UNKNOWN] * len(values.values))
        if record.stale:
            return self._stored(record, at)
        self._load(record)
        try:
            found = self._evaluate(at, event)
        finally:
            self._empty()
        newest = record.event_time_ms
        if newest > at:  # asked for the past: the newest event that counts there
            before = int(record.rows[0].searchsorted(at, side="right"))
            newest = int(record.rows[0, before - 1]) if before else NEVER
        covers = record.covers_from_ms
        if covers > NEVER and at - self._longest_ms < covers:
            self._trimmed(found, at, covers)
        return Answer(
            found.values,
            found.status,
            None if newest == NEVER else at - newest,
            record.watermark_ms,
            None if covers == NEVER else covers,
        )

    # ---- the log

    def _load(self, record: Record) -> None:
        self._log.texts = record.texts  # the ids in rows and life are those of the record's own table
        flat = record.rows.reshape(-1)
        self._starts[1] = flat.size
        self._covers[0] = record.covers_from_ms
        self._log.load(self._slot, flat, self._starts, record.life[None], self._covers)

    def _empty(self) -> None:
        self._log.free_slots(self._slot)
        self._slot = self._log.new_slots(1)

    # ---- values

    def _evaluate(self, at: int, event: Mapping[str, Any] | None) -> Answer:
        self._at[0] = at
        if event is None:
            return self._python(self._log.evaluate(self._slot, self._at))
        rows = self.view.encode_request(event, at)
        words = rows.values
        if self._text_rows:
            ids = self._log.texts.intern(rows.texts or [""])
            for row in self._text_rows:
                words[row - ROW_HEAD] = ids[words[row - ROW_HEAD]]
        found = self._python(self._log.evaluate_request(self._slot, rows.time_ms, words))
        blind = self.view.blind_features(event)
        if blind:  # the event leaves out what these are about: it can't count in them
            without = self._python(self._log.evaluate(self._slot, rows.time_ms))
            for index in blind:
                found.values[index], found.status[index] = without.values[index], without.status[index]
        return found

    def _python(self, values: Values) -> Answer:
        status = values.status[:, 0].tolist()
        return Answer(
            to_python(self.plan, values, 0, self._log.texts),
            [STATUS[status[start]] for start in self._starts_out],
        )

    def _stored(self, record: Record, at: int) -> Answer:
        """Return a stale record's values, or nulls where they know of events after `at`."""
        count = len(self.names)
        if at < record.as_of_ms and at < record.event_time_ms:
            found = Answer([None] * count, [reading.TRIMMED] * count)
        else:
            values = Values(record.words[:, None], record.status[:, None])
            found = Answer(to_python(self.plan, values, 0, record.texts), [reading.STALE] * count)
        return Answer(found.values, found.status, at - record.as_of_ms, record.watermark_ms)

    def _trimmed(self, found: Answer, at: int, covers: int) -> None:
        for index, back_ms in enumerate(self._back_ms):
            if at - back_ms < covers:
                found.values[index], found.status[index] = None, reading.TRIMMED
