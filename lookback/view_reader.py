"""One view's record evaluated as of an instant: the reader's half of the kernel.

Owns: putting a record's rows through a `OneLog`, and the status of what comes out. Refuses: arithmetic on
features, choosing the instant, stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookback import reading
from lookback.definition.view import View
from lookback.stores.base import I64, NEVER, Record
from lookback.stores.texts import StoredTexts
from lookback.windows.layout import build_layout
from lookback.windows.one_log import OneLog
from lookback.windows.plan import ROW_HEAD, Result
from lookback.windows.results import RowReader
from lookback.windows.text_words import text_words

STATUS = (reading.OK, reading.DEFAULT, reading.OVERFLOW)  # by the kernel's `Status`
NO_TEXTS = StoredTexts()


@dataclass(slots=True)
class Answer:
    """All of a view's features, by index in its plan."""

    values: list[Any]
    status: list[str]
    age_ms: int | None = None
    watermark_ms: int | None = None
    covers_from_ms: int | None = None


class ViewReader:
    """Evaluates records of one view; safe to share between threads."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.plan = view.plan
        self.names = tuple(f"{view.name}.{feature.name}" for feature in self.plan.features)
        # A feature is complete at t where t - back_ms >= covers_from_ms.
        self._back_ms = [feature.delay_ms + (feature.window_ms or 0) for feature in self.plan.features]
        self._longest_ms = max(self._back_ms, default=0)
        self._text_rows = text_words(self.plan).rows
        # Only what gives texts compares them by more than their ids: ties go to the smaller one.
        self.gives_texts = any(feature.result is Result.TEXT for feature in self.plan.features)
        self._layout = build_layout(self.plan)
        self._python = RowReader(self.plan)
        self._no_rows: I64 = np.empty((ROW_HEAD + self.plan.width, 0), np.int64)
        self._no_life: I64 = np.zeros(self._layout.life_words, np.int64)
        self._spare: list[OneLog] = []  # as many as threads ever read at once; pop and append are atomic

    def answer(self, record: Record | None, at: int, event: Mapping[str, Any] | None) -> Answer:
        """Return the view's features of a stored entity (None: of an unknown one) as of `at`, UTC ms.

        event: the request row, with the entity's key; None where there is none, or it is of another stream.
        """
        if record is None:
            values, _ = self._evaluate(self._no_rows, self._no_life, NO_TEXTS, at, event)
            return Answer(values, [reading.UNKNOWN] * len(values))
        if record.stale:
            return self._stored(record, at)
        values, states = self._evaluate(record.rows, record.life, record.texts, at, event)
        newest = record.event_time_ms
        if newest > at:  # asked for the past: the newest event that counts there
            before = int(record.rows[0].searchsorted(at, side="right"))
            newest = int(record.rows[0, before - 1]) if before else NEVER
        covers = record.covers_from_ms
        found = Answer(
            values,
            [STATUS[state] for state in states],
            None if newest == NEVER else at - newest,
            record.watermark_ms,
            None if covers == NEVER else covers,
        )
        if covers > NEVER and at - self._longest_ms < covers:
            self._trimmed(found, at, covers)
        return found

    # ---- values

    def _evaluate(
        self, rows: I64, life: I64, texts: StoredTexts, at: int, event: Mapping[str, Any] | None
    ) -> tuple[list[Any], list[int]]:
        """Return the value and the kernel's `Status` of each feature."""
        if event is None:
            return self._one(rows, life, texts, at, None)
        request = self.view.encode_request(event, at)
        words: I64 = np.require(request.values, np.int64, ["C", "W"])
        if self._text_rows:
            if len(texts) == 1:  # none of its own: what others may share must not grow
                texts = StoredTexts()
            ids = texts.intern(request.texts or [""])
            for row in self._text_rows:
                words[row - ROW_HEAD] = ids[words[row - ROW_HEAD]]
        at = int(request.time_ms[0])
        values, states = self._one(rows, life, texts, at, words)
        blind = self.view.blind_features(event)
        if blind:  # the event leaves out what these are about: it can't count in them
            without, states_without = self._one(rows, life, texts, at, None)
            for index in blind:
                values[index], states[index] = without[index], states_without[index]
        return values, states

    def _one(
        self, rows: I64, life: I64, texts: StoredTexts, at: int, request: I64 | None
    ) -> tuple[list[Any], list[int]]:
        try:
            log = self._spare.pop()
        except IndexError:
            log = OneLog(self.plan, self._layout)
        log.evaluate(rows, life, texts, at, request)
        found = self._python.read(log.words, log.status, texts)
        self._spare.append(log)
        return found

    def _stored(self, record: Record, at: int) -> Answer:
        """Return a stale record's values, or nulls where they know of events after `at`."""
        count = len(self.names)
        if at < record.as_of_ms and at < record.event_time_ms:
            found = Answer([None] * count, [reading.TRIMMED] * count)
        else:
            values, _ = self._python.read(record.words, record.status, record.texts)
            found = Answer(values, [reading.STALE] * count)
        return Answer(found.values, found.status, at - record.as_of_ms, record.watermark_ms)

    def _trimmed(self, found: Answer, at: int, covers: int) -> None:
        for index, back_ms in enumerate(self._back_ms):
            if at - back_ms < covers:
                found.values[index], found.status[index] = None, reading.TRIMMED
