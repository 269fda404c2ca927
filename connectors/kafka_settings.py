"""Where a Kafka cluster is and how to get in: `kafka://` addresses and the file of client settings.

Owns: reading both, and keeping secrets out of what is said. Refuses: connecting.

    kafka:                                    # any property that librdkafka takes
      security.protocol: SASL_SSL
      sasl.mechanism: SCRAM-SHA-512
      sasl.username: lookback
      sasl.password: {env: KAFKA_PASSWORD}    # or {file: /run/secrets/kafka}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lookback.errors import UsageError

SCHEME = "kafka://"
SECTION = "kafka"
# What the source decides itself: with other values events could be lost, doubled or waited for in vain.
OURS = {
    "auto.offset.reset": "the job decides where to read from",
    "bootstrap.servers": "the source's address says it",
    "enable.auto.commit": "the job publishes offsets once they are durable",
    "enable.auto.offset.store": "the job publishes offsets once they are durable",
    "enable.partition.eof": "the job needs it to know a partition's end",
    "metadata.broker.list": "the source's address says it",
}
_SECRET = re.compile(r"password|secret|passphrase|\.key\.pem$|oauthbearer\.(config|assertion)|token")
_SERVER = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}")


@dataclass(frozen=True)
class KafkaSettings:
    """Properties for every client of one cluster, and those of their values that nobody may read."""

    properties: Mapping[str, str] = field(repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)

    def harmless(self, text: str) -> str:
        """Return a message of the client library's without any secret in it."""
        for secret in sorted(self.secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    @property
    def isolation(self) -> str:
        """Return the isolation level that events are read with."""
        return self.properties.get("isolation.level", "read_committed")


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
    properties, secrets = {"bootstrap.servers": servers}, set()
    for name, value in ({} if path is None else _section(path)).items():
        if name in OURS:
            raise UsageError(f"{path}: leave {name} out: {OURS[name]}")
        text, secret = _value(value, f"{path}: {name}")
        properties[name] = text
        if text and (secret or _SECRET.search(name)):
            secrets.add(text)
    return KafkaSettings(properties, frozenset(secrets))


def _section(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"the settings {path} can't be read: {why}") from None
    except yaml.YAMLError as error:
        # Its own words quote the file, and so perhaps a password.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f":{mark.line + 1}:{mark.column + 1}"
        raise UsageError(f"{path}{where}: this is not YAML") from None
    if not isinstance(found, dict) or set(found) != {SECTION} or not isinstance(found[SECTION], dict):
        raise UsageError(f"{path}: write the client's properties under one key, `{SECTION}:`")
    section: dict[str, Any] = found[SECTION]
    return section


def _value(value: Any, where: str) -> tuple[str, bool]:
    """Return a property's text, and whether it was kept elsewhere than in the file, as secrets are."""
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, (str, int, float)):
        return str(value), False
    if isinstance(value, dict) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind == "env" and isinstance(name, str):
            if name not in os.environ:
                raise UsageError(f"{where}: the environment variable {name} is not set")
            return os.environ[name], True
        if kind == "file" and isinstance(name, str):
            try:
                return Path(name).read_text(encoding="utf-8").rstrip("\r\n"), True
            except (OSError, UnicodeDecodeError):
                raise UsageError(f"{where}: the file {name} can't be read") from None
    raise UsageError(f"{where}: write a text, a number, true, false, {{env: NAME}} or {{file: PATH}}")
