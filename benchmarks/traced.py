"""Run the job with its parts timed: `python -m benchmarks.traced REPORT.json run|replay …`.

Owns: which functions belong to which part. The worker runs in this process and every part's functions are
wrapped; time inside one counts for its part alone, less what wrapped functions it calls took. The figures
that users see come from untraced runs: this one tells where their time goes.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

PARTS: dict[str, tuple[tuple[str, str], ...]] = {
    "read": (("connectors.archive", "PartitionReader.read"), ("connectors.kafka_reader", "KafkaReader.read")),
    "decode": (("connectors.decode", "Decoder.decode"),),
    "encode": (
        ("lookback.definition.encode", "ViewEncoder.encode"),
        ("dataflows.training_rows", "Rows.base_of"),
    ),
    "route": (("dataflows.ingest", "split"), ("dataflows.replay", "_in_order")),
    "entities": (("state.view", "ViewState.slots"), ("state.view", "ViewState.intern")),
    "kernel": tuple(
        ("lookback.windows.log", f"ViewLog.{name}")
        for name in ("apply", "apply_evaluate", "evaluate_newest", "export", "load", "compact")
    ),
    "state": tuple(("state.shard", f"Shard.{name}") for name in ("begin_commit", "end_commit", "evict")),
    "state: RocksDB": tuple(("state.rocksdb", f"Database.{name}") for name in ("begin", "write", "get_many")),
    "store": (
        ("lookback.stores.lmdb_writer", "LmdbWriter.write"),
        ("lookback.stores.redis_writer", "RedisWriter.send"),
    ),
    "store: sync": (
        ("lookback.stores.lmdb_writer", "LmdbWriter.flush"),
        ("lookback.stores.redis_writer", "RedisWriter.flush"),
    ),
    "results": (("dataflows.replay", "to_arrow"), ("dataflows.live", "_own_texts")),
    "training": (
        ("connectors.training", "TrainingWriter.add"),
        ("connectors.training", "TrainingWriter.mark"),
        ("connectors.training", "TrainingWriter.close"),
    ),
}
COMMIT = ("Shard.begin_commit", "Shard.end_commit", "LmdbWriter.flush", "RedisWriter.flush")
SAME_COMMIT_SECONDS = 0.1  # commits of shards closer than this belong to one epoch


class Trace:
    """CPU seconds of this thread by part, and when commits ran."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.commits: list[tuple[float, float]] = []
        self._inner = [0.0]

    def wrap(self, part: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, timed."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began, start = time.perf_counter(), time.thread_time()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = time.thread_time() - start
                self.seconds[part] += took - self._inner.pop()
                self._inner[-1] += took
                if name in COMMIT:
                    self.commits.append((began, time.perf_counter()))

        return timed

    def pauses(self) -> list[float]:
        """Return how long each epoch's commit took, from its first shard to its last sync, in seconds."""
        found: list[list[float]] = []
        for began, ended in sorted(self.commits):
            if found and began - found[-1][1] < SAME_COMMIT_SECONDS:
                found[-1][1] = max(found[-1][1], ended)
            else:
                found.append([began, ended])
        return [ended - began for began, ended in found]


def install(trace: Trace) -> None:
    """Wrap every part's functions where the job looks them up."""
    for part, places in PARTS.items():
        for module_name, path in places:
            holder: Any = import_module(module_name)
            *owners, name = path.split(".")
            for owner in owners:
                holder = getattr(holder, owner)
            setattr(holder, name, trace.wrap(part, path, getattr(holder, name)))


def main() -> None:
    """Run the job here; write the report last."""
    report = Path(sys.argv[1])
    from dataflows import cli, live_round, replay_job, worker
    from dataflows.settings import Settings

    trace = Trace()
    install(trace)

    def in_process(settings: Settings, *ticks: object, **hooks: object) -> bool:
        path = settings.folder / "settings.json"
        path.write_text(settings.to_json())
        cpu, used, wall = time.thread_time(), time.process_time(), time.perf_counter()
        worker.main([str(path), "0"])
        total = time.thread_time() - cpu
        trace.seconds["the rest"] = total - sum(trace.seconds.values())
        process = time.process_time() - used
        found = {"parts": trace.seconds, "cpu": total, "process": process, "wall": time.perf_counter() - wall}
        report.write_text(json.dumps({**found, "pauses": trace.pauses()}))
        return False

    for module in (live_round, replay_job):
        module.run_workers = in_process  # type: ignore[attr-defined]
    sys.argv = ["lookback", *sys.argv[2:]]
    cli.main()


if __name__ == "__main__":
    main()
