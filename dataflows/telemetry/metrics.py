"""The metrics: one table of names by OpenTelemetry's conventions, and how each is had from a running job.

Owns: names, units, kinds, attributes; `docs/operations/metrics.md` is held to them by a test. Where they go is
OpenTelemetry's: a reader for Prometheus, and an exporter by OTLP where the environment names an endpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from dataflows import board as b
from dataflows.telemetry import meters as m
from dataflows.telemetry.observed import REASONS, Observed, event_time_ms

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
TOPIC, PARTITION = "messaging.destination.name", "messaging.destination.partition.id"
VIEW, REASON, STEP, RESOURCE = "lookback.view", "lookback.reason", "lookback.step", "lookback.resource"

Value = tuple[float, Mapping[str, str]]
Read = Callable[[Observed], Iterator[Value]]
FRESHNESS_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
STEP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Metric:
    """One metric. read gives its values now; a histogram has bounds instead, and is told of samples."""

    name: str
    kind: str
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    read: Read | None = None
    bounds: tuple[float, ...] = ()


def _partition(of: Callable[[Observed, int], float | None]) -> Read:
    def read(job: Observed) -> Iterator[Value]:
        for row, part in job.told_parts:
            value = of(job, row)
            if value is not None:
                yield value, {TOPIC: part.topic, PARTITION: str(part.partition)}

    return read


def _word(column: int) -> Read:
    return _partition(lambda job, row: int(job.board.rows[row, column]))


def _quarantined(job: Observed) -> Iterator[Value]:
    for row, part in job.told_parts:
        own = {TOPIC: part.topic, PARTITION: str(part.partition)}
        for reason, column in REASONS.items():
            yield int(job.board.rows[row, column]), {**own, REASON: reason}


def _view(of: Callable[[Observed, str], float | None]) -> Read:
    def read(job: Observed) -> Iterator[Value]:
        for view in job.views:
            value = of(job, view)
            if value is not None:
                yield value, {VIEW: view}

    return read


def _job(of: Callable[[Observed], float]) -> Read:
    def read(job: Observed) -> Iterator[Value]:
        yield of(job), {}

    return read


def _waits(job: Observed) -> Iterator[Value]:
    for what, count in {**job.waits, "change_log": job.log_waits}.items():
        yield count, {RESOURCE: what}


def _seconds(ms: int | None) -> float | None:
    return None if ms is None else ms / 1000


_PART, _VIEW = (TOPIC, PARTITION), (VIEW,)
STEP_DURATION, STORE_DURATION, FRESHNESS = (
    "lookback.commit.step.duration",
    "lookback.store.write.duration",
    "lookback.store.freshness",
)

METRICS = (
    Metric("lookback.partition.events", COUNTER, "{event}", "events read, good or bad, since the state was made",
           _PART, _word(b.ROWS)),
    Metric("lookback.partition.size", COUNTER, "By", "bytes of the events read", _PART, _word(b.BYTES)),
    Metric("lookback.partition.quarantined", COUNTER, "{event}",
           "events refused and kept as dead letters: bad, late, ahead or repeat", (*_PART, REASON), _quarantined),
    Metric("lookback.partition.keyless", COUNTER, "{event}",
           "events that were no part of a view because its key was null, once a view", _PART, _word(b.NO_KEY)),
    Metric("lookback.partition.lost", COUNTER, "{event}",
           "events that were gone before they were read, where `--accept-loss` went on", _PART, _word(b.LOST)),
    Metric("lookback.partition.high_water_mark", GAUGE, "s", "newest event time read, Unix time", _PART,
           _partition(lambda job, row: _seconds(event_time_ms(job.board, row)))),
    Metric("lookback.partition.lag.events", GAUGE, "{event}", "offsets still to be read", _PART,
           _partition(lambda job, row: job.lag_events(row))),
    Metric("lookback.partition.lag.time", GAUGE, "s",
           "while events wait: age of the newest event read, by the broker's time; on Kafka", _PART,
           _partition(lambda job, row: _seconds(job.lag_ms(row)))),
    Metric("lookback.view.high_water_mark", GAUGE, "s", "newest event time in the committed state, Unix time", _VIEW,
           _view(lambda job, view: _seconds(job.view_newest_ms(view)))),
    Metric("lookback.view.lag.events", GAUGE, "{event}", "offsets still to be read of the view's partitions", _VIEW,
           _view(lambda job, view: sum(map(job.lag_events, job.views[view])))),
    Metric("lookback.view.lag.time", GAUGE, "s", "the longest lag of the view's partitions; on Kafka", _VIEW,
           _view(lambda job, view: _seconds(job.view_lag_ms(view)))),
    Metric("lookback.view.feature_writes", COUNTER, "{value}", "feature values that the online store took", _VIEW,
           _view(lambda job, view: job.view_writes(view, m.WRITES))),
    Metric("lookback.view.stale_writes", COUNTER, "{record}",
           "records written without rows, over the store's limit: readers get status `stale`", _VIEW,
           _view(lambda job, view: job.view_writes(view, m.STALE))),
    Metric("lookback.view.cache.hits", COUNTER, "{entity}", "entities that were in memory when they were needed", _VIEW,
           _view(lambda job, view: job.view_sum(view, m.LOOKUPS) - job.view_sum(view, m.MISSES))),
    Metric("lookback.view.cache.misses", COUNTER, "{entity}", "entities that were not: read from the state, or new",
           _VIEW, _view(lambda job, view: job.view_sum(view, m.MISSES))),
    Metric("lookback.view.cache.size", GAUGE, "By", "memory of the view's logs", _VIEW,
           _view(lambda job, view: job.view_sum(view, m.CACHE))),
    Metric("lookback.epoch.age", GAUGE, "s", "since an epoch last proved durable on all workers", (),
           _job(lambda job: job.epoch_age_ms / 1000)),
    Metric("lookback.epoch.commits", COUNTER, "{epoch}", "durable epochs since the workers started", (),
           _job(lambda job: job.epochs)),
    Metric(STEP_DURATION, HISTOGRAM, "s", "time of a worker in one step of the commit, summed over an epoch", (STEP,),
           bounds=STEP_BOUNDS),
    Metric(STORE_DURATION, HISTOGRAM, "s", "time of one write of a wave to the online store", bounds=STEP_BOUNDS),
    Metric(FRESHNESS, HISTOGRAM, "s", "age of a wave's newest event when the store had taken it; on Kafka",
           bounds=FRESHNESS_BOUNDS),
    Metric("lookback.store.errors", COUNTER, "{error}", "calls that the online store could not take, tried again", (),
           _job(lambda job: job.store_errors)),
    Metric("lookback.worker.waits", GAUGE, "{worker}",
           "workers that wait: for the online store, room on the disk or the change log", (RESOURCE,), _waits),
    Metric("lookback.change_log.updates", COUNTER, "{update}", "updates that the change log has taken", (),
           _job(lambda job: int(job.board.log_sent.sum()))),
    Metric("lookback.change_log.backlog", GAUGE, "By", "updates in the state that it has not taken yet", (),
           _job(lambda job: int(job.board.log_bytes.sum()))),
    Metric("lookback.source.away", GAUGE, "s", "for how long the source's servers have not answered", (),
           _job(lambda job: job.away_ms / 1000)),
    Metric("lookback.refresh.delay", GAUGE, "s", "by how much refreshes are behind the job's clock", (),
           _job(lambda job: job.refresh_late_ms / 1000)),
    Metric("lookback.shard.catching_up", GAUGE, "{shard}",
           "shards not committed since the start, or silent until they have passed the served mark", (),
           _job(lambda job: job.catching_up)),
    Metric("lookback.state.size", GAUGE, "By", "files of the state's shards", (), _job(lambda job: job.state_bytes)),
    Metric("lookback.job.generation", GAUGE, "{generation}", "the claim on the online store that this start holds", (),
           _job(lambda job: job.settings.generation)),
)  # fmt: skip


def prometheus_name(metric: Metric) -> str:
    """Return what a metric is called where Prometheus reads it.

    >>> prometheus_name(METRICS[1])
    'lookback_partition_size_bytes_total'
    """
    unit = {"s": "_seconds", "By": "_bytes"}.get(metric.unit, "")
    return metric.name.replace(".", "_") + unit + ("_total" if metric.kind == COUNTER else "")
