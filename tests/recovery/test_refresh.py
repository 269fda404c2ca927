"""An archive by the event clock: at the end no stored value is older than its windows' slack."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lookback.definition import load
from lookback.stores.base import Lookup, open_store
from tests.recovery.events import MINUTE
from tests.recovery.job import Job

SLACK_MS = 1200  # of two minutes


def test_at_the_end_all_rows_have_left_that_should(new_job: Callable[..., Job]) -> None:
    """And by the wall clock an archive is never caught up: values stay as of each entity's last event."""
    job = new_job(jitter_rows=None)
    job.finish()
    definition = load(job.definition)
    end_ms = max(
        int(part.time_ms.max(initial=0))
        for entities in job.archive.accepted.values() for parts in entities.values() for part in parts
    )  # fmt: skip
    refreshed = {clock: 0 for clock in ("event", "wall")}
    for clock in refreshed:
        if clock == "wall":
            job = new_job(jitter_rows=None, options=("--clock", "wall"))
            job.finish()
        store = open_store(job.uri)
        for name, feature, span_ms in (("cards", "rows_1m", MINUTE), ("shops", "rows_2m", 2 * MINUTE)):
            view = definition.views[name]
            start = view.plan.out_starts[[f.name for f in view.plan.features].index(feature)]
            keys = job.archive.keys(name)
            for key, record in zip(
                keys, store.read([Lookup(view.fingerprint, key, view.plan) for key in keys]), strict=True
            ):
                assert record is not None
                times = np.concatenate([part.time_ms for part in job.archive.accepted[name][key]])
                count = int(record.words[start])
                assert count == int((times > record.as_of_ms - span_ms).sum())
                if clock == "event":
                    assert count <= int((times > end_ms - span_ms - SLACK_MS).sum())
                refreshed[clock] += record.as_of_ms > record.event_time_ms
        store.close()
    assert refreshed["event"] > 10 and refreshed["wall"] == 0
