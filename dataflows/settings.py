"""What one job was asked to do, as the parent hands it to its workers (JSON)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

SHARDS = 32


@dataclass(frozen=True)
class Part:
    """One source partition: a stream's topic and partition.

    topic_id: of the topic, where the source has such ids. end: the offset where reading ends; None where the source
    has an end of its own, or the job runs for ever.
    """

    stream: str
    topic: str
    partition: int
    topic_id: str = ""
    end: int | None = None

    @property
    def id(self) -> str:
        """Name of the partition in offsets, marks and Bytewax's recovery store: never that of another topic's."""
        return f"{self.topic}@{self.topic_id}/{self.partition}" if self.topic_id else self.name

    @property
    def name(self) -> str:
        """Name of the partition for a person."""
        return f"{self.topic}/{self.partition}"


@dataclass(frozen=True)
class Settings:
    """A live job (`store` set) or a replay (`out` set)."""

    definition: str
    fingerprint: str
    source: str
    parts: tuple[Part, ...]
    work: str  # the state folder of a live job; OUT/.work of a replay
    shards: int
    shard_keys: tuple[str, ...]
    workers: int = 1  # of all pods
    first_worker: int = 0  # this pod's own, and how many they are; None: all
    pod_workers: int | None = None
    addresses: tuple[str, ...] = ()
    epoch_ms: int = 1000
    cache_bytes: int = 256 << 20
    batch_rows: int = (
        131_072  # a live batch writes each entity it touches once: large ones halve the store's cost
    )
    epoch_bytes: int = 64 << 20  # read of a partition in an epoch
    worker_epoch_bytes: int = 256 << 20  # and of all of a worker's partitions together
    dead_letters: str | None = None
    job: str = ""  # the state's id: tells a restart before the first epoch from another job
    start_ms: int | None = None  # read from this broker time on
    source_settings: str | None = None  # the file of the source's client settings
    group: str = "lookback"  # the consumer group that durable offsets are published to
    accept_loss: bool = False  # go on behind events that are gone
    # live
    store: str | None = None
    generation: int = 0
    change_log: str | None = None  # the topic that updates are told to, as kafka://HOST:PORT/TOPIC
    clock: str = "event"  # as of which values are refreshed though no event comes: wall or event
    # replay
    out: str | None = None
    stream: str = ""  # the stream whose events are the training rows; none with labels
    labels: str | None = None
    from_ms: int = 0
    to_ms: int | None = None
    including: bool = True

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @staticmethod
    def from_json(text: str) -> Settings:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        raw["parts"] = tuple(Part(**part) for part in raw["parts"])
        raw["shard_keys"] = tuple(raw["shard_keys"])
        raw["addresses"] = tuple(raw["addresses"])
        return Settings(**raw)

    @property
    def own_workers(self) -> range:
        """Return the numbers of the workers that run here."""
        return range(self.first_worker, self.first_worker + (self.pod_workers or self.workers))

    @property
    def folder(self) -> Path:
        """The job's working folder."""
        return Path(self.work)

    def shard_path(self, shard: int) -> Path:
        """Folder of one shard's database."""
        return self.folder / f"shard-{shard:02d}"
