"""Where a Kafka cluster is and how to get in: `kafka://` addresses and the clients' section of the settings file.

Owns: reading both. Refuses: connecting; secrets and the file's grammar are `settings_file`'s.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from connectors.settings_file import KAFKA_SECTION, ClientSettings, read_section
from lookback.errors import UsageError

SCHEME = "kafka://"
# What the source decides itself: with other values events could be lost, doubled or waited for in vain.
OURS = {
    "auto.offset.reset": "the job decides where to read from",
    "bootstrap.servers": "the source's address says it",
    "enable.auto.commit": "the job publishes offsets once they are durable",
    "enable.auto.offset.store": "the job publishes offsets once they are durable",
    "enable.partition.eof": "the job needs it to know a partition's end",
    "metadata.broker.list": "the source's address says it",
}
# What other clients than consumers warn of, or refuse.
_CONSUMER_ONLY = {
    "group.id",
    "isolation.level",
    "session.timeout.ms",
    "max.poll.interval.ms",
    "group.instance.id",
}
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True)
class KafkaSettings(ClientSettings):
    """Properties for every client of one cluster."""

    @property
    def isolation(self) -> str:
        """Return the isolation level that events are read with."""
        return self.properties.get("isolation.level", "read_committed")

    @property
    def no_consumer(self) -> dict[str, str]:
        """Return the properties of clients that consume nothing."""
        return {name: value for name, value in self.properties.items() if name not in _CONSUMER_ONLY}


def producer_properties(settings: KafkaSettings) -> dict[str, str | int]:
    """Return what a producer that neither loses nor doubles is made with."""
    return {"log_level": 3, **settings.no_consumer, "enable.idempotence": "true", "acks": "all"}


def parse_uri(uri: str, *, topic: bool = False) -> tuple[str, str]:
    """Return (servers, topic) of `kafka://host:port[,host:port][/TOPIC]`; the topic where it must have one.

    Raises UsageError where it is anything else.
    """
    servers, slash, name = uri.removeprefix(SCHEME).partition("/")
    form = f"{SCHEME}HOST:PORT[,HOST:PORT]{'/TOPIC' if topic else ''}"
    if "@" in servers:
        raise UsageError(
            f"a user or password has no place in a {SCHEME} address: put them into --settings FILE"
        )
    if not uri.startswith(SCHEME) or not all(_SERVER.fullmatch(server) for server in servers.split(",")):
        raise UsageError(f"{uri!r} is no Kafka address: write {form}")
    if topic != bool(name) or (slash and not topic):
        raise UsageError(f"{uri!r}: write {form}" + ("" if topic else " (the definition names the topics)"))
    if topic and not re.fullmatch(r"[A-Za-z0-9._-]{1,249}", name):
        raise UsageError(f"{name!r} is no name of a topic: letters, digits, '.', '_' and '-' alone")
    return servers, name


def read_settings(servers: str, path: Path | None) -> KafkaSettings:
    """Return the settings of a cluster's clients; `path` None: no more than its address.

    Raises UsageError, naming file and property but no value, where the file is not as it must be.
    """
    found = read_section(path, KAFKA_SECTION, OURS)
    return KafkaSettings({"bootstrap.servers": servers, **found.properties}, found.secrets)
