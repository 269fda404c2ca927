"""Writers' schemas from a schema registry, by id.

Owns: asking (confluent-kafka's client, in a thread of its own, so that a worker goes on meanwhile), remembering for
good what a schema id stands for, and what an answer means. Refuses: schemas' meaning, messages.

A registry that does not answer is waited for, as brokers are: `ready` says no, and the messages stay where they are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from connectors.avro_schema import BadSchema, WriterSchema, writer_schema
from connectors.settings_file import REGISTRY_SECTION, ClientSettings, read_section
from lookback.errors import SourceError, UsageError

OURS = {
    "max.retries": "the job asks again by itself",
    "retries.wait.ms": "the job asks again by itself",
    "retries.max.wait.ms": "the job asks again by itself",
    "cache.capacity": "the job keeps all schemas that it has seen",
    "cache.latest.ttl.sec": "the job keeps all schemas that it has seen",
}
TIMEOUT_SECONDS = 10.0
AGAIN_SECONDS = 1.0  # between questions to a registry that does not answer
UNKNOWN_SECONDS = 30.0  # for how long an id that the registry does not know is not asked for again
NOT_FOUND, UNKNOWN_CODES = 404, range(40400, 40500)  # HTTP's code alone may come of a wrong URL
BUSY = {408, 429}


@dataclass
class _Answer:
    """What a round of questions gave: schemas, or why there is none; why it ended early, and whether for good."""

    found: dict[int, WriterSchema | str] = field(default_factory=dict)
    unknown: set[int] = field(default_factory=set)
    waiting: str | None = None
    hopeless: str | None = None


class Schemas:
    """The schemas of one registry, for all partitions of a process. Raises UsageError where a property is wrong."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._client = _client(settings)
        self._known: dict[int, WriterSchema | str] = {}
        self._unknown_until: dict[int, float] = {}
        self._asked: tuple[threading.Thread, _Answer] | None = None
        self._next = 0.0
        self.waiting: str | None = None  # why it is waited for the registry, if it is

    def __getitem__(self, schema_id: int) -> WriterSchema | str:
        """Return the schema of an id that `ready` has said yes to, or why there is none."""
        return self._known[schema_id]

    def ready(self, ids: Iterable[int]) -> bool:
        """Return whether all of these are known; if not, ask for them. Never waits.

        Raises SourceError where waiting mends nothing.
        """
        now = time.monotonic()
        self._collect(now)
        for one in [one for one, until in self._unknown_until.items() if until < now]:
            del self._known[one], self._unknown_until[one]
        missing = [one for one in ids if one not in self._known]
        if not missing:
            return True
        if self._asked is None and now >= self._next:
            answer = _Answer()
            thread = threading.Thread(target=self._ask, args=(missing, answer), daemon=True)
            self._asked = (thread, answer)
            thread.start()
        return False

    def _collect(self, now: float) -> None:
        """Take in what the thread has brought."""
        if self._asked is None or self._asked[0].is_alive():
            return
        answer = self._asked[1]
        self._asked = None
        self._known.update(answer.found)
        self._unknown_until.update(dict.fromkeys(answer.unknown, now + UNKNOWN_SECONDS))
        self.waiting = answer.waiting
        if answer.waiting is not None:
            self._next = now + AGAIN_SECONDS
        if answer.hopeless is not None:
            raise SourceError(answer.hopeless)

    def _ask(self, ids: list[int], answer: _Answer) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryError

        where = f"the schema registry {self._settings.properties['url']}"
        for one in ids:
            try:
                answer.found[one] = self._schema(one)
            except SchemaRegistryError as error:
                said = self._settings.harmless(str(error))
                if error.http_status_code == NOT_FOUND and error.error_code in UNKNOWN_CODES:
                    answer.found[one] = f"the schema registry does not know the schema id {one}"
                    answer.unknown.add(one)
                elif error.http_status_code in BUSY or error.http_status_code >= 500:
                    answer.waiting = f"{where} can't answer: {said}"
                    return
                else:
                    answer.hopeless = (
                        f"{where} does not give the schema {one}: {said}; correct `{REGISTRY_SECTION}:` in the "
                        "settings and start again, nothing is lost"
                    )
                    return
            except Exception as error:  # the client's transport has errors of its own
                said = self._settings.harmless(f"{type(error).__name__}: {error}")
                answer.waiting = f"{where} does not answer ({said})"
                return

    def _schema(self, schema_id: int) -> WriterSchema | str:
        """Fetch a schema and those that it names."""
        found = self._client.get_schema(schema_id)
        if found.schema_type not in (None, "AVRO"):
            return f"the schema {schema_id} is {found.schema_type}, not Avro"
        references: dict[str, str] = {}
        self._references(found, references)
        try:
            return writer_schema(found.schema_str, list(references.values()))
        except BadSchema as error:
            return f"the schema {schema_id} {error}"

    def _references(self, schema: Any, found: dict[str, str]) -> None:
        for reference in schema.references or ():
            if reference.name not in found:
                named = self._client.get_version(reference.subject, reference.version).schema
                self._references(named, found)
                found[reference.name] = named.schema_str


def _client(settings: ClientSettings) -> Any:
    try:
        from confluent_kafka.schema_registry import SchemaRegistryClient
    except ImportError as error:
        raise UsageError(f"Avro needs more packages ({error}): pip install 'lookback[avro]'") from None
    properties: dict[str, Any] = {"timeout": TIMEOUT_SECONDS, **settings.properties, "max.retries": 0}
    try:
        properties["timeout"] = float(properties["timeout"])
        return SchemaRegistryClient(properties)
    except (ValueError, TypeError, OSError) as error:
        raise UsageError(
            f"the settings of the schema registry can't be used: {settings.harmless(str(error))}"
        ) from None


def registry_settings(path: Path | None) -> ClientSettings:
    """Return the registry's section of the settings file. Raises UsageError where it says no URL, or a wrong one."""
    settings = read_section(path, REGISTRY_SECTION, OURS)
    url = settings.properties.get("url", "")
    if "@" in url:
        raise UsageError(
            f"{path}: a user or password has no place in the registry's url: use basic.auth.user.info"
        )
    if not url.startswith(("http://", "https://")):
        raise UsageError(
            "events in Avro need a schema registry: name it in --settings FILE, as "
            f"`{REGISTRY_SECTION}: {{url: https://HOST:PORT}}`"
        )
    return settings
